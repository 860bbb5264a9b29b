"""Training for so many steps: what is counted, what ends it, what the rate does."""

import pytest
import torch
from torch import Tensor

from sparring.attacks import identity
from sparring.data import Data, load
from sparring.errors import Diverged
from sparring.game import Metrics, Move, Player, against, player, train_steps
from sparring.models import mlp


def setting() -> tuple[Data, Player, Move]:
    data = load("digits")[0]
    learner = player("defender", mlp(data.shape, [8, 10]), maximize=False, lr=0.1, rate="constant")
    return data, learner, against(learner, identity, clean_share=1.0)


@pytest.mark.parametrize("steps", [1, 5, 11, 30])
def test_so_many_steps_are_made_whatever_an_epoch_has(steps: int) -> None:
    data, learner, move = setting()
    rates: list[float] = []

    def watched(x: Tensor, y: Tensor) -> Metrics:
        rates.append(float(learner.optimizer.lr))
        return move(x, y)

    assert train_steps(watched, data, learner, steps=steps, seed=0) == steps == len(rates)
    slow = sum(rate < 0.05 for rate in rates)
    assert slow == steps - steps * 2 // 3 or steps == 1


def test_no_more_seconds_than_allowed() -> None:
    data, learner, move = setting()
    assert train_steps(move, data, learner, steps=10_000, seconds=0.0, seed=0) == 1


def test_a_training_that_diverges_tells_how_far_it_came() -> None:
    data, learner, move = setting()
    left = iter([True, True, False])

    def sick(x: Tensor, y: Tensor) -> Metrics:
        if not next(left):
            raise Diverged("the loss is not finite")
        return move(x, y)

    assert train_steps(sick, data, learner, steps=9, seed=0) == 2


def test_fewer_examples_than_a_batch_are_one_batch() -> None:
    data, learner, move = setting()
    few = data.take(torch.arange(20))
    assert train_steps(move, few, learner, steps=3, seed=0) == 3
