"""Drawn radii against a fixed attack, a rate that falls as a cosine, and the learned attack by itself."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from pursuits import SHAPE, THREAT, B, C, S, defender_of, seeded
from torch import Tensor

import sparring
from sparring.adversaries import RecurrentAdversary
from sparring.attacks import PGD, Attack, LearnedAttack, Noise, fgsm
from sparring.config import Training
from sparring.data import Data
from sparring.evaluation import attacked
from sparring.game import against, player, recurrent_response, train
from sparring.game.limited import train_steps
from sparring.game.radii import Radii
from sparring.game.unrolled import Cycle
from sparring.losses import log_odds
from sparring.models import mlp, stack
from sparring.randomness import Stream
from sparring.threat import ThreatModel


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Images of which many pixels stand at an end of the pixel range."""
    x = 1.6 * torch.rand(B, *SHAPE, generator=seeded(3), dtype=torch.float64) - 0.3
    return x.clamp(0, 1), torch.arange(B) % C


# Drawn radii against a fixed attack, and the rate


class Dealt(Stream):
    """Deals shares from nothing to all of the span of radii, in the examples' order."""

    def uniform(self, like: Tensor) -> Tensor:
        return torch.linspace(-1, 1, like.shape[-1]).to(like)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "noise"])
def test_a_fixed_attack_is_aimed_at_a_radius_for_each_example(name: str, batch: tuple[Tensor, Tensor]) -> None:
    x, y = 0.4 + 0.2 * batch[0], batch[1]  # no pixel is clipped
    makes: dict[str, Attack] = {
        "fgsm": fgsm(THREAT),
        "pgd": PGD(THREAT, steps=3, keep="last", stream=Stream(1, "attack")),
        "noise": Noise(THREAT, "sign", Stream(1, "attack")),
    }
    defender, seen = defender_of(), []
    defender.network.register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[0]) if module.training else None
    )
    against(defender, makes[name], mix="both", radii=Radii(0.3, 0.0, Dealt(1, "radii")))(x, y)
    distance = THREAT.distance(seen[0][B:], x)
    radius = torch.linspace(0, 0.3, B, dtype=torch.float64)
    assert torch.equal(seen[0][:B], x) and torch.equal(seen[0][B], x[0])
    assert torch.allclose(distance, radius, atol=1e-7)


def test_radii_are_drawn_for_the_perturbed_share_only(batch: tuple[Tensor, Tensor]) -> None:
    (x, y), defender, seen = batch, defender_of(), []
    defender.network.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    noise = Noise(THREAT, "sign", Stream(1, "attack"))
    against(defender, noise, clean_share=0.25, radii=Radii(0.3, 0.0, Dealt(1, "radii")))(0.4 + 0.2 * x, y)
    expected = torch.cat((torch.zeros(4), torch.linspace(0, 0.3, 12)))
    assert torch.allclose(THREAT.distance(seen[0], 0.4 + 0.2 * x), expected.double(), atol=1e-7)


def test_a_rate_can_fall_as_half_a_cosine_to_nothing() -> None:
    falling = defender_of(lr=0.4, rate="cosine", every=12)
    rates = [float(falling.optimizer.lr)]
    for epochs in range(1, 15):
        falling.end_epoch(epochs, torch.tensor(1.0))
        rates.append(float(falling.optimizer.lr))
    assert rates[0] == 0.4
    assert [rates[e] for e in (4, 6, 8)] == pytest.approx([0.3, 0.2, 0.1])
    assert all(a > b > 0 for a, b in pairwise(rates[:12])) and rates[12:] == [0, 0, 0]


def test_the_cosine_takes_every_copys_own_rate_down() -> None:
    network = stack([mlp(SHAPE, [C], generator=seeded(s)) for s in range(S)])
    falling = player("defender", network, maximize=False, lr=0.4, rate="cosine", every=4, n_copies=S)
    falling.optimizer.lr.copy_(torch.tensor([0.4, 0.0, 0.8]))
    for epochs in (1, 2):
        falling.end_epoch(epochs, torch.tensor([1.0, 2.0, 3.0]))
    assert falling.optimizer.lr.tolist() == pytest.approx([0.2, 0.0, 0.4])


# The learned attack by itself


def test_a_response_faces_the_models_in_turn_and_leaves_them_as_they_are() -> None:
    models = [mlp(SHAPE, [8, 10], generator=torch.Generator().manual_seed(seed)).eval() for seed in range(3)]
    before = [{name: t.clone() for name, t in model.state_dict().items()} for model in models]
    asked: list[int] = []
    for number, model in enumerate(models):
        model.register_forward_pre_hook(lambda module, given, number=number: asked.append(number))
    learner = player("adversary", RecurrentAdversary(SHAPE), maximize=True, kind="adam", lr=0.01, weight_decay=0.0)
    stream = Stream(0, "attack")
    move = recurrent_response(learner, models, ThreatModel(0.1, SHAPE), Radii(0.1, None, Stream(0, "radii")), stream)
    x, y = torch.rand(6, *SHAPE), torch.arange(6)
    for step in range(4):
        stream.seek(0, step)
        metrics = move(x, y)
    assert asked == [*[0] * 3, *[1] * 3, *[2] * 3, *[0] * 3]  # two queries, and the loss at the end
    assert set(metrics) == {"adversary_loss", "perturbed_accuracy"}
    for model, was in zip(models, before, strict=True):
        assert all(torch.equal(t, was[name]) for name, t in model.state_dict().items())
        assert not model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("begin", [0.0, 1.0])
def test_a_response_begins_in_training_where_it_begins_as_an_attack(begin: float) -> None:
    model, asked = mlp(SHAPE, [8, 10], generator=torch.Generator().manual_seed(0)).eval(), list[Tensor]()
    model.register_forward_pre_hook(lambda _, given: asked.append(given[0].detach().clone()))
    learner = player("adversary", RecurrentAdversary(SHAPE, begin=begin), maximize=True)
    stream = Stream(0, "attack")
    stream.seek(0, 0)
    x, y = torch.rand(6, *SHAPE), torch.arange(6)
    recurrent_response(learner, [model], ThreatModel(0.1, SHAPE), Radii(0.1, None, Stream(0, "radii")), stream)(x, y)
    assert torch.allclose(asked[0], (x + 0.1 * begin).clamp(0, 1))


def test_a_response_may_begin_where_another_attack_ends_at_this_minibatchs_radii() -> None:
    models = [mlp(SHAPE, [8, 10], generator=torch.Generator().manual_seed(seed)).eval() for seed in range(2)]
    asked, told = list[Tensor](), list[tuple[int, Any]]()
    models[1].register_forward_pre_hook(lambda _, given: asked.append(given[0].detach().clone()))
    x, y = torch.rand(6, *SHAPE), torch.arange(6)

    def start(turn: int, aimed: ThreatModel) -> Attack:
        told.append((turn, aimed.eps))
        return lambda model, x, y: aimed.moved(x, -torch.ones_like(x))  # as dark as the radius allows

    learner = player("adversary", RecurrentAdversary(SHAPE, begin=1.0), maximize=True)
    streams = [Stream(0, "attack"), Stream(0, "radii")]
    for stream in streams:
        stream.seek(0, 1)
    radii = Radii(0.2, 0.1, streams[1])
    recurrent_response(learner, models, ThreatModel(0.2, SHAPE), radii, streams[0], start=start)(x, y)
    turn, eps = told[0]
    assert len(told) == 1 and turn == 1 and 0.1 <= float(eps.min()) < float(eps.max()) <= 0.2
    torch.testing.assert_close(asked[0], (x - eps.view(-1, 1, 1, 1)).clamp(0, 1))


def test_one_that_goes_round_several_times_learns_from_where_each_round_ends() -> None:
    models = [mlp(SHAPE, [8, 10], generator=torch.Generator().manual_seed(seed)).eval() for seed in range(2)]
    x, y = torch.rand(6, *SHAPE), torch.arange(6)
    stream, turns = Stream(0, "attack"), [(step, step % 2, 1 + step // 2 % 3) for step in range(8)]
    for step, model, rounds in turns:
        learner = player("adversary", RecurrentAdversary(SHAPE, step=0.2, rounds=3), maximize=True, lr=0.1)
        stream.seek(0, step)
        before = [p.detach().clone() for p in learner.network.parameters()]
        move = recurrent_response(learner, models, THREAT, Radii(0.2, None, Stream(0, "radii")), stream)
        metrics = move(x, y)
        as_attack = LearnedAttack(RecurrentAdversary(SHAPE, step=0.2, rounds=rounds), THREAT)(models[model], x, y)
        expected = log_odds(models[model](as_attack), y).mean()
        torch.testing.assert_close(metrics["adversary_loss"], expected.detach())
        assert any(not torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))


def test_learning_makes_the_attack_stronger_on_a_defender_it_has_not_seen() -> None:
    train_on, test = sparring.data.load("digits")
    defenders = []
    for seed in range(2):
        network = mlp(train_on.shape, [32, 10], generator=torch.Generator().manual_seed(seed))
        defenders.append(sparring.Game(network, eps=0.2, seed=seed).fit(train_on, epochs=5).defender)
    threat, streams = ThreatModel(0.2, train_on.shape), [Stream(0, "attack"), Stream(0, "radii")]
    adversary = RecurrentAdversary(train_on.shape, queries=3, step=0.2)
    untrained = copy.deepcopy(adversary)
    learner = player("adversary", adversary, maximize=True, kind="adam", lr=0.02, weight_decay=0.0, rate="constant")
    move = recurrent_response(learner, defenders[:1], threat, Radii(0.2, None, streams[1]), streams[0])
    train(move, train_on, [learner], Training(max_epochs=4), seed=0, streams=streams)
    left = [attacked(defenders[1], test, LearnedAttack(one, threat), threat).accuracy for one in (untrained, adversary)]
    assert left[1] < left[0] - 0.02


def test_on_few_examples_too_every_model_and_every_round_has_its_turn() -> None:
    def turns(epochs: int, steps: int) -> list[int]:
        cycle = Cycle(6)
        return [cycle.at((epoch,), step) for epoch in range(epochs) for step in range(steps)]

    assert turns(7, 1) == [0, 1, 2, 3, 4, 5, 0]
    assert turns(3, 4) == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert turns(2, 8) == [0, 1, 2, 3, 4, 5, 0, 1] * 2, "a long epoch begins with the first"
    models = [mlp(SHAPE, [8, 10], generator=torch.Generator().manual_seed(seed)).eval() for seed in range(3)]
    asked = [0, 0, 0]
    for number, model in enumerate(models):
        model.register_forward_pre_hook(
            lambda module, given, number=number: asked.__setitem__(number, asked[number] + 1)
        )
    data = Data(torch.rand(20, *SHAPE), torch.arange(20) % 10, 10, "few")
    learner = player("adversary", RecurrentAdversary(SHAPE, rounds=2), maximize=True, kind="adam", lr=0.01)
    stream = Stream(0, "attack")
    move = recurrent_response(learner, models, ThreatModel(0.1, SHAPE), Radii(0.1, None, Stream(0, "radii")), stream)
    train_steps(move, data, learner, steps=6, seed=0, batch_size=20, streams=[stream])
    assert asked == [3 + 5] * 3  # two queries a round and the loss at the end: one turn of one round, one of two
