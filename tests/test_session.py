"""Seeds trained as one stack: each is what it would be alone, ends by its own rule, and goes on bit for bit.

As a program (`python test_session.py FOLDER`) it is a stack that is killed at every kind of point in turn.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from small_runs import ALONE, MAIN, STEPS, after, came_to, damage, digits, frozen_vanilla, log, note, small
from sparring import copies, experiment, faults, locks, session
from sparring.config import Optimizer, Run
from sparring.data import Data
from sparring.data.batches import minibatch
from sparring.errors import Busy, CorruptCheckpoint, InputError, Interrupted
from sparring.evaluation import memory
from sparring.experiment import load
from sparring.game import Epoch, Metrics, Progress, player, train
from sparring.game.checkpoint import read_verified
from sparring.losses import LOSSES, cross_entropy
from sparring.models import MLP, mlp, stack
from sparring.records import RunPaths, RunRecord
from sparring.session import train_runs

SEEDS = (4, 0, 7)  # in no order that could stand for their places
DRAWN = ("gan_recurrent", "gan_recurrent_cold", "fgsm_drawn", "pgd2_drawn")  # radii drawn, and starts
SELDOM = {"checkpoint_seconds": 1e9}  # saved when something ends, and no more


def play(runs: Sequence[Run], out: Path, **options: Any) -> list[RunRecord]:
    """Train the runs together, each to the folder of its seed."""
    vanilla = [frozen_vanilla for _ in runs]
    return train_runs(runs, [folder(out, run.seed) for run in runs], digits(), vanilla=vanilla, **options)


def folder(out: Path, seed: int) -> RunPaths:
    return RunPaths(out / f"seed{seed}")


def seeds_of(run: Run, seeds: Sequence[int] = SEEDS) -> list[Run]:
    return [replace(run, seed=seed) for seed in seeds]


def alone(run: Run, out: Path, seeds: Sequence[int] = SEEDS, **options: Any) -> list[RunRecord]:
    """Train each seed by itself, to the same folders as `play`."""
    return [play([one], out, **options)[0] for one in seeds_of(run, seeds)]


def came_all(out: Path, seeds: Sequence[int] = SEEDS) -> dict[int, Any]:
    return {seed: came_to(out / f"seed{seed}") for seed in seeds}


def weights(paths: RunPaths) -> dict[str, Tensor]:
    """Every tensor of every weights file of a run."""
    files = [path for path in (paths.defender, paths.adversary, paths.trained_alone) if path.is_file()]
    return {f"{path.name}: {name}": tensor for path in files for name, tensor in read_verified(path)[0].items()}


def alike(one: RunPaths, other: RunPaths, tolerance: float) -> None:
    """The same files, weights and log, up to rounding."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys() and a
    for name, tensor in a.items():
        assert torch.allclose(tensor.double(), b[name].double(), atol=tolerance, rtol=tolerance), name
    for mine, its in zip(log(one.folder), log(other.folder), strict=True):
        assert near(mine, its, tolerance)


def near(line: dict[str, Any], other: dict[str, Any], tolerance: float) -> bool:
    """Two lines of a log with the same words, and the same numbers up to rounding."""
    words, its_words = ({k: v for k, v in one.items() if not isinstance(v, float)} for one in (line, other))
    numbers, its = ({k: v for k, v in one.items() if isinstance(v, float)} for one in (line, other))
    return words == its_words and numbers == pytest.approx(its, abs=tolerance, rel=tolerance)


def without(record: RunRecord) -> RunRecord:
    """A record without what depends on the clock and on rounding."""
    return replace(record, seconds=0.0, defender_sha256="")


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
    monkeypatch.setitem(globals(), "frozen_vanilla", lambda: frozen().double())


frozen = frozen_vanilla


# A seed in a stack is the seed alone


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


# Each seed has its own rate and its own end


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


STOPPING: dict[str, Any] = {"patience": 2, "flat": 0.05, "max_epochs": 30} | SELDOM


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


# A seed that diverges


GRADIENT = {"nan gradient": torch.nan, "infinite gradient": torch.inf}
LOSS = {"nan loss": torch.nan, "infinite loss": torch.inf}


def poisoned(how: str, call: int, copy: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The cross-entropy that in one copy, at the n-th call, counted from 1, or its gradient, is not finite."""
    calls = [0]

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        losses = cross_entropy(logits, y)
        if calls[0] != call:
            return losses
        factor, more = torch.ones(len(losses), 1), torch.zeros(len(losses), 1)
        factor[copy], more[copy] = GRADIENT.get(how, 1.0), LOSS.get(how, 0.0)
        return losses.detach() + (losses - losses.detach()) * factor + more

    return loss


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


# Stopping and going on


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


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("gan_tanh_init", [3]),  # the adversaries alone, amid an epoch
        ("gan_tanh_init", [STEPS, 1, STEPS - 1]),  # after an epoch's last step, and after that of the adversaries alone
        ("gan_scaled_init", [2, 5, 5, 3]),  # again and again, in both phases
        ("gan_tanh", [6, 1, 2]),
        ("noise", [5, 3]),
        ("pgd", [7]),
        ("pgd2_drawn", [5]),
        ("gan_recurrent", [3, 2, 6]),
        ("gan_recurrent_cold", [6]),
        ("vanilla", [MAIN * STEPS]),
    ],
)
def test_interrupted_and_continued_equals_uninterrupted(
    name: str, stops: list[int], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    done = 0
    for steps in stops:
        with pytest.raises(Interrupted, match=r"stopped and saved in .*/seed4 and 2 others") as stopped:
            play(seeds_of(small(name)), tmp_path, interrupted=after(steps))
        assert stopped.value.signal_number == signal.SIGINT
        done += steps
        for seed in SEEDS:
            assert folder(tmp_path, seed).checkpoint(done).is_file() and not folder(tmp_path, seed).done.exists()
    notices: list[str] = []
    play(seeds_of(small(name)), tmp_path, notice=notices.append)
    assert notices[0].startswith(f"going on from checkpoint-{done:09d}.safetensors of 3 seeds: ")
    assert came_all(tmp_path) == came_all(whole(name))


class Killed(BaseException):
    """Ends the training at once, as a kill would."""


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the n-th write of a checkpoint, of weights or of a record kill the training, before it is made; 0: none."""
    left = [0]

    def dying(write: Callable[..., Any]) -> Callable[..., Any]:
        def dies(*given: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return write(*given, **more)

        return dies

    for module, name in (
        (session, "save_checkpoint"),
        (session, "save_weights"),
        (copies, "save_weights"),
        (copies, "write_json"),
    ):
        monkeypatch.setattr(module, name, dying(getattr(module, name)))
    return lambda n: left.__setitem__(0, n)


def uneven(name: str) -> Run:
    """A run whose seeds end in different epochs, and its adversaries alone in different ones too."""
    run = small(name, **(STOPPING | {"max_epochs": 12, "checkpoint_seconds": 0.0}))
    return replace(run, alone=run.alone and replace(run.alone, max_epochs=5, patience=1, flat=0.2))


@pytest.mark.parametrize(
    ("name", "stride"), [("vanilla", 1), ("gan_tanh", 2), ("gan_scaled_init", 3), ("gan_recurrent", 2)]
)
def test_killed_between_any_two_writes_and_continued_equals_uninterrupted(
    name: str, stride: int, kill: Callable[[int], None], tmp_path: Path
) -> None:
    run = uneven(name)
    epochs = {record.epochs for record in play(seeds_of(run), tmp_path / "whole")}
    assert len(epochs) > 1, "no seed outlived another"
    n, killed = 1, 0
    while True:
        kill(n)
        try:
            play(seeds_of(run), tmp_path / "killed")
            break
        except Killed:
            killed, n = killed + 1, n + stride
    kill(0)
    assert killed > 5 and came_all(tmp_path / "killed") == came_all(tmp_path / "whole")


def test_a_kill_between_the_checkpoints_of_two_seeds_costs_the_one_that_is_ahead_a_step_back(
    kill: Callable[[int], None], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    configs, saves = 2 * len(SEEDS), len(SEEDS)
    for n, step in ((configs + 2, 0), (2 * saves + 3, 8)):  # in the first save of all; then in the third
        kill(n)
        with pytest.raises(Killed):
            play(seeds_of(small("gan_tanh")), tmp_path)
        newest = [max((path.name for path in (tmp_path / f"seed{s}").glob("checkpoint-*")), default="") for s in SEEDS]
        assert newest[0] > newest[-1]
        notices: list[str] = []
        kill(1)
        with pytest.raises(Killed):
            play(seeds_of(small("gan_tanh")), tmp_path, notice=notices.append)
        froms = [f"going on from checkpoint-{step:09d}.safetensors of 3 seeds: epoch 3, step 0"] if step else []
        assert notices == froms
    kill(0)
    play(seeds_of(small("gan_tanh")), tmp_path)
    assert came_all(tmp_path) == came_all(whole("gan_tanh"))


def test_an_epochs_end_and_the_next_ones_start_are_not_taken_for_one_place(
    kill: Callable[[int], None], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        play(seeds_of(small("gan_tanh")), tmp_path, interrupted=after(STEPS + 1))
    with pytest.raises(Interrupted):
        play(seeds_of(small("gan_tanh")), tmp_path, interrupted=after(STEPS - 1))  # step 8, the epoch not closed
    kill(2)
    with pytest.raises(Killed):
        play(seeds_of(small("gan_tanh")), tmp_path)  # the first has its epoch closed, under the same number
    places = {str(read_verified(folder(tmp_path, seed).checkpoint(8))[1]["position"]["epoch"]) for seed in SEEDS}
    assert places == {"1", "2"}
    kill(0)
    notices: list[str] = []
    play(seeds_of(small("gan_tanh")), tmp_path, notice=notices.append)
    assert notices == ["going on from checkpoint-000000005.safetensors of 3 seeds: epoch 2, step 1"]
    assert came_all(tmp_path) == came_all(whole("gan_tanh"))


def test_a_divergence_is_not_forgotten_by_an_interruption_in_the_same_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small("gan_tanh")
    monkeypatch.setitem(LOSSES, "cross_entropy", poisoned("infinite gradient", 2 * STEPS + 1, copy=2))
    with pytest.raises(Interrupted):  # the gradients of the steps after the bad one are finite again
        play(seeds_of(run), tmp_path, interrupted=after(STEPS + 3))
    steps = [sorted(int(path.stem[-9:]) for path in (tmp_path / f"seed{s}").glob("checkpoint-*")) for s in SEEDS]
    assert steps == [[4, 7], [4, 7], [4]], "a frozen copy was saved as if it were sound"
    monkeypatch.setitem(LOSSES, "cross_entropy", poisoned("infinite gradient", 1, copy=2))
    assert [record.status for record in play(seeds_of(run), tmp_path)] == ["done", "done", "diverged"]


def test_damage_in_one_folder_takes_all_to_the_newest_sound_step(whole: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(seeds_of(small("gan_tanh")), tmp_path, interrupted=after(2 * STEPS + 2))
    damage(folder(tmp_path, SEEDS[1]).checkpoint(2 * STEPS + 2))
    notices: list[str] = []
    play(seeds_of(small("gan_tanh")), tmp_path, notice=notices.append)
    assert "seed0/checkpoint-000000010.safetensors is damaged" in notices[0]
    assert notices[1:] == ["going on from checkpoint-000000008.safetensors of 3 seeds: epoch 3, step 0"]
    assert came_all(tmp_path) == came_all(whole("gan_tanh"))


def test_where_all_checkpoints_of_a_seed_are_damaged_nothing_starts_afresh(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(seeds_of(small("vanilla")), tmp_path, interrupted=after(2))
    damage(folder(tmp_path, SEEDS[1]).checkpoint(2))
    with pytest.raises(CorruptCheckpoint, match=r"all 1 checkpoints in .*seed0 are damaged; --restart"):
        play(seeds_of(small("vanilla")), tmp_path)
    assert folder(tmp_path, SEEDS[0]).checkpoint(2).is_file()


# Splitting and merging


FOUR = (0, 1, 2, 3)


@pytest.mark.parametrize("name", ["gan_tanh", "gan_recurrent"])
def test_seeds_interrupted_together_may_go_on_in_two_calls(name: str, tmp_path: Path) -> None:
    run = small(name, **SELDOM)
    play(seeds_of(run, FOUR), tmp_path / "whole")
    with pytest.raises(Interrupted):
        play(seeds_of(run, FOUR), tmp_path / "split", interrupted=after(7))
    for pair in ((0, 1), (3, 2)):
        notices: list[str] = []
        play(seeds_of(run, pair), tmp_path / "split", notice=notices.append)
        assert notices == [
            *["resume is valid but not bit-exact: copies 4 -> 2"] * 2,
            "going on from checkpoint-000000007.safetensors of 2 seeds: epoch 2, step 3",
        ]
    for seed in FOUR:
        alike(folder(tmp_path / "split", seed), folder(tmp_path / "whole", seed), 0.02)


@pytest.mark.parametrize("name", ["gan_scaled_init", "gan_recurrent"])
def test_seeds_interrupted_alone_may_go_on_together(name: str, tmp_path: Path) -> None:
    run = small(name, **SELDOM)
    play(seeds_of(run), tmp_path / "whole")
    for seed in SEEDS:
        with pytest.raises(Interrupted):
            alone(run, tmp_path / "merged", [seed], interrupted=after(7))
    notices: list[str] = []
    play(seeds_of(run), tmp_path / "merged", notice=notices.append)
    assert notices == [
        *["resume is valid but not bit-exact: copies 1 -> 3"] * 3,
        "going on from checkpoint-000000007.safetensors of 3 seeds: epoch 2, step 3",
    ]
    for seed in SEEDS:
        alike(folder(tmp_path / "merged", seed), folder(tmp_path / "whole", seed), 0.02)


def test_seeds_that_stand_far_apart_go_on_one_group_after_another(tmp_path: Path) -> None:
    run = small("vanilla", max_epochs=5)
    with pytest.raises(Interrupted):
        alone(run, tmp_path, [4], interrupted=after(4 * STEPS + 1))  # its beginning has been pruned
    notices: list[str] = []
    assert {record.epochs for record in play(seeds_of(run, (0, 4, 7)), tmp_path, notice=notices.append)} == {5}
    assert notices[1:] == [
        "seeds stand at 2 different steps; they go on one group after another, not bit-exact",
        "going on from checkpoint-000000017.safetensors of 1 seed: epoch 5, step 1",
    ]


def test_adversaries_that_are_done_alone_wait_for_the_others(tmp_path: Path) -> None:
    run = small("gan_tanh_init")
    play(seeds_of(run), tmp_path / "whole")
    with pytest.raises(Interrupted):
        alone(run, tmp_path / "apart", [SEEDS[0]], interrupted=after(ALONE * STEPS + 1))
    notices: list[str] = []
    play(seeds_of(run), tmp_path / "apart", notice=notices.append)
    assert not any("group" in text for text in notices)
    assert [len(log(tmp_path / "apart" / f"seed{seed}")) for seed in SEEDS] == [ALONE + MAIN] * 3
    for seed in SEEDS:
        alike(folder(tmp_path / "apart", seed), folder(tmp_path / "whole", seed), 0.02)


# What lies in the folders


def test_a_seed_of_a_stack_is_loaded_as_a_plain_model_with_the_stacks_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    sound = session.new_player
    monkeypatch.setattr(session, "new_player", lambda *a, **more: made.append(sound(*a, **more)) or made[-1])
    play(seeds_of(small("gan_tanh")), tmp_path)
    defender, adversary = (one.network.eval() for one in made)
    x, y = digits().floats()[:40], digits().labels[:40]
    with torch.no_grad():
        logits, pushed = (network(x.expand(3, *x.shape)) for network in (defender, adversary))
        for s, seed in enumerate(SEEDS):
            trained = load(tmp_path / f"seed{seed}")
            assert isinstance(trained.defender, MLP) and trained.run.seed == seed and trained.adversary is not None
            assert torch.allclose(trained.defender(x), logits[s], atol=1e-4)
            assert torch.allclose(trained.adversary(x), pushed[s], atol=1e-4)
            assert trained.attack()(trained.defender, x, y).shape == x.shape
    assert not torch.allclose(logits[0], logits[1], atol=0.1)


@pytest.mark.parametrize("name", ["noise", "gan_tanh_init"])
def test_a_stacks_files_are_in_form_those_of_a_seed_alone(
    name: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    alone(small(name), tmp_path, SEEDS[:1])
    mine, its = whole(name) / f"seed{SEEDS[0]}", tmp_path / f"seed{SEEDS[0]}"
    names = sorted(path.name for path in its.iterdir())
    assert sorted(path.name for path in mine.iterdir()) == names
    compared = [file for file in names if file.endswith(".safetensors")]
    assert len(compared) > 3
    for file in compared:
        (tensors, header), (own, own_header) = read_verified(mine / file), read_verified(its / file)
        forms = [{k: (v.dtype, v.shape) for k, v in one.items()} for one in (tensors, own)]
        assert forms[0] == forms[1], file
        assert header.keys() == own_header.keys()
        for key in ("phase", "digest", "data", "format", "config", "environment", "steps", "shape"):
            assert header.get(key) == own_header.get(key), key
        if "position" in header:
            position, own_position = (
                {k: type(v) if k in ("best", "seconds") else v for k, v in one["position"].items()}
                for one in (header, own_header)
            )
            assert position == own_position


def test_a_folder_in_use_keeps_all_of_a_call_out(tmp_path: Path) -> None:
    with locks.held(_made(tmp_path / "seed0") / "run.lock"), pytest.raises(Busy, match="seed0 is in use by process"):
        play(seeds_of(small("vanilla")), tmp_path)
    assert not list(tmp_path.rglob("config.json"))
    assert all(record.status == "done" for record in play(seeds_of(small("vanilla", max_epochs=1)), tmp_path))


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("name", ["pgd", "gan_tanh"])
def test_bf16_trains_a_stack_and_keeps_weights_in_fp32(name: str, tmp_path: Path) -> None:
    run = small(name, max_epochs=6)
    play(seeds_of(run), tmp_path / "fp32")
    play(seeds_of(replace(run, precision="bf16")), tmp_path / "bf16")
    for seed in SEEDS:
        mine, its = weights(folder(tmp_path / "bf16", seed)), weights(folder(tmp_path / "fp32", seed))
        assert {name: value.dtype for name, value in mine.items()} == {name: value.dtype for name, value in its.items()}
        assert any(not torch.equal(mine[name], its[name]) for name in mine), "it multiplied in fp32"
        losses = [line["defender_loss"] for line in log(tmp_path / "bf16" / f"seed{seed}")]
        assert losses[-1] < 0.7 * losses[0]


# Killed in earnest


POINTS = [  # where to kill, at which passing of the point, and what the attempt goes on from, with two seeds
    ("mid_write", 2, ""),  # the second's first checkpoint
    ("step", STEPS + 2, ""),  # from the start, since only the first has a checkpoint
    ("post_rename", 3, "checkpoint-000000004.safetensors of 2 seeds: epoch 2, step 0"),  # the first is done alone
    ("pre_rename", 2, "checkpoint-000000008.safetensors of 1 seed: epoch 3, step 0"),  # of the game, the second's first
    ("step", STEPS + 1, ""),  # from the game's start
    ("pre_fsync", 6, "checkpoint-000000012.safetensors of 2 seeds: epoch 2, step 0"),  # the first's adversary
    ("mid_write", 3, "checkpoint-000000020.safetensors of 2 seeds: epoch 4, step 0"),  # the second's defender
    ("", 0, "checkpoint-000000020.safetensors of 1 seed: epoch 4, step 0"),
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_killed_anywhere_and_continued_equals_uninterrupted(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SPARRING_FAULT": ""}
    command = [sys.executable, __file__, str(tmp_path / "killed")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=110)
    assert done.returncode == 0, done.stderr
    attempts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [attempt["status"] for attempt in attempts] == [-signal.SIGKILL] * (len(POINTS) - 1) + [0]
    froms = [[t for t in attempt["notices"] if t.startswith("going on from ")] for attempt in attempts]
    assert froms == [[f"going on from {text}"] if text else [] for _, _, text in POINTS]
    assert not list(tmp_path.rglob("*.tmp-*"))
    play(seeds_of(small("gan_tanh_init"), SEEDS[:2]), tmp_path / "whole")
    assert came_all(tmp_path / "killed", SEEDS[:2]) == came_all(tmp_path / "whole", SEEDS[:2])


def kill_and_go_on(out: Path) -> None:
    """Train two seeds of an initialised game in forked children, each killed at the next of POINTS, the last one not."""
    torch.set_num_threads(1)
    digits()
    out.mkdir()
    for point, count, _ in POINTS:
        notices = out / "notices"
        notices.write_text("")
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            try:
                faults.arm(point, count)
                play(seeds_of(small("gan_tanh_init"), SEEDS[:2]), out, notice=lambda text, to=notices: note(to, text))
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "notices": notices.read_text().splitlines()}), flush=True)


if __name__ == "__main__":
    kill_and_go_on(Path(sys.argv[1]))
