"""The training loop: every regime goes through it, with its own move."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring import faults, modes
from sparring.config import Training
from sparring.data.batches import Data, batch_indices, minibatch
from sparring.errors import Diverged
from sparring.game.moves import Metrics, Move
from sparring.game.player import Player
from sparring.randomness import Stream, generator


@dataclass
class Progress:
    """Where a training stands: enough, with the players, to go on as if it had never stopped."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the present epoch
    best: float = math.inf
    stale: int = 0  # epochs since the best
    stopped: str = ""  # why it ended; empty while it goes on
    seconds: float = 0.0  # spent on the present epoch so far
    sums: Metrics = field(default_factory=dict)  # of the present epoch's metrics


@dataclass(frozen=True)
class Epoch:
    """What an epoch did: its means, and the rates it was trained with."""

    epoch: int
    steps: int
    means: dict[str, float]
    rates: dict[str, float]  # player -> learning rate
    grad_norms: dict[str, float]  # player -> of the last step
    seconds: float


def train(
    move: Move,
    data: Data,
    players: Sequence[Player],
    settings: Training,
    *,
    seed: int,
    progress: Progress | None = None,
    streams: Sequence[Stream] = (),
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[Epoch, Progress], None] = lambda epoch, progress: None,
) -> Progress:
    """Play `move` on minibatches until the settings' stopping rule holds; the last of `players` decides by its loss.

    `on_step` may end the training at once: by a reason in `progress.stopped`.

    Each epoch's order derives from the seed and the epoch, and `streams` are moved to each (epoch, step), so a
    training that goes on from a saved `progress` takes the same course. Raises Diverged, before the step, where a loss or
    gradient is not finite.
    """
    progress = progress or Progress()
    with modes.flushed_denormals():
        while not progress.stopped:
            started = time.perf_counter() - progress.seconds
            order = batch_indices(len(data), settings.batch_size, generator(seed, "order", progress.epoch))
            order = order.to(data.images.device)
            for step in range(progress.step, len(order)):
                for stream in streams:
                    stream.seek(progress.epoch, step)
                x, y = minibatch(data, order[step])
                try:
                    metrics = move(x, y)
                except Diverged as error:
                    raise Diverged(
                        f"diverged in epoch {progress.epoch + 1}, step {step + 1}: {error}; {ADVICE}"
                    ) from None
                for name, value in metrics.items():
                    progress.sums[name] = progress.sums[name] + value if name in progress.sums else value
                progress.step = step + 1
                progress.seconds = time.perf_counter() - started
                faults.point("step")
                on_step(progress)
                if progress.stopped:
                    return progress
            epoch = _end_epoch(players, settings, progress, len(order))
            on_epoch(epoch, progress)
    return progress


ADVICE = "start that player with a lower learning rate"


def _end_epoch(players: Sequence[Player], settings: Training, progress: Progress, n_steps: int) -> Epoch:
    """Close the epoch: means, rates, stopping rule; `progress` then stands at the start of the next one."""
    means = {name: value / n_steps for name, value in progress.sums.items()}
    epoch = Epoch(
        epoch=progress.epoch + 1,
        steps=n_steps,
        means={name: _scalar(value) for name, value in means.items()},
        rates={player.name: _scalar(player.optimizer.lr) for player in players},
        grad_norms={player.name: _scalar(player.grad_norm) for player in players},
        seconds=progress.seconds,
    )
    for player in players:
        player.end_epoch(epoch.epoch, means[f"{player.name}_loss"])
    progress.epoch, progress.step, progress.seconds, progress.sums = epoch.epoch, 0, 0.0, {}
    _stop(players, settings, progress, epoch)
    return epoch


def _stop(players: Sequence[Player], settings: Training, progress: Progress, epoch: Epoch) -> None:
    """Decide whether training has converged (docs/claims.md, ambiguity e)."""
    decisive = players[-1]
    value = epoch.means[f"{decisive.name}_loss"]
    loss = -value if decisive.maximizes else value
    if loss < progress.best - settings.flat * abs(progress.best) or math.isinf(progress.best):
        progress.best, progress.stale = loss, 0
    else:
        progress.stale += 1
    if progress.stale >= settings.patience:
        progress.stopped = f"loss flat for {progress.stale} epochs"
    elif all(_scalar(player.optimizer.lr) < settings.min_lr for player in players):
        progress.stopped = f"learning rate below {settings.min_lr:g}"
    elif progress.epoch >= settings.max_epochs:
        progress.stopped = f"{progress.epoch} epochs"


def _scalar(value: Tensor) -> float:
    return float(torch.as_tensor(value).mean())
