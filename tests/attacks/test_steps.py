"""What FGSM and PGD make of iterates, restarts, gradients that vanish, labels and modes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from worn import EPS, SHAPE, edge_batch, stream, worn_model

from sparring.attacks import PGD, fgsm
from sparring.losses import margin
from sparring.threat import ThreatModel


@pytest.fixture
def model() -> nn.Module:
    return worn_model()


@pytest.fixture
def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return edge_batch(generator)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_keeping_the_best_breaks_all_that_keeping_the_last_breaks(
    random_start: bool, loss: str, model: nn.Module, generator: torch.Generator
) -> None:
    x = torch.rand(200, *SHAPE, generator=generator, dtype=torch.float64)
    y = model.eval()(x).argmax(-1)
    threat = ThreatModel(0.25, SHAPE)

    def broken(keep: Any) -> Tensor:
        attack = PGD(threat, steps=4, keep=keep, random_start=random_start, loss=loss, stream=stream())
        return margin(model(attack(model, x, y)), y) > 0

    best, last = broken("best"), broken("last")
    assert 0 < int(last.sum()) < 200
    assert bool((best | ~last).all())


def test_more_restarts_break_all_that_fewer_break(model: nn.Module, generator: torch.Generator) -> None:
    x = torch.rand(200, *SHAPE, generator=generator, dtype=torch.float64)
    y = model.eval()(x).argmax(-1)
    threat = ThreatModel(0.25, SHAPE)
    found = [margin(model(PGD(threat, steps=2, restarts=n, stream=stream())(model, x, y)), y) > 0 for n in (1, 2, 5)]
    assert bool((found[1] | ~found[0]).all()) and bool((found[2] | ~found[1]).all())
    assert int(found[2].sum()) > int(found[0].sum())


def test_a_pixel_without_gradient_stays_as_it_is(batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch

    class Left(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            half = x.flatten(1)[:, :8]
            return torch.stack((half.sum(-1), half[:, :4].sum(-1)), -1)

    y = y % 2
    for attack in (fgsm(ThreatModel(EPS, SHAPE)), PGD(ThreatModel(EPS, SHAPE), steps=3, random_start=False)):
        delta = (attack(Left(), x, y) - x).flatten(1)
        assert torch.equal(delta[:, 8:], torch.zeros_like(delta[:, 8:]))
        assert float(delta[:, 4:8].abs().max()) == pytest.approx(EPS)


def test_a_constant_classifier_gives_gradient_attacks_nothing_to_follow(batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (0 * x).flatten(1).sum(-1, keepdim=True) + torch.arange(5.0)

    assert torch.equal(fgsm(ThreatModel(EPS, SHAPE))(Constant(), x, y), x)


def test_the_predicted_label_is_attacked_whatever_label_is_given(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    threat = ThreatModel(EPS, SHAPE)
    predicted = model.eval()(x).argmax(-1)
    assert not torch.equal(predicted, y)
    found = fgsm(threat, label="predicted")(model, x, y)
    assert torch.equal(found, fgsm(threat)(model, x, predicted))
    assert not torch.equal(found, fgsm(threat)(model, x, y))


def test_training_mode_takes_the_gradient_with_batch_statistics(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    threat = ThreatModel(EPS, SHAPE)
    model.eval()
    found = fgsm(threat, mode="training")(model, x, y)
    point = x.clone().requires_grad_()
    model.train()
    nn.functional.cross_entropy(model(point), y, reduction="sum").backward()
    assert point.grad is not None
    assert torch.equal(found, (x + EPS * point.grad.sign()).clamp(x - EPS, x + EPS).clamp(0, 1))
    assert not torch.equal(found, fgsm(threat)(model, x, y))
