"""What a run keeps of its past, payoffs between past players, and the watch for overfitting to one step."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring import recipes
from sparring.adversaries import Adversary
from sparring.attacks import LearnedAttack
from sparring.config import Run
from sparring.data.batches import Data
from sparring.data.synthetic import linear_problem
from sparring.errors import CorruptCheckpoint, InputError, Interrupted
from sparring.evaluation import attacked, overfitting, payoffs
from sparring.evaluation.memory import Payoffs, WatchRecord, first_overfitted, forget_after, read_watch
from sparring.experiment import history
from sparring.game.checkpoint import read_verified
from sparring.models import mlp
from sparring.records import RunPaths
from sparring.session import train_run
from sparring.threat import ThreatModel

STEPS = 4  # an epoch's


@cache
def digits() -> Data:
    return sparring.data.load("digits")[0].take(torch.arange(64 * STEPS))


def small(name: str = "gan_tanh", **settings: Any) -> Run:
    run = recipes.recipe(name)
    return replace(
        run,
        defender=replace(run.defender, hidden=(16,)),
        adversary=run.adversary and replace(run.adversary, hidden=(16,)),
        training=replace(run.training, batch_size=64, max_epochs=5, patience=9, checkpoint_seconds=0.0),
        **settings,
    )


def kept(folder: Path) -> dict[str, bytes]:
    """The content of what a run keeps beside its result."""
    return {p.name: p.read_bytes() for p in [*folder.glob("history/*"), *folder.glob("watch.jsonl")]}


def weights(folder: Path) -> dict[str, bytes]:
    paths = RunPaths(folder)
    found = {f"{p.name}/{k}": t for p in (paths.defender, paths.adversary) for k, t in read_verified(p)[0].items()}
    return {name: tensor.numpy().tobytes() for name, tensor in found.items()}


@pytest.fixture(scope="module")
def remembered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small game that keeps every second epoch and a watch."""
    folder = tmp_path_factory.mktemp("remembered")
    train_run(small(history=2, watch=True), RunPaths(folder), digits())
    return folder


def test_keeping_the_past_changes_nothing_of_the_run(remembered: Path, tmp_path: Path) -> None:
    train_run(small(), RunPaths(tmp_path), digits())
    assert kept(tmp_path) == {} and not (tmp_path / "history").exists()
    assert weights(tmp_path) == weights(remembered)
    names = sorted(kept(remembered))
    assert names == ["epoch002.safetensors", "epoch004.safetensors", "epoch005.safetensors", "watch.jsonl"]


def test_a_history_gives_the_players_back_and_the_last_are_the_result(remembered: Path) -> None:
    past = history(remembered)
    assert [s.epoch for s in past] == [2, 4, 5]
    trained = sparring.load(remembered)
    last = past[-1]
    assert last.adversary is not None and trained.adversary is not None
    for a, b in ((last.defender, trained.defender), (last.adversary, trained.adversary)):
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items()) and not a.training
    assert not torch.equal(past[0].defender.linears[0].weight, last.defender.linears[0].weight)  # type: ignore[union-attr, index]


def test_a_watch_holds_what_the_defender_of_that_epoch_withstands(remembered: Path) -> None:
    records = read_watch(remembered)
    assert [(r.epoch, r.step, r.n, r.eps) for r in records] == [(e, 4 * e, 256, 0.1) for e in range(1, 6)]
    last = history(remembered)[-1].defender
    assert overfitting(last, digits(), ThreatModel(0.1, digits().shape)) == (records[-1].fgsm, records[-1].pgd)
    assert overfitting(last.train(), digits(), ThreatModel(0.1, digits().shape))[1] == records[-1].pgd
    assert all(m.training for m in last.modules())


@pytest.mark.parametrize("steps", [1, 4, 9, 18])
def test_a_run_that_was_stopped_keeps_the_same_past(steps: int, remembered: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def interrupted() -> int:
        asked.append(0)
        return signal.SIGINT if len(asked) == steps else 0

    run, paths = small(history=2, watch=True), RunPaths(tmp_path)
    with pytest.raises(Interrupted):
        train_run(run, paths, digits(), interrupted=interrupted)
    train_run(run, paths, digits())
    assert kept(tmp_path) == kept(remembered)
    assert len(history(tmp_path)) == 3


def test_a_restart_forgets_the_past(remembered: Path, tmp_path: Path) -> None:
    train_run(small(history=1, watch=True), RunPaths(tmp_path), digits())
    assert len(kept(tmp_path)) == 6
    train_run(small(history=2, watch=True), RunPaths(tmp_path), digits(), restart=True)
    assert kept(tmp_path) == kept(remembered)
    forget_after(tmp_path, 4)
    assert [s.epoch for s in history(tmp_path)] == [2, 4] and len(read_watch(tmp_path)) == 4


def test_a_defender_without_an_adversary_has_a_history_too(tmp_path: Path) -> None:
    train_run(small("vanilla", history=3), RunPaths(tmp_path), digits())
    assert [(s.epoch, s.adversary) for s in history(tmp_path)] == [(3, None), (5, None)]


def test_files_that_are_no_snapshots_of_this_run_are_refused(remembered: Path, tmp_path: Path) -> None:
    train_run(small(history=5), RunPaths(tmp_path), digits())
    path = tmp_path / "history" / "epoch005.safetensors"
    (tmp_path / "history" / "epochs.safetensors").write_text("none of ours")
    assert len(history(tmp_path)) == 1
    content = path.read_bytes()
    os.truncate(path, len(content) - 1)
    with pytest.raises(CorruptCheckpoint, match="epoch005"):
        history(tmp_path)
    train_run(small("vanilla"), RunPaths(tmp_path / "other"), digits())
    (tmp_path / "other" / "history").mkdir()
    (tmp_path / "other" / "history" / "epoch005.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="adversary"):
        history(tmp_path / "other")
    with pytest.raises(InputError, match="is not the folder of a run"):
        history(tmp_path / "nowhere")
    with pytest.raises(InputError, match="history must be >= 0"):
        small(history=-1)


class Up(nn.Module):
    """An adversary's network that always answers one number."""

    def __init__(self, z: float) -> None:
        super().__init__()
        self.z = z

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.z)


def test_payoffs_are_each_adversary_against_each_defender_by_epoch() -> None:
    problem = linear_problem(200, 6, seed=0)
    defenders = [(e, mlp((6,), [2], generator=torch.Generator().manual_seed(e)).eval()) for e in (9, 3)]
    adversaries = [(e, Adversary(Up(z))) for e, z in ((3, 4.0), (6, -4.0), (9, 0.0))]
    found = payoffs(adversaries, defenders, problem.data, 0.2)
    assert found.adversary_epochs == (3, 6, 9) and found.defender_epochs == (3, 9)
    assert found.correct.shape == (3, 2, 200) and found.accuracy.shape == (3, 2)
    threat = ThreatModel(0.2, (6,))
    for i, (_, adversary) in enumerate(adversaries):
        for j, (_, defender) in enumerate(reversed(defenders)):
            alone = attacked(defender, problem.data, LearnedAttack(adversary, threat), threat)
            assert torch.equal(found.correct[i, j], alone.correct)
    assert len(str(found).splitlines()) == 5
    for a, d in (([], defenders), (adversaries, []), (adversaries[:1] * 2, defenders)):
        with pytest.raises(InputError, match="different epochs"):
            payoffs(a, d, problem.data, 0.2)


def test_cycling_is_the_worst_past_less_the_present_one() -> None:
    rates = [[10, 2, 5], [9, 8, 1], [9, 9, 7]]  # of ten; adversaries of epochs 1, 2, 3 against defenders of 1, 2, 4
    correct = torch.tensor([[[k < right for k in range(10)] for right in row] for row in rates])
    found = Payoffs(0.1, (1, 2, 3), (1, 2, 4), correct)
    assert found.cycling == pytest.approx({2: 0.2 - 0.8, 4: 0.1 - 0.7})


def test_overfitting_is_first_reported_where_it_begins() -> None:
    def record(epoch: int, fgsm: float, pgd: float) -> WatchRecord:
        return WatchRecord("fgsm", 0, epoch, 4 * epoch, 0.1, 512, fgsm, pgd)

    records = [record(1, 0.8, 0.7), record(2, 0.9, 0.69), record(3, 0.99, 0.0)]
    first = first_overfitted(records)
    assert first is not None and first.epoch == 2 and first_overfitted(records[:1]) is None


def test_a_run_says_once_that_it_overfits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparring.evaluation.memory.overfitting", lambda *arguments, **settings: (0.9, 0.1))
    notices: list[str] = []
    train_run(small("fgsm", watch=True), RunPaths(tmp_path), digits(), notice=notices.append)
    assert len(notices) == 1 and notices[0].startswith("epoch 1, step 4: 90.0 % under FGSM, 10.0 % under PGD-10")


def test_what_a_run_keeps_is_no_part_of_its_identity() -> None:
    assert small().digest == small(history=3, watch=True).digest
