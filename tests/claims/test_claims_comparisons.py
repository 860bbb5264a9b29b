"""The paired tests behind the rankings: which are made, on which seeds, and how they are corrected."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sparring.claims import comparisons
from sparring.evaluation.statistics import holm, mcnemar, paired_bootstrap, resampled_means, t_test_p

sys.path.insert(0, str(Path(__file__).parent))
import made_up as m

GRID = (0.0, 0.1, 0.2)
RATES = dict(zip(m.PAPER, (0.3, 0.4, 0.9, 0.5, 0.6, 0.7, 0.8), strict=True))


def count(records: list) -> dict[str, int]:
    return {name: sum(r.claim == name for r in records) for name in sorted({r.claim for r in records})}


def test_every_comparison_of_the_paper_is_made() -> None:
    calibration = [m.calibration(r, s, e, 0.1 + s / 100) for r in m.PAPER for s in range(3) for e in (0.1, None)]
    made = comparisons(m.outcomes(RATES), calibration, grid=GRID, n_resamples=100)
    assert count(made) == {"F2a": 6, "F2b": 8, "F2c": 2, "F2d": 4 * 2, "F2e": 1, "F3a": 12, "F3b": 16}
    assert {r.protocol for r in made} == {"sound"}
    assert all(r.holds for r in made if r.claim in ("F2a", "F2b", "F2c", "F2d"))
    (e,) = [r for r in made if r.claim == "F2e"]
    assert not e.holds and e.high < 0 and e.eps == 0.1


def test_what_was_not_trained_is_not_compared() -> None:
    made = comparisons(m.outcomes({"fgsm": 0.9, "vanilla": 0.3}), [], grid=GRID, n_resamples=50)
    assert count(made) == {"F2a": 1}
    assert comparisons({}, [], grid=GRID) == []


def test_only_the_seeds_of_both_sides_count() -> None:
    found = m.outcomes({"fgsm": 0.9, "vanilla": 0.3}, seeds=(0, 1, 2))
    del found["vanilla", 1]
    del found["fgsm", 2]["fgsm@0.2/sound"]  # the curve of this seed is not whole
    (made,) = comparisons(found, [], grid=GRID, n_resamples=50)
    a, b = (np.mean([found[r, 0][f"fgsm@{e:g}/sound"] for e in (0.0, 0.1, 0.1, 0.2)]) for r in ("fgsm", "vanilla"))
    assert made.per_seed == pytest.approx((a - b,))


def test_accuracies_are_tested_as_the_statistics_module_does() -> None:
    found = m.outcomes({"gan_scaled_init": 0.52, "fgsm": 0.5})
    made = next(r for r in comparisons(found, [], grid=GRID) if r.claim == "F2e")
    a, b = (np.stack([found[r, s]["fgsm@0.1/sound"] for s in range(3)]) for r in ("gan_scaled_init", "fgsm"))
    interval = paired_bootstrap(a, b, seed=5)
    assert made.difference == pytest.approx(a.mean() - b.mean())
    assert (made.low, made.high) == pytest.approx((interval.low, interval.high), abs=0.003)
    raw = max(mcnemar(*pair).p_value for pair in zip(a, b, strict=True))
    family = [r for r in comparisons(found, [], grid=GRID) if r.family == "F2"]
    assert made.p_value >= raw and len(family) == 2  # with F2a against the same game


def test_p_values_are_corrected_within_family_and_protocol() -> None:
    calibration = [
        m.calibration(r, s, e, ece + s * slope)
        for r, ece, slope in (("fgsm", 0.1, 0.01), ("vanilla", 0.12, 0.02), ("noise", 0.3, 0.005))
        for s in range(4)
        for e in (0.1, None)
    ]
    made = comparisons({}, calibration, grid=GRID)
    assert {r.family for r in made} == {"F3"} and len(made) == 4
    assert [r.p_value for r in made] == pytest.approx(holm([t_test_p(r.per_seed) for r in made]))
    assert max(r.p_value for r in made) > max(t_test_p(r.per_seed) for r in made)


def test_a_lower_calibration_error_supports_the_claim() -> None:
    calibration = [m.calibration("fgsm", s, 0.1, 0.05 + s / 1000) for s in range(5)]
    calibration += [m.calibration("vanilla", s, 0.1, 0.40 - s / 1000) for s in range(5)]
    (made,) = comparisons({}, calibration, grid=GRID)
    assert made.difference == pytest.approx(0.35 - 0.004) and made.holds


def test_calibration_of_one_seed_has_no_interval_and_cannot_hold() -> None:
    calibration = [m.calibration("fgsm", 0, 0.1, 0.05), m.calibration("vanilla", 0, 0.1, 0.4)]
    (made,) = comparisons({}, calibration, grid=GRID)
    assert np.isnan(made.low) and np.isnan(made.high) and not made.holds and made.p_value == 1.0


def test_a_model_compared_with_its_equal_does_not_win() -> None:
    found = m.outcomes({"fgsm": 0.5})
    found |= {("vanilla", seed): survived for (_, seed), survived in found.items()}
    (made,) = comparisons(found, [], grid=GRID, n_resamples=50)
    assert (made.difference, made.p_value, made.same_sign, made.holds) == (0.0, 1.0, False, False)


def test_ten_seeds_of_the_full_grid_take_less_than_a_minute() -> None:
    grid = tuple(k / 10 for k in range(11))
    found = m.outcomes(RATES, range(10), grid, 10_000, ("sound", "paper"))
    started = time.perf_counter()
    made = comparisons(found, [], grid=grid)
    assert len(made) == 2 * (17 + 40)
    assert time.perf_counter() - started < 60


def test_an_areas_interval_is_that_of_each_images_area() -> None:
    found = m.outcomes({"fgsm": 0.6, "vanilla": 0.58})
    made = next(r for r in comparisons(found, [], grid=GRID) if r.claim == "F2a")
    a, b = (
        np.stack(
            [
                sum(w * found[r, s][f"fgsm@{e:g}/sound"] for e, w in zip(GRID, (0.25, 0.5, 0.25), strict=True))
                for s in range(3)
            ]
        )
        for r in ("fgsm", "vanilla")
    )
    images = resampled_means((a - b).T, rng=np.random.default_rng(0), n_resamples=1000)  # (R, S)
    seeds = np.random.default_rng(1).multinomial(3, [1 / 3] * 3, size=1000) / 3
    low, high = np.quantile((images * seeds).sum(-1), [0.025, 0.975])
    assert (made.low, made.high) == pytest.approx((low, high), abs=1e-12)
    assert made.per_seed == pytest.approx(tuple((a - b).mean(-1)))
