"""Intervals and paired tests against scipy, against values worked out by hand, and by their properties."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparring.evaluation.statistics import (
    Comparison,
    Interval,
    compare,
    holm,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    resample_counts,
    resampled_means,
    sign_test_holds,
    upper_bound,
    verdicts,
    wilson,
)

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (827, 1000, 0.8023, 0.8492),
        (8270, 10000, 0.8195, 0.8343),
        (0, 1000, 0.0, 0.0038),
        (1000, 1000, 0.9962, 1.0),
    ],
)
def test_wilson_gives_the_known_intervals(correct: int, n: int, low: float, high: float) -> None:
    interval = wilson(correct, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5.1e-5)


@given(n=st.integers(1, 20000), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(n: int, share: float, confidence: float) -> None:
    correct = round(share * n)
    interval = wilson(correct, n, confidence)
    expected = stats.binomtest(correct, n).proportion_ci(confidence, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= interval.low <= correct / n <= interval.high <= 1


@pytest.mark.parametrize(("correct", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_an_impossible_count(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {correct} of {n}"):
        wilson(correct, n)


@pytest.mark.parametrize("n", [1, 24, 43, 300])
def test_no_alarm_bounds_the_rate_by_its_closed_form(n: int) -> None:
    assert upper_bound(0, n) == pytest.approx(1 - 0.05 ** (1 / n), abs=1e-12)


@given(n=st.integers(1, 2000), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_the_upper_bound_equals_scipy(n: int, share: float, confidence: float) -> None:
    count = round(share * n)
    expected = stats.binomtest(count, n, alternative="less").proportion_ci(confidence, method="exact").high
    assert upper_bound(count, n, confidence) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("count", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_the_upper_bound_refuses_an_impossible_count(count: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} of {n}"):
        upper_bound(count, n)


def test_a_confidence_in_percent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 95; did you mean 0\.95"):
        wilson(1, 2, confidence=95)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_t_quantile_equals_scipy(confidence: float) -> None:
    for df in [*range(1, 201), 1000]:
        values = [-1.0] + [0.0] * (df - 1) + [1.0]  # n = df + 1, variance 2 / df
        mean, interval = mean_interval(values, confidence)
        t = interval.high / math.sqrt(2 / df / (df + 1))
        assert mean == 0
        assert interval.low == -interval.high
        assert t == pytest.approx(stats.t.ppf((1 + confidence) / 2, df), rel=1e-9, abs=1e-6)


def test_the_mean_of_two_seeds_has_the_interval_worked_out_by_hand() -> None:
    mean, interval = mean_interval([1.0, 3.0])  # standard error 1, t with one degree of freedom 12.7062
    assert mean == 2
    assert interval.low == pytest.approx(2 - 12.7062047364, abs=1e-9)


def test_one_seed_has_a_mean_but_no_interval() -> None:
    mean, interval = mean_interval([0.5])
    assert mean == 0.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert not interval.defined


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_a_mean_of_nothing_or_of_what_is_not_finite_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least one value|must be finite"):
        mean_interval(values)


def test_an_interval_with_its_ends_exchanged_is_refused() -> None:
    with pytest.raises(ValueError, match="low <= high"):
        Interval(1.0, 0.0)
    with pytest.raises(ValueError, match="low <= high"):
        Interval(math.nan, 0.0)


def _discordant(only_a: int, only_b: int, both: int = 7) -> tuple[np.ndarray, np.ndarray]:
    a = np.array([True] * only_a + [False] * only_b + [True] * both)
    b = np.array([False] * only_a + [True] * only_b + [True] * both)
    return a, b


@pytest.mark.parametrize(
    ("only_a", "only_b"),
    [
        (0, 0),
        (1, 0),
        (5, 0),
        (8, 2),
        (10, 10),
        (11, 10),
        (60, 90),
        (2400, 2600),
        (5100, 4900),
        (100, 3000),
        (0, 9000),
    ],
)
def test_mcnemar_equals_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    result = mcnemar(*_discordant(only_a, only_b))
    n = only_a + only_b
    expected = stats.binomtest(only_a, n, 0.5).pvalue if n else 1.0
    assert (result.only_a, result.only_b) == (only_a, only_b)
    assert result.p_value == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert 0 <= result.p_value <= 1


def test_mcnemar_of_five_against_none_is_two_to_the_minus_four() -> None:
    assert mcnemar(*_discordant(5, 0)).p_value == pytest.approx(2**-4)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_does_not_depend_on_which_model_comes_first(only_a: int, only_b: int) -> None:
    a, b = _discordant(only_a, only_b)
    assert mcnemar(a, b).p_value == mcnemar(b, a).p_value


def test_mcnemar_refuses_probabilities_and_unequal_shapes() -> None:
    with pytest.raises(ValueError, match="true/false or 1/0"):
        mcnemar(np.array([0.3, 1.0]), np.array([True, False]))
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2,\)"):
        mcnemar(np.ones(3, bool), np.ones(2, bool))


def test_holm_equals_the_example_worked_out_by_hand() -> None:
    # sorted .01 .03 .04 times 3, 2, 1 is .03 .06 .04; an adjusted value never falls below an earlier one
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(P_VALUES)
def test_holm_keeps_the_order_and_lies_between_the_value_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= min(1.0, p * len(p_values)) for p, q in zip(p_values, adjusted, strict=True))
    in_order = [adjusted[i] for i in np.argsort(p_values, kind="stable")]
    assert in_order == sorted(in_order)


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_does_not_depend_on_the_order_of_the_family(p_values: list[float], random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(p_values)))
    random.shuffle(order)
    adjusted = holm(p_values)
    assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]


def test_holm_refuses_what_is_not_a_probability() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        holm([0.5, math.nan])


def test_the_bootstrap_over_images_has_the_width_of_the_normal_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((1, 4000)), rng.random((1, 4000))
    interval = paired_bootstrap(a, b, seed=1, n_resamples=4000)
    d = a - b
    half = 1.96 * d.std() / math.sqrt(d.size)
    assert (interval.low, interval.high) == pytest.approx((d.mean() - half, d.mean() + half), abs=0.06 * half)


def test_the_bootstrap_resamples_seeds_too() -> None:
    # Every image of seed s differs by s: images add nothing, and a mean of S draws has variance var(s) / S.
    a = np.arange(20.0)[:, None] * np.ones((20, 50))
    interval = paired_bootstrap(a, np.zeros_like(a), seed=0, n_resamples=4000)
    half = 1.96 * np.arange(20).std() / math.sqrt(20)
    assert (interval.low, interval.high) == pytest.approx((9.5 - half, 9.5 + half), abs=0.08 * half)


def test_the_bootstrap_adds_the_spread_of_images_that_seeds_share() -> None:
    # All seeds agree on each image: more seeds must not narrow the interval.
    a = np.tile(np.random.default_rng(0).random(500), (10, 1))
    interval = paired_bootstrap(a, np.zeros_like(a), seed=0, n_resamples=2000)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * a[0].std() / math.sqrt(500), rel=0.08)


def test_the_bootstrap_repeats_itself_and_follows_its_seed() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 100)) < 0.8, rng.random((3, 100)) < 0.7
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3) != paired_bootstrap(a, b, seed=4)


def test_the_bootstrap_of_a_constant_difference_is_a_point() -> None:
    a = np.ones((4, 30))
    interval = paired_bootstrap(a, a - 0.25, seed=0)
    assert (interval.low, interval.high) == pytest.approx((0.25, 0.25))


def test_the_bootstrap_is_fast_at_full_size() -> None:
    a = np.random.default_rng(0).random((10, 10_000)) < 0.9
    start = time.process_time()
    paired_bootstrap(a, ~a, seed=0)
    assert time.process_time() - start < 4  # about 0.5 s; the rest is for a busy machine


@pytest.mark.parametrize("b", [np.zeros((2, 4)), np.zeros(3), np.full((2, 3), np.nan)])
def test_the_bootstrap_refuses_what_is_not_paired_or_not_finite(b: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"equal shapes|finite"):
        paired_bootstrap(np.zeros((2, 3)), b, seed=0)


def test_the_bootstrap_needs_a_resample() -> None:
    with pytest.raises(ValueError, match="n_resamples must be at least 1, got 0"):
        paired_bootstrap(np.zeros((2, 3)), np.zeros((2, 3)), seed=0, n_resamples=0)


def test_the_sign_holds_only_if_every_seed_agrees_and_none_is_zero() -> None:
    assert sign_test_holds([0.1, 0.2])
    assert sign_test_holds([-0.1, -0.2])
    assert not sign_test_holds([0.1, -0.2])
    assert not sign_test_holds([0.1, 0.0])
    assert not sign_test_holds([0.1, math.nan])
    with pytest.raises(ValueError, match="at least one seed"):
        sign_test_holds([])


def _models(accuracy: float, n_seeds: int = 4, n: int = 2000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n_seeds, n)) < accuracy


def test_a_comparison_holds_every_seed() -> None:
    a, b = _models(0.9), _models(0.8, seed=1)
    result = compare(a, b, seed=0)
    assert result.seed_differences == pytest.approx(a.mean(1) - b.mean(1))
    assert result.difference == pytest.approx(np.mean(result.seed_differences))
    assert result.seed_p_values == tuple(mcnemar(x, y).p_value for x, y in zip(a, b, strict=True))
    assert result.interval == paired_bootstrap(a, b, seed=0)
    assert result.same_sign


def test_a_clearly_better_model_beats_the_other_and_not_the_reverse() -> None:
    a, b = _models(0.9), _models(0.8, seed=1)
    assert verdicts([compare(a, b, seed=0), compare(b, a, seed=0), compare(a, a, seed=0)]) == [
        True,
        False,
        False,
    ]


def test_equal_models_show_no_difference() -> None:
    shown = [verdicts([compare(_models(0.9, seed=2 * i), _models(0.9, seed=2 * i + 1), seed=i)]) for i in range(20)]
    assert shown == [[False]] * 20


CLEAR = Comparison(0.1, Interval(0.05, 0.15), (0.1, 0.1), (0.01, 0.02), True)


@pytest.mark.parametrize(
    "spoilt",
    [
        replace(CLEAR, same_sign=False),
        replace(CLEAR, interval=Interval(0.0, 0.15)),
        replace(CLEAR, seed_p_values=(0.001, 0.05)),
        replace(CLEAR, difference=-0.1, interval=Interval(-0.15, -0.05)),
    ],
)
def test_each_condition_alone_can_withhold_a_verdict(spoilt: Comparison) -> None:
    assert verdicts([CLEAR]) == [True]
    assert verdicts([spoilt]) == [False]


def test_a_larger_family_asks_for_more() -> None:
    assert verdicts([CLEAR, CLEAR]) == [True, True]  # .02 times 2 is below .05
    assert verdicts([CLEAR] * 3) == [False] * 3  # times 3 is not
    assert verdicts([CLEAR] * 3, alpha=0.1) == [True] * 3


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_the_interval_does_not_leave_the_range_of_the_outcomes(seed: int) -> None:
    a, b = _models(0.7, 2, 20, seed), _models(0.5, 2, 20, seed + 1)
    interval = paired_bootstrap(a, b, seed=seed, n_resamples=50)
    assert -1 <= interval.low <= interval.high <= 1


def test_counts_of_a_resample_are_what_resampled_means_draws() -> None:
    values = np.random.default_rng(0).random((300, 3))
    counts = resample_counts(300, seed=5, n_resamples=100)
    assert counts.shape == (100, 300) and (counts.sum(-1, dtype=np.int64) == 300).all()
    means = resampled_means(values, rng=np.random.default_rng(5), n_resamples=100)
    assert np.allclose(counts @ values / 300, means, rtol=0, atol=1e-13)


def test_zeros_and_ones_have_the_same_resampled_means_in_single_precision() -> None:
    values = np.random.default_rng(0).random((5000, 4)) < (0.1, 0.5, 0.9, 0.999)
    single, double = (
        resampled_means(values.astype(kind), rng=np.random.default_rng(1), n_resamples=100)
        for kind in (np.float32, np.float64)
    )
    assert np.array_equal(single, double)
