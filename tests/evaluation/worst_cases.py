"""A suite of attacks, a classifier and its examples, for all tests of the worst case."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sparring.attacks import PGD, Attack, Noise, fgsm
from sparring.data.batches import Data
from sparring.evaluation import WorstCases
from sparring.models import mlp
from sparring.randomness import Stream
from sparring.threat import ThreatModel

SHAPE, C, N = (1, 4, 4), 3, 90
GRID = (0.05, 0.1, 0.5, 1.0)


def suite(threat: ThreatModel) -> Sequence[tuple[str, Attack]]:
    start = Stream(3, "pgd")
    return [
        ("noise", Noise(threat, "sign", Stream(3, "noise"))),
        ("fgsm", fgsm(threat)),
        ("pgd", PGD(threat, steps=5, stream=start)),
    ]


def problem() -> tuple[nn.Module, Data]:
    model = mlp(SHAPE, [16, C], generator=torch.Generator().manual_seed(1)).train()
    model(torch.rand(100, *SHAPE, generator=torch.Generator().manual_seed(2)))
    model.eval()
    x = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(3))
    y = model(x).argmax(-1)
    y[::10] = (y[::10] + 1) % C
    return model, Data(x, y, C, "random")


def same(a: WorstCases, b: WorstCases) -> bool:
    """Equal but for the seconds."""
    tensors = all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("robust", "broken_by", "invalid", "x_adv"))
    stages = [[{**vars(s), "seconds": 0} for s in w.stages] for w in (a, b)]
    return tensors and (a.eps, a.names) == (b.eps, b.names) and stages[0] == stages[1]
