"""Networks that the audit trains itself: fresh adversaries against the frozen model, and a surrogate for transfer."""

import copy
import time
from dataclasses import dataclass

import torch
from torch import nn

from sparring import modes
from sparring.adversaries import Adversary
from sparring.attacks import identity
from sparring.data import Data, batch_indices, minibatch
from sparring.errors import Diverged
from sparring.game.moves import Move, against, best_response
from sparring.game.player import Player, player
from sparring.losses import LOSSES
from sparring.models import mlp
from sparring.randomness import generator
from sparring.threat import ThreatModel

LR, BATCH = 0.1, 128


@dataclass(frozen=True, eq=False)
class Response:
    """A fresh adversary, the steps it was trained for, and how many it should have been."""

    adversary: Adversary
    steps: int
    wanted: int


def respond(model: nn.Module, data: Data, threat: ThreatModel, *, seed: int, steps: int, seconds: float) -> Response:
    """A fresh adversary of the paper's size that sees x only, trained against the frozen model on the margin."""
    n_pixels = data.floats(torch.tensor([0])).numel()
    network = mlp(data.shape, [512, 512, n_pixels], generator=generator(seed, "init.fresh"))
    return _trained(Adversary(network).to(data.images.device), model, data, threat, seed, LR, steps, seconds)


def longer(
    response: Response, model: nn.Module, data: Data, threat: ThreatModel, *, seed: int, seconds: float
) -> Response:
    """A copy of the adversary, trained for as many steps again."""
    adversary = copy.deepcopy(response.adversary)
    more = _trained(adversary, model, data, threat, seed + 1000, LR / 2, response.steps, seconds)
    return Response(adversary, response.steps + more.steps, 2 * response.steps)


def surrogate(data: Data, *, steps: int, seed: int, seconds: float) -> nn.Module:
    """A small network trained on clean data: a source of transferred images that knows nothing of the audited model."""
    network = mlp(data.shape, [128, 64, data.n_classes], generator=generator(seed, "init.surrogate"))
    learner = player("defender", network.to(data.images.device), maximize=False, lr=LR, rate="constant")
    play(against(learner, identity, clean_share=1.0), data, learner, steps=steps, seconds=seconds, seed=seed)
    return network.eval()


def play(move: Move, data: Data, learner: Player, *, steps: int, seconds: float, seed: int) -> int:
    """So many steps of a move, or as many as the seconds allow; returns how many. The last third runs at a tenth of the rate."""
    started, done, epoch = time.monotonic(), 0, 0
    with modes.flushed_denormals():
        while done < steps:
            order = batch_indices(len(data), BATCH, generator(seed, "audit.order", epoch)).to(data.images.device)
            for index in order:
                if done >= steps or time.monotonic() - started > seconds:
                    return done
                if done == steps * 2 // 3:
                    learner.optimizer.lr.div_(10)
                try:
                    move(*minibatch(data, index))
                except Diverged:
                    return done
                done += 1
            epoch += 1
    return done


def _trained(
    adversary: Adversary,
    model: nn.Module,
    data: Data,
    threat: ThreatModel,
    seed: int,
    lr: float,
    steps: int,
    seconds: float,
) -> Response:
    learner = player("adversary", adversary, maximize=True, lr=lr, rate="constant")
    move = best_response(learner, model, threat, loss=LOSSES["margin"])
    with modes.evaluation(model):
        done = play(move, data, learner, steps=steps, seconds=seconds, seed=seed)
    adversary.eval()
    return Response(adversary, done, steps)
