"""Pixel standardisation as a first layer, so that models take inputs in [0, 1] whatever they were trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(x - mean) / std, with one value for all pixels or one per channel of inputs (..., C, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel(mean))
        self.register_buffer("std", _per_channel(std))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _per_channel(value: float | Sequence[float]) -> Tensor:
    tensor = torch.tensor(value, dtype=torch.float32)
    return tensor if tensor.ndim == 0 else tensor[:, None, None]
