"""The ball and the pixel range, for numbers and for tensors of radii."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.errors import InputError
from sparring.threat import ThreatModel, check_eps, check_grid

SHAPE = (1, 3, 4)


def test_projection_is_the_nearest_point_worked_out_by_hand() -> None:
    threat = ThreatModel(0.1, (5,))
    x = torch.tensor([[0.5, 0.5, 0.05, 0.95, 0.5]], dtype=torch.float64)
    x_adv = torch.tensor([[0.9, 0.1, -1.0, 2.0, 0.55]], dtype=torch.float64)
    by_hand = torch.tensor([[0.6, 0.4, 0.0, 1.0, 0.55]], dtype=torch.float64)
    assert torch.allclose(threat.project(x_adv, x), by_hand, atol=1e-15)


@settings(max_examples=40, deadline=None)
@given(eps=st.floats(0, 1), seed=st.integers(0, 1000), reach=st.floats(0, 5))
def test_what_is_projected_lies_inside_and_projecting_again_changes_nothing(
    eps: float, seed: int, reach: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    threat = ThreatModel(eps, SHAPE)
    x = torch.rand(3, *SHAPE, generator=generator)
    far = x + reach * torch.randn(3, *SHAPE, generator=generator)
    x_adv = threat.project(far, x)
    assert float(threat.distance(x_adv, x).max()) <= eps + 1e-6
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    assert torch.equal(threat.project(x_adv, x), x_adv)
    inside = ((far - x).abs() <= eps - 1e-6) & (far >= 0) & (far <= 1)
    assert torch.equal(x_adv[inside], far[inside])


def test_projection_passes_gradient_where_the_point_is_inside_and_none_where_it_is_not() -> None:
    x = torch.full((1, 3), 0.5)
    x_adv = torch.tensor([[0.55, 0.9, 0.45]], requires_grad=True)
    (grad,) = torch.autograd.grad(ThreatModel(0.1, (3,)).project(x_adv, x).sum(), x_adv)
    assert grad.tolist() == [[1.0, 0.0, 1.0]]


@pytest.mark.parametrize("leading", [(), (4,), (2, 4), (2, 3, 4)])
def test_distance_and_flat_treat_every_leading_axis_as_batch(leading: tuple[int, ...]) -> None:
    threat = ThreatModel(0.3, SHAPE)
    x = torch.zeros(*leading, *SHAPE)
    x_adv = x.clone()
    x_adv[..., 0, 2, 3] = -0.25
    x_adv[..., 0, 0, 0] = 0.125
    assert threat.flat(x).shape == (*leading, 12)
    assert torch.equal(threat.unflat(threat.flat(x_adv)), x_adv)
    assert torch.equal(threat.distance(x_adv, x), torch.full(leading, 0.25))


def test_an_input_of_one_axis_is_flat_already() -> None:
    threat = ThreatModel(0.3, (7,))
    x = torch.rand(2, 7)
    assert threat.flat(x).shape == (2, 7) and threat.unflat(x).shape == (2, 7)


def test_a_radius_per_example_bounds_each_example_by_its_own() -> None:
    eps = torch.tensor([0.0, 0.1, 0.3])
    threat = ThreatModel(eps, SHAPE)
    x = torch.full((3, *SHAPE), 0.5)
    x_adv = threat.project(x + 1, x)
    assert torch.allclose(threat.distance(x_adv, x), eps, atol=1e-7)


def test_a_radius_per_copy_bounds_each_copy_by_its_own() -> None:
    eps = torch.tensor([[0.05], [0.2]])
    threat = ThreatModel(eps, SHAPE)
    x = torch.full((2, 3, *SHAPE), 0.5)
    x_adv = threat.project(x - 1, x)
    assert torch.allclose(threat.distance(x_adv, x), eps.expand(2, 3), atol=1e-7)


def test_a_random_start_fills_the_ball_and_leaves_the_global_generator_alone(generator: torch.Generator) -> None:
    threat = ThreatModel(0.2, (1000,))
    x = torch.full((5, 1000), 0.5)
    before = torch.get_rng_state()
    start = threat.random_start(x, generator)
    assert torch.equal(torch.get_rng_state(), before)
    delta = start - x
    assert float(delta.abs().max()) <= 0.2 + 1e-6
    assert float(delta.min()) < -0.19 and float(delta.max()) > 0.19
    assert abs(float(delta.mean())) < 0.01
    assert float(delta.var()) == pytest.approx(0.2**2 / 3, rel=0.1)


def test_at_changes_the_radius_and_nothing_else() -> None:
    threat = ThreatModel(0.2, SHAPE, low=-1.0, high=2.0)
    assert threat.at(1.5) == ThreatModel(1.5, SHAPE, low=-1.0, high=2.0)


@pytest.mark.parametrize("eps", [math.nan, -0.1, 1.5, math.inf, -math.inf])
def test_a_radius_outside_the_pixel_scale_is_refused(eps: float) -> None:
    with pytest.raises(InputError, match=r"eps must be in \[0, 1\]"):
        ThreatModel(eps, SHAPE)


@pytest.mark.parametrize("eps", ["0.1", None, True, [0.1], 1j])
def test_a_radius_that_is_no_number_is_refused(eps: object) -> None:
    with pytest.raises(InputError, match="eps must be a number"):
        ThreatModel(eps, SHAPE)  # type: ignore[arg-type]


@pytest.mark.parametrize("eps", [np.float32(0.25), np.float64(0.25), np.array(0.25), Fraction(1, 4)])
def test_a_radius_of_another_library_is_a_number_like_any(eps: Any) -> None:
    threat, x = ThreatModel(eps, SHAPE), torch.full((2, *SHAPE), 0.5)
    assert type(check_eps(eps)) is type(threat.eps) is float
    delta = torch.ones_like(x)
    assert threat == ThreatModel(0.25, SHAPE) and torch.equal(threat.moved(x, delta), x + 0.25)
    assert ThreatModel(1, SHAPE).eps == 1 and type(ThreatModel(1, SHAPE).eps) is int  # as it is written in records


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        (torch.tensor(-1.0), r"eps must be in \[0, 1\] on the pixel scale, got -1$"),
        (torch.tensor(math.nan), r"eps must be in \[0, 1\].*got nan$"),
        (torch.tensor([0.1, 2.0]), r"got 2; did you mean 2/255"),
        (torch.tensor([[0.1], [math.nan]]), r"eps must be in \[0, 1\].*got nan$"),
        (torch.tensor([0.1, math.inf]), r"eps must be in \[0, 1\].*got inf$"),
        (torch.tensor([True, False]), r"eps must be a number in \[0, 1\]"),
    ],
)
def test_radii_in_a_tensor_are_checked_like_numbers(eps: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ThreatModel(eps, SHAPE)


def test_radii_may_reach_the_whole_range_in_their_own_precision_and_be_none_at_all() -> None:
    assert ThreatModel(torch.tensor([0.0, 1.0]), SHAPE).eps is not None
    assert ThreatModel(torch.tensor(0.3), SHAPE, low=0.2, high=0.5).high == 0.5  # as float32 it is above 0.3
    assert ThreatModel(torch.zeros(0), SHAPE).eps is not None


def test_radii_that_training_draws_are_taken_as_they_are() -> None:
    threat, drawn = ThreatModel(0.2, SHAPE, low=-1.0), torch.tensor([0.1, math.nan])
    at = threat.at(drawn)
    assert at.eps is drawn and (at.shape, at.low, at.high) == (SHAPE, -1.0, 1.0) and threat.eps == 0.2
    with pytest.raises(InputError, match="eps must be in"):
        threat.at(-0.1)


@pytest.mark.parametrize(
    "eps",
    [
        0.25,
        np.float32(0.25),
        torch.tensor(0.25),
        np.array(0.25),
        [0.25],
        np.array([0.25]),
        torch.tensor([0.25]),
        (np.float32(0.25),),
    ],
)
def test_a_grid_is_one_number_or_several_of_any_library(eps: Any) -> None:
    grid = check_grid(eps)
    assert grid == [0.25] and type(grid[0]) is float


def test_a_grid_keeps_its_order_and_may_be_empty() -> None:
    assert check_grid(torch.tensor([0.5, 0.0, 0.25])) == [0.5, 0.0, 0.25] and check_grid(()) == []


@pytest.mark.parametrize("eps", ["0.1", ["0.1"], None, True, [True], 1j, [[0.1]], torch.tensor(True), np.bool_(True)])
def test_a_grid_that_holds_no_numbers_is_refused(eps: Any) -> None:
    with pytest.raises(InputError, match="eps must be a number"):
        check_grid(eps)


def test_a_radius_on_the_0_to_255_scale_is_named_as_such() -> None:
    with pytest.raises(InputError, match=r"did you mean 8/255 = 0\.0314\?"):
        check_eps(8)
    with pytest.raises(InputError) as error:
        check_eps(-1)
    assert "255" not in str(error.value)


@pytest.mark.parametrize("shape", [(), (0,), (1, -2)])
def test_a_shape_that_no_input_has_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="shape must be"):
        ThreatModel(0.1, shape)


@pytest.mark.parametrize("eps", [0.3, torch.tensor([0.05, 0.2, 0.3])])
def test_moved_is_the_clipped_sum_to_the_bit_and_leaves_its_arguments_alone(eps: float | torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    threat = ThreatModel(eps, (1, 5, 5))
    x = torch.rand(3, 1, 5, 5, generator=generator)
    delta = torch.empty_like(x).uniform_(-1, 1, generator=generator)
    kept = x.clone(), delta.clone()
    plain = (x + threat.radius(x) * delta).clamp(0, 1)
    assert torch.equal(threat.moved(x, delta), plain)
    assert torch.equal(x, kept[0]) and torch.equal(delta, kept[1])
    room = torch.full((3, 2, 1, 5, 5), torch.nan)
    assert threat.moved(x, delta, out=room[:, 1]).data_ptr() == room[:, 1].data_ptr()
    assert torch.equal(room[:, 1], plain) and room[:, 0].isnan().all()
    learned = delta.clone().requires_grad_()
    moved = threat.moved(x, learned)
    (grad,) = torch.autograd.grad(moved.sum(), learned)
    inside = ((plain > 0) & (plain < 1)).float()
    assert torch.equal(moved, plain) and torch.allclose(grad, inside * threat.radius(x))
