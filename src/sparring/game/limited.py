"""Training for so many steps or seconds, whatever the size of the data: of best responses and surrogates."""

import math
import time
from collections.abc import Sequence
from contextlib import suppress

from sparring.config import Training
from sparring.data import Data
from sparring.errors import Diverged
from sparring.game.moves import Move
from sparring.game.player import Player
from sparring.game.train import Progress, train
from sparring.randomness import Stream


def train_steps(
    move: Move,
    data: Data,
    learner: Player,
    *,
    steps: int,
    seed: int,
    seconds: float = math.inf,
    batch_size: int = 128,
    streams: Sequence[Stream] = (),
) -> int:
    """So many steps of a move, or as many as the seconds allow; returns how many.

    The last third runs at a tenth of the rate. A training that diverges ends before the step that would not be finite.
    """
    started, made = time.monotonic(), 0

    def count(progress: Progress) -> None:
        nonlocal made
        made += 1
        if made == steps * 2 // 3:
            learner.optimizer.lr.div_(10)
        if made >= steps:
            progress.stopped = f"{made} steps"
        elif time.monotonic() - started > seconds:
            progress.stopped = f"{seconds:g} seconds"

    batch_size = min(batch_size, len(data))
    epochs = math.ceil(steps / (len(data) // batch_size))
    endless = Training(max_epochs=epochs + 1, patience=epochs + 2, min_lr=0.0, batch_size=batch_size)
    with suppress(Diverged):
        train(move, data, [learner], endless, seed=seed, streams=streams, on_step=count)
    return made
