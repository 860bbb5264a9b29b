"""Verdicts from made-up records whose verdict is known, on both sides of every rule."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sparring.claims import ledger, summarise
from sparring.records import ClaimRecord, SummaryRecord, TransferRecord

sys.path.insert(0, str(Path(__file__).parent))
import made_up as m

IDS = [f"N{k}" for k in range(1, 12)] + ["F1", "F2a", "F2b", "F2c", "F2d", "F2e", "F3a", "F3b", "D1", "D2", "D3"]
SEEDS = range(3)


def around(mean: float, half: float = 0.0005) -> tuple[float, ...]:
    return (mean - half, mean, mean + half)


def clean(values: Sequence[float], paper: Sequence[float] = ()) -> list[SummaryRecord]:
    found = [m.summary("vanilla", "accuracy", "clean", 0.0, values)]
    return found + ([m.summary("vanilla", "accuracy", "clean", 0.0, paper, "paper")] if paper else [])


def test_without_records_every_claim_stands_there_undecided() -> None:
    lines = ledger([], [], [], [], [], [], data_name="mnist")
    assert [line.id for line in lines] == IDS
    assert {(line.verdict, line.measured, line.n_seeds) for line in lines} == {("undecided", "not measured", 0)}
    assert all("sparring reproduce" in line.sentence for line in lines)


@pytest.mark.parametrize(
    ("values", "paper", "verdict"),
    [
        (around(0.9849), (), "reproduced"),  # the target is 98.26
        (around(0.9856), (), "reproduced"),  # at the edge
        (around(0.9870), (), "refuted"),
        (around(0.9870, 0.01), (), "undecided"),
        (around(0.9870), around(0.9820), "explained"),
        (around(0.9870, 0.01), around(0.9700), "undecided"),
        ((0.9840,), (), "reproduced"),
        ((0.9870,), (), "undecided"),  # one seed: Wilson, about 0.2 points either way
        ((0.9700,), (), "refuted"),
    ],
)
def test_clean_accuracy(values: Sequence[float], paper: Sequence[float], verdict: str) -> None:
    line = m.judged("N1", summary=clean(values, paper))
    assert line.verdict == verdict
    assert line.n_seeds == len(values) and line.paper == "98.26 %"
    assert ("one seed" in line.interval) == (len(values) == 1)
    assert set(line.protocol_values) == ({"sound", "paper"} if paper else set())


def test_other_data_do_not_judge_the_papers_numbers() -> None:
    line = m.judged("N1", summary=clean(around(0.9826)), data_name="digits")
    assert (line.verdict, line.measured) == ("undecided", "98.26 %")
    assert "MNIST" in line.sentence and "digits" in line.sentence


SOUND = m.summary("vanilla", "accuracy", "fgsm", 0.1, around(0.228))
BOTH = "gradient in training mode, verdict in training mode, batches of {}"


def n8(*readings: tuple[str, float, float]) -> ClaimRecord:
    found = [m.summary("vanilla", "reading", text, 0.1, around(mean, half)) for text, mean, half in readings]
    return m.judged("N8", summary=[SOUND, *found])


def test_the_reading_that_covers_the_papers_number_is_named() -> None:
    line = n8(
        ("λ = 0.1 in standardised pixels (0.031)", 0.854, 0.002),
        ("gradient in evaluation mode, verdict in evaluation mode, softmax twice", 0.854, 0.002),
        (BOTH.format(512), 0.854, 0.002),
        (BOTH.format(128), 0.854, 0.002),
    )
    assert line.verdict == "explained"
    assert BOTH.format(128) in line.sentence and "22.8 %" in line.sentence and "4 of 4" in line.sentence


def test_two_readings_at_once_come_after_one() -> None:
    line = n8((BOTH.format(128) + ", softmax twice", 0.854, 0.002), ("softmax twice", 0.854, 0.002))
    assert '"softmax twice"' in line.sentence


def test_readings_that_cover_nothing() -> None:
    assert n8((BOTH.format(128), 0.840, 0.001)).verdict == "undecided"  # 1.4 points away
    line = n8((BOTH.format(128), 0.760, 0.001), ("softmax twice", 0.850, 0.0001))
    assert line.verdict == "refuted" and '"softmax twice"' in line.sentence
    assert n8().verdict == "undecided"
    fits = m.summary("vanilla", "accuracy", "fgsm", 0.1, around(0.854, 0.002))
    assert m.judged("N8", summary=[fits]).verdict == "reproduced"


def test_one_seed_of_a_reading_is_judged_by_its_images() -> None:
    reading = m.summary("vanilla", "reading", BOTH.format(128), 0.1, (0.8545,), "paper")
    assert m.judged("N8", summary=[SOUND, reading]).verdict == "explained"


def alone(tanh: float, scaled: float, kind: str = "trained alone", half: float = 0.005) -> list[TransferRecord]:
    return [
        m.transfer(f"gan_{bound}_init", "vanilla", seed, rate, kind)  # type: ignore[arg-type]
        for bound, mean in (("tanh", tanh), ("scaled", scaled))
        for seed, rate in zip(SEEDS, around(mean, half), strict=True)
    ]


def fgsm(sound: float, paper: float) -> list[SummaryRecord]:
    return [
        m.summary("vanilla", "accuracy", "fgsm", 0.1, around(sound)),
        m.summary("vanilla", "accuracy", "fgsm", 0.1, around(paper), "paper"),
    ]


def n9_and_10(transfer: list[TransferRecord], sound: float = 0.6, paper: float = 0.85) -> tuple[ClaimRecord, ...]:
    summary = summarise([], [], [], transfer, []) + fgsm(sound, paper)
    return tuple(m.judged(name, summary=summary, transfer=transfer) for name in ("N9", "N10"))


def test_adversaries_trained_alone() -> None:
    assert [line.verdict for line in n9_and_10(alone(0.20, 0.46))] == ["reproduced", "reproduced"]
    assert [line.verdict for line in n9_and_10(alone(0.60, 0.70))] == ["refuted", "refuted"]
    assert [line.verdict for line in n9_and_10(alone(0.29, 0.29, half=0.0))] == ["refuted", "refuted"]  # order
    nine, ten = n9_and_10(alone(0.20, 0.46), sound=0.228)
    assert (nine.verdict, ten.verdict) == ("reproduced", "explained")
    assert "batch norm in training mode" in ten.sentence


def test_an_adversary_trained_with_adam_explains() -> None:
    both = alone(0.20, 0.696) + alone(0.22, 0.473, "trained alone, Adam")
    nine, ten = n9_and_10(both, sound=0.228)
    assert (nine.verdict, ten.verdict) == ("reproduced", "explained")
    assert "Adam" in ten.sentence and ten.measured == "69.6 %"


def test_an_order_that_not_every_seed_shows_is_undecided() -> None:
    mixed = [m.transfer("gan_tanh_init", "vanilla", s, r, "trained alone") for s, r in enumerate((0.28, 0.3, 0.4))]
    mixed += [m.transfer("gan_scaled_init", "vanilla", s, r, "trained alone") for s, r in enumerate((0.38, 0.4, 0.39))]
    assert n9_and_10(mixed)[0].verdict == "undecided"


def pairs(rate: float, noise: float = 0.975, **lower: float) -> list[TransferRecord]:
    found = [
        m.transfer(game, defender, seed, lower.get(game, rate) + seed / 10_000)
        for game in m.GAMES
        for defender in m.PAPER
        for seed in SEEDS
    ]
    return found + [
        m.transfer(name, defender, seed, noise, "noise")
        for name in ("uniform noise", "sign noise")
        for defender in m.PAPER
        for seed in SEEDS
    ]


def matrix(transfer: list[TransferRecord]) -> ClaimRecord:
    return m.judged("N11", transfer=transfer, summary=summarise([], [], [], transfer, []))


def test_the_matrix_of_adversaries_and_defenders() -> None:
    good = matrix(pairs(0.97))
    assert good.verdict == "reproduced" and "28 pairs" in good.sentence and "97.5 %" in good.sentence
    bad = matrix(pairs(0.97, gan_tanh=0.90))
    assert bad.verdict == "refuted" and bad.measured == "90.0 %"
    assert matrix([t for t in pairs(0.97) if t.defender != "noise"]).verdict == "undecided"
    in_training_mode = [
        m.transfer(game, defender, seed, 0.97, protocol="paper")
        for game in m.GAMES
        for defender in m.PAPER
        for seed in SEEDS
    ]
    assert matrix(pairs(0.97, gan_tanh=0.90) + in_training_mode).verdict == "explained"


def test_figure_1() -> None:
    assert m.judged("F1", examples=[m.example()]).verdict == "reproduced"
    assert m.judged("F1", examples=[m.example(attack="pgd")]).measured == "not measured"
    assert m.judged("F1", examples=[m.example(prediction=3)]).verdict == "undecided"  # wrong from the start
    harmless = clean(around(0.98)) + [m.summary("vanilla", "accuracy", "fgsm", 0.1, around(0.98))]
    assert m.judged("F1", examples=[m.example(perturbed=7)], summary=harmless).verdict == "refuted"


def f2c(sound: tuple[float, ...], paper: tuple[float, ...] = ()) -> ClaimRecord:
    sides = (("gan_tanh_init", "gan_tanh"), ("gan_scaled_init", "gan_scaled"))
    found = [m.comparison("F2c", *pair, difference=d) for pair, d in zip(sides, sound, strict=False)]
    found += [m.comparison("F2c", *p, difference=d, protocol="paper") for p, d in zip(sides, paper, strict=False)]
    return m.judged("F2c", comparisons=found)


def test_rankings() -> None:
    assert f2c((0.1, 0.1)).verdict == "reproduced"
    assert f2c((0.1, -0.1), (0.1, 0.1)).verdict == "explained"
    assert f2c((0.1, -0.1), (0.1, -0.1)).verdict == "refuted"
    assert f2c((0.1, -0.1)).verdict == "refuted"
    assert f2c((0.1, -0.1), (0.1, 0.0)).verdict == "undecided"
    assert f2c((0.1, 0.0), (0.1, -0.1)).verdict == "undecided"
    partial = f2c((0.1,))
    assert partial.verdict == "undecided" and "1 more could not be made" in partial.sentence


def test_a_ranking_says_what_fails() -> None:
    line = f2c((0.1, -0.1), (0.1, 0.0))
    assert "the initialised scaled game over the scaled game (-10.0 points)" in line.sentence
    assert line.protocol_values == {"sound": "1 of 2 hold", "paper": "1 of 2 hold"}


def test_on_other_data_rankings_are_judged_and_say_so() -> None:
    found = [m.comparison("F2e", "gan_scaled_init", "fgsm", difference=-0.3, eps=0.1)]
    line = m.judged("F2e", comparisons=found, data_name="digits")
    assert line.verdict == "refuted" and line.sentence.startswith("On digits: ")
    assert line.measured == "-30.0 points"


def test_a_comparison_without_an_interval_decides_nothing() -> None:
    found = [m.comparison("F2e", "gan_scaled_init", "fgsm", difference=-0.3, half=math.nan)]
    assert m.judged("F2e", comparisons=found).verdict == "undecided"


def f2d(sound: Sequence[float], paper: Sequence[float] = ()) -> ClaimRecord:
    found = [
        m.comparison("F2d", "fgsm", game, difference=d, eps=(k + 1) / 4, protocol=protocol)
        for protocol, row in (("sound", sound), ("paper", paper))
        for k, d in enumerate(row)
        for game in m.GAMES
    ]
    return m.judged("F2d", comparisons=found)


def test_likeness_at_a_large_eps() -> None:
    line = f2d((0.3, 0.02, -0.02, 0.0))
    assert (line.verdict, line.measured) == ("reproduced", "from eps 0.5 on")
    assert f2d((0.0, 0.3, 0.0, 0.3)).measured == "at no eps up to the largest"
    assert f2d((0.3, 0.3, 0.0, 0.0)).verdict == "refuted"
    assert f2d((0.3, 0.025, 0.0, 0.0)).verdict == "undecided"  # its interval reaches 2 points
    assert f2d((0.3, 0.3, 0.0, 0.0), (0.3, 0.0, 0.0, 0.0)).verdict == "explained"


def d1(in_game: float, fresh: Sequence[float]) -> ClaimRecord:
    runs = [m.sweep("D1", "base", s, fresh=0.6 + s / 1000) for s in range(len(fresh))]
    runs += [m.sweep("D1", "5 steps", s, in_game=in_game, fresh=f) for s, f in enumerate(fresh)]
    return m.judged("D1", sweeps=runs, exploitability=[m.exploitability("gan_tanh", s) for s in SEEDS])


def test_whether_the_adversary_learns() -> None:
    line = d1(0.97, (0.590, 0.603, 0.605))
    assert line.verdict == "reproduced" and "gap of 37.0 points" in line.sentence
    assert d1(0.97, (0.710, 0.712, 0.711)).verdict == "refuted"
    assert d1(0.97, (0.630, 0.632, 0.631)).verdict == "undecided"  # helps, by less than 5 points
    assert d1(0.90, (0.590, 0.603, 0.605)).verdict == "undecided"  # its defender loses more than 2
    assert d1(0.97, (0.60,)).verdict == "undecided"  # one seed


def test_the_exploitability_gap_is_said_without_a_sweep_too() -> None:
    line = m.judged("D1", exploitability=[m.exploitability("gan_tanh", 0)])
    assert line.measured == "not measured" and "gap of 37.0 points" in line.sentence


def d2(rate: float, noise: float) -> ClaimRecord:
    return m.judged("D2", transfer=pairs(rate, noise))


def test_adversaries_beside_noise() -> None:
    assert d2(0.970, 0.975).verdict == "reproduced"
    assert d2(0.900, 0.975).verdict == "refuted"
    assert d2(0.990, 0.975).verdict == "undecided"  # weaker than noise, by more than a point
    own = [m.transfer(game, game, s, 0.1) for game in m.GAMES for s in SEEDS]
    others = [t for t in pairs(0.97) if t.adversary != t.defender]
    assert m.judged("D2", transfer=own + others).verdict == "reproduced"  # one's own defender does not count


def d3(fresh: Sequence[float], in_game: float = 0.97) -> ClaimRecord:
    runs = [m.sweep("D1", "base", s, fresh=0.6) for s in range(len(fresh))]  # the base is D1's too
    runs += [m.sweep("D3", "small", s, fresh=f, in_game=in_game, ratio=1) for s, f in enumerate(fresh)]
    runs += [m.sweep("D3", "larger still", s, fresh=0.9 + s / 100, ratio=50) for s in range(len(fresh))]  # not matched
    return m.judged("D3", sweeps=runs)


def test_unequal_capacity() -> None:
    assert d3((0.68, 0.681, 0.682)).verdict == "reproduced"
    assert d3((0.60, 0.601, 0.599), in_game=0.90).verdict == "reproduced"
    assert d3((0.60, 0.601, 0.599)).verdict == "refuted"
    assert d3((0.50, 0.70, 0.62)).verdict == "undecided"
    assert d3((0.68,)).verdict == "undecided"  # one seed
