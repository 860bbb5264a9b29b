"""What a stack of recurrent adversaries keeps of each, and which it refuses."""

import pytest
import torch

import sparring
from sparring.adversaries import RecurrentAdversary, stack_recurrent
from sparring.errors import CannotStack
from sparring.game import Game, fit_together
from sparring.models import mlp

TRAIN = sparring.data.load("digits")[0].take(torch.arange(200))


class Own(RecurrentAdversary):
    """A class of a user's, which begins elsewhere."""

    def first_point(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x)


def test_what_does_not_learn_does_not_learn_in_a_stack_either() -> None:
    adversaries = [RecurrentAdversary(TRAIN.shape) for _ in range(2)]
    for adversary in adversaries:
        adversary.weight.requires_grad_(False)
    stacked = stack_recurrent(adversaries)
    assert not stacked.weight.requires_grad and stacked.bias.requires_grad
    before = adversaries[0].weight.clone()
    games = [
        Game(mlp(TRAIN.shape, [16, 10]), adversary=adversary, seed=seed) for seed, adversary in enumerate(adversaries)
    ]
    fit_together(games, TRAIN, epochs=2, stacked=True)
    assert torch.equal(adversaries[0].weight, before)
    assert not torch.equal(adversaries[0].log_step, RecurrentAdversary(TRAIN.shape).log_step)
    with pytest.raises(CannotStack, match="the same parameters learn"):
        stack_recurrent([adversaries[0], RecurrentAdversary(TRAIN.shape)])


def test_a_class_of_ones_own_is_not_taken_for_ours() -> None:
    with pytest.raises(CannotStack, match="of class RecurrentAdversary itself, got Own"):
        stack_recurrent([Own(TRAIN.shape), Own(TRAIN.shape)])
    fresh = Own(TRAIN.shape, queries=3, rounds=4).afresh()
    assert isinstance(fresh, Own) and (fresh.queries, fresh.rounds) == (3, 4)
