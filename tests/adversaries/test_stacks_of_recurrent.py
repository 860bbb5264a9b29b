"""What a stack of recurrent adversaries keeps of each, and which it refuses."""

import pytest
import torch

import sparring
from sparring.adversaries import RecurrentAdversary, stack_recurrent
from sparring.errors import CannotStack, InputError
from sparring.evaluation.exploitability import RECURRENT, fresh_adversaries
from sparring.game import Game, fit_together
from sparring.models import mlp
from sparring.threat import ThreatModel

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


def test_fresh_ones_of_a_class_of_ones_own_are_trained_one_after_another() -> None:
    model, threat = mlp(TRAIN.shape, [16, 10]).eval(), ThreatModel(0.1, TRAIN.shape)
    options = {"epochs": 1, "settings": RECURRENT, "like": Own(TRAIN.shape)}
    both = fresh_adversaries(model, TRAIN, threat, seeds=[0, 1], **options)  # type: ignore[arg-type]
    alone = [fresh_adversaries(model, TRAIN, threat, seeds=[seed], **options)[0] for seed in (0, 1)]  # type: ignore[arg-type]
    for one, other in zip(both, alone, strict=True):
        assert isinstance(one, Own) and isinstance(other, Own) and torch.equal(one.weight, other.weight)


def test_one_that_cannot_be_made_afresh_says_what_it_lacks() -> None:
    class Fixed(RecurrentAdversary):
        def __init__(self) -> None:
            super().__init__(TRAIN.shape, queries=3)

    with pytest.raises(InputError, match=r"an untrained Fixed cannot be made .* give it an `afresh` of its own"):
        Fixed().afresh()
