"""Recurrent adversaries with weights anywhere, and fixed answers to their queries."""

from typing import Any

import torch
from torch import Tensor

from sparring.adversaries import RecurrentAdversary

SHAPE, C = (1, 4, 4), 5
S, B, K = 3, 6, 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def trained(hidden: int = 0, queries: int = K, seed: int = 1, **settings: Any) -> RecurrentAdversary:
    """In double precision, no parameter where it starts."""
    adversary = RecurrentAdversary(SHAPE, queries=queries, hidden=hidden, **settings).double()
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in adversary.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return adversary


class Fixed:
    """Answers by number, whatever is asked: gradients (K, ..., *SHAPE) and log odds (K, ...)."""

    def __init__(self, gradients: Tensor, odds: Tensor) -> None:
        self.gradients, self.odds = gradients, odds
        self.asked: list[Tensor] = []

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(u)
        k = len(self.asked) - 1
        return self.gradients[k].clone(), self.odds[k]  # the gradient is scaled in its own memory
