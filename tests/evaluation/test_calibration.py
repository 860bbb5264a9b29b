"""Calibration scores worked out by hand, computed a second way, and by their properties."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from torch import Tensor

from sparring.evaluation.calibration import (
    Bin,
    Calibration,
    adaptive_ece,
    brier,
    calibrate,
    ece,
    nll,
    reliability,
    thin,
)
from sparring.evaluation.statistics import resample_counts

SCORES = [ece, adaptive_ece, brier, nll]


def _random(n: int = 200, classes: int = 4, seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (n,), generator=generator)


def _calibrated(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels drawn from the softmax of the logits: calibrated by construction."""
    logits, _ = _random(n, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def _sure(*confidences: float) -> Tensor:
    """Two-class logits that are so sure of class 0."""
    p = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([p, 1 - p], -1).log()


def test_reliability_bins_include_their_right_edge() -> None:
    bins = reliability(np.array([0.0, 0.5, 0.5, 0.6, 1.0]), np.array([0, 1, 0, 1, 1]), n_bins=2)
    assert bins == [
        Bin(0.0, 0.5, 3, pytest.approx(1 / 3), pytest.approx(1 / 3)),
        Bin(0.5, 1.0, 2, pytest.approx(0.8), 1.0),
    ]


@pytest.mark.parametrize("n_bins", [3, 7, 10, 15])
def test_every_edge_belongs_to_the_bin_below_it(n_bins: int) -> None:
    edges = np.arange(1, n_bins + 1) / n_bins
    assert [b.count for b in reliability(edges, np.ones(n_bins), n_bins)] == [1] * n_bins


def test_an_empty_bin_has_no_means() -> None:
    assert reliability(torch.tensor([0.9]), torch.tensor([True]), n_bins=2)[0] == Bin(0.0, 0.5, 0, None, None)


@pytest.mark.parametrize("confidence", [[1.5], [-0.1], [math.nan]])
def test_confidences_that_are_no_probabilities_are_refused(confidence: list[float]) -> None:
    with pytest.raises(ValueError, match="did you pass logits"):
        reliability(np.array(confidence), np.array([True]))


def test_confidence_and_correctness_must_match() -> None:
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        reliability(np.zeros(2), np.zeros(3))


def test_bins_with_fewer_than_thirty_examples_are_thin() -> None:
    bins = reliability(np.array([0.2] * 29 + [0.9] * 30), np.ones(59), n_bins=3)
    assert thin(bins) == [True, True, False]
    assert thin(bins, minimum=20) == [False, True, False]


def test_ece_equals_the_value_worked_out_by_hand() -> None:
    # bin (.6, .7]: two at .7, one right, gap .2; bin (.8, .9]: two at .9, both right, gap .1
    logits, y = _sure(0.7, 0.7, 0.9, 0.9), torch.tensor([0, 1, 0, 0])
    assert float(ece(logits, y)) == pytest.approx((2 * 0.2 + 2 * 0.1) / 4)


def test_adaptive_ece_equals_the_value_worked_out_by_hand() -> None:
    # two bins of two: (.6, .7) with one right, gap .15, and (.8, .9) with both right, gap .15
    logits, y = _sure(0.9, 0.6, 0.8, 0.7), torch.tensor([0, 1, 0, 0])
    assert float(adaptive_ece(logits, y, n_bins=2)) == pytest.approx(0.15)
    # four bins of one: gaps .6, .3, .2, .1
    assert float(adaptive_ece(logits, y, n_bins=4)) == pytest.approx(1.2 / 4)


def test_equal_confidences_share_a_bin() -> None:
    # in three bins by rank, the ties at .75 would be torn apart: gaps of opposite sign must cancel
    logits, y = _sure(0.75, 0.75, 0.75, 0.75), torch.tensor([1, 0, 0, 0])
    assert float(adaptive_ece(logits, y, n_bins=3)) == pytest.approx(0, abs=1e-12)


def test_brier_and_nll_equal_the_values_worked_out_by_hand() -> None:
    logits, y = _sure(0.8, 0.8), torch.tensor([0, 1])
    assert float(brier(logits, y)) == pytest.approx((2 * 0.2**2 + 2 * 0.8**2) / 2)
    assert float(nll(logits, y)) == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)


def test_scores_equal_a_second_way_to_compute_them() -> None:
    logits, y = _random(1000)
    z, labels = logits.numpy(), y.numpy()
    p, rows = softmax(z, -1), np.arange(len(z))
    assert float(nll(logits, y)) == pytest.approx(-log_softmax(z, -1)[rows, labels].mean())
    assert float(nll(logits, y)) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, y)))
    assert float(brier(logits, y)) == pytest.approx(((p - np.eye(4)[labels]) ** 2).sum(-1).mean())
    bins = [b for b in reliability(p.max(-1), p.argmax(-1) == labels, 15) if b.count]
    gaps = [b.count / 1000 * abs(b.accuracy - b.confidence) for b in bins]  # type: ignore[operator]
    assert float(ece(logits, y, n_bins=15)) == pytest.approx(sum(gaps))
    order = np.argsort(p.max(-1))
    parts = np.split((p.argmax(-1) == labels)[order] - p.max(-1)[order], 10)
    assert float(adaptive_ece(logits, y)) == pytest.approx(sum(abs(part.sum()) for part in parts) / 1000)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), n_bins=st.integers(1, 12), scale=st.floats(0, 1e6))
def test_scores_stay_in_range_and_do_not_depend_on_the_order(seed: int, n: int, n_bins: int, scale: float) -> None:
    logits, y = _random(n, seed=seed, scale=scale)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    for score in (ece, adaptive_ece):
        value = float(score(logits, y, n_bins=n_bins))
        assert 0 <= value <= 1
        assert float(score(logits[order], y[order], n_bins=n_bins)) == pytest.approx(value, abs=1e-12)
    assert 0 <= float(brier(logits, y)) <= 2
    assert float(nll(logits, y)) >= 0
    assert float(brier(logits[order], y[order])) == pytest.approx(float(brier(logits, y)))


def test_calibrated_predictions_have_a_small_error_and_overconfident_ones_do_not() -> None:
    logits, y = _calibrated(50_000)
    assert float(ece(logits, y)) < 0.01
    assert float(adaptive_ece(logits, y)) < 0.01
    assert float(ece(5 * logits, y)) > 0.1


@pytest.mark.parametrize("score", SCORES)
def test_a_stack_scores_each_copy_as_if_alone(score) -> None:  # type: ignore[no-untyped-def]
    copies = [_random(seed=s) for s in range(3)]
    logits, y = (torch.stack(parts) for parts in zip(*copies, strict=True))
    alone = [float(score(*copy)) for copy in copies]
    assert score(logits, y).tolist() == alone
    assert score(*copies[0]).shape == ()
    shared = score(logits, y[0])  # the same images shown to every copy
    assert shared.shape == (3,)
    assert shared[0] == alone[0]


def test_huge_logits_are_safe() -> None:
    logits = torch.tensor([[3e38, -3e38], [-3e38, 3e38], [0.0, 1e4]])
    y = torch.tensor([0, 1, 0])
    assert float(brier(logits, y)) == pytest.approx(2 / 3)
    assert float(nll(logits, y)) == pytest.approx(1e4 / 3)
    assert float(ece(logits, y)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("score", [*SCORES, calibrate])
def test_logits_that_are_not_finite_are_an_error_that_counts_them(score) -> None:  # type: ignore[no-untyped-def]
    logits, y = _random(10)
    logits[3, 1], logits[3, 2], logits[7, 0] = math.nan, math.inf, -math.inf
    with pytest.raises(ValueError, match="NaN or infinity in 2 of 10 rows"):
        score(logits, y)


@pytest.mark.parametrize(
    ("logits", "y", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), "one per row"),
        (torch.zeros(3, 2), torch.zeros(3), "whole numbers"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), r"in 0\.\.1, got 0 to 2"),
        (torch.zeros(3, 2), torch.tensor([0, -1, 0]), r"in 0\.\.1, got -1 to 0"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "N >= 1"),
        (torch.zeros(3), torch.tensor(0), "N >= 1"),
    ],
)
def test_a_mistaken_argument_is_named(logits: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ece(logits, y)


def test_no_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="n_bins must be at least 1, got 0"):
        ece(*_random(), n_bins=0)


def test_calibrate_agrees_with_the_single_scores() -> None:
    logits, y = _random(500)
    result = calibrate(logits, y, n_bins=7)
    assert result.n == 500
    assert result.accuracy == pytest.approx(float((logits.argmax(-1) == y).double().mean()))
    confidence = logits.softmax(-1).amax(-1)
    assert result.mean_confidence == pytest.approx(float(confidence.mean()))
    assert [b.count for b in result.bins] == [
        b.count for b in reliability(confidence, logits.argmax(-1) == y, n_bins=7)
    ]
    assert result.ece == pytest.approx(float(ece(logits, y, n_bins=7)))
    assert result.adaptive_ece == pytest.approx(float(adaptive_ece(logits, y, n_bins=7)))
    assert result.brier == pytest.approx(float(brier(logits, y)))
    assert result.nll == pytest.approx(float(nll(logits, y)))


def test_calibrate_takes_one_copy_at_a_time() -> None:
    with pytest.raises(ValueError, match=r"got shape \(2, 5, 3\)"):
        calibrate(torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.int64))


def test_the_intervals_of_means_have_the_width_of_the_normal_interval() -> None:
    logits, y = _random(4000)
    result = calibrate(logits, y, n_resamples=4000)
    losses = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    half = 1.96 * float(losses.std()) / math.sqrt(4000)
    low, high = result.nll_interval.low, result.nll_interval.high
    assert (low, high) == pytest.approx((result.nll - half, result.nll + half), abs=0.06 * half)
    assert result.brier_interval.low < result.brier < result.brier_interval.high
    for b, band in zip(result.bins, result.bands, strict=True):
        if b.accuracy is None:
            assert band is None
        elif b.count >= 30:
            assert band is not None
            half = 1.96 * math.sqrt(b.accuracy * (1 - b.accuracy) / b.count)
            assert band.high - band.low == pytest.approx(2 * half, rel=0.15)


def test_the_ece_intervals_equal_a_bootstrap_that_computes_each_resample_afresh() -> None:
    logits, y = _random(300)
    result = calibrate(logits, y, n_resamples=1000)
    rng = np.random.default_rng(5)
    afresh = [float(ece(logits[i], y[i])) for i in (torch.from_numpy(rng.integers(300, size=300)) for _ in range(1000))]
    expected = np.quantile(afresh, [0.025, 0.975])
    assert (result.ece_interval.low, result.ece_interval.high) == pytest.approx(tuple(expected), abs=0.015)


def test_the_interval_of_a_calibrated_model_lies_high_as_documented() -> None:
    result = calibrate(*_calibrated(2000))
    assert result.ece_interval.low + result.ece_interval.high > 2 * result.ece
    assert result.adaptive_ece_interval.low + result.adaptive_ece_interval.high > 2 * result.adaptive_ece


def test_calibrate_repeats_itself_and_follows_its_seed() -> None:
    logits, y = _random()
    assert calibrate(logits, y, seed=1) == calibrate(logits, y, seed=1)
    assert calibrate(logits, y, seed=1).nll_interval != calibrate(logits, y, seed=2).nll_interval


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(0, 1000))
def test_few_examples_and_few_resamples_still_give_a_result(n: int, seed: int) -> None:
    result = calibrate(*_random(n, seed=seed), n_resamples=3)
    assert isinstance(result, Calibration)
    assert sum(b.count for b in result.bins) == n


def test_calibrate_is_fast_at_full_size() -> None:
    logits, y = _random(10_000, classes=10)
    start = time.process_time()
    calibrate(logits, y)
    assert time.process_time() - start < 2  # about 0.1 s; the rest is for a busy machine


def test_low_precision_logits_with_a_gradient_are_welcome() -> None:
    logits, y = _random()
    low = logits.to(torch.bfloat16).requires_grad_()
    assert float(nll(low, y)) == pytest.approx(float(nll(logits, y)), rel=0.02)


def test_intervals_are_those_of_scores_computed_anew_on_every_resample() -> None:
    logits = 3 * torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    logits[:40] = logits[40:80]  # ties
    y = torch.randint(5, (400,), generator=torch.Generator().manual_seed(1))
    found = calibrate(logits, y, n_resamples=70, seed=3)
    confidence, right = logits.double().softmax(-1).amax(-1).numpy(), (logits.argmax(-1) == y).double().numpy()
    ranks = np.array([(np.searchsorted(np.sort(confidence), c) + np.sum(confidence <= c) - 1) / 2 for c in confidence])
    width, mass = np.ceil(confidence * 10) - 1, np.floor(ranks * 10 / 400)
    scores: dict[str, list[float]] = {"ece": [], "adaptive_ece": [], "brier": [], "nll": []}
    accuracies = []
    for counts in resample_counts(400, seed=3, n_resamples=70):
        rows = np.repeat(np.arange(400), counts)  # the resample itself
        for name, bins in (("ece", width), ("adaptive_ece", mass)):
            inside = [bins[rows] == m for m in range(10)]
            gaps = [np.abs((right[rows] - confidence[rows])[i].sum()) / 400 for i in inside]
            scores[name].append(float(sum(gaps)))
        scores["brier"].append(float(brier(logits[rows], y[rows])))
        scores["nll"].append(float(nll(logits[rows], y[rows])))
        accuracies.append(right[rows][width[rows] == 9].mean())
    for name, values in scores.items():
        low, high = np.quantile(values, [0.025, 0.975])
        interval = getattr(found, f"{name}_interval")
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
    band = found.bands[9]
    assert band and (band.low, band.high) == pytest.approx(tuple(np.quantile(accuracies, [0.025, 0.975])), abs=1e-12)
