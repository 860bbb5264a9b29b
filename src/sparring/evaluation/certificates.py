"""The other side of an attack: examples that nothing inside the ball can have misclassified.

Attacks give an upper bound on robust accuracy, certificates a lower one. Letters: E values of eps, N examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.crown import certified
from sparring.data import as_data
from sparring.errors import InputError
from sparring.evaluation.accuracy import check_count
from sparring.evaluation.statistics import Interval, wilson
from sparring.models import check_single
from sparring.threat import ThreatModel, check_grid


@dataclass(frozen=True)
class Certificates:
    """Which examples are certified at every eps. Print it for a table."""

    eps: tuple[float, ...]
    certain: Tensor  # (E, N) bool

    def accuracy(self, eps: float) -> float:
        """The share of examples that no perturbation inside the ball breaks, at an eps of the grid; else raises InputError."""
        return int(self._at(eps).sum()) / self.certain.shape[1]

    def interval(self, eps: float) -> Interval:
        """Wilson's 95 % interval of `accuracy(eps)`."""
        return wilson(int(self._at(eps).sum()), self.certain.shape[1])

    def _at(self, eps: float) -> Tensor:
        if eps not in self.eps:
            raise InputError(f"eps {eps:g} was not asked for; asked: {', '.join(f'{e:g}' for e in self.eps)}")
        return self.certain[self.eps.index(eps)]

    def __str__(self) -> str:
        lines = [f"  eps  certified  95 % interval   n = {self.certain.shape[1]}"]
        for eps in self.eps:
            interval = self.interval(eps)
            ends = f"[{100 * interval.low:5.1f}, {100 * interval.high:5.1f}]"
            lines.append(f"{eps:>5g}  {100 * self.accuracy(eps):8.1f}%  {ends}")
        return "\n".join(lines)


def certify(model: nn.Module, data: Any, eps: float | Sequence[float], *, batch_size: int = 500) -> Certificates:
    """Certify every example of a Data, a Dataset, a DataLoader or (x, y) arrays at every eps, in double precision.

    Worth something for a small perceptron at small radii, and for a model that was trained with `Game(..., ibp=...)`; of
    another hardly an example is certified, which says nothing about it. Raises InputError for a model that
    `sparring.crown.certified` refuses.
    """
    check_single(model, "certify")
    grid = tuple(check_grid(eps))
    check_count("batch_size", batch_size)
    data = as_data(data)
    x, y = data.floats(), data.labels
    rows = [certified(model, x, y, ThreatModel(one, data.shape), batch_size=batch_size) for one in grid]
    return Certificates(grid, torch.stack(rows) if rows else torch.zeros(0, len(y), dtype=torch.bool))
