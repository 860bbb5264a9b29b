"""What the scripts of runs/ keep between calls, where a mistake would make a wrong number without a word."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

torch = pytest.importorskip("torch")

from small_runs import play, small  # noqa: E402
from sparring import config  # noqa: E402
from sparring.attacks import fgsm  # noqa: E402
from sparring.data import Data  # noqa: E402
from sparring.experiment import load_data  # noqa: E402
from sparring.records import EpochRecord, LearnedAttackRecord, OutPaths, read, write  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of runs/, imported."""
    monkeypatch.syspath_prepend(str(ROOT / "runs"))
    return importlib.import_module(name)


def bits(marks: str) -> torch.Tensor:
    return torch.tensor([mark == "1" for mark in marks])


def test_marks_count_what_every_attack_leaves_and_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv, file = script("conv", monkeypatch), tmp_path / "left.json"
    marks = conv.Marks(file)
    for name, which in ((conv.CERTIFIED, "1000"), ("one", "1110"), ("other", "1011")):
        assert name not in marks
        marks.put(name, bits(which))
        assert name in marks
    assert marks.left_by_all() == 2 == conv.Marks(file).left_by_all()
    assert json.loads(file.read_text()) == {conv.CERTIFIED: "1000", "one": "1110", "other": "1011"}


@pytest.mark.parametrize("first", ["certified", "attack"])
def test_an_attack_that_breaks_a_certified_image_stops_the_script_and_is_not_kept(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv, file = script("conv", monkeypatch), tmp_path / "left.json"
    puts = [(conv.CERTIFIED, bits("110")), ("attack", bits("100"))]
    if first == "attack":
        puts.reverse()
    marks = conv.Marks(file)
    marks.put(*puts[0])
    before = file.read_text()
    with pytest.raises(RuntimeError, match="attack breaks 1 images that are certified"):
        marks.put(*puts[1])
    assert file.read_text() == before and puts[1][0] not in marks


def test_the_convolutional_yardstick_asks_seven_gradients_at_the_radii_of_the_game(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conv, grey = script("conv", monkeypatch), 128 / 255
    data = Data(torch.full((512, 1, 28, 28), 128, dtype=torch.uint8), torch.arange(512) % 10, 10, "grey")
    training, radii = list[bool](), list[torch.Tensor]()

    def met(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        training.append(module.training)
        if module.training:
            radii.append((inputs[0] - grey).abs().amax((1, 2, 3)))

    torch.manual_seed(0)
    model = conv.two()
    model.register_forward_pre_hook(met)
    conv.trained(model, data, 0, argparse.Namespace(game="pgd", precision="fp32", epochs=1, device="cpu"))
    assert training == ([False] * 7 + [True]) * 4 and not model.training
    low, high = conv.GAMES["all"]["eps_low"], conv.GAMES["all"]["eps"]
    for of_batch in radii:
        assert len(of_batch) == conv.BATCH
        assert low - 1e-6 <= of_batch.min() < low + 0.01 and high - 0.01 < of_batch.max() <= high + 1e-6
    assert "seed 0, epoch 1: " in capsys.readouterr().out


def row(eps: float, queries: int, attack: str, correct: int, n: int = 100) -> LearnedAttackRecord:
    return LearnedAttackRecord("pgd_drawn", 1, eps, queries, attack, n, correct, correct / n, 0.0, 1.0, 0, 0.0)


def kept(folder: Path) -> set[tuple[float, int, str, int]]:
    return {
        (r.eps, r.queries, r.attack, r.correct) for r in read(OutPaths(folder).records("attack"), LearnedAttackRecord)
    }


def test_a_call_replaces_its_rows_and_leaves_those_of_other_eps_queries_and_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = script("learned_attack", monkeypatch).keep
    keep([row(0.1, 0, "suite", 80), row(0.2, 0, "suite", 60), row(0.2, 0, "AutoAttack", 61)], tmp_path)
    keep([row(0.2, 1, "learned", 70), row(0.2, 1, "PGD, 1 eps", 75), row(0.2, 5, "learned", 65)], tmp_path)
    keep([row(0.2, 1, "learned", 69), row(0.2, 1, "PGD, 2 eps", 74), row(0.2, 0, "suite", 59)], tmp_path)
    assert kept(tmp_path) == {
        (0.1, 0, "suite", 80),
        (0.2, 0, "suite", 59),
        (0.2, 0, "AutoAttack", 61),
        (0.2, 1, "learned", 69),
        (0.2, 1, "PGD, 2 eps", 74),  # not the other setting's beside it
        (0.2, 5, "learned", 65),
    }


def test_rows_of_another_number_of_images_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = script("learned_attack", monkeypatch).keep
    keep([row(0.1, 1, "learned", 80)], tmp_path)
    keep([row(0.2, 1, "learned", 160, n=200)], tmp_path)
    assert kept(tmp_path) == {(0.2, 1, "learned", 160)}


def test_what_the_suite_and_autoattack_leave_is_told_image_by_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed, file = script("confirmed", monkeypatch), tmp_path / "confirmed.json"
    marks = confirmed.Marks(file)
    assert marks.row("game", 0, 0.1) is None
    marks.put(confirmed.SUITE.format(eps=0.1), bits("11100"))
    marks.put(confirmed.SUITE.format(eps=0.2), bits("11000"))
    marks.put(confirmed.SUITE.format(eps=0.3), bits("10000"))
    marks.put(confirmed.ALONE.format(eps=0.1), bits("01110"))
    marks.put(confirmed.AFTER_SUITE.format(eps=0.2), bits("01000"))
    kept = confirmed.Marks(file)
    assert confirmed.AFTER_SUITE.format(eps=0.2) in kept and confirmed.ALONE.format(eps=0.2) not in kept
    assert [kept.row("game", 0, eps) for eps in (0.1, 0.2, 0.3)] == [
        confirmed.ConfirmedRecord("game", 0, 0.1, 5, 3, 3, 2),
        confirmed.ConfirmedRecord(
            "game", 0, 0.2, 5, 2, None, 1
        ),  # AutoAttack met two images: its own number is not known
        confirmed.ConfirmedRecord("game", 0, 0.3, 5, 1, None, None),
    ]


def test_what_is_certified_counts_as_left_and_no_attack_may_break_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed = script("confirmed", monkeypatch)
    marks = confirmed.Marks(tmp_path / "confirmed.json")
    marks.put(confirmed.SUITE.format(eps=0.1), bits("11100"))
    marks.put(confirmed.CERTIFIED.format(eps=0.1), bits("10000"))
    broken, safe = marks.settled(0.1)
    assert broken.tolist() == bits("00011").tolist() and safe.tolist() == bits("10000").tolist()
    marks.put(confirmed.AFTER_SUITE.format(eps=0.1), bits("10100"))
    assert marks.row("game", 0, 0.1) == confirmed.ConfirmedRecord("game", 0, 0.1, 5, 3, None, 2, 1)
    marks.put(confirmed.AFTER_SUITE.format(eps=0.1), bits("00100"))
    with pytest.raises(RuntimeError, match=r"broke what is certified at 0\.1"):
        marks.row("game", 0, 0.1)


@pytest.mark.parametrize("certified", [False, True])
def test_autoattack_is_spared_what_is_certified(
    certified: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed, met = script("confirmed", monkeypatch), list[int]()

    def nothing(model: Any, x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
        met.append(len(x))
        return x

    monkeypatch.setattr(confirmed.official, "autoattack", nothing)
    monkeypatch.setattr(confirmed, "standard_suite", lambda threat, *_: [fgsm(threat)])
    play(small("fgsm", max_epochs=12), tmp_path)
    options = argparse.Namespace(
        examples=100, read=False, eps=[0.01], official=None, after_suite=True, certified=certified
    )
    (row,) = confirmed.confirmed(tmp_path, options)
    assert row.worst == row.suite and row.autoattack is None
    if certified:
        assert row.certified > 0 and sum(met) == row.suite - row.certified
    else:
        assert row.certified is None and sum(met) == row.suite
    again = confirmed.confirmed(tmp_path, argparse.Namespace(**vars(options) | {"read": True}))
    assert again == [row]


def test_a_lead_is_of_both_attacks_only_where_both_recipes_have_met_both(monkeypatch: pytest.MonkeyPatch) -> None:
    confirmed = script("confirmed", monkeypatch)
    counts = {  # suite and worst, seed after seed
        ("game", 0.2): [(70, 60), (72, 63), (75, 66)],
        ("game", 0.3): [(30, 20), (33, 24), (31, 22)],
        ("pgd", 0.2): [(69, 58), (70, 59)],  # no third seed
        ("pgd", 0.3): [(28, 21), (29, None), (30, 22)],
    }
    rows = [
        confirmed.ConfirmedRecord(recipe, seed, eps, 100, suite, None, worst)
        for (recipe, eps), own in counts.items()
        for seed, (suite, worst) in enumerate(own)
    ]
    at = {lead.eps: lead for lead in confirmed.leads(rows)}
    assert at[0.2].attacks == "worst" and at[0.2].by_seed == pytest.approx((0.02, 0.04))
    assert at[0.3].attacks == "suite" and at[0.3].by_seed == pytest.approx((0.02, 0.04, 0.01))
    # Student's t with one degree of freedom is the Cauchy distribution; Holm doubles the smaller of two
    p = {0.2: 2 * (0.5 - np.arctan(3) / np.pi), 0.3: float(ttest_1samp((0.02, 0.04, 0.01), 0).pvalue)}
    small, large = sorted(p, key=p.__getitem__)
    assert at[small].p == pytest.approx(2 * p[small])
    assert at[large].p == pytest.approx(max(2 * p[small], p[large]))
    twice = {lead.eps: lead.p for lead in confirmed.leads(rows, looks=2)}
    assert twice == {eps: pytest.approx(min(1.0, 2 * lead.p)) for eps, lead in at.items()}


def test_rows_of_other_runs_and_radii_stay_and_those_made_anew_take_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    confirmed = script("confirmed", monkeypatch)

    def row(recipe: str, seed: int, eps: float, suite: int, n: int = 100) -> Any:
        return confirmed.ConfirmedRecord(recipe, seed, eps, n, suite, None, None)

    held = [row("game", 0, 0.1, 90), row("game", 0, 0.2, 70), row("other", 0, 0.1, 80)]
    made = [row("pgd", 1, 0.1, 89), row("game", 1, 0.1, 91), row("game", 0, 0.1, 92)]
    assert confirmed.joined(held, made, ["game", "pgd"]) == [made[2], made[1], held[1], made[0], held[2]]
    assert confirmed.joined((), made[:1], ["game", "pgd"]) == made[:1]
    with pytest.raises(SystemExit, match=r"not of \[100, 1000\]"):
        confirmed.joined(held, [row("game", 0, 0.1, 900, 1000)], ["game"])


@pytest.mark.parametrize(
    ("official", "after", "expected"),
    [
        (None, False, ["SUITE", "ALONE"]),
        ([0.2], False, ["SUITE", "ALONE"]),
        ([0.2], True, ["SUITE", "AFTER_SUITE"]),
        ([0.3], True, ["SUITE"]),
        ([], False, ["SUITE"]),
    ],
)
def test_autoattack_comes_where_it_is_asked_for(
    official: list[float] | None, after: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed, data = script("confirmed", monkeypatch), load_data(config.Data("digits"))[1]
    asked = confirmed.turns(data, 0.2, argparse.Namespace(official=official, after_suite=after))
    assert [name for name, _ in asked] == [getattr(confirmed, form).format(eps=0.2) for form in expected]


def test_the_front_page_shows_what_the_records_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    beyond, front = script("beyond", monkeypatch), script("beyond_readme", monkeypatch)
    shown = Path("README.md").read_text(encoding="utf-8").split(beyond.BEGIN)[1].split(beyond.END)[0]
    assert shown == front.in_short(Path("results/beyond-mnist"))
    assert shown.count("\n| 0.") == 6 and "AutoAttack" in shown


def test_the_learning_of_both_games_is_drawn_by_means_over_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("altair")
    charts = script("beyond_charts", monkeypatch)

    def epoch(recipe: str, seed: int, clean: float, perturbed: float | None, alone: bool = False) -> EpochRecord:
        losses = (None, None, None, None, None, None)
        return EpochRecord(recipe, seed, "adversary" if alone else "main", 1, 9, *losses, clean, perturbed, None, 1.0)

    paper, results = tmp_path / "paper", tmp_path / "beyond"
    write(
        OutPaths(paper).records("epochs"),
        [
            epoch("vanilla", 0, 0.1, None),
            epoch("gan_tanh", 0, 0.8, 0.7),
            epoch("gan_tanh", 1, 1.0, 0.8),
            epoch("gan_tanh", 1, 0.1, 0.1, alone=True),
        ],
    )
    write(OutPaths(results).records("epochs"), [epoch("gan_recurrent", 0, 0.9, 0.6)])
    rows = charts.learning(results, paper).to_dict()["data"]["values"]
    shown = {(row["game"], row["images"]): row["accuracy"] for row in rows}
    (tanh, recurrent), (clean, perturbed) = charts.LEARNING.values(), charts.IMAGES
    expected = {(tanh, clean): 0.9, (tanh, perturbed): 0.75, (recurrent, clean): 0.9, (recurrent, perturbed): 0.6}
    assert shown == pytest.approx(expected) and len(rows) == 4
