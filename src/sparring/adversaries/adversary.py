"""The adversary: what it sees -> network -> bound."""

import torch
from torch import Tensor, nn

from sparring.adversaries.bounds import BOUNDS


class Adversary(nn.Module):
    """A network that sees inputs (..., *shape) and answers with perturbations of that shape in [-1, 1].

    `network` gives one number a pixel, (..., D), or, where `shape` is given, an image (..., *shape) as convolutional
    networks do; `bound` is a name from BOUNDS. It knows no eps: `LearnedAttack` scales its answer, so one adversary
    serves a whole curve over eps.
    """

    def __init__(self, network: nn.Module, bound: str = "tanh", shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        if bound not in BOUNDS:
            raise ValueError(f"bound must be one of {', '.join(BOUNDS)}; got {bound!r}")
        self.network = network
        self.bound = bound
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        z = self.network(x)
        if self.shape is not None and z.shape == x.shape:
            z = z.flatten(-len(self.shape))
        return BOUNDS[self.bound](z).view(x.shape)

    def extra_repr(self) -> str:
        return f"bound={self.bound!r}"


def n_parameters(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(torch.numel(parameter) for parameter in network.parameters())
