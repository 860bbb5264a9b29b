"""The paper's rankings (sections 4.5 and 4.6), tested: "A beats B", paired over images and seeds, corrected by family.

Letters: S seeds, N images, R resamples of the images.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from sparring.claims.summary import area_weights
from sparring.evaluation.statistics import (
    FloatArray,
    Interval,
    holm,
    mcnemar,
    mean_interval,
    percentile_interval,
    resampled_means,
    sign_test_holds,
    t_test_p,
)
from sparring.records import CalibrationRecord, ComparisonRecord, Protocol

GAMES = ("gan_tanh", "gan_scaled", "gan_tanh_init", "gan_scaled_init")
PAPER = ("vanilla", "noise", "fgsm", *GAMES)
BASELINES = ("vanilla", "noise")
ALPHA = 0.05
Outcomes = Mapping[tuple[str, int], Mapping[str, np.ndarray]]
Pair = tuple[str, str, str]  # claim, better, worse

# What the paper ranks, by the area under the FGSM curve and by calibration (section 4.6).
AREA_PAIRS: tuple[Pair, ...] = (
    *(("F2a", "fgsm", other) for other in PAPER if other != "fgsm"),
    *(("F2b", game, baseline) for game in GAMES for baseline in BASELINES),
    *(("F2c", f"{game}_init", game) for game in ("gan_tanh", "gan_scaled")),
)
ECE_PAIRS: tuple[Pair, ...] = (
    *(("F3a", "fgsm", other) for other in PAPER if other != "fgsm"),
    *(("F3b", game, baseline) for game in GAMES for baseline in BASELINES),
)


def comparisons(
    outcomes: Outcomes,
    calibration: Sequence[CalibrationRecord],
    *,
    grid: Sequence[float],
    eps: float = 0.1,
    n_resamples: int = 1000,
) -> list[ComparisonRecord]:
    """Every comparison behind F2 and F3 that the runs allow, in both protocols, p-values Holm-corrected by family and protocol.

    `outcomes` maps (recipe, seed) to which test images (N,) survived, under names like "fgsm@0.1/sound". A comparison uses the
    seeds that both sides have, and is left out where there are none. `eps`, one of the grid, is that of F2e and F3.
    Families: F2 (a, b, c, e), F2d, F3.
    """
    made: list[ComparisonRecord] = []
    for protocol in get_args(Protocol):
        measured = _measure(outcomes, sorted(grid), protocol, n_resamples)
        ranked = [_paired(measured, pair, "F2", None) for pair in AREA_PAIRS]
        ranked += [_paired(measured, ("F2e", "gan_scaled_init", "fgsm"), "F2", eps)]
        alike = [_paired(measured, ("F2d", "fgsm", game), "F2d", e) for game in GAMES for e in sorted(grid) if e > 0]
        linear = [_calibrated(calibration, pair, radius, protocol) for pair in ECE_PAIRS for radius in (eps, None)]
        for family in (ranked, alike, linear):
            made += _corrected([record for record in family if record])
    return sorted(made, key=lambda record: record.claim)  # stable: within a claim the order above


class _Column(NamedTuple):
    """One run under FGSM at one eps, or (None) over the whole grid."""

    recipe: str
    seed: int
    eps: float | None


@dataclass(frozen=True)
class _Measured:
    """One protocol's outcomes: per column whether each image survived, or its area; and the means of R resamples.

    All columns share the resampled images, which pairs them, as in `statistics.paired_bootstrap`, and draws once for all tests.
    """

    protocol: Protocol
    images: dict[_Column, NDArray[Any]]  # (N,), bool or area
    resampled: dict[_Column, FloatArray]  # (R,)

    def seeds(self, better: str, worse: str, eps: float | None) -> list[int]:
        """The seeds of which both sides were measured."""
        sides = ({c.seed for c in self.images if (c.recipe, c.eps) == (recipe, eps)} for recipe in (better, worse))
        return sorted(set.intersection(*sides))

    def interval(self, better: str, worse: str, eps: float | None, seeds: Sequence[int]) -> Interval:
        """Of the mean difference, over images and seeds: the two-level percentile bootstrap."""
        pairs = [(_Column(better, seed, eps), _Column(worse, seed, eps)) for seed in seeds]
        differences = np.stack([self.resampled[a] - self.resampled[b] for a, b in pairs], -1)  # (R, S)
        return percentile_interval((differences * _seed_weights(len(seeds), len(differences))).sum(-1))


@cache
def _seed_weights(n_seeds: int, n_resamples: int) -> FloatArray:
    """The share of each seed in each resample of the seeds, (R, S): the same for every test."""
    even = np.full(n_seeds, 1 / n_seeds)
    return np.random.default_rng(1).multinomial(n_seeds, even, size=n_resamples) / n_seeds


def _measure(outcomes: Outcomes, grid: Sequence[float], protocol: Protocol, n_resamples: int) -> _Measured:
    images: dict[_Column, NDArray[Any]] = {}
    for (recipe, seed), survived in outcomes.items():
        keys = {eps: f"fgsm@{eps:g}/{protocol}" for eps in grid}
        if recipe in PAPER:
            images |= {
                _Column(recipe, seed, eps): np.asarray(survived[key], np.bool_)
                for eps, key in keys.items()
                if key in survived
            }
    if not images:
        return _Measured(protocol, {}, {})
    rows = np.stack(
        [column.astype(np.float32) for column in images.values()]
    )  # rows: columns would be written in strides
    means = resampled_means(rows.T, rng=np.random.default_rng(0), n_resamples=n_resamples)
    resampled = dict(zip(images, means.T, strict=True))
    for recipe, seed in {(column.recipe, column.seed): None for column in images}:
        curve = [_Column(recipe, seed, eps) for eps in grid]
        if len(curve) > 1 and all(column in images for column in curve):
            area = _Column(recipe, seed, None)
            weights = area_weights(grid)
            images[area] = weights @ np.stack([images[column] for column in curve])
            resampled[area] = weights @ np.stack([resampled[column] for column in curve])
    return _Measured(protocol, images, resampled)


def _paired(measured: _Measured, pair: Pair, family: str, eps: float | None) -> ComparisonRecord | None:
    """By accuracy at one eps (McNemar per seed), or (None) by the area under the curve (z test per seed); the largest p."""
    claim, better, worse = pair
    seeds = measured.seeds(better, worse, eps)
    if not seeds:
        return None
    sides = [(measured.images[_Column(better, s, eps)], measured.images[_Column(worse, s, eps)]) for s in seeds]
    per_image = [np.subtract(a, b, dtype=np.float64) for a, b in sides]
    differences = [float(difference.mean()) for difference in per_image]
    interval = measured.interval(better, worse, eps, seeds)
    return ComparisonRecord(
        claim=claim,
        family=family,
        better=better,
        worse=worse,
        metric="area" if eps is None else "accuracy",
        eps=eps,
        protocol=measured.protocol,
        difference=math.fsum(differences) / len(seeds),
        low=interval.low,
        high=interval.high,
        per_seed=tuple(differences),
        p_value=max(map(_z_test_p, per_image)) if eps is None else max(mcnemar(a, b).p_value for a, b in sides),
        same_sign=sign_test_holds(differences),
        holds=False,
    )


def _calibrated(
    calibration: Sequence[CalibrationRecord], pair: Pair, eps: float | None, protocol: Protocol
) -> ComparisonRecord | None:
    """By expected calibration error, paired by seed: the worse side's less the better's. One seed has no interval."""
    claim, better, worse = pair
    sides = [dict(_eces(calibration, recipe, eps, protocol)) for recipe in (better, worse)]
    seeds = sorted(set(sides[0]) & set(sides[1]))
    if not seeds:
        return None
    differences = [sides[1][seed] - sides[0][seed] for seed in seeds]
    mean, interval = mean_interval(differences)
    return ComparisonRecord(
        claim=claim,
        family="F3",
        better=better,
        worse=worse,
        metric="ece",
        eps=eps,
        protocol=protocol,
        difference=mean,
        low=interval.low,
        high=interval.high,
        per_seed=tuple(differences),
        p_value=t_test_p(differences),
        same_sign=sign_test_holds(differences),
        holds=False,
    )


def _eces(
    calibration: Sequence[CalibrationRecord], recipe: str, eps: float | None, protocol: Protocol
) -> Iterator[tuple[int, float]]:
    for r in calibration:
        same = r.eps is None if eps is None else r.eps is not None and math.isclose(r.eps, eps, abs_tol=1e-9)
        if same and (r.recipe, r.attack, r.protocol) == (recipe, "fgsm", protocol) and math.isfinite(r.ece):
            yield r.seed, r.ece


def _corrected(family: Sequence[ComparisonRecord]) -> list[ComparisonRecord]:
    """The family with Holm's p-values and the verdict: A ahead in every seed, interval above zero, p below alpha."""
    adjusted = holm([record.p_value for record in family])
    return [
        replace(record, p_value=p, holds=record.same_sign and record.difference > 0 and record.low > 0 and p < ALPHA)
        for record, p in zip(family, adjusted, strict=True)
    ]


def _z_test_p(differences: FloatArray) -> float:
    """Two-sided p-value of a zero mean, for the differences (N,) of many images."""
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(differences))
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return math.erfc(abs(mean) / error / math.sqrt(2))
