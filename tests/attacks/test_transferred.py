"""Attacks on one's own models, shown to another; and the learned attack that goes on from where they end."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from sparring.adversaries import RecurrentAdversary
from sparring.attacks import PGD, LearnedAttack, Together, Transferred, fgsm
from sparring.attacks.learned import end_of, pursue
from sparring.data import Data
from sparring.errors import InputError
from sparring.evaluation.accuracy import counted, curve, inside
from sparring.losses import log_odds, margin
from sparring.models import mlp
from sparring.threat import ThreatModel

SHAPE = (1, 6, 6)


def network(seed: int) -> nn.Module:
    return mlp(SHAPE, [16, 3], generator=torch.Generator().manual_seed(seed)).eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(8, *SHAPE, generator=generator), torch.randint(0, 3, (8,), generator=generator)


class Silent(nn.Module):
    """A model that may not be asked."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model was asked")


def test_a_transferred_attack_is_that_on_its_source_and_asks_the_model_nothing(batch: tuple[Tensor, Tensor]) -> None:
    source, attack = network(0), PGD(ThreatModel(0.1, SHAPE), steps=3, random_start=False)
    source.train()
    found = Transferred(source, attack)(Silent(), *batch)
    assert source.training and all(p.requires_grad and p.grad is None for p in source.parameters())
    torch.testing.assert_close(found, attack(source.eval(), *batch))


def test_classifiers_together_answer_with_the_mean_of_their_log_probabilities(batch: tuple[Tensor, Tensor]) -> None:
    one, two = network(0), network(1)
    expected = (one(batch[0]).log_softmax(-1) + two(batch[0]).log_softmax(-1)) / 2
    torch.testing.assert_close(Together([one, two])(batch[0]), expected)
    with pytest.raises(ValueError, match="at least one"):
        Together([])


def test_a_rehearsed_attack_goes_on_from_where_the_rehearsal_ends_at_no_query_more(
    batch: tuple[Tensor, Tensor],
) -> None:
    model, threat = network(2), ThreatModel(0.1, SHAPE)
    adversary = RecurrentAdversary(SHAPE, queries=2, step=0.4).eval()
    rehearsal = Transferred(Together([network(0), network(1)]), fgsm(threat))
    start = end_of(rehearsal, threat, model, *batch)
    with counted(model) as cost:
        found = LearnedAttack(adversary, threat, start=rehearsal)(model, *batch)
    assert (cost.forwards, cost.backwards) == (2 * len(batch[0]), 2 * len(batch[0]))
    with torch.no_grad():
        expected = threat.moved(batch[0], pursue(adversary, model, threat, *batch, start))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, LearnedAttack(adversary, threat)(model, *batch))
    assert "start=Transferred(from=Together" in repr(LearnedAttack(adversary, threat, start=rehearsal))


def test_an_end_is_told_over_each_examples_radius_and_is_nothing_where_that_is_zero(
    batch: tuple[Tensor, Tensor],
) -> None:
    model, x = network(0), batch[0] * 0.4 + 0.3  # no pixel is clipped
    radii = torch.tensor([0.0, 0.1, 0.2, 0.0, 0.3, 0.05, 0.1, 0.2])
    u = end_of(fgsm(ThreatModel(radii, SHAPE)), ThreatModel(radii, SHAPE), model, x, batch[1])
    assert torch.equal(u[radii == 0], torch.zeros_like(u[radii == 0]))
    torch.testing.assert_close(u[radii > 0].abs(), torch.ones_like(u[radii > 0]))


def test_a_rehearsal_is_aimed_where_its_attack_is(batch: tuple[Tensor, Tensor]) -> None:
    model, adversary = network(2), RecurrentAdversary(SHAPE, queries=1, step=1e-6).eval()  # ends where it starts
    rehearsal = Transferred(network(0), fgsm(ThreatModel(0.05, SHAPE)))
    data = Data(batch[0] * 0.4 + 0.3, batch[1], 3, "none")
    wide = replace(LearnedAttack(adversary, ThreatModel(0.05, SHAPE), start=rehearsal), threat=ThreatModel(0.2, SHAPE))
    for attack in (wide, replace(rehearsal, threat=ThreatModel(0.2, SHAPE))):
        x = data.floats()
        assert float((attack(model, x, data.labels).detach() - x).abs().max()) == pytest.approx(0.2, rel=1e-4)
    curves = curve(model, data, partial(inside, rehearsal), [0.1, 0.3])
    assert [outcome.max_distance for outcome in curves.values()] == pytest.approx([0.1, 0.3], rel=1e-4)


def test_a_learned_attack_is_shown_the_gradient_that_it_asks_for(batch: tuple[Tensor, Tensor]) -> None:
    (x, y), model, threat = batch, network(2), ThreatModel(0.1, SHAPE)
    adversary, starts = RecurrentAdversary(SHAPE, queries=1, step=1.0, follow=1e6).eval(), x * 0.4 + 0.3
    for name, loss in (("log_odds", log_odds), ("margin", margin)):
        point = starts.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(point), y).sum(), point)
        found = LearnedAttack(adversary, threat, asks=name)(model, starts, y)  # type: ignore[arg-type]
        torch.testing.assert_close(found, threat.moved(starts, gradient.sign()))
        assert ("asks='margin'" in repr(LearnedAttack(adversary, threat, asks=name))) == (name == "margin")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="asks cannot be"):
        LearnedAttack(adversary, threat, asks="cross_entropy")  # type: ignore[arg-type]
