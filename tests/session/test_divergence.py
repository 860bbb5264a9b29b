"""A seed that diverges ends, and its neighbours in the stack go on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from stacked_runs import GRADIENT, LOSS, SEEDS, SELDOM, alike, folder, play, poisoned, seeds_of, without
from torch import Tensor

from small_runs import STEPS, log, small
from sparring import session
from sparring.config import Optimizer
from sparring.errors import InputError
from sparring.experiment import load
from sparring.losses import LOSSES


@pytest.mark.parametrize("who", ["adversary", "defender"])
@pytest.mark.parametrize("how", [*GRADIENT, *LOSS])
@pytest.mark.usefixtures("doubled")
def test_a_seed_that_diverges_is_frozen_and_its_neighbours_go_on(
    how: str, who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small("gan_tanh", max_epochs=4)
    sound = play(seeds_of(run), tmp_path / "sound")
    call = 2 * (STEPS + 1) + (1 if who == "adversary" else 2)  # in the second epoch's second step; two calls a step
    monkeypatch.setitem(LOSSES, "cross_entropy", poisoned(how, call, copy=1))
    first, bad, last = play(seeds_of(run), tmp_path / "one bad")
    assert (without(first), without(last)) == (without(sound[0]), without(sound[2]))
    assert (bad.status, bad.epochs, bad.stopped, bad.defender_sha256) == ("diverged", 1, "", "")
    assert re.fullmatch(r"diverged in epoch 2: a loss or gradient is not finite; .*lower learning rate", bad.message)
    where = folder(tmp_path / "one bad", SEEDS[1])
    assert not where.defender.exists() and not where.adversary.exists() and len(log(where.folder)) == 1
    assert {path.name for path in where.folder.glob("checkpoint-*")} == {"checkpoint-000000004.safetensors"}
    with pytest.raises(InputError, match="diverged and has no weights"):
        load(where.folder)
    for seed in (SEEDS[0], SEEDS[2]):
        alike(folder(tmp_path / "one bad", seed), folder(tmp_path / "sound", seed), 1e-9)
    assert play(seeds_of(run), tmp_path / "one bad") == [first, bad, last], "the second call reads"


@pytest.mark.usefixtures("doubled")
def test_a_diverged_copy_stays_where_it_was_while_its_neighbours_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    sound = session.new_player

    def new_player(*given: Any, **more: Any) -> Any:
        made.append(sound(*given, **more))
        return made[-1]

    at: list[list[Tensor]] = []

    def interrupted() -> int:
        at.append([p.detach().clone() for p in made[0].network.parameters()])
        return 0

    monkeypatch.setattr(session, "new_player", new_player)
    monkeypatch.setitem(LOSSES, "cross_entropy", poisoned("nan gradient", 2, copy=0))
    play(seeds_of(small("vanilla", max_epochs=1, **SELDOM)), tmp_path, interrupted=interrupted)
    assert len(at) == STEPS
    for before, now in zip(at[0], at[-1], strict=True):
        assert torch.equal(before[0], now[0])
        assert before.ndim < 3 or not any(torch.equal(before[s], now[s]) for s in (1, 2))


def test_where_every_seed_diverges_the_call_ends_well(tmp_path: Path) -> None:
    run = small("gan_tanh")
    run = replace(run, defender=replace(run.defender, optimizer=Optimizer(lr=1e12)))
    records = play(seeds_of(run), tmp_path)
    assert [(record.seed, record.status, record.epochs) for record in records] == [(s, "diverged", 0) for s in SEEDS]
    assert not list(tmp_path.rglob("*.safetensors"))
    assert play(seeds_of(run), tmp_path) == records


@pytest.mark.usefixtures("doubled")
def test_an_adversary_that_diverges_alone_ends_its_seed_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small("gan_tanh_init", **SELDOM)
    sound = play(seeds_of(run), tmp_path / "sound")
    monkeypatch.setitem(LOSSES, "cross_entropy", poisoned("nan gradient", 3, copy=0))
    bad, *others = play(seeds_of(run), tmp_path / "one bad")
    assert (bad.status, bad.epochs) == ("diverged", 0) and "epoch 1" in bad.message
    assert [without(record) for record in others] == [without(record) for record in sound[1:]]
    for seed in SEEDS[1:]:
        alike(folder(tmp_path / "one bad", seed), folder(tmp_path / "sound", seed), 1e-9)
