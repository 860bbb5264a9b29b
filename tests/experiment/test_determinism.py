"""The same seed makes the same run, whatever else is drawn or evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import sparring
from small_runs import MAIN, came_to, digits, play, small
from sparring import copies
from sparring.experiment import load
from sparring.records import EpochRecord


@pytest.mark.parametrize("name", ["fgsm", "noise", "gan_scaled"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    name: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    torch.rand(7)  # what others draw does not matter
    play(small(name), tmp_path / "again")
    assert came_to(tmp_path / "again") == came_to(whole(name))
    play(small(name, seed=1), tmp_path / "other")
    one, other = load(whole(name)), load(tmp_path / "other")
    for a, b in ((one.defender, other.defender), (one.adversary, other.adversary)):
        if a is not None and b is not None:
            assert not any(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True) if p.ndim > 1)


@pytest.mark.parametrize("name", ["gan_tanh", "noise"])
def test_evaluating_in_between_does_not_move_the_training(
    name: str, whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[nn.Module] = []
    accuracies: list[float] = []
    sound = copies.new_defender

    def new_defender(*arguments: Any) -> Any:
        made.append(sound(*arguments))
        return made[-1]

    def on_epoch(record: EpochRecord) -> None:
        evaluation = sparring.evaluate(made[0], digits().take(torch.arange(40)), eps=[0.1], steps=2)
        accuracies.append(evaluation.accuracy("clean", 0.0))

    monkeypatch.setattr(copies, "new_defender", new_defender)
    play(small(name), tmp_path, on_epoch=on_epoch)
    assert len(accuracies) == MAIN and len(set(accuracies)) > 1, "it was the network in training that was judged"
    assert came_to(tmp_path) == came_to(whole(name))
