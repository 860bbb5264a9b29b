"""The end of a recurrent game: the defender stands still, and the adversary learns in the rounds in which it attacks."""

import math

from torch import nn

from sparring import modes
from sparring.adversaries import RecurrentAdversary
from sparring.data import Data
from sparring.game.limited import train_steps
from sparring.game.player import player
from sparring.game.radii import Radii
from sparring.game.unrolled import recurrent_response
from sparring.losses import Loss, log_odds
from sparring.randomness import Stream
from sparring.threat import ThreatModel

CLOSING = 60  # turns
RATE, BATCH = 0.03, 128


def closing_turns(most: int, epochs: int, steps: int, every: int) -> int:
    """How many turns close a game of so many epochs and steps in each: as many as the adversary had in it (`learns_at`), but at
    most `most`."""
    return min(most, epochs * math.ceil(steps / every)) if every else 0


def close(
    adversary: RecurrentAdversary,
    defender: nn.Module,
    data: Data,
    threat: ThreatModel,
    *,
    turns: int,
    seed: int,
    low: float | None = None,
    power: float = 1.0,
    loss: Loss = log_odds,
) -> None:
    """So many steps of the adversary against the defender as it is, each from where a round of its own ends, one after another.

    In the game each minibatch is one round, from where another epoch left the example; as an attack the adversary starts at the
    example and goes on for `rounds`. Step sizes for one round are too long for ten. Radii are as in the game (`Radii`). The
    defender is not touched, nor does a step that is not finite change the adversary.
    """
    if not turns:
        return
    stream = Stream(seed, "closing")
    learner = player("adversary", adversary, maximize=True, kind="adam", lr=RATE, weight_decay=0.0, rate="constant")
    radii = Radii(float(threat.eps), low, stream, power)
    move = recurrent_response(learner, [defender], threat, radii, stream, loss=loss)
    with modes.evaluation(defender):
        train_steps(move, data, learner, steps=turns, seed=seed, batch_size=BATCH, streams=[stream])
