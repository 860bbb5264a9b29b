"""Seeds trained as one stack or each alone, and what they came to, for the tests of stacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from small_runs import came_to, digits, frozen_vanilla, log
from sparring.config import Run
from sparring.game.checkpoint import read_verified
from sparring.losses import cross_entropy
from sparring.records import RunPaths, RunRecord
from sparring.session import train_runs

SEEDS = (4, 0, 7)  # in no order that could stand for their places
SELDOM = {"checkpoint_seconds": 1e9}  # saved when something ends, and no more
STOPPING: dict[str, Any] = {"patience": 2, "flat": 0.05, "max_epochs": 30} | SELDOM
GRADIENT = {"nan gradient": torch.nan, "infinite gradient": torch.inf}
LOSS = {"nan loss": torch.nan, "infinite loss": torch.inf}


def play(runs: Sequence[Run], out: Path, **options: Any) -> list[RunRecord]:
    """Train the runs together, each to the folder of its seed."""
    vanilla = [frozen_vanilla for _ in runs]
    return train_runs(runs, [folder(out, run.seed) for run in runs], digits(), vanilla=vanilla, **options)


def folder(out: Path, seed: int) -> RunPaths:
    return RunPaths(out / f"seed{seed}")


def seeds_of(run: Run, seeds: Sequence[int] = SEEDS) -> list[Run]:
    return [replace(run, seed=seed) for seed in seeds]


def alone(run: Run, out: Path, seeds: Sequence[int] = SEEDS, **options: Any) -> list[RunRecord]:
    """Train each seed by itself, to the same folders as `play`."""
    return [play([one], out, **options)[0] for one in seeds_of(run, seeds)]


def came_all(out: Path, seeds: Sequence[int] = SEEDS) -> dict[int, Any]:
    return {seed: came_to(out / f"seed{seed}") for seed in seeds}


def weights(paths: RunPaths) -> dict[str, Tensor]:
    """Every tensor of every weights file of a run."""
    files = [path for path in (paths.defender, paths.adversary, paths.trained_alone) if path.is_file()]
    return {f"{path.name}: {name}": tensor for path in files for name, tensor in read_verified(path)[0].items()}


def alike(one: RunPaths, other: RunPaths, tolerance: float) -> None:
    """The same files, weights and log, up to rounding."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys() and a
    for name, tensor in a.items():
        assert torch.allclose(tensor.double(), b[name].double(), atol=tolerance, rtol=tolerance), name
    for mine, its in zip(log(one.folder), log(other.folder), strict=True):
        assert near(mine, its, tolerance)


def near(line: dict[str, Any], other: dict[str, Any], tolerance: float) -> bool:
    """Two lines of a log with the same words, and the same numbers up to rounding."""
    words, its_words = ({k: v for k, v in one.items() if not isinstance(v, float)} for one in (line, other))
    numbers, its = ({k: v for k, v in one.items() if isinstance(v, float)} for one in (line, other))
    return words == its_words and numbers == pytest.approx(its, abs=tolerance, rel=tolerance)


def without(record: RunRecord) -> RunRecord:
    """A record without what depends on the clock and on rounding."""
    return replace(record, seconds=0.0, defender_sha256="")


def poisoned(how: str, call: int, copy: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The cross-entropy that in one copy, at the n-th call, counted from 1, or its gradient, is not finite."""
    calls = [0]

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        losses = cross_entropy(logits, y)
        if calls[0] != call:
            return losses
        factor, more = torch.ones(len(losses), 1), torch.zeros(len(losses), 1)
        factor[copy], more[copy] = GRADIENT.get(how, 1.0), LOSS.get(how, 0.0)
        return losses.detach() + (losses - losses.detach()) * factor + more

    return loss
