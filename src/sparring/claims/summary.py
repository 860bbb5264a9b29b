"""Every metric of every run, as mean and t interval over seeds."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from sparring.evaluation.statistics import mean_interval
from sparring.records import (
    AccuracyRecord,
    CalibrationRecord,
    ExploitabilityRecord,
    Protocol,
    ReadingRecord,
    SummaryRecord,
    TransferRecord,
)


class Key(NamedTuple):
    """What is averaged over seeds: the fields of a SummaryRecord that say which number it is."""

    recipe: str
    metric: str
    attack: str
    eps: float | None
    protocol: Protocol


class Value(NamedTuple):
    """One seed's value, and the number of images behind it."""

    key: Key
    seed: int
    value: float
    n: int


def summarise(
    results: Sequence[AccuracyRecord],
    calibration: Sequence[CalibrationRecord],
    exploitability: Sequence[ExploitabilityRecord],
    transfer: Sequence[TransferRecord],
    readings: Sequence[ReadingRecord],
) -> list[SummaryRecord]:
    """One record a metric of what was measured of the runs."""
    of_runs = chain(_accuracies(results), _areas(results), _calibrations(calibration), _exploited(exploitability))
    return averaged(chain(of_runs, _transfers(transfer), _readings(readings)))


def averaged(values: Iterable[Value]) -> list[SummaryRecord]:
    """One record a metric, in the order in which the metrics first come; values in the order of seeds.

    A seed measured twice counts once, with its last value; values that are not finite are left out.
    """
    groups: dict[Key, dict[int, Value]] = {}
    for value in values:
        if math.isfinite(value.value):
            groups.setdefault(value.key, {})[value.seed] = value
    return [_summary(key, [by_seed[seed] for seed in sorted(by_seed)]) for key, by_seed in groups.items()]


def attacker(record: TransferRecord) -> str:
    """The name under which an adversary is summarised: "gan_tanh", "gan_tanh (alone)", "gan_tanh (alone, Adam)"."""
    if "(alone" in record.adversary or not record.adversary_kind.startswith("trained "):
        return record.adversary
    return f"{record.adversary} ({record.adversary_kind.removeprefix('trained ')})"


def area_weights(grid: Sequence[float]) -> np.ndarray:
    """Weights (E,) of accuracies over a rising grid of E >= 2 eps, whose weighted sum is the area, trapezoid, in [0, 1]."""
    eps = np.asarray(grid, dtype=np.float64)
    width = np.diff(eps)
    assert len(width) and (width > 0).all()
    weights: np.ndarray = (np.append(width, 0.0) + np.append(0.0, width)) / (2 * (eps[-1] - eps[0]))
    return weights


def _summary(key: Key, values: Sequence[Value]) -> SummaryRecord:
    mean, interval = mean_interval([v.value for v in values])
    return SummaryRecord(
        recipe=key.recipe,
        metric=key.metric,
        attack=key.attack,
        eps=key.eps,
        protocol=key.protocol,
        mean=mean,
        low=interval.low if interval.defined else None,
        high=interval.high if interval.defined else None,
        n_seeds=len(values),
        values=tuple(v.value for v in values),
        n=min(v.n for v in values),
    )


def _accuracies(results: Sequence[AccuracyRecord]) -> Iterator[Value]:
    for r in results:
        yield Value(Key(r.recipe, "accuracy", r.attack, r.eps, r.protocol), r.seed, r.accuracy, r.n)


def _areas(results: Sequence[AccuracyRecord]) -> Iterator[Value]:
    """The area under each curve that has two radii or more."""
    curves: dict[tuple[Key, int], dict[float, AccuracyRecord]] = {}
    for r in results:
        curves.setdefault((Key(r.recipe, "area", r.attack, None, r.protocol), r.seed), {})[r.eps] = r
    for (key, seed), by_eps in curves.items():
        if len(by_eps) > 1:
            curve = [by_eps[eps] for eps in sorted(by_eps)]
            area = area_weights([r.eps for r in curve]) @ [r.accuracy for r in curve]
            yield Value(key, seed, float(area), curve[0].n)


def _calibrations(calibration: Sequence[CalibrationRecord]) -> Iterator[Value]:
    for r in calibration:
        for metric in ("ece", "adaptive_ece", "brier", "nll"):
            yield Value(Key(r.recipe, metric, r.attack, r.eps, r.protocol), r.seed, getattr(r, metric), r.n)


def _exploited(exploitability: Sequence[ExploitabilityRecord]) -> Iterator[Value]:
    for r in exploitability:
        if r.in_game is not None:
            yield Value(Key(r.recipe, "in_game", "own", r.eps, "sound"), r.seed, r.in_game, r.n)
        yield Value(Key(r.recipe, "fresh", "fresh", r.eps, "sound"), r.seed, r.worst, r.n)
        if r.gap is not None:
            yield Value(Key(r.recipe, "gap", "fresh", r.eps, "sound"), r.seed, r.gap, r.n)


def _transfers(transfer: Sequence[TransferRecord]) -> Iterator[Value]:
    for r in transfer:
        yield Value(Key(r.defender, "transfer", attacker(r), r.eps, r.protocol), r.seed, r.accuracy, r.n)


def _readings(readings: Sequence[ReadingRecord]) -> Iterator[Value]:
    for r in readings:
        protocol: Protocol = "paper" if r.verdict_mode == "training" else "sound"
        yield Value(Key("vanilla", "reading", r.reading, r.eps, protocol), r.seed, r.accuracy, r.n)
