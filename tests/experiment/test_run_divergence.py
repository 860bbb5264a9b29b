"""A run that diverges: what is recorded of it, and that nothing loads it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from small_runs import STEPS, log, play, small
from sparring import session
from sparring.config import Optimizer
from sparring.errors import Diverged, InputError
from sparring.experiment import load


@pytest.mark.parametrize("name", ["vanilla", "gan_tanh"])
def test_a_run_that_diverges_is_recorded_as_such(name: str, tmp_path: Path) -> None:
    run = small(name)
    run = replace(run, defender=replace(run.defender, optimizer=Optimizer(lr=1e8)))
    record = play(run, tmp_path)
    assert (record.status, record.epochs, record.defender_sha256) == ("diverged", 0, "")
    player = "defender" if name == "vanilla" else "(adversary|defender)"
    expected = rf"diverged in epoch 1, step [1-4]: the {player}'s .* not finite .*lower learning rate"
    assert re.fullmatch(expected, record.message)
    assert not list(tmp_path.glob("*.safetensors"))
    assert play(run, tmp_path) == record, "the second call reads it"
    with pytest.raises(InputError, match="diverged and has no weights"):
        load(tmp_path)
    other = replace(run, defender=replace(run.defender, optimizer=Optimizer(lr=0.1)))
    assert play(other, tmp_path, restart=True).status == "done"


def test_a_run_that_diverges_late_keeps_what_it_learned_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, calls = session.move_of, [0]

    def move_of(*arguments: Any) -> Any:
        move = sound(*arguments)

        def diverging(x: torch.Tensor, y: torch.Tensor) -> Any:
            calls[0] += 1
            if calls[0] == STEPS + 2:
                raise Diverged("the defender's gradient is not finite")
            return move(x, y)

        return diverging

    monkeypatch.setattr(session, "move_of", move_of)
    record = play(small("vanilla"), tmp_path)
    assert record.status == "diverged" and "epoch 2, step 2: the defender's gradient" in record.message
    assert record.epochs == len(log(tmp_path)) == 1
    assert not (tmp_path / "defender.safetensors").exists()
