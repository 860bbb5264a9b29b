"""What the scripts of runs/ keep between calls, where a mistake would make a wrong number without a word."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from sparring.records import LearnedAttackRecord, OutPaths, read  # noqa: E402

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
