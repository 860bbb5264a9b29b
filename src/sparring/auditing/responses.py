"""Networks that the audit trains itself: fresh adversaries against the frozen model, and a surrogate for transfer."""

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparring import modes
from sparring.adversaries import AnyAdversary, RecurrentAdversary, Seen
from sparring.attacks import identity
from sparring.data import Data
from sparring.evaluation.exploitability import FRESH, RECURRENT, new_adversary
from sparring.game import against, best_response, player, train_steps
from sparring.game.radii import Radii
from sparring.game.unrolled import recurrent_response
from sparring.losses import LOSSES
from sparring.models import mlp
from sparring.randomness import Stream, generator
from sparring.threat import ThreatModel

LR, RECURRENT_LR, BATCH = 0.1, RECURRENT.optimizer.lr, 128


@dataclass(frozen=True, eq=False)
class Response:
    """A fresh adversary, the steps it was trained for, and the examples it saw in them."""

    adversary: AnyAdversary
    steps: int
    examples: int


def respond(
    model: nn.Module,
    data: Data,
    threat: ThreatModel,
    *,
    seed: int,
    steps: int,
    seconds: float,
    like: AnyAdversary | None = None,
) -> Response:
    """A fresh adversary trained against the frozen model: it sees what `like` sees, x only without it.

    Of the paper's size, on the margin; where `like` is recurrent, one of its kind, on the log odds.
    """
    device = data.images.device
    if isinstance(like, RecurrentAdversary):
        asking = like.afresh(generator(seed, "init.fresh")).to(device)
        return _trained(asking, model, data, threat, seed=seed, steps=steps, seconds=seconds)
    sees: tuple[Seen, ...] = ("x",) if like is None else like.sees
    network = new_adversary(data.shape, data.n_classes, FRESH, sees, seed=seed).to(device)
    return _trained(network, model, data, threat, seed=seed, steps=steps, seconds=seconds)


def longer(
    response: Response, model: nn.Module, data: Data, threat: ThreatModel, *, seed: int, seconds: float
) -> Response:
    """A copy of the adversary, trained for as many steps again, at half the rate."""
    copied, onward = copy.deepcopy(response.adversary), seed + 1000
    more = _trained(copied, model, data, threat, seed=onward, steps=response.steps, seconds=seconds, rate=0.5)
    return Response(more.adversary, response.steps + more.steps, response.examples + more.examples)


def surrogate(data: Data, *, steps: int, seed: int, seconds: float) -> nn.Module:
    """A small network trained on clean data: a source of transferred images that knows nothing of the audited model."""
    network = mlp(data.shape, [128, 64, data.n_classes], generator=generator(seed, "init.surrogate"))
    learner = player("defender", network.to(data.images.device), maximize=False, lr=LR, rate="constant")
    move = against(learner, identity, clean_share=1.0)
    train_steps(move, data, learner, steps=steps, seconds=seconds, seed=seed)
    return network.eval()


def _trained(
    adversary: AnyAdversary,
    model: nn.Module,
    data: Data,
    threat: ThreatModel,
    *,
    seed: int,
    steps: int,
    seconds: float,
    rate: float = 1.0,
) -> Response:
    """`rate` is a share of the learning rate of an adversary of its kind."""
    stream = Stream(seed, "fresh")
    if isinstance(adversary, RecurrentAdversary):
        lr = rate * RECURRENT_LR
        learner = player("adversary", adversary, maximize=True, kind="adam", lr=lr, weight_decay=0.0, rate="constant")
        move = recurrent_response(learner, [model], threat, Radii(float(threat.eps), None, stream), stream)
    else:
        learner = player("adversary", adversary, maximize=True, lr=rate * LR, rate="constant")
        move = best_response(learner, model, threat, loss=LOSSES["margin"])
    how: dict[str, Any] = {"steps": steps, "seconds": seconds, "seed": seed, "batch_size": BATCH, "streams": [stream]}
    with modes.evaluation(model):
        done = train_steps(move, data, learner, **how)
    return Response(adversary.eval(), done, done * min(BATCH, len(data)))
