"""Trainings in double precision, and stacks that nothing stopped, for all tests of stacks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

import stacked_runs
from stacked_runs import play, seeds_of
from torch import Tensor

from small_runs import frozen_vanilla, small
from sparring import copies, experiment
from sparring.data import Data
from sparring.data.batches import minibatch


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in double precision: rounding cannot flip the sign of a gradient within a few hundred steps."""
    defender, adversary = experiment.new_defender, experiment.new_adversary

    def in_double(data: Data, index: Tensor) -> tuple[Tensor, Tensor]:
        x, y = minibatch(data, index)
        return x.double(), y

    monkeypatch.setattr(importlib.import_module("sparring.game.train"), "minibatch", in_double)
    monkeypatch.setattr(copies, "new_defender", lambda *given: defender(*given).double())
    monkeypatch.setattr(copies, "new_adversary", lambda *given: adversary(*given).double())
    monkeypatch.setattr(stacked_runs, "frozen_vanilla", lambda: frozen_vanilla().double())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a recipe's seeds that trained together and that nothing stopped; not to be written to."""
    known: dict[str, Path] = {}

    def out(name: str) -> Path:
        if name not in known:
            known[name] = tmp_path_factory.mktemp(name)
            assert all(record.status == "done" for record in play(seeds_of(small(name)), known[name]))
        return known[name]

    return out
