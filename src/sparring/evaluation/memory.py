"""What a game remembers: past adversaries against past defenders, and the signs of overfitting to one step while it trains.

A run may keep snapshots of its players, history/epochNNN.safetensors, and a watch, watch.jsonl (`config.Run.history`,
`config.Run.watch`). Letters: A adversaries, D defenders, N examples. Rates are fractions.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sparring.adversaries import AnyAdversary
from sparring.attacks import PGD, fgsm
from sparring.data import Data
from sparring.errors import CorruptCheckpoint, InputError
from sparring.evaluation.accuracy import attacked
from sparring.evaluation.transfer import transfer
from sparring.game.checkpoint import check_same, read_verified, write_verified
from sparring.randomness import Stream, check_seed
from sparring.records import RunPaths, append, read, write
from sparring.threat import ThreatModel

OVERFITTING = 0.2  # FGSM accuracy less PGD accuracy: an early-stop rule of Wong et al. 2020, there on another quantity


@dataclass(frozen=True)
class Payoffs:
    """Accuracy of past defenders against past adversaries, at one eps on the same examples."""

    eps: float
    adversary_epochs: tuple[int, ...]  # ascending
    defender_epochs: tuple[int, ...]
    correct: Tensor  # (A, D, N) bool

    @property
    def accuracy(self) -> Tensor:
        """(A, D) float64."""
        return self.correct.cpu().double().mean(-1)

    @property
    def cycling(self) -> dict[int, float]:
        """For each defender with a past, by its epoch: accuracy against its worst past adversary less that against its own.

        Its own is the last one of its epoch or before. Clearly below 0: the defender forgot what it once withstood.
        """
        found, accuracy = {}, self.accuracy
        for column, epoch in enumerate(self.defender_epochs):
            known = [row for row, other in enumerate(self.adversary_epochs) if other <= epoch]
            if len(known) > 1:
                left = accuracy[known, column]
                found[epoch] = float(left[:-1].min() - left[-1])
        return found

    def __str__(self) -> str:
        lines = [f"accuracy in %, eps {self.eps:g}; columns: the defender of epoch; rows: the adversary of epoch"]
        lines.append("      " + " ".join(f"{epoch:>5}" for epoch in self.defender_epochs))
        for epoch, row in zip(self.adversary_epochs, self.accuracy.tolist(), strict=True):
            lines.append(f"{epoch:>5} " + " ".join(f"{100 * value:5.1f}" for value in row))
        return "\n".join(lines)


@dataclass(frozen=True)
class Snapshot:
    """Both players as they were after an epoch, in evaluation mode."""

    epoch: int
    defender: nn.Module
    adversary: AnyAdversary | None


@dataclass(frozen=True)
class WatchRecord:
    """The defender after one epoch, on a fixed part of its training examples: one gradient step against ten."""

    recipe: str
    seed: int
    epoch: int
    step: int  # finished steps of the main training
    eps: float
    n: int
    fgsm: float
    pgd: float  # PGD-10

    @property
    def overfitted(self) -> bool:
        """Whether the defender withstands the single step only."""
        return self.fgsm - self.pgd > OVERFITTING


def payoffs(
    adversaries: Sequence[tuple[int, AnyAdversary]],
    defenders: Sequence[tuple[int, nn.Module]],
    data: Data,
    eps: float,
    *,
    batch_size: int | None = None,
) -> Payoffs:
    """Every adversary against every defender, each given with its epoch. Raises InputError for none, or an epoch twice."""
    rows, columns = sorted(adversaries, key=lambda pair: pair[0]), sorted(defenders, key=lambda pair: pair[0])
    a, d = tuple(epoch for epoch, _ in rows), tuple(epoch for epoch, _ in columns)
    if not a or not d or len(set(a)) < len(a) or len(set(d)) < len(d):
        raise InputError(f"payoffs need adversaries and defenders of different epochs; got epochs {a} and {d}")
    cells = transfer(
        {str(epoch): adversary for epoch, adversary in rows},
        {str(epoch): defender for epoch, defender in columns},
        data,
        eps,
        batch_size=batch_size,
    )
    correct = torch.stack([torch.stack([cells[str(i), str(j)].cpu() for j in d]) for i in a])
    return Payoffs(float(eps), a, d, correct)


def overfitting(model: nn.Module, data: Data, threat: ThreatModel, *, seed: int = 0) -> tuple[float, float]:
    """(accuracy under FGSM, accuracy under PGD-10) on the given examples, 512 as a rule; the model is left as it was.

    A large difference is catastrophic overfitting: the defender learned to withstand the single step only.
    """
    stream = Stream(check_seed(seed), "watch")
    single = attacked(model, data, fgsm(threat), threat)
    return single.accuracy, attacked(
        model, data, PGD(threat, steps=10, stream=stream), threat, streams=[stream]
    ).accuracy


def save_snapshot(run: Path, snapshot: Snapshot, data: Data) -> None:
    """Keep the players' weights in the run's folder, of which `data` is the training set."""
    tensors = {f"defender.{k}": v for k, v in snapshot.defender.state_dict().items()}
    if snapshot.adversary is not None:
        tensors |= {f"adversary.{k}": v for k, v in snapshot.adversary.state_dict().items()}
    header = {"epoch": snapshot.epoch, "shape": list(data.shape), "n_classes": data.n_classes}
    folder = RunPaths(run).history
    folder.mkdir(exist_ok=True)
    write_verified(folder / f"epoch{snapshot.epoch:03d}.safetensors", tensors, header)


def load_history(
    run: Path, new: Callable[[tuple[int, ...], int], tuple[nn.Module, AnyAdversary | None]]
) -> list[Snapshot]:
    """The snapshots in a run's folder, by epoch, none if it kept none.

    `new` makes untrained players for a shape of inputs and a number of classes. Raises CorruptCheckpoint for a damaged file,
    InputError where the weights do not fit.
    """
    snapshots = []
    for path in _history(run):
        tensors, header = read_verified(path)
        try:
            defender, adversary = new(tuple(header["shape"]), int(header["n_classes"]))
        except (KeyError, TypeError):
            raise CorruptCheckpoint(f"{path} is no snapshot: its header lacks shape or n_classes") from None
        players = {"defender": defender} | ({"adversary": adversary} if adversary is not None else {})
        check_same(
            {f"{p}.{k}": v for p, net in players.items() for k, v in net.state_dict().items()}, tensors, str(path)
        )
        for name, network in players.items():
            prefix = f"{name}."
            network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
            network.eval()
        snapshots.append(Snapshot(_epoch(path), defender, adversary))
    return snapshots


def kept_epochs(run: Path) -> list[int]:
    """The epochs whose snapshots lie in a run's folder, ascending; nothing is read."""
    return [_epoch(path) for path in _history(run)]


def append_watch(run: Path, record: WatchRecord) -> None:
    """Add one record to the run's watch."""
    append(RunPaths(run).watch, record)


def read_watch(run: Path) -> list[WatchRecord]:
    """The run's watch, none if it kept none."""
    return read(RunPaths(run).watch, WatchRecord)


def first_overfitted(records: Iterable[WatchRecord]) -> WatchRecord | None:
    """The first record at which FGSM accuracy was more than 20 points above PGD accuracy."""
    return next((record for record in records if record.overfitted), None)


def forget_after(run: Path, epoch: int) -> None:
    """Remove what was kept of later epochs: a training that goes on from here will write it again."""
    for path in _history(run):
        if _epoch(path) > epoch:
            path.unlink()
    records = read_watch(run)
    if any(record.epoch > epoch for record in records):
        write(RunPaths(run).watch, [record for record in records if record.epoch <= epoch])


def _history(run: Path) -> list[Path]:
    paths = RunPaths(run).history.glob("epoch*.safetensors")
    return sorted((p for p in paths if re.fullmatch(r"epoch\d+\.safetensors", p.name)), key=_epoch)


def _epoch(path: Path) -> int:
    return int(path.name.removeprefix("epoch").removesuffix(".safetensors"))
