"""Networks of every kind that can be stacked, and what a stack of them has to be."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparring.models import Normalize

S, B, C = 3, 6, 4
SHAPE = (2, 6, 6)
D = 72
EPS = 0.2


class Residual(nn.Module):
    """x + f(x) with one batch norm in front of both uses of it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.inner = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))
        self.head = nn.Linear(D, C)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        out: Tensor = self.head((h + self.inner(h)).flatten(1))
        return out


class Tied(nn.Module):
    """Two layers with one weight, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(D, D), nn.Linear(D, D)
        self.second.weight = self.first.weight
        self.head = nn.Linear(D, C)
        self.again = self.head

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.first(x.flatten(1)).tanh())
        out: Tensor = self.head(h) + self.again(h**2)
        return out


class Unsaved(nn.Module):
    """A buffer that no state_dict shows; in training, it moves in place, and a saved one is replaced."""

    unsaved: Tensor
    saved: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(D, C)
        self.register_buffer("unsaved", torch.rand(D), persistent=False)
        self.register_buffer("saved", torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        if self.training:
            self.unsaved.mul_(0.5).add_(h.detach().mean(0))
            self.saved = 0.9 * self.saved + 0.1 * h.detach().mean(0)
        out: Tensor = self.head(h * self.unsaved - self.saved)
        return out


class Squared(nn.Module):
    """A parametrisation: the weight is the square of what is trained."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight**2


def frozen() -> nn.Module:
    network = convolutional()
    for parameter in network[0].parameters():
        parameter.requires_grad_(False)
    return network


def parametrised() -> nn.Module:
    linear = nn.Linear(D, C)
    parametrize.register_parametrization(linear, "weight", Squared())
    return nn.Sequential(nn.Flatten(), linear)


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, C)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutions and batch norm": convolutional,
    "group and layer norm": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, C)
    ),
    "batch statistics only": lambda: nn.Sequential(
        nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(D, C)
    ),
    "residual": Residual,
    "tied": Tied,
    "normalised pixels": lambda: nn.Sequential(Normalize([0.4, 0.5], [0.2, 0.3]), nn.Flatten(), nn.Linear(D, C)),
    "frozen": frozen,
    "unsaved": Unsaved,
    "parametrised": parametrised,
}


def networks(make: Callable[[], nn.Module], seed: int = 0) -> list[nn.Module]:
    """S networks of seeds of their own, in float64, with statistics that differ."""
    made = []
    for s in range(S):
        with torch.random.fork_rng():
            torch.manual_seed(seed + s)
            network = make().double()
        network(inputs(100 + s)[0][s] * (s + 1) / S)
        made.append(network)
    return made


def inputs(seed: int) -> tuple[Tensor, Tensor]:
    """A batch of its own for every copy: (S, B, ...)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(S, B, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randint(C, (S, B), generator=generator)


def tensors(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters()) | dict(network.named_buffers())


def assert_is_stack_of(together: nn.Module, copies: list[nn.Module]) -> None:
    for name, tensor in tensors(together).items():
        for s, network in enumerate(copies):
            assert torch.allclose(tensor[s], tensors(network)[name], atol=1e-9), name


every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
