"""Bounds: from a network's output to a perturbation in [-1, 1]."""

import math

import pytest
import torch

from sparring.adversaries import BOUNDS, Adversary, scaled_bound, tanh_bound
from sparring.adversaries.adversary import n_parameters
from sparring.adversaries.bounds import ScaledVariant
from sparring.models import mlp

Z = [[1.0, 2.0, 6.0], [-4.0, 0.0, 1.0]]


def test_tanh_is_taken_pixel_by_pixel() -> None:
    assert tanh_bound(torch.tensor([[0.0, 0.5]])).tolist()[0] == pytest.approx([0.0, math.tanh(0.5)])


@pytest.mark.parametrize(
    ("variant", "by_hand"),
    [
        # means 3 and -1; largest magnitudes 3 and 3
        ("image", [[-2 / 3, -1 / 3, 1.0], [-1.0, 1 / 3, 2 / 3]]),
        ("detached", [[-2 / 3, -1 / 3, 1.0], [-1.0, 1 / 3, 2 / 3]]),
        ("minmax", [[-1.0, -0.6, 1.0], [-1.0, 0.6, 1.0]]),
        # mean 1 over both, largest magnitude 5
        ("batch", [[0.0, 0.2, 1.0], [-1.0, -0.2, 0.0]]),
    ],
)
def test_the_scaled_variants_by_hand(variant: ScaledVariant, by_hand: list[list[float]]) -> None:
    scaled = scaled_bound(torch.tensor(Z, dtype=torch.float64), variant)
    assert torch.allclose(scaled, torch.tensor(by_hand, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("name", sorted(BOUNDS))
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e3, 1e30])
def test_every_bound_stays_in_minus_one_to_one_at_every_scale(
    name: str, scale: float, generator: torch.Generator
) -> None:
    z = scale * torch.randn(50, 16, generator=generator)
    delta = BOUNDS[name](z)
    assert torch.isfinite(delta).all()
    assert float(delta.abs().max()) <= 1
    if name.startswith("scaled"):
        assert float(delta.abs().max()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", sorted(n for n in BOUNDS if n.startswith("scaled")))
@pytest.mark.parametrize("value", [0.0, 0.75, -3.0, 1e-38])
def test_a_constant_output_gives_no_perturbation_and_no_nan(name: str, value: float) -> None:
    z = torch.full((4, 8), value, requires_grad=True)
    delta = BOUNDS[name](z)
    (grad,) = torch.autograd.grad((delta * torch.arange(8)).sum(), z)
    assert torch.equal(delta.detach(), torch.zeros(4, 8))
    assert torch.isfinite(grad).all()


def test_one_constant_image_does_not_disturb_its_neighbours(generator: torch.Generator) -> None:
    z = torch.randn(3, 8, generator=generator)
    z[1] = 0.5
    delta = scaled_bound(z)
    assert torch.equal(delta[1], torch.zeros(8))
    assert torch.allclose(delta[0], scaled_bound(z[:1])[0]) and torch.allclose(delta[2], scaled_bound(z[2:])[0])


@pytest.mark.parametrize("name", ["scaled", "scaled-minmax", "scaled-batch", "scaled-detached"])
def test_scaled_bounds_ignore_shift_and_positive_scale(name: str, generator: torch.Generator) -> None:
    z = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    assert torch.allclose(BOUNDS[name](3 * z + 2), BOUNDS[name](z), atol=1e-12)


def test_the_detached_variant_has_no_gradient_through_its_divisor(generator: torch.Generator) -> None:
    z = torch.randn(2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    centred = z - z.mean(-1, keepdim=True)
    by_hand = centred / centred.abs().amax(-1, keepdim=True).detach()
    (expected,) = torch.autograd.grad((by_hand * cotangent).sum(), z, retain_graph=True)
    (detached,) = torch.autograd.grad((scaled_bound(z, "detached") * cotangent).sum(), z, retain_graph=True)
    (through,) = torch.autograd.grad((scaled_bound(z) * cotangent).sum(), z)
    assert torch.allclose(detached, expected, atol=1e-12)
    assert not torch.allclose(through, expected, atol=1e-3)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_scaled_bound_has_the_gradient_of_its_formula(transposed: bool, generator: torch.Generator) -> None:
    z = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    z[0, 1] = 0.5  # no perturbation, no gradient
    z[0, 2] = torch.tensor([3.0, -3.0, 1.0, -1.0, 0.0, 2.0, -2.0])  # two ends: half of the divisor's gradient each
    z = (z.mT.contiguous().mT if transposed else z).requires_grad_()
    cotangent = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    centred = z - z.mean(-1, keepdim=True)
    by_hand = centred / centred.abs().amax(-1, keepdim=True).clamp(min=1e-12)
    (expected,) = torch.autograd.grad((by_hand * cotangent).sum(), z)
    (found,) = torch.autograd.grad((scaled_bound(z) * cotangent).sum(), z)
    flat = torch.zeros(2, 5, dtype=torch.bool)
    flat[0, 1] = True
    assert torch.equal(found[flat], torch.zeros(1, 7))
    torch.testing.assert_close(found[~flat], expected[~flat], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_an_adversary_answers_in_the_shape_of_its_input(name: str, generator: torch.Generator) -> None:
    adversary = Adversary(mlp((1, 3, 4), [8, 12], generator=generator), name)
    x = torch.rand(5, 1, 3, 4, generator=generator)
    delta = adversary(x)
    assert delta.shape == x.shape
    assert torch.equal(delta, BOUNDS[name](adversary.network(x)).view(x.shape))


def test_an_unknown_bound_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="bound must be one of tanh, scaled"):
        Adversary(mlp((4,), [4]), "sigmoid")


def test_an_adversary_counts_its_parameters_and_names_its_bound() -> None:
    adversary = Adversary(mlp((1, 28, 28), [512, 512, 784]), "scaled")
    assert n_parameters(adversary) == 1_068_816
    assert "bound='scaled'" in repr(adversary)
