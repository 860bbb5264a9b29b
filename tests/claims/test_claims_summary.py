"""Means over seeds, and the t test that compares seeds."""

import sys
from pathlib import Path

import numpy as np
import pytest

from sparring.claims import summarise
from sparring.evaluation.statistics import t_test_p
from sparring.records import ReadingRecord

sys.path.insert(0, str(Path(__file__).parent))
import made_up as m


def test_values_stand_in_the_order_of_seeds_with_their_interval() -> None:
    results = [m.accuracy("vanilla", seed, "clean", 0.0, rate) for seed, rate in ((2, 0.97), (0, 0.99), (1, 0.98))]
    (record,) = summarise(results, [], [], [], [])
    assert (record.recipe, record.metric, record.attack, record.eps) == ("vanilla", "accuracy", "clean", 0.0)
    assert record.values == (0.99, 0.98, 0.97)
    assert record.mean == pytest.approx(0.98)
    assert record.high == pytest.approx(0.98 + 4.302653 * 0.01 / 3**0.5, abs=1e-6)  # t at 2 degrees of freedom
    assert (record.n_seeds, record.n) == (3, m.N)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    (record,) = summarise([m.accuracy("vanilla", 0, "clean", 0.0, 0.98)], [], [], [], [])
    assert (record.mean, record.low, record.high, record.n_seeds) == (0.98, None, None, 1)


def test_the_area_is_the_trapezoid_scaled_to_one() -> None:
    curve = ((0.0, 1.0), (0.1, 0.5), (0.3, 0.0))
    results = [m.accuracy("fgsm", 0, "fgsm", eps, rate) for eps, rate in reversed(curve)]
    (area,) = [r for r in summarise(results, [], [], [], []) if r.metric == "area"]
    assert area.mean == pytest.approx((0.1 * 0.75 + 0.2 * 0.25) / 0.3)
    assert area.eps is None


def test_protocols_are_kept_apart() -> None:
    results = [m.accuracy("fgsm", 0, "fgsm", 0.1, 0.2), m.accuracy("fgsm", 0, "fgsm", 0.1, 0.8, "paper")]
    assert {r.protocol: r.mean for r in summarise(results, [], [], [], [])} == {"sound": 0.2, "paper": 0.8}


def test_every_kind_of_record_is_summarised_under_its_name() -> None:
    reading = ReadingRecord("softmax twice", 0, "evaluation", "training", "softmax twice", 128, 0.1, m.N, 0.8, 0.8, 0.8)
    records = summarise(
        [],
        [m.calibration("fgsm", 0, None, 0.1)],
        [m.exploitability("gan_tanh", 0), m.exploitability("vanilla", 0, in_game=None)],
        [
            m.transfer("gan_tanh", "vanilla", 0, 0.97),
            m.transfer("gan_tanh_init", "vanilla", 0, 0.2, "trained alone"),
            m.transfer("gan_tanh_init", "vanilla", 0, 0.2, "trained alone, Adam"),
            m.transfer("sign noise", "vanilla", 0, 0.95, "noise"),
        ],
        [reading],
    )
    found = {(r.recipe, r.metric, r.attack, r.eps, r.protocol) for r in records}
    assert found == {
        *(("fgsm", metric, "fgsm", None, "sound") for metric in ("ece", "adaptive_ece", "brier", "nll")),
        ("gan_tanh", "in_game", "own", 0.1, "sound"),
        ("gan_tanh", "fresh", "fresh", 0.1, "sound"),
        ("gan_tanh", "gap", "fresh", 0.1, "sound"),
        ("vanilla", "fresh", "fresh", 0.1, "sound"),
        ("vanilla", "transfer", "gan_tanh", 0.1, "sound"),
        ("vanilla", "transfer", "gan_tanh_init (alone)", 0.1, "sound"),
        ("vanilla", "transfer", "gan_tanh_init (alone, Adam)", 0.1, "sound"),
        ("vanilla", "transfer", "sign noise", 0.1, "sound"),
        ("vanilla", "reading", "softmax twice", 0.1, "paper"),
    }


def test_the_t_test_agrees_with_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n in (2, 3, 4, 7, 10, 25):
        for shift in (0.0, 0.5, -3.0):
            differences = rng.normal(shift, 1, n).tolist()
            assert t_test_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=1e-12)


def test_the_t_test_of_one_seed_or_of_no_spread_is_told_apart() -> None:
    assert t_test_p([0.3]) == 1.0
    assert t_test_p([0.0, 0.0]) == 1.0
    assert t_test_p([0.5, 0.5]) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="at least one value"):
        t_test_p([])
