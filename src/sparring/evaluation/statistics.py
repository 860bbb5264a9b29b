"""Intervals and paired tests: how sure a number is, and whether a difference between two models is real.

Letters: S seeds, N images, R resamples, K columns. Rates are fractions, 0 to 1. Everything here is numpy;
there is no ranking of models: what `verdicts` does not call true is "no difference shown".
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends included.

    Both ends are NaN where no interval exists (the spread of one seed). NaN is not JSON: a writer of records
    should put null where `defined` is false.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (self.low <= self.high or (math.isnan(self.low) and math.isnan(self.high))):
            raise ValueError(f"an interval needs low <= high, or NaN twice, got {self.low} and {self.high}")

    @property
    def defined(self) -> bool:
        """False for the interval that does not exist, (NaN, NaN)."""
        return not math.isnan(self.low)


def wilson(correct: int, n: int, confidence: float = 0.95) -> Interval:
    """The interval of a rate, `correct` of `n`, as fractions; never empty, also at 0 and n (Wilson 1927).

    Raises ValueError unless 0 <= correct <= n and n >= 1.
    """
    _check_confidence(confidence)
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"a rate needs 0 <= correct <= n and n >= 1, got {correct} of {n}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = correct / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Interval(0.0 if correct == 0 else centre - half, 1.0 if correct == n else centre + half)


def upper_bound(count: int, n: int, confidence: float = 0.95) -> float:
    """The highest rate at which so few of n are still as likely as 1 - confidence (Clopper and Pearson 1934, one-sided)."""
    _check_confidence(confidence)
    if not 0 <= count <= n or n == 0:
        raise ValueError(f"a rate needs 0 <= count <= n and n >= 1, got {count} of {n}")
    if count == n:
        return 1.0
    ways = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(count + 1)]  # logarithms
    low, high = 0.0, 1.0
    for _ in range(50):
        rate = (low + high) / 2
        at_most = sum(math.exp(w + k * math.log(rate) + (n - k) * math.log1p(-rate)) for k, w in enumerate(ways))
        low, high = (rate, high) if at_most > 1 - confidence else (low, rate)
    return high


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, Interval]:
    """The mean of one value per seed, with Student's t interval over seeds.

    A single value has a mean but no spread: its interval is (NaN, NaN), see `Interval`. Raises ValueError for
    no values, or values that are not finite.
    """
    _check_confidence(confidence)
    if len(values) == 0:
        raise ValueError("a mean needs at least one value, got none")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"values must be finite, got {list(values)}")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, Interval(math.nan, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = _t_quantile(confidence, n - 1) * math.sqrt(variance / n)
    return mean, Interval(mean - half, mean + half)


def t_test_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of Student's t test that one difference per seed has mean zero; 1 for a single seed.

    Raises ValueError for no differences, or values that are not finite.
    """
    mean, _ = mean_interval(differences)
    n = len(differences)
    if n == 1 or mean == 0:
        return 1.0
    error = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    return max(0.0, 1 - _t_central_mass(math.atan2(abs(mean), error * math.sqrt(n - 1)), n - 1))


@dataclass(frozen=True)
class McNemar:
    """Two models on the same images: how many only A, or only B, had right, and the p-value of the test."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(a_correct: NDArray[Any], b_correct: NDArray[Any]) -> McNemar:
    """McNemar's exact two-sided test of outcomes (N,), true or 1 where the model is right.

    Under the null hypothesis a fair coin decides who is right where they disagree. Raises ValueError for
    different shapes or outcomes other than 0 and 1.
    """
    a, b = _outcomes(a_correct), _outcomes(b_correct)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(f"McNemar's test needs two equal shapes (N,), N >= 1, got {a.shape} and {b.shape}")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    return McNemar(only_a, only_b, _fair_coin_p_value(min(only_a, only_b), only_a + only_b))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in the order given (Holm 1979).

    Those below alpha are the ones shown, with at most alpha as the chance of any false one in the family.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must be in [0, 1], got {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def paired_bootstrap(
    a: NDArray[Any], b: NDArray[Any], *, seed: int, n_resamples: int = 1000, confidence: float = 0.95
) -> Interval:
    """The interval of mean(a) - mean(b), for outcomes (S, N) of S seeds on the same N images.

    Outcomes may be right/wrong or any number per image. Seed i of `a` is paired with seed i of `b`. Each
    resample draws images, the same for every seed, and seeds, so the interval speaks of new images and of new
    training runs (two-level percentile bootstrap; Efron and Tibshirani 1993, chapter 13). With one seed it
    speaks of images only, and with few seeds it is somewhat too narrow. Raises ValueError for shapes that
    differ or values that are not finite.
    """
    _check_confidence(confidence)
    differences = _paired_differences(a, b)
    rng = np.random.default_rng(seed)
    n_seeds = len(differences)
    of_seeds = resampled_means(differences.T, rng=rng, n_resamples=n_resamples)
    seed_weights = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_resamples) / n_seeds
    return percentile_interval((of_seeds * seed_weights).sum(-1), confidence)


def sign_test_holds(differences: Sequence[float]) -> bool:
    """Whether the difference has the same sign in every seed, and is zero or NaN in none."""
    if len(differences) == 0:
        raise ValueError("the sign test needs at least one seed, got none")
    return all(d > 0 for d in differences) or all(d < 0 for d in differences)


@dataclass(frozen=True)
class Comparison:
    """Model A against model B on the same images: differences are A's accuracy less B's, -1 to 1."""

    difference: float  # mean over seeds
    interval: Interval  # 95 %, over images and seeds
    seed_differences: tuple[float, ...]
    seed_p_values: tuple[float, ...]  # exact McNemar, one per seed
    same_sign: bool  # in every seed, and nowhere zero


def compare(a: NDArray[Any], b: NDArray[Any], *, seed: int, n_resamples: int = 1000) -> Comparison:
    """A against B, from outcomes (S, N), true or 1 where the model is right; `seed` is the bootstrap's.

    Alone it shows nothing: `verdicts` judges it within its family.
    """
    a, b = _outcomes(a), _outcomes(b)
    differences = _paired_differences(a, b)
    seed_differences = tuple(float(d) for d in differences.mean(-1))
    return Comparison(
        difference=float(differences.mean()),
        interval=paired_bootstrap(a, b, seed=seed, n_resamples=n_resamples),
        seed_differences=seed_differences,
        seed_p_values=tuple(mcnemar(*pair).p_value for pair in zip(a, b, strict=True)),
        same_sign=sign_test_holds(seed_differences),
    )


def verdicts(comparisons: Sequence[Comparison], alpha: float = 0.05) -> list[bool]:
    """For each comparison of one family, whether "A beats B" is shown.

    It is if A is ahead in every seed, the bootstrap interval lies above zero, and the largest McNemar p-value
    over seeds, adjusted by Holm over the family, is below alpha. The family is all that is shown together.
    False means "no difference shown", or that B is ahead (compare it with A to ask): print no ranking then.
    """
    adjusted = holm([max(c.seed_p_values) for c in comparisons])
    return [
        c.same_sign and c.difference > 0 and c.interval.low > 0 and p < alpha
        for c, p in zip(comparisons, adjusted, strict=True)
    ]


def resampled_means(values: NDArray[Any], *, rng: np.random.Generator, n_resamples: int) -> FloatArray:
    """Column means (R, K) of values (N, K) under R bootstrap resamples of the N rows, by matrix products.

    Zeros and ones may come as float32: their sums are exact up to 2^24 rows, and the products take half the time.
    """
    n = len(values)
    means = np.empty((n_resamples, values.shape[1]))
    for start, counts in _resamples(n, rng, n_resamples):
        means[start : start + len(counts)] = counts.astype(values.dtype) @ values
    return means / n


@lru_cache(maxsize=2)  # one run's calibration under each attack asks for the same two over and over
def resample_counts(n: int, *, seed: int, n_resamples: int) -> NDArray[np.uint8]:
    """How often each of n rows is drawn in each of R bootstrap resamples, (R, N): what `resampled_means` draws from this seed."""
    counts = np.empty((n_resamples, n), np.uint8)  # no row comes 256 times: the odds are below n in 256!
    for start, block in _resamples(n, np.random.default_rng(seed), n_resamples):
        counts[start : start + len(block)] = block
    counts.setflags(write=False)
    return counts


def _resamples(n: int, rng: np.random.Generator, n_resamples: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(number of the first, counts (B, N)) of a block of resamples after the other; blocks bound the memory."""
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    for start in range(0, n_resamples, 64):
        block = range(start, min(start + 64, n_resamples))
        yield start, np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in block])


def percentile_interval(resampled: FloatArray, confidence: float = 0.95) -> Interval:
    """The middle `confidence` of resampled values (R,), uncorrected for bias."""
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}; did you mean 0.95?")


def _outcomes(correct: NDArray[Any]) -> NDArray[np.bool_]:
    values = np.asarray(correct)
    if values.dtype != np.bool_ and not np.isin(values, (0, 1)).all():
        raise ValueError("outcomes must be true/false or 1/0, one per image, got other values")
    return values.astype(np.bool_)


def _paired_differences(a: NDArray[Any], b: NDArray[Any]) -> FloatArray:
    """a - b, (S, N)."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape or first.size == 0:
        raise ValueError(f"paired outcomes need two equal shapes (S, N), got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("paired outcomes must be finite, got NaN or infinity")
    return first - second


def _fair_coin_p_value(fewer: int, n: int) -> float:
    """2 P(X <= fewer) for X ~ Binomial(n, 1/2), at most 1; in logarithms, as 2**-n underflows."""
    k = np.arange(1, fewer + 1)
    log_binomial = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))])
    largest = log_binomial[-1]  # they rise up to k = n/2
    log_p = largest + math.log(np.exp(log_binomial - largest).sum()) + (1 - n) * math.log(2)
    return min(1.0, math.exp(min(0.0, log_p)))


@cache  # every mean over so many seeds asks for the same one
def _t_quantile(confidence: float, df: int) -> float:
    """The t with P(|T| <= t) = confidence at df degrees of freedom, by bisection on atan(t / sqrt(df))."""
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        if _t_central_mass(middle, df) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(df) * math.tan(middle)


def _t_central_mass(theta: float, df: int) -> float:
    """P(|T| <= sqrt(df) tan(theta)): a finite sum for whole df (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    odd = df % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for power in range(odd, df - 1, 2):  # term is a coefficient times cos(theta)**power
        total += term
        term *= (power + 1) / (power + 2) * math.cos(theta) ** 2
    mass = math.sin(theta) * total
    return 2 / math.pi * (theta + mass) if odd else mass
