"""A seed in a stack is the seed alone: its weights, its batches and its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from stacked_runs import SEEDS, SELDOM, alike, alone, folder, near, play, seeds_of, without
from torch import Tensor

from small_runs import STEPS, log, small
from sparring import experiment, session
from sparring.config import Optimizer, Run
from sparring.game import Metrics

DRAWN = ("gan_recurrent", "gan_recurrent_cold", "fgsm_drawn", "pgd2_drawn")  # radii drawn, and starts


@pytest.mark.parametrize("name", ["vanilla", "noise", "fgsm", "pgd", "gan_tanh", "gan_scaled_init", *DRAWN])
@pytest.mark.usefixtures("doubled")
def test_each_seed_of_a_stack_becomes_what_it_becomes_alone(name: str, tmp_path: Path) -> None:
    run = small(name, max_epochs=25, patience=99, min_lr=0.0, **SELDOM)
    together = play(seeds_of(run), tmp_path / "stack")
    apart = alone(run, tmp_path / "alone")
    assert [without(record) for record in together] == [without(record) for record in apart]
    assert all(record.epochs * STEPS == 100 for record in together)
    for seed in SEEDS:
        alike(folder(tmp_path / "stack", seed), folder(tmp_path / "alone", seed), 1e-6)


@pytest.mark.parametrize("name", ["noise", "gan_tanh"])
@pytest.mark.usefixtures("doubled")
def test_so_it_is_with_adam(name: str, tmp_path: Path) -> None:
    # no hidden layer in the defender: a bias before batch norm has no gradient but rounding, which Adam makes a whole step
    adam = Optimizer("adam", lr=0.01)
    run = small(name, max_epochs=5, **SELDOM)
    run = replace(
        run,
        defender=replace(run.defender, hidden=(), optimizer=adam),
        adversary=run.adversary and replace(run.adversary, hidden=(), optimizer=adam),
    )
    play(seeds_of(run), tmp_path / "stack")
    alone(run, tmp_path / "alone")
    for seed in SEEDS:
        alike(folder(tmp_path / "stack", seed), folder(tmp_path / "alone", seed), 1e-6)


@pytest.mark.parametrize("name", ["noise", "pgd", "gan_tanh"])
def test_in_single_precision_a_first_epoch_is_that_of_the_seed_alone(name: str, tmp_path: Path) -> None:
    run = small(name, max_epochs=1, **SELDOM)
    play(seeds_of(run), tmp_path / "stack")
    alone(run, tmp_path / "alone")
    for seed in SEEDS:
        (mine,), (its,) = log(tmp_path / "stack" / f"seed{seed}"), log(tmp_path / "alone" / f"seed{seed}")
        assert near(mine, its, 0.01)


Seen = list[tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """(initial weights, batches met) of each training."""
    found: Seen = []

    def move_of(run: Run, defender: Any, adversary: Any, *more: Any) -> Any:
        move = experiment.move_of(run, defender, adversary, *more)
        start = {f"{p.name}.{k}": v.clone() for p in (defender, adversary) for k, v in p.network.state_dict().items()}
        met: list[tuple[Tensor, Tensor]] = []
        found.append((start, met))

        def noting(x: Tensor, y: Tensor) -> Metrics:
            met.append((x.clone(), y.clone()))
            return move(x, y)

        return noting

    monkeypatch.setattr(session, "move_of", move_of)
    return found


def test_it_starts_from_the_same_weights_and_meets_the_same_batches_bit_for_bit(seen: Seen, tmp_path: Path) -> None:
    run = small("gan_tanh", max_epochs=2, **SELDOM)
    play(seeds_of(run), tmp_path / "stack")
    alone(run, tmp_path / "alone")
    (start, met), *apart = seen
    assert len(met) == 2 * STEPS and len(apart) == len(SEEDS)
    for s, (own_start, own_met) in enumerate(apart):
        assert start.keys() == own_start.keys()
        assert all(torch.equal(start[name][s], own_start[name]) for name in start)
        for (x, y), (own_x, own_y) in zip(met, own_met, strict=True):
            assert torch.equal(x[s], own_x) and torch.equal(y[s], own_y)
    assert not torch.equal(met[0][0][0], met[0][0][1]), "each seed has its own order"
