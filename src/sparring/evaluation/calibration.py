"""Calibration: does a model that is 80 % sure turn out right 80 % of the time? (The paper's Figure 3.)

Letters: N examples, C classes, M bins, R resamples; leading axes (...) are copies. Confidence is the largest
softmax output, and an example is correct if the largest logit is its label's. With conf_m and acc_m the mean
confidence and the accuracy of bin m, which holds n_m of the N examples:

- ECE is the sum over bins of n_m/N |acc_m - conf_m|, bins of equal width on [0, 1] (Guo et al. 2017);
- adaptive ECE is the same sum over bins of equal mass (Nixon et al. 2019), of the top label only;
- the Brier score is the mean of sum_c (p_c - [c = y])^2, 0 to 2 (Brier 1950);
- NLL is the mean of -log p_y, in nats.

Everywhere, logits that are not finite raise ValueError: a failed evaluation has no calibration.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparring.evaluation.statistics import FloatArray, Interval, percentile_interval, resample_counts
from sparring.randomness import check_seed


@dataclass(frozen=True)
class Bin:
    """The examples with a confidence in (low, high]; an empty bin has count 0 and None for both means."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """One model's calibration on n examples; 95 % bootstrap intervals over examples, see `calibrate`."""

    n: int
    accuracy: float
    mean_confidence: float
    bins: tuple[Bin, ...]
    bands: tuple[Interval | None, ...]  # of each bin's accuracy; None for an empty bin
    ece: float
    ece_interval: Interval
    adaptive_ece: float
    adaptive_ece_interval: Interval
    brier: float
    brier_interval: Interval
    nll: float
    nll_interval: Interval


def reliability(confidence: Tensor | NDArray[Any], correct: Tensor | NDArray[Any], n_bins: int = 10) -> list[Bin]:
    """Examples (N,) in bins of equal width on [0, 1], right edge included; 0 belongs to the first bin.

    Raises ValueError for confidences outside [0, 1] or shapes that differ.
    """
    return _bins(*_paired(confidence, correct), n_bins)


def thin(bins: Sequence[Bin], minimum: int = 30) -> list[bool]:
    """Which bins hold fewer than `minimum` examples: too few to show an accuracy."""
    return [b.count < minimum for b in bins]


def ece(logits: Tensor, y: Tensor, *, n_bins: int = 10) -> FloatArray:
    """Expected calibration error, bins of equal width: logits (..., N, C) and labels (..., N) to (...)."""
    return _per_copy(lambda x: _binned_gap(_width_index(x.confidence, n_bins), x, n_bins), logits, y)


def adaptive_ece(logits: Tensor, y: Tensor, *, n_bins: int = 10) -> FloatArray:
    """Expected calibration error, bins of equal mass: logits (..., N, C) and labels (..., N) to (...).

    Equal confidences always share a bin, that of their middle rank, so the order of examples does not matter;
    many ties (confidences of exactly 1) make the masses unequal.
    """
    return _per_copy(lambda x: _binned_gap(_mass_index(x.confidence, n_bins), x, n_bins), logits, y)


def brier(logits: Tensor, y: Tensor) -> FloatArray:
    """Brier score over all classes, 0 to 2: logits (..., N, C) and labels (..., N) to (...)."""
    return _per_copy(lambda x: x.brier.mean(), logits, y)


def nll(logits: Tensor, y: Tensor) -> FloatArray:
    """Mean negative log-likelihood, in nats: logits (..., N, C) and labels (..., N) to (...)."""
    return _per_copy(lambda x: x.nll.mean(), logits, y)


def calibrate(logits: Tensor, y: Tensor, *, n_bins: int = 10, n_resamples: int = 200, seed: int = 0) -> Calibration:
    """One model's calibration, from logits (N, C) and labels (N,); one copy of a stack at a time.

    Definitions and sources stand at the head of the file. The intervals are 95 % percentile intervals over
    resampled examples. Adaptive ECE keeps the sample's own bins in every resample; a bin's band leaves out
    the resamples in which it is empty. Both ECEs' bootstraps are biased upward: resampling adds noise to each
    gap and absolute values do not average out, most of all for a well calibrated model. Their intervals are
    not corrected for it and may even lie above the estimate.
    """
    if logits.ndim != 2:
        raise ValueError(f"calibrate takes one model's logits, (N, C), got shape {tuple(logits.shape)}")
    x, seed = _examples(*_checked(logits, y)), check_seed(seed)
    n = len(x.confidence)
    width, mass = _width_index(x.confidence, n_bins), _mass_index(x.confidence, n_bins)
    by_width, by_mass = _resampled(x, (width, mass), n_bins, resample_counts(n, seed=seed, n_resamples=n_resamples))
    share, right, width_gap, _, _ = np.moveaxis(by_width, -1, 0)
    whole = by_width.sum(1)
    bins = tuple(_bins(x.confidence, x.correct, n_bins))
    return Calibration(
        n=n,
        accuracy=float(x.correct.mean()),
        mean_confidence=float(x.confidence.mean()),
        bins=bins,
        bands=tuple(_band(share[:, m], right[:, m]) for m in range(n_bins)),
        ece=_binned_gap(width, x, n_bins),
        ece_interval=percentile_interval(np.abs(width_gap).sum(-1)),
        adaptive_ece=_binned_gap(mass, x, n_bins),
        adaptive_ece_interval=percentile_interval(np.abs(by_mass[..., 2]).sum(-1)),
        brier=float(x.brier.mean()),
        brier_interval=percentile_interval(whole[:, 3]),
        nll=float(x.nll.mean()),
        nll_interval=percentile_interval(whole[:, 4]),
    )


def _resampled(
    x: "_Examples", binnings: Sequence[NDArray[np.int64]], n_bins: int, counts: NDArray[np.uint8]
) -> list[FloatArray]:
    """For each binning (N,), and resamples that hold each example so often (R, N): sums over each bin, divided by N, (R, M, 5).

    They are of 1, correct, correct - confidence, Brier score and NLL. Examples that share all their bins lie together, so that
    a resample takes one short product per such cell, whatever the number of bins.
    """
    values = np.stack([np.ones_like(x.correct), x.correct, x.correct - x.confidence, x.brier, x.nll], -1)
    cell = np.ravel_multi_index(tuple(binnings), (n_bins,) * len(binnings))
    order = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    ends = np.append(starts[1:], len(cell))
    values, n_resamples = values[order], len(counts)
    means = np.empty((n_resamples, len(starts), values.shape[-1]))
    for block in range(0, n_resamples, 16):  # bounds the memory
        drawn = counts[block : block + 16, order].astype(np.float64)
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            means[block : block + 16, i] = drawn[:, start:end] @ values[start:end] / len(cell)
    first = order[starts]  # an example of each cell
    return [np.einsum("rcv,cm->rmv", means, _one_hot(bins[first], n_bins)) for bins in binnings]


@dataclass(frozen=True)
class _Examples:
    """What the scores need of each example, all of shape (N,)."""

    confidence: FloatArray
    correct: FloatArray  # 0 or 1
    brier: FloatArray
    nll: FloatArray


def _examples(logits: FloatArray, y: NDArray[np.int64]) -> _Examples:
    shifted = logits - logits.max(-1, keepdims=True)  # at most 0: no exponential overflows
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    p = np.exp(log_p)
    return _Examples(
        confidence=p.max(-1),
        correct=(logits.argmax(-1) == y).astype(np.float64),
        brier=((p - _one_hot(y, logits.shape[-1])) ** 2).sum(-1),
        nll=-np.take_along_axis(log_p, y[:, None], -1)[:, 0],
    )


def _per_copy(score: Callable[[_Examples], Any], logits: Tensor, y: Tensor) -> FloatArray:
    """A score of each copy: (..., N, C) to (...)."""
    values, labels = _checked(logits, y)
    scores = [score(_examples(values[copy], labels[copy])) for copy in np.ndindex(values.shape[:-2])]
    return np.asarray(scores, dtype=np.float64).reshape(values.shape[:-2])


def _checked(logits: Tensor, y: Tensor) -> tuple[FloatArray, NDArray[np.int64]]:
    """Logits (..., N, C) in float64 and labels (..., N), the same for every copy if y is (N,)."""
    if logits.ndim < 2 or logits.shape[-1] < 2 or logits.numel() == 0:
        raise ValueError(f"logits must be (..., N, C) with N >= 1 and C >= 2, got {tuple(logits.shape)}")
    if y.shape not in (logits.shape[:-1], logits.shape[-2:-1]):
        raise ValueError(f"labels must be one per row of logits, {tuple(logits.shape[:-1])}, got {tuple(y.shape)}")
    if y.is_floating_point() or y.is_complex():
        raise ValueError(f"labels must be class indices, whole numbers, got {y.dtype}")
    values = logits.detach().to("cpu", torch.float64).numpy()
    labels = y.detach().to("cpu", torch.int64).expand(logits.shape[:-1]).numpy()
    bad = int((~np.isfinite(values)).any(-1).sum())
    if bad:
        raise ValueError(
            f"logits must be finite, got NaN or infinity in {bad} of {labels.size} rows; "
            "the evaluation failed there and has no calibration"
        )
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise ValueError(f"labels must be in 0..{logits.shape[-1] - 1}, got {labels.min()} to {labels.max()}")
    return values, labels


def _paired(confidence: Tensor | NDArray[Any], correct: Tensor | NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    values, right = (
        np.asarray(v.detach().cpu() if isinstance(v, Tensor) else v, dtype=np.float64) for v in (confidence, correct)
    )
    if values.ndim != 1 or values.shape != right.shape:
        raise ValueError(f"confidence and correct must both be (N,), got {values.shape} and {right.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("confidences must be in [0, 1], got others; did you pass logits?")
    return values, right


def _bins(confidence: FloatArray, correct: FloatArray, n_bins: int) -> list[Bin]:
    index = _width_index(confidence, n_bins)
    return [
        Bin(m / n_bins, (m + 1) / n_bins, count, confidence_mean, accuracy)
        for m in range(n_bins)
        for count, confidence_mean, accuracy in [_summary(confidence[index == m], correct[index == m])]
    ]


def _summary(confidence: FloatArray, correct: FloatArray) -> tuple[int, float | None, float | None]:
    if len(confidence) == 0:
        return 0, None, None
    return len(confidence), float(confidence.mean()), float(correct.mean())


def _width_index(confidence: FloatArray, n_bins: int) -> NDArray[np.int64]:
    """The bin of each example: m with m/M < confidence <= (m + 1)/M."""
    _check_n_bins(n_bins)
    edges = np.arange(n_bins + 1) / n_bins
    return np.maximum(np.searchsorted(edges, confidence, side="left") - 1, 0)


def _mass_index(confidence: FloatArray, n_bins: int) -> NDArray[np.int64]:
    """The bin of each example: its rank's, of N ranks cut into M; ties get their middle rank."""
    _check_n_bins(n_bins)
    ordered = np.sort(confidence)
    first = np.searchsorted(ordered, confidence, side="left")
    last = np.searchsorted(ordered, confidence, side="right") - 1
    return (first + last) * n_bins // (2 * len(confidence))


def _check_n_bins(n_bins: int) -> None:
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}")


def _binned_gap(index: NDArray[np.int64], x: _Examples, n_bins: int) -> float:
    """Sum over bins of n_m/N |acc_m - conf_m|, which is |sum in bin m of (correct - confidence)| / N."""
    gaps = np.bincount(index, weights=x.correct - x.confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(index))


def _one_hot(index: NDArray[np.int64], n: int) -> FloatArray:
    return np.asarray(index[:, None] == np.arange(n), dtype=np.float64)


def _band(share: FloatArray, right: FloatArray) -> Interval | None:
    """The interval of a bin's accuracy, over the resamples (R,) in which it is not empty."""
    filled = share > 0
    return percentile_interval(right[filled] / share[filled]) if filled.any() else None
