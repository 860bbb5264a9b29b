"""Each seed of a stack has its own rate, its own end, and its own snapshots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from stacked_runs import SEEDS, SELDOM, STOPPING, alike, alone, folder, play, seeds_of, without
from torch import Tensor

from small_runs import digits, log, small
from sparring import experiment, session
from sparring.evaluation import memory
from sparring.game import Epoch, Metrics, Progress, player, train
from sparring.models import mlp, stack


def scripted(losses: Sequence[Sequence[float]]) -> Callable[[Tensor, Tensor], Metrics]:
    """A move that steps nobody and reports, in the n-th epoch of one step, these losses of the copies that it still sees."""
    left = iter(losses)
    return lambda x, y: {"defender_loss": torch.tensor(next(left))[: len(y)]}


def ended(losses: Sequence[Sequence[float]], **settings: Any) -> tuple[dict[int, list[Epoch]], list[tuple[int, str]]]:
    """What each seed's epochs were, and in which order which seed ended and why."""
    seeds = list(SEEDS)
    network = stack([mlp((1, 8, 8), [10], generator=torch.Generator().manual_seed(s)) for s in seeds])
    one = player("defender", network, maximize=False, n_copies=len(seeds))
    epochs: dict[int, list[Epoch]] = {seed: [] for seed in seeds}
    ends: list[tuple[int, str]] = []

    def after_epoch(progress: Progress) -> None:
        ends.extend((seed, copy.stopped) for seed, copy in zip(seeds, progress.copies, strict=True) if copy.stopped)
        seeds[:] = [seed for seed, copy in zip(seeds, progress.copies, strict=True) if not copy.stopped]

    defaults: dict[str, Any] = {"batch_size": 256, "max_epochs": 6, "patience": 99, "min_lr": 0.0}
    train(
        scripted(losses),
        digits(),
        [one],
        session.Training(**defaults | settings),
        seed=SEEDS,
        on_epoch=lambda epoch, progress: epochs[seeds[epoch.copy]].append(epoch),
        after_epoch=after_epoch,
    )
    return epochs, ends


def test_each_seeds_rate_is_halved_where_its_own_loss_rose() -> None:
    epochs, ends = ended([[3, 3, 3], [2, 4, 2], [1, 3, 3], [0.5, 5, 2], [0.4, 4, 1], [0.3, 3, 0.5]])
    rates = {seed: [epoch.rates["defender"] for epoch in own] for seed, own in epochs.items()}
    assert rates == {
        4: [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        0: [1.0, 1.0, 0.5, 0.5, 0.25, 0.25],
        7: [1.0, 1.0, 1.0, 0.5, 0.5, 0.5],
    }
    assert ends == [(seed, "6 epochs") for seed in SEEDS]
    assert [epoch.means["defender_loss"] for epoch in epochs[0]] == [3, 4, 3, 5, 4, 3]


def test_each_seed_ends_by_its_own_loss_and_the_others_go_on() -> None:
    # the first is flat from the start; then it is gone, and two remain, of which the second is flat from the third epoch on
    losses = [[1.0, 9, 9], [1.0, 8, 8], [1.0, 7, 7], [7, 6, 0], [7, 5, 0], [4, 0, 0]]
    epochs, ends = ended(losses, patience=2)
    assert {seed: len(own) for seed, own in epochs.items()} == {4: 3, 0: 5, 7: 6}
    assert ends == [(4, "loss flat for 2 epochs"), (0, "loss flat for 2 epochs"), (7, "6 epochs")]
    assert [epoch.means["defender_loss"] for epoch in epochs[7]] == [9, 8, 7, 6, 5, 4]


@pytest.mark.parametrize("name", ["noise", "gan_tanh", "gan_scaled_init"])
@pytest.mark.usefixtures("doubled")
def test_seeds_that_stop_at_different_epochs_are_what_they_are_alone(name: str, tmp_path: Path) -> None:
    run = small(name, **STOPPING)
    run = replace(run, history=3, alone=run.alone and replace(run.alone, max_epochs=6))
    together = play(seeds_of(run), tmp_path / "stack")
    apart = alone(run, tmp_path / "alone")
    assert len({record.epochs for record in together}) > 1, "no seed outlived another"
    assert [without(record) for record in together] == [without(record) for record in apart]
    for seed, record in zip(SEEDS, together, strict=True):
        mine, its = folder(tmp_path / "stack", seed), folder(tmp_path / "alone", seed)
        alike(mine, its, 1e-6)
        assert [line["epoch"] for line in log(mine.folder) if line["phase"] == "main"] == [*range(1, record.epochs + 1)]


@pytest.mark.parametrize("name", ["vanilla", "gan_tanh"])
def test_each_seed_keeps_its_own_snapshots_and_watch(name: str, tmp_path: Path) -> None:
    run = replace(small(name, max_epochs=2, **SELDOM), history=1, watch=True)
    play(seeds_of(run), tmp_path / "stack")
    alone(run, tmp_path / "alone")
    for seed in SEEDS:
        mine, its = (tmp_path / where / f"seed{seed}" for where in ("stack", "alone"))
        kept, own = experiment.history(mine), experiment.history(its)
        assert [snapshot.epoch for snapshot in kept] == [snapshot.epoch for snapshot in own] == [1, 2]
        for one, other in zip(kept, own, strict=True):
            for network, same in ((one.defender, other.defender), (one.adversary, other.adversary)):
                assert (network is None) == (same is None) == (name == "vanilla" and network is not one.defender)
                if network is not None and same is not None:
                    pairs = zip(network.state_dict().values(), same.state_dict().values(), strict=True)
                    assert all(torch.allclose(a, b, atol=0.01, rtol=0.01) for a, b in pairs)
        watch, own_watch = memory.read_watch(mine), memory.read_watch(its)
        assert [(record.seed, record.epoch, record.step) for record in watch] == [(seed, 1, 4), (seed, 2, 8)]
        for a, b in zip(watch, own_watch, strict=True):
            assert (a.fgsm, a.pgd) == pytest.approx((b.fgsm, b.pgd), abs=0.03)
