"""Networks as they are after training, in double precision, and images at the ends of the pixel range."""

import torch
from torch import Tensor, nn

from sparring.models import mlp
from sparring.randomness import Stream

SHAPE = (1, 4, 4)
EPS = 0.15
B = 12


def worn(network: nn.Module, seed: int) -> nn.Module:
    """The network with batch-norm statistics and affine weights that are not the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
    return network


def worn_model() -> nn.Module:
    """In training mode, five classes."""
    return worn(mlp(SHAPE, [12, 5], generator=torch.Generator().manual_seed(1)), 2).double()


def edge_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images of which many pixels stand at an end of the pixel range, and labels, most of them right."""
    x = (torch.rand(B, *SHAPE, generator=generator, dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)
    return x, torch.arange(B) % 5


def stream() -> Stream:
    return Stream(11, "test")
