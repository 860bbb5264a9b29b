"""One run from its config to its saved weights: construction and the order of events; the methods live below.

A run's folder is written so that running again continues it, bit for bit, or says that it is done.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sparring import attacks, data, locks
from sparring.adversaries import Adversary
from sparring.adversaries.adversary import n_parameters
from sparring.config import Network, Optimizer, Run, Training, decisive, differences, from_dict, to_dict
from sparring.environment import changes, commit, environment
from sparring.errors import CorruptCheckpoint, Diverged, InputError, Interrupted
from sparring.evaluation import memory
from sparring.game import dynamics
from sparring.game.checkpoint import (
    latest,
    load_weights,
    prune,
    read_verified,
    restore_checkpoint,
    save_checkpoint,
    save_weights,
    sweep,
)
from sparring.game.moves import Move, against, best_response, duel
from sparring.game.player import Player, player
from sparring.game.train import Epoch, Progress, train
from sparring.losses import LOSSES
from sparring.models import MLP, mlp
from sparring.randomness import Stream, generator
from sparring.records import EpochRecord, RunPaths, RunRecord, append, read_json, restore, write_json
from sparring.threat import ThreatModel

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """A finished run, as `load` returns it: on the CPU, in evaluation mode."""

    run: Run
    defender: MLP
    adversary: Adversary | None
    trained_alone: Adversary | None  # the initialised games' adversary, as it was before the game
    record: RunRecord

    def attack(self) -> attacks.LearnedAttack:
        """The adversary as an attack; raises ValueError where the run has none."""
        if self.adversary is None:
            raise ValueError(f"{self.run.recipe} has no adversary; the games have: gan_tanh, gan_scaled, ...")
        return attacks.LearnedAttack(self.adversary, ThreatModel(self.run.eps, self.defender.shape))


def load(run_folder: str | Path) -> Trained:
    """A finished run's players; raises InputError where the folder holds none, CorruptCheckpoint where a file is damaged."""
    paths = RunPaths(Path(run_folder))
    if not paths.config.is_file():
        raise InputError(f"{run_folder} is not the folder of a run: it has no config.json")
    if not paths.done.is_file():
        raise InputError(f"the run in {run_folder} is not finished; `sparring train` continues it")
    run = from_dict(Run, read_json(paths.config))
    record = restore(RunRecord, read_json(paths.done))
    if record.status != "done":
        raise InputError(f"the run in {run_folder} diverged and has no weights: {record.message}")
    header = read_verified(paths.defender)[1]
    shape, n_classes = tuple(header["shape"]), int(header["n_classes"])
    defender = new_defender(run, shape, n_classes)
    load_weights(paths.defender, defender)
    adversary = _loaded_adversary(run, shape, paths.adversary)
    return Trained(run, defender.eval(), adversary, _loaded_adversary(run, shape, paths.trained_alone), record)


def history(run_folder: str | Path) -> list[memory.Snapshot]:
    """A run's players as they were along its training, by epoch; none where `history` was 0. Also of an unfinished run."""
    paths = RunPaths(Path(run_folder))
    if not paths.config.is_file():
        raise InputError(f"{run_folder} is not the folder of a run: it has no config.json")
    run = from_dict(Run, read_json(paths.config))

    def new(shape: tuple[int, ...], n_classes: int) -> tuple[nn.Module, Adversary | None]:
        return new_defender(run, shape, n_classes), new_adversary(run, shape) if run.adversary else None

    return memory.load_history(paths.folder, new)


def load_data(settings: Any) -> tuple[data.Data, data.Data]:
    """(training, test) that a run asks for."""
    train_on, test = data.load(settings.name, root=settings.root, allow_unknown=settings.allow_unknown)
    if settings.limit is not None:
        train_on = data.stratified(train_on, settings.limit)
    return train_on, test


def train_run(
    run: Run,
    paths: RunPaths,
    train_on: data.Data,
    *,
    vanilla: Callable[[], nn.Module] | None = None,
    device: torch.device | str = "cpu",
    notice: Notice = lambda text: None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    interrupted: Callable[[], int] = lambda: 0,
    restart: bool = False,
) -> RunRecord:
    """Train a run to its end, or go on where an earlier call stopped; a finished run is only read.

    `vanilla` gives the trained vanilla model that an initialised game's adversary first trains against. `interrupted` is asked
    after every step for the number of a signal that has come; the state is then saved and Interrupted raised.
    Raises InputError for a folder made by another config or data, CorruptCheckpoint where no checkpoint is sound, Busy where
    another process holds the folder. A run that diverges is recorded as such.
    """
    _make(paths.folder)
    with locks.held(paths.lock):
        if restart:
            _clear(paths)
        _claim(run, paths, train_on, device, notice)
        if paths.done.is_file():
            return restore(RunRecord, read_json(paths.done))
        session = _Session(run, paths, train_on.to(device), torch.device(device), notice, on_epoch, interrupted)
        try:
            record = session.play(vanilla)
        except Diverged as error:
            record = session.record("diverged", "", message=str(error))
        write_json(paths.done, record)
        return record


def new_defender(run: Run, shape: tuple[int, ...], n_classes: int) -> MLP:
    """The run's defender with its initial weights."""
    return _network(run.defender, shape, n_classes, generator(run.seed, "init.defender"))


def new_adversary(run: Run, shape: tuple[int, ...]) -> Adversary:
    """The run's adversary with its initial weights; the run must have one."""
    assert run.adversary is not None
    n_pixels = int(torch.tensor(shape).prod())
    network = _network(run.adversary, shape, n_pixels, generator(run.seed, "init.adversary"))
    return Adversary(network, run.adversary.bound)


def new_player(name: str, network: nn.Module, optimizer: Optimizer, *, maximize: bool) -> Player:
    """A player with the optimizer that a config asks for."""
    o = optimizer
    return player(
        name,
        network,
        maximize=maximize,
        kind=o.name,
        lr=o.lr,
        momentum=o.momentum,
        weight_decay=o.weight_decay,
        rate=o.rate,
        every=o.every,
    )


def move_of(run: Run, defender: Player, adversary: Player | None, threat: ThreatModel, stream: Stream) -> Move:
    """A regime's move: the one thing in which two regimes differ."""
    settings, opponent, loss = run.training, run.opponent, LOSSES[run.defender.loss]
    if adversary is not None and run.adversary is not None:
        return duel(
            defender,
            adversary,
            threat,
            _dynamic(run),
            clean_share=settings.clean_share,
            mix=settings.mix,
            loss=loss,
            adversary_loss=LOSSES[run.adversary.loss],
            clip=run.play.clip,
            others=run.play.modes,
        )
    attack: attacks.Attack = attacks.identity
    if opponent.kind == "noise":
        attack = attacks.Noise(threat, opponent.law, stream)
    elif opponent.kind == "fgsm":
        attack = attacks.fgsm(threat, loss=run.defender.loss, mode=opponent.mode)
    elif opponent.kind == "pgd":
        attack = attacks.PGD(
            threat,
            steps=opponent.steps,
            reach=opponent.reach,
            keep="last",
            loss=run.defender.loss,
            mode=opponent.mode,
            stream=stream,
        )
    return against(defender, attack, clean_share=settings.clean_share, mix=settings.mix, loss=loss)


class _Session:
    """One process's work on one run: its phases, its checkpoints, its log."""

    def __init__(
        self,
        run: Run,
        paths: RunPaths,
        train_on: data.Data,
        device: torch.device,
        notice: Notice,
        on_epoch: Callable[[EpochRecord], None],
        interrupted: Callable[[], int],
    ) -> None:
        self.run, self.paths, self.data, self.device = run, paths, train_on, device
        self.notice, self.report_epoch, self.interrupted = notice, on_epoch, interrupted
        self.threat = ThreatModel(run.eps, train_on.shape)
        self.stream = Stream(run.seed, "attack")
        self.seconds = 0.0
        self.epochs = 0
        self.offset = 0  # steps of finished phases, so that checkpoints of later phases sort last
        self.log_bytes = 0  # length of the log when the present phase began
        for name in sweep(paths.folder):
            notice(f"removed {name}, left over by a writer that died")
        self.saved = latest(paths.folder, notice)
        self.last_save = time.monotonic()
        self.defender = new_defender(run, train_on.shape, train_on.n_classes).to(device)
        self.adversary = new_adversary(run, train_on.shape).to(device) if run.adversary else None

    def play(self, vanilla: Callable[[], nn.Module] | None) -> RunRecord:
        """All phases, then the weights and the run's record."""
        run, paths = self.run, self.paths
        if run.alone is not None:
            assert self.adversary is not None
            if vanilla is None:
                raise InputError(
                    f"{run.recipe} needs the trained vanilla model of the same seed: train `vanilla` first"
                )
            self._alone(run.alone, vanilla)
        defender = new_player("defender", self.defender, run.defender.optimizer, maximize=False)
        players = [defender]
        if self.adversary is not None and run.adversary is not None:
            players.insert(0, new_player("adversary", self.adversary, run.adversary.optimizer, maximize=True))
        move = move_of(run, defender, players[0] if len(players) > 1 else None, self.threat, self.stream)
        self.defender.train()
        progress = self._phase("main", move, players, run.training)
        header = {"shape": list(self.data.shape), "n_classes": self.data.n_classes, "config": to_dict(run)}
        digest = save_weights(paths.defender, self.defender, header)
        if self.adversary is not None:
            save_weights(paths.adversary, self.adversary, header)
        return self.record("done", progress.stopped, digest=digest)

    def record(
        self, status: Literal["done", "diverged"], stopped: str, *, digest: str = "", message: str = ""
    ) -> RunRecord:
        """The run's record."""
        return RunRecord(
            recipe=self.run.recipe,
            seed=self.run.seed,
            status=status,
            epochs=self.epochs,
            stopped=stopped,
            seconds=round(self.seconds, 3),
            defender_parameters=n_parameters(self.defender),
            adversary_parameters=n_parameters(self.adversary) if self.adversary else 0,
            defender_sha256=digest,
            message=message,
        )

    def _alone(self, settings: Training, vanilla: Callable[[], nn.Module]) -> None:
        """The adversary trains alone against the trained vanilla model (paper, section 4.5)."""
        assert self.adversary is not None and self.run.adversary is not None
        if self.paths.trained_alone.is_file():
            header = load_weights(self.paths.trained_alone, self.adversary)
            self.seconds, self.offset, self.log_bytes = header["seconds"], header["steps"], header["log_bytes"]
            return
        learner = new_player("adversary", self.adversary, self.run.alone_optimizer, maximize=True)
        move = best_response(
            learner,
            vanilla().to(self.device).eval(),
            self.threat,
            loss=LOSSES[self.run.adversary.loss],
            clip=self.run.play.clip,
        )
        self._phase("adversary", move, [learner], settings)
        self.log_bytes = self._log_length()
        header = {
            "seconds": self.seconds,
            "steps": self.offset,
            "log_bytes": self.log_bytes,
            "config": to_dict(self.run),
        }
        save_weights(self.paths.trained_alone, self.adversary, header)

    def _phase(
        self, phase: Literal["adversary", "main"], move: Move, players: list[Player], settings: Training
    ) -> Progress:
        """One training of the run, from its newest checkpoint if it has one."""
        progress = Progress()
        if self.saved and self.saved[2].get("phase") == phase:
            path, tensors, header = self.saved
            progress = restore_checkpoint(tensors, header, players)
            self.seconds = float(header["seconds"])
            self._cut_log(int(header["log_bytes"]), path)
            self.notice(f"going on from {path.name}: epoch {progress.epoch + 1}, step {progress.step}")
        else:
            self._cut_log(self.log_bytes, self.paths.trained_alone)
        self.epochs = progress.epoch
        memory.forget_after(self.paths.folder, progress.epoch if phase == "main" else 0)
        n_steps = max(1, len(self.data) // min(settings.batch_size, len(self.data)))
        save = partial(self._save, phase, players, n_steps)

        def on_step(progress: Progress) -> None:
            if signal_number := self.interrupted():
                save(progress)
                raise Interrupted(
                    signal_number, f"stopped and saved in {self.paths.folder}; the same command goes on from here"
                )

        def on_epoch(epoch: Epoch, progress: Progress) -> None:
            self.seconds += epoch.seconds
            self.epochs = epoch.epoch
            record = _epoch_record(self.run, phase, epoch)
            append(self.paths.epochs, record)
            if phase == "main":
                self._remember(epoch, progress)
            self.report_epoch(record)
            age = time.monotonic() - self.last_save
            if progress.stopped or age >= settings.checkpoint_seconds:
                save(progress)

        train(
            move,
            self.data,
            players,
            settings,
            seed=self.run.seed if phase == "main" else self.run.seed + 2**32,
            progress=progress,
            streams=[self.stream],
            on_step=on_step,
            on_epoch=on_epoch,
        )
        self.offset += progress.epoch * n_steps
        return progress

    def _remember(self, epoch: Epoch, progress: Progress) -> None:
        """Keep the snapshot and the watch that the run asks for; the training is not touched."""
        run, folder = self.run, self.paths.folder
        if run.history and (epoch.epoch % run.history == 0 or progress.stopped):
            memory.save_snapshot(folder, memory.Snapshot(epoch.epoch, self.defender, self.adversary), self.data)
        if run.watch:
            fixed = data.stratified(self.data, 512)
            fgsm, pgd = memory.overfitting(self.defender, fixed, self.threat, seed=run.seed)
            step = epoch.epoch * epoch.steps
            record = memory.WatchRecord(run.recipe, run.seed, epoch.epoch, step, run.eps, len(fixed), fgsm, pgd)
            if record.overfitted and memory.first_overfitted(memory.read_watch(folder)) is None:
                self.notice(
                    f"epoch {record.epoch}, step {step}: {100 * fgsm:.1f} % under FGSM, {100 * pgd:.1f} % under PGD-10; "
                    "the defender may withstand the single step only"
                )
            memory.append_watch(folder, record)

    def _save(self, phase: str, players: list[Player], n_steps: int, progress: Progress) -> None:
        header = {
            "phase": phase,
            "seconds": self.seconds,
            "log_bytes": self._log_length(),
            "digest": self.run.digest,
            "data": self.data.fingerprint,
            "environment": environment(self.device),
        }
        if self.paths.epochs.exists():
            with self.paths.epochs.open("rb") as log:
                os.fsync(log.fileno())  # the checkpoint will refer to it
        step = self.offset + progress.epoch * n_steps + progress.step
        save_checkpoint(self.paths.checkpoint(step), players, progress, header)
        prune(self.paths.folder)
        self.last_save = time.monotonic()

    def _log_length(self) -> int:
        return self.paths.epochs.stat().st_size if self.paths.epochs.exists() else 0

    def _cut_log(self, n_bytes: int, saved: Path) -> None:
        """Make the log as long as it was when `saved` was written, so that a resumed log equals an uninterrupted one."""
        if self._log_length() < n_bytes:
            raise CorruptCheckpoint(f"{self.paths.epochs} is shorter than {saved.name} says; --restart trains again")
        if self.paths.epochs.exists():
            with self.paths.epochs.open("r+b") as file:
                file.truncate(n_bytes)
                os.fsync(file.fileno())


def _network(settings: Network, shape: tuple[int, ...], n_out: int, draws: torch.Generator) -> MLP:
    return mlp(
        shape,
        [*settings.hidden, n_out],
        slope=settings.slope,
        bn_eps=settings.bn_eps,
        bn_momentum=settings.bn_momentum,
        initialisation=settings.initialisation,
        generator=draws,
    )


def _dynamic(run: Run) -> dynamics.Dynamic:
    play = run.play
    if play.dynamic == "simultaneous":
        return dynamics.simultaneous
    if play.dynamic == "extragradient":
        return dynamics.extragradient
    return dynamics.alternating(play.adversary_steps, play.defender_steps, play.first)


def _loaded_adversary(run: Run, shape: tuple[int, ...], path: Path) -> Adversary | None:
    if run.adversary is None or not path.is_file():
        return None
    adversary = new_adversary(run, shape)
    load_weights(path, adversary)
    return adversary.eval()


def _make(folder: Path) -> None:
    """The folder, and that it can be written to, before any compute."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {folder} ({error.strerror}); choose another --out") from None


def _claim(run: Run, paths: RunPaths, train_on: data.Data, device: torch.device | str, notice: Notice) -> None:
    """Write down what the folder is for; raises InputError where it is for something else."""
    here = environment(device) | {"data": train_on.fingerprint, "commit": commit()}
    if not paths.config.is_file():
        write_json(paths.environment, here)
        write_json(paths.config, to_dict(run))  # last: its presence says that both are there
        return
    before = from_dict(Run, read_json(paths.config))
    if different := differences(decisive(before), decisive(run)):
        raise InputError(
            f"{paths.folder} was made by another config ({'; '.join(different)}); choose another --out, or --restart"
        )
    recorded = read_json(paths.environment)
    if recorded.get("data") != here["data"]:
        raise InputError(f"{paths.folder} was trained on other data (its fingerprint differs); choose another --out")
    if not paths.done.is_file() and (different := changes(recorded, here)):
        notice(f"resume is valid but not bit-exact: {', '.join(different)}")
        write_json(paths.environment, here)


def _clear(paths: RunPaths) -> None:
    """Forget an earlier training in this folder."""
    for path in paths.folder.iterdir():
        if path.is_file() and path != paths.lock:
            path.unlink()


def _epoch_record(run: Run, phase: Literal["adversary", "main"], epoch: Epoch) -> EpochRecord:
    means, rates, norms = epoch.means, epoch.rates, epoch.grad_norms
    return EpochRecord(
        recipe=run.recipe,
        seed=run.seed,
        phase=phase,
        epoch=epoch.epoch,
        steps=epoch.steps,
        defender_loss=means.get("defender_loss"),
        adversary_loss=means.get("adversary_loss"),
        defender_lr=rates.get("defender"),
        adversary_lr=rates.get("adversary"),
        defender_grad_norm=norms.get("defender"),
        adversary_grad_norm=norms.get("adversary"),
        clean_accuracy=means.get("clean_accuracy"),
        perturbed_accuracy=means.get("perturbed_accuracy"),
        clipped=means.get("clipped"),
        seconds=round(epoch.seconds, 3),
    )
