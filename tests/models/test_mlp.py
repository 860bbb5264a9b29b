"""The paper's network: its size, its initial weights, and what it computes."""

import math

import pytest
import torch

from sparring.models import Normalize, mlp
from sparring.models.mlp import Initialisation

PAPER = [((128, 64, 10), 109_770), ((512, 512, 784), 1_068_816)]


@pytest.mark.parametrize(("sizes", "n"), PAPER)
def test_the_papers_networks_have_their_number_of_parameters(sizes: tuple[int, ...], n: int) -> None:
    assert sum(p.numel() for p in mlp((1, 28, 28), sizes).parameters()) == n


@pytest.mark.parametrize("law", ["he", "torch", "xavier"])
def test_initial_weights_come_from_their_generator_alone(law: Initialisation) -> None:
    def weights(seed: int | None) -> list[torch.Tensor]:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return list(mlp((1, 4, 4), [8, 3], initialisation=law, generator=generator).parameters())

    before = torch.get_rng_state()
    first = weights(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(3), strict=True))
    assert not torch.equal(first[0], weights(4)[0])
    assert all(torch.equal(a, b) for a, b in zip(weights(None), weights(0), strict=True))


@pytest.mark.parametrize(
    ("law", "deviation"),
    [
        ("he", math.sqrt(2 / (1 + 0.01**2) / 400)),
        ("xavier", math.sqrt(2 / (400 + 300))),
        ("torch", 1 / math.sqrt(3 * 400)),
    ],
)
def test_initial_weights_spread_as_their_law_says(law: Initialisation, deviation: float) -> None:
    weight = mlp((400,), [300, 2], initialisation=law).linears[0].weight
    assert isinstance(weight, torch.Tensor)
    assert float(weight.detach().std()) == pytest.approx(deviation, rel=0.02)
    assert abs(float(weight.detach().mean())) < deviation / 50


def test_it_computes_linear_batch_norm_leaky_relu_and_a_plain_last_layer(generator: torch.Generator) -> None:
    model = mlp((2, 3), [5, 4], slope=0.2, generator=generator).double()
    norm = model.norms[0]
    assert isinstance(norm, torch.nn.BatchNorm1d) and norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.uniform_(-1, 1, generator=generator)
    norm.running_var.uniform_(0.5, 2, generator=generator)
    x = torch.rand(7, 2, 3, generator=generator, dtype=torch.float64)
    first, last = model.linears
    h = x.reshape(7, 6) @ first.weight.T + first.bias  # type: ignore[union-attr, operator]
    h = (h - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
    h = torch.maximum(h, 0.2 * h)
    expected = h @ last.weight.T + last.bias  # type: ignore[union-attr, operator]
    assert torch.allclose(model.eval()(x), expected, atol=1e-12)


def test_a_network_without_hidden_layers_is_linear(generator: torch.Generator) -> None:
    model = mlp((3,), [2], generator=generator)
    x, z = torch.rand(4, 3, generator=generator), torch.rand(4, 3, generator=generator)
    assert torch.allclose(model(x + z) - model(z), model(x) - model(torch.zeros(4, 3)), atol=1e-6)


def test_normalisation_is_by_one_value_or_one_per_channel() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert torch.allclose(Normalize(0.5, 0.25)(x), (x - 0.5) / 0.25)
    per_channel = Normalize([0.1, 0.2, 0.3], [1.0, 2.0, 4.0])(x)
    for c, (mean, std) in enumerate([(0.1, 1.0), (0.2, 2.0), (0.3, 4.0)]):
        assert torch.allclose(per_channel[:, c], (x[:, c] - mean) / std, atol=1e-6)
    assert torch.allclose(Normalize([0.1, 0.2, 0.3], 1.0)(x[None])[0], Normalize([0.1, 0.2, 0.3], 1.0)(x))
    assert not list(Normalize(0.5, 0.25).parameters())
