"""One seed's run on disk: its folder, what it claims, its log, its record; and where several seeds can go on together."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from sparring import data
from sparring.adversaries.adversary import n_parameters
from sparring.config import Run, decisive
from sparring.environment import changes, commit, environment
from sparring.errors import CorruptCheckpoint, InputError
from sparring.experiment import new_adversary, new_defender
from sparring.game.checkpoint import (
    KEPT,
    Saved,
    latest,
    latest_common,
    load_weights,
    newest_first,
    place_of,
    save_weights,
    sweep,
    verifies,
)
from sparring.game.train import Epoch
from sparring.records import EpochRecord, RunPaths, RunRecord, read_json, write_json
from sparring.settings import differences, from_dict, to_dict

Notice = Callable[[str], None]


@dataclass
class Copy:
    """One seed's run: its config, files, networks on the CPU, and what it has spent."""

    run: Run
    paths: RunPaths
    number: int
    data: data.Data
    anew: str = "--restart"  # what errors advise for a training from the beginning
    seconds: float = 0.0
    epochs: int = 0
    offset: int = 0  # steps of finished phases, so that checkpoints of later phases sort last
    log_bytes: int = 0  # length of the log when the present phase began
    saved: Saved | None = None

    def __post_init__(self) -> None:
        self.defender = new_defender(self.run, self.data.shape, self.data.n_classes)
        self.adversary = new_adversary(self.run, self.data.shape) if self.run.learner else None
        self.first_alone = self.run.alone is not None  # whether its adversary has yet to train alone
        if self.adversary is not None and self.paths.trained_alone.is_file():
            header = load_weights(self.paths.trained_alone, self.adversary)
            self.seconds, self.offset, self.log_bytes = header["seconds"], header["steps"], header["log_bytes"]
            self.first_alone = False

    def finish(self, stopped: str) -> None:
        """Write the weights, then the run's record."""
        header = {"shape": list(self.data.shape), "n_classes": self.data.n_classes, "config": to_dict(self.run)}
        digest = save_weights(self.paths.defender, self.defender, header)
        if self.adversary is not None:
            save_weights(self.paths.adversary, self.adversary, header)
        self._record("done", stopped, digest=digest)

    def fail(self, message: str) -> None:
        """Record that it diverged; there are no weights."""
        self._record("diverged", "", message=message)

    def log_length(self) -> int:
        """Bytes of the log of epochs."""
        return self.paths.epochs.stat().st_size if self.paths.epochs.exists() else 0

    def cut_log(self, n_bytes: int, saved: str) -> None:
        """Make the log as long as it was when `saved` was written, so that a resumed log equals an uninterrupted one."""
        if self.log_length() < n_bytes:
            raise CorruptCheckpoint(f"{self.paths.epochs} is shorter than {saved} says; {self.anew} to train again")
        if self.paths.epochs.exists():
            with self.paths.epochs.open("r+b") as file:
                file.truncate(n_bytes)
                os.fsync(file.fileno())

    def _record(
        self, status: Literal["done", "diverged"], stopped: str, *, digest: str = "", message: str = ""
    ) -> None:
        record = RunRecord(
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
        write_json(self.paths.done, record)


def standing_together(copies: list[Copy], notice: Notice) -> list[list[Copy]]:
    """The copies in groups that stand at the same place, each with its checkpoint; as a rule there is one."""
    for copy in copies:
        for name in sweep(copy.paths.folder):
            notice(f"removed {name}, left over by a writer that died")
    if len(copies) > 1 and _go_to_a_shared_place(copies, notice):
        return [copies]
    groups: dict[tuple[Any, ...], list[Copy]] = {}
    for copy in copies:
        copy.saved = latest(copy.paths.folder, notice, copy.anew)
        if copy.saved is not None and not newest_first(copy.paths.folder, beyond=copy.offset):
            copy.saved = None  # of the adversary alone, which is done
        place = place_of(copy.saved[2]) if copy.saved else None
        groups.setdefault((copy.first_alone, place), []).append(copy)
    if len(groups) > 1:
        notice(f"seeds stand at {len(groups)} different steps; they go on one group after another, not bit-exact")
    return list(groups.values())


def _go_to_a_shared_place(copies: list[Copy], notice: Notice) -> bool:
    """Put all at the newest place that they share, a step with sound checkpoints or a phase's start; False where none is near.

    What a copy has beyond that place is removed: the way there will be gone again.
    """
    alone = [copy for copy in copies if copy.first_alone]
    waiting = [copy for copy in copies if alone and not copy.first_alone]
    if waiting and not (all(map(_near_start, waiting)) and _go_to_a_shared_place(alone, notice)):
        return False
    together = waiting or copies
    offsets = {copy.offset for copy in together}
    folders = [copy.paths.folder for copy in together]
    found = None if waiting or len(offsets) > 1 else latest_common(folders, notice, beyond=max(offsets))
    if found is None and not all(map(_near_start, together)):
        return False
    for s, copy in enumerate(together):
        copy.saved = found[s] if found else None
        reached = int(found[s][0].stem.removeprefix("checkpoint-")) if found else copy.offset
        for path in newest_first(copy.paths.folder, beyond=reached):
            path.unlink()
    return True


def _near_start(copy: Copy) -> bool:
    """Whether its phase's start is no further back than a checkpoint may be, none having been pruned yet."""
    paths = newest_first(copy.paths.folder, beyond=copy.offset)
    return not paths or (len(paths) < KEPT and any(map(verifies, paths)))


def make_folder(folder: Path) -> None:
    """The folder, and that it can be written to, before any compute."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {folder} ({error.strerror}); choose another --out") from None


def claim(
    run: Run, paths: RunPaths, train_on: data.Data, device: torch.device, n_copies: int, notice: Notice, anew: str
) -> None:
    """Write down what the folder is for; raises InputError where it is for something else."""
    here = environment(device) | {"copies": n_copies, "data": train_on.fingerprint, "commit": commit()}
    if not paths.config.is_file():
        write_json(paths.environment, here)
        write_json(paths.config, to_dict(run))  # last: its presence says that both are there
        return
    before = from_dict(Run, read_json(paths.config))
    if different := differences(decisive(before), decisive(run)):
        raise InputError(
            f"{paths.folder} was made by another config ({'; '.join(different)}); choose another --out, or {anew}"
        )
    recorded = read_json(paths.environment)
    if recorded.get("data") != here["data"]:
        raise InputError(f"{paths.folder} was trained on other data (its fingerprint differs); choose another --out")
    if not paths.done.is_file() and (different := changes(recorded, here)):
        notice(f"resume is valid but not bit-exact: {', '.join(different)}")
        write_json(paths.environment, here)


def clear(paths: RunPaths) -> None:
    """Forget an earlier training in this folder: first that it ended, last what it was, whenever this is killed."""
    files = [path for path in paths.folder.iterdir() if path.is_file() and path != paths.lock]
    for path in sorted(files, key=lambda path: (path != paths.done, path == paths.config)):
        path.unlink()


def epoch_record(run: Run, phase: Literal["adversary", "main"], epoch: Epoch) -> EpochRecord:
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
