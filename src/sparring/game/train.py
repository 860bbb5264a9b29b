"""The training loop: every regime goes through it, with its own move.

Letters: S copies, one for each seed; a single network has none of that axis.
"""

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparring import faults, modes
from sparring.config import Training
from sparring.data.batches import Data, batch_indices, minibatch
from sparring.errors import Diverged
from sparring.game.captured import Captured
from sparring.game.moves import Metrics, Move
from sparring.game.player import Player
from sparring.game.warm import WarmStart
from sparring.models import keep_copies
from sparring.randomness import Stream, derive, generator, own_draws

EVERYONE = "every copy has ended"


@dataclass
class Standing:
    """Where one copy of a stack stands in its own stopping rule."""

    best: float = math.inf
    stale: int = 0  # epochs since the best
    stopped: str = ""  # why it ended; empty while it goes on
    diverged: bool = False

    @property
    def ended(self) -> bool:
        return bool(self.stopped) or self.diverged


@dataclass
class Progress:
    """Where a training stands: enough, with the players, to go on as if it had never stopped."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the present epoch
    best: float = math.inf
    stale: int = 0  # epochs since the best
    stopped: str = ""  # why it ended; empty while it goes on, and in a stack while any copy does
    seconds: float = 0.0  # spent on the present epoch so far, in a stack by each copy
    sums: Metrics = field(default_factory=dict)  # of the present epoch's metrics, each () or (S,)
    copies: list[Standing] = field(default_factory=list)  # of a stack: those that it still has

    def of(self, s: int) -> "Progress":
        """Copy s's own, as if it were training alone."""
        own, sums = self.copies[s], {name: value[s] for name, value in self.sums.items()}
        return Progress(self.epoch, self.step, own.best, own.stale, own.stopped, self.seconds, sums)


def together(alone: Sequence[Progress]) -> Progress:
    """Trainings that stand at the same step as one stack's; the other way of `Progress.of`."""
    first = alone[0]
    sums = {name: torch.stack([progress.sums[name] for progress in alone]) for name in first.sums}
    copies = [Standing(progress.best, progress.stale, progress.stopped) for progress in alone]
    stopped = EVERYONE if all(copy.stopped for copy in copies) else ""
    return Progress(first.epoch, first.step, stopped=stopped, seconds=first.seconds, sums=sums, copies=copies)


@dataclass(frozen=True)
class Epoch:
    """What an epoch did, to one copy of a stack: its means, and the rates it was trained with."""

    epoch: int
    steps: int
    means: dict[str, float]
    rates: dict[str, float]  # player -> learning rate
    grad_norms: dict[str, float]  # player -> of the last step
    seconds: float  # in a stack, its share
    copy: int = 0  # whose, counted among those that the stack had in this epoch


def train(
    move: Move,
    data: Data,
    players: Sequence[Player],
    settings: Training,
    *,
    seed: int | Sequence[int],
    progress: Progress | None = None,
    streams: Sequence[Stream] = (),
    warm: Sequence[WarmStart] = (),
    bystanders: Sequence[nn.Module] = (),
    capture: bool = False,
    course: Callable[[int], Hashable] = lambda step: None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[Epoch, Progress], None] = lambda epoch, progress: None,
    after_epoch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Play `move` on minibatches until the settings' stopping rule holds; the last of `players` decides by its loss.

    With a sequence of seeds the players are stacks, and each copy has its own order of the data, its own rate and its own
    stopping rule. A copy that has stopped or diverged is marked in `progress.copies`, reported by `after_epoch`, and dropped
    from players, streams, `warm` starts and `bystanders` (stacks that the move reads only) before the next epoch; the others
    go on.

    `on_step` may end the training at once: by a reason in `progress.stopped`. `on_epoch` is called for every copy.
    `capture` records the step as a CUDA graph, where the players are on such a device: the move must not wait for it. A move that
    does not do the same at every step of an epoch needs `course`, which tells steps that differ apart; each has its own graph.

    Each epoch's order derives from the seed and the epoch, `streams` are moved to each (epoch, step) and `warm` starts opened at
    each minibatch's examples, so a training that goes on from a saved `progress` takes the same course. PyTorch's own generators,
    from which a network's dropout draws, are seeded at each step too, and put back (but on CUDA within a graph). A single
    network raises Diverged, before the step, where a loss or gradient is not finite.
    """
    seeds = [seed] if isinstance(seed, int) else list(seed)
    stacked = not isinstance(seed, int)
    progress = progress or Progress(copies=[Standing() for _ in seeds] if stacked else [])
    device = data.images.device

    def play(index: Tensor) -> Metrics:
        for table in warm:
            table.seek(index)
        return move(*minibatch(data, index))

    def new_step() -> Callable[[Tensor, Hashable], Metrics]:
        return Captured(play, streams) if capture and device.type == "cuda" else lambda index, course: play(index)

    with modes.flushed_denormals(), torch.enable_grad():
        step_of = new_step()
        while not progress.stopped:
            going = [s for s, copy in enumerate(progress.copies) if not copy.ended]
            if going and len(going) < len(seeds):
                seeds, step_of = [seeds[s] for s in going], new_step()
                _drop(going, progress, players, streams, warm, bystanders)
            started = time.perf_counter() - progress.seconds * len(seeds)
            orders = [
                batch_indices(len(data), settings.batch_size, generator(one, "order", progress.epoch)) for one in seeds
            ]
            order = (torch.stack(orders, 1) if stacked else orders[0]).to(device)  # (steps, B) or (steps, S, B)
            with own_draws(torch.device("cpu") if capture else device) as draw_from:
                for step in range(progress.step, len(order)):
                    draw_from(derive(seeds[0], "model", progress.epoch, step))
                    for stream in streams:
                        stream.seek(progress.epoch, step)
                    try:
                        metrics = step_of(order[step], course(step))
                    except Diverged as error:
                        raise Diverged(f"{_where(progress, step)}: {error}; {ADVICE}") from None
                    for name, value in metrics.items():
                        progress.sums[name] = progress.sums[name] + value if name in progress.sums else value.clone()
                    progress.step = step + 1
                    progress.seconds = (time.perf_counter() - started) / len(seeds)
                    faults.point("step")
                    on_step(progress)
                    if progress.stopped:
                        return progress
            for epoch in _end_epoch(players, settings, progress, len(order), started):
                on_epoch(epoch, progress)
            after_epoch(progress)
    return progress


ADVICE = "start that player with a lower learning rate"


def _where(progress: Progress, step: int) -> str:
    return f"diverged in epoch {progress.epoch + 1}, step {step + 1}"


def _end_epoch(
    players: Sequence[Player], settings: Training, progress: Progress, n_steps: int, started: float
) -> list[Epoch]:
    """Close the epoch: means, rates, stopping rules; `progress` then stands at the start of the next one."""
    means = {name: value / n_steps for name, value in progress.sums.items()}
    columns = [(name, _values(value)) for name, value in means.items()]
    rates = [(player.name, _values(player.optimizer.lr)) for player in players]
    norms = [(player.name, _values(player.grad_norm)) for player in players]
    diverged = torch.stack([player.diverged for player in players]).any(0).reshape(-1).tolist()
    standings: Sequence[Standing | Progress] = progress.copies or [progress]
    progress.seconds = (time.perf_counter() - started) / len(standings)  # values have been asked for: a GPU is done
    epochs = []
    for s, standing in enumerate(standings):
        if diverged[s]:
            assert isinstance(standing, Standing)
            standing.diverged = True
            continue
        epoch = Epoch(
            epoch=progress.epoch + 1,
            steps=n_steps,
            means={name: values[s] for name, values in columns},
            rates={name: values[s] for name, values in rates},
            grad_norms={name: values[s] for name, values in norms},
            seconds=progress.seconds,
            copy=s,
        )
        epochs.append(epoch)
    for player in players:
        player.end_epoch(progress.epoch + 1, means[f"{player.name}_loss"])
    left = [(player.name, _values(player.optimizer.lr)) for player in players]
    progress.epoch, progress.step, progress.seconds, progress.sums = progress.epoch + 1, 0, 0.0, {}
    for epoch in epochs:
        rates_left = [values[epoch.copy] for _, values in left]
        _stop(players[-1], settings, standings[epoch.copy], epoch, rates_left)
    if progress.copies and all(copy.ended for copy in progress.copies):
        progress.stopped = EVERYONE
    return epochs


def _stop(
    decisive: Player, settings: Training, standing: Standing | Progress, epoch: Epoch, rates: Sequence[float]
) -> None:
    """Decide whether a training has converged (docs/claims.md, ambiguity e)."""
    value = epoch.means[f"{decisive.name}_loss"]
    loss = -value if decisive.maximizes else value
    if loss < standing.best - settings.flat * abs(standing.best) or math.isinf(standing.best):
        standing.best, standing.stale = loss, 0
    else:
        standing.stale += 1
    if standing.stale >= settings.patience:
        standing.stopped = f"loss flat for {standing.stale} epochs"
    elif all(rate < settings.min_lr for rate in rates):
        standing.stopped = f"learning rate below {settings.min_lr:g}"
    elif epoch.epoch >= settings.max_epochs:
        standing.stopped = f"{epoch.epoch} epochs"


def _drop(
    going: Sequence[int],
    progress: Progress,
    players: Sequence[Player],
    streams: Sequence[Stream],
    warm: Sequence[WarmStart],
    bystanders: Sequence[nn.Module],
) -> None:
    """Narrow a stack to the copies that go on."""
    index = torch.tensor(going, device=players[0].optimizer.lr.device)
    for player in players:
        player.keep(index)
    for network in bystanders:
        keep_copies(network, index)
    for stream in streams:
        stream.keep(going)
    for table in warm:
        table.keep(index)
    progress.copies = [progress.copies[s] for s in going]


def _values(value: Tensor) -> list[float]:
    """A number of each copy, or the only one."""
    return [float(v) for v in value.detach().reshape(-1).tolist()]
