"""MADE-UP RECORDS for the tests of the claims: measured nowhere, each with a verdict known beforehand."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from sparring.claims import ledger
from sparring.evaluation.statistics import mean_interval
from sparring.records import (
    AccuracyRecord,
    CalibrationRecord,
    ClaimRecord,
    ComparisonRecord,
    ExampleRecord,
    ExploitabilityRecord,
    Protocol,
    SummaryRecord,
    SweepRecord,
    TransferRecord,
)

GAMES = ("gan_tanh", "gan_scaled", "gan_tanh_init", "gan_scaled_init")
PAPER = ("vanilla", "noise", "fgsm", *GAMES)
N = 10_000


def summary(
    recipe: str,
    metric: str,
    attack: str,
    eps: float | None,
    values: Sequence[float],
    protocol: Protocol = "sound",
    n: int = N,
) -> SummaryRecord:
    mean, interval = mean_interval(values)
    low, high = (interval.low, interval.high) if interval.defined else (None, None)
    return SummaryRecord(recipe, metric, attack, eps, protocol, mean, low, high, len(values), tuple(values), n)


def accuracy(
    recipe: str, seed: int, attack: str, eps: float, rate: float, protocol: Protocol = "sound"
) -> AccuracyRecord:
    correct = round(rate * N)
    return AccuracyRecord(
        recipe, seed, attack, eps, protocol, N, correct, rate, rate, rate, 0, eps, N, N, 0.0, attack, "c"
    )


def calibration(
    recipe: str, seed: int, eps: float | None, ece: float, protocol: Protocol = "sound"
) -> CalibrationRecord:
    rates = (ece, ece, ece) * 4
    return CalibrationRecord(recipe, seed, "fgsm", eps, protocol, N, 0.5, 0.5, (), *rates)


def transfer(
    adversary: str,
    defender: str,
    seed: int,
    rate: float,
    kind: Literal["co-trained", "trained alone", "trained alone, Adam", "noise"] = "co-trained",
    protocol: Protocol = "sound",
) -> TransferRecord:
    return TransferRecord(adversary, kind, defender, seed, 0.1, protocol, N, round(rate * N), rate, rate, rate)


def exploitability(recipe: str, seed: int, in_game: float | None = 0.97, worst: float = 0.60) -> ExploitabilityRecord:
    gap = None if in_game is None else in_game - worst
    return ExploitabilityRecord(
        recipe, seed, 0.1, N, 0.98, in_game, (worst,), worst, worst, worst, gap, gap, gap, 6, "mlp"
    )


def sweep(
    claim: Literal["D1", "D3"],
    variant: str,
    seed: int,
    *,
    in_game: float = 0.97,
    fresh: float = 0.60,
    ratio: int = 10,
) -> SweepRecord:
    return SweepRecord(claim, variant, seed, 0.1, 0.98, in_game, fresh, 0.5, 1000, 1000 * ratio, 10)


def example(label: int = 7, prediction: int = 7, perturbed: int = 3, attack: str = "fgsm") -> ExampleRecord:
    row = ((0.0,),)
    return ExampleRecord(attack, "vanilla", 0, 0.05, 0, label, row, row, row, prediction, 0.9, perturbed, 0.9)


def comparison(
    claim: str,
    better: str = "fgsm",
    worse: str = "vanilla",
    *,
    difference: float = 0.1,
    eps: float | None = None,
    protocol: Protocol = "sound",
    half: float = 0.01,
) -> ComparisonRecord:
    holds = difference - half > 0
    return ComparisonRecord(
        claim, claim[:2], better, worse, "area", eps, protocol, difference, difference - half, difference + half,
        (difference,) * 3, 0.001, True, holds,
    )  # fmt: skip


def judged(name: str, *, data_name: str = "mnist", **records: Any) -> ClaimRecord:
    """The ledger's line on one claim, from the records given."""
    kinds = ("summary", "comparisons", "transfer", "exploitability", "sweeps", "examples")
    assert set(records) <= set(kinds)
    lines = ledger(*(records.get(kind, []) for kind in kinds), data_name=data_name)
    return next(line for line in lines if line.id == name)


def outcomes(
    rates: dict[str, float],
    seeds: Sequence[int] = (0, 1, 2),
    grid: Sequence[float] = (0.0, 0.1, 0.2),
    n: int = 2000,
    protocols: Sequence[str] = ("sound",),
) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Images of which each recipe keeps its share at every eps, drawn for each seed and recipe apart."""
    rng = np.random.default_rng(0)
    return {
        (recipe, seed): {f"fgsm@{eps:g}/{protocol}": rng.random(n) < rate for eps in grid for protocol in protocols}
        for recipe, rate in rates.items()
        for seed in seeds
    }
