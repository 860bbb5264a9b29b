"""The paper's network, for both players (sections 4 and 4.4): linear, batch norm, leaky ReLU; the last layer plain."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Initialisation = Literal["he", "torch", "xavier"]


class MLP(nn.Module):
    """Inputs (B, *shape) to outputs (B, sizes[-1]); hidden layers are linear, batch norm, leaky ReLU."""

    def __init__(
        self, shape: Sequence[int], sizes: Sequence[int], *, slope: float, bn_eps: float, bn_momentum: float
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.sizes = tuple(sizes)
        self.slope = slope
        widths = [math.prod(self.shape), *self.sizes]
        self.linears = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(n, eps=bn_eps, momentum=bn_momentum) for n in widths[1:-1])

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(-len(self.shape)) if len(self.shape) > 1 else x
        for linear, norm in zip(self.linears, self.norms, strict=False):
            h = F.leaky_relu(norm(linear(h)), self.slope)
        logits: Tensor = self.linears[-1](h)
        return logits


def mlp(
    shape: Sequence[int],
    sizes: Sequence[int],
    *,
    slope: float = 0.01,
    bn_eps: float = 1e-5,
    bn_momentum: float = 0.1,
    initialisation: Initialisation = "he",
    generator: torch.Generator | None = None,
) -> MLP:
    """A multilayer perceptron for inputs of `shape` with layers of `sizes`, the last its outputs.

    `mlp((1, 28, 28), [128, 64, 10])` is the paper's defender (109,770 parameters) and
    `mlp((1, 28, 28), [512, 512, 784])` its adversary (1,068,816). Weights are drawn from `generator`, on the CPU; without one,
    from a fixed seed, never from the global generator.
    """
    generator = generator or torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator before we overwrite it
        network = MLP(shape, sizes, slope=slope, bn_eps=bn_eps, bn_momentum=bn_momentum)
    for linear in network.linears:
        assert isinstance(linear, nn.Linear)
        _initialise(linear, initialisation, slope, generator)
    return network


def _initialise(linear: nn.Linear, law: Initialisation, slope: float, generator: torch.Generator) -> None:
    bound = 1 / math.sqrt(linear.in_features)
    with torch.no_grad():
        if law == "he":  # He et al. 2015, eq. 15
            nn.init.kaiming_normal_(linear.weight, a=slope, nonlinearity="leaky_relu", generator=generator)
            linear.bias.zero_()
        elif law == "xavier":
            nn.init.xavier_uniform_(linear.weight, generator=generator)
            linear.bias.zero_()
        else:  # PyTorch's own default for linear layers
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.uniform_(-bound, bound, generator=generator)
