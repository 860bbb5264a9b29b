"""What all strong attacks keep, on models made to mislead them."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from problems import SHAPE, Linear, Of, four_classes, strong
from torch import Tensor, nn

from sparring.attacks import (
    APGD,
    FAB,
    Attack,
    Cascade,
    Escalation,
    RayS,
    Square,
    WorstCase,
    fgsm,
    quick_suite,
    standard_suite,
)
from sparring.data.synthetic import linear_margins
from sparring.errors import InputError
from sparring.evaluation import attacked
from sparring.models import mlp
from sparring.models.stack import stack
from sparring.randomness import Stream
from sparring.threat import ThreatModel

NAMES = list(strong(ThreatModel(0.1, SHAPE)))
every_one = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_no_attack_breaks_what_cannot_be_broken(name: str) -> None:
    model, data, weight, bias = four_classes()
    threat = ThreatModel(0.05, (8,))
    safe = linear_margins(data, weight, bias, 0.05) > 1e-6
    outcome = attacked(model, data, strong(threat)[name], threat)
    assert bool(outcome.correct[safe].all())


@every_one
def test_examples_that_are_wrong_already_are_returned_as_they_are(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    x_adv = strong(ThreatModel(0.1, SHAPE))[name](model, x, y)
    assert torch.equal(x_adv[:2], x[:2])
    assert not torch.equal(x_adv[2:], x[2:])


def on_stacks(threat: ThreatModel) -> dict[str, Attack]:
    """What a stack is attacked with: one of each, and several at once."""
    search = Square(threat, queries=30)
    several = (fgsm(threat), APGD(threat, "margin", steps=5), search, RayS(threat, queries=30))
    return strong(threat) | {
        "margin": APGD(threat, "margin", steps=8, restarts=2),
        "quick suite": Cascade(quick_suite(threat, 5, SHAPE), threat),
        "cascade": Cascade((*several, FAB(threat, steps=5)), threat),
        "worst case": WorstCase(several, threat),
        "escalation": Escalation(replace(search, queries=9), fgsm(threat), APGD(threat, steps=5), search, threat, 0.2),
    }


def perceptron() -> nn.Module:
    return mlp(SHAPE, [12, 5])


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))


@pytest.mark.parametrize("make", [perceptron, convolutional])
@pytest.mark.parametrize("name", on_stacks(ThreatModel(0.1, SHAPE)))
def test_a_stack_is_attacked_as_its_copies_are(
    name: str, make: Callable[[], nn.Module], generator: torch.Generator
) -> None:
    copies = [make().double().eval() for _ in range(2)]
    for parameter in (p for network in copies for p in network.parameters()):
        nn.init.normal_(parameter, std=0.5, generator=generator)
    x = torch.rand(20, *SHAPE, generator=generator, dtype=torch.float64)
    y = torch.stack([network(x).argmax(-1) for network in copies])
    y[:, :3] = (y[:, :3] + 1) % 5
    eps = (0.03, 0.1)
    threat = ThreatModel(torch.tensor(eps, dtype=torch.float64).unsqueeze(-1), SHAPE)
    together = stack(copies).eval()
    found = on_stacks(threat)[name](together, x.expand(2, *x.shape), y)
    for s, network in enumerate(copies):
        alone = on_stacks(ThreatModel(eps[s], SHAPE))[name](network, x, y[s])
        assert torch.allclose(found[s], alone, atol=1e-9), s
    survivors = (together(found).argmax(-1) == y).sum(-1)
    assert 0 < int(survivors[0]) != int(survivors[1])


@every_one
def test_every_example_is_attacked_as_it_would_be_alone_also_in_chunks(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    threat = ThreatModel(0.06, SHAPE)
    whole = strong(threat)[name](model, x, y)
    in_chunks = replace(strong(threat)[name], chunk=7)(model, x, y)  # type: ignore[type-var]
    assert torch.allclose(whole, in_chunks, atol=1e-9)
    for i in range(0, 40, 9):
        alone = strong(threat)[name](model, x[i : i + 1], y[i : i + 1])
        assert torch.allclose(whole[i], alone[0], atol=1e-9)


@every_one
def test_no_example_gives_no_example(name: str, model: nn.Module) -> None:
    x, y = torch.zeros(0, *SHAPE, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
    assert strong(ThreatModel(0.1, SHAPE))[name](model, x, y).shape == (0, *SHAPE)


@every_one
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_example_near_which_the_logits_are_not_finite_is_broken(name: str, value: float) -> None:
    def logits(x: Tensor) -> Tensor:
        holes = (x.mean(-1) - 0.5).abs() > 0.01
        clean = torch.stack((1 + 0 * x[..., 0], x.sum(-1) * 1e-3, 0 * x[..., 0], -1 + 0 * x[..., 0]), -1)
        return torch.where(holes.unsqueeze(-1), value, clean)

    x, y, threat = torch.full((3, 8), 0.5), torch.zeros(3, dtype=torch.long), ThreatModel(0.2, (8,))
    x_adv = strong(threat)[name](Of(logits), x, y)
    assert bool(torch.isfinite(x_adv).all())
    assert not bool(torch.isfinite(logits(x_adv)).any())


@every_one
def test_gradients_that_are_not_finite_do_no_harm(name: str, generator: torch.Generator) -> None:
    def logits(x: Tensor) -> Tensor:
        root = (x[..., :4] - x[..., :4].detach()).sqrt().sum(-1)  # 0, its derivative infinite, its chain's NaN
        return torch.stack((1 + root * 0, x[..., 4:].sum(-1), 0 * root, 0 * root - 1), -1)

    x = torch.rand(20, 8, generator=generator) * 0.2
    y, threat = logits(x).argmax(-1), ThreatModel(0.2, (8,))
    x_adv = strong(threat)[name](Of(logits), x, y)
    assert bool(torch.isfinite(x_adv).all())
    assert float((x_adv - x).abs().max()) <= 0.2 + 1e-6


@every_one
def test_a_model_that_gives_no_gradient_at_all_does_not_stop_an_attack(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    x_adv = strong(ThreatModel(0.1, SHAPE))[name](Of(lambda x: model(x).detach()), x, y)
    assert bool(torch.isfinite(x_adv).all())


@every_one
def test_the_same_configuration_gives_the_same_images(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    threat = ThreatModel(0.06, SHAPE)
    assert torch.equal(strong(threat)[name](model, *batch), strong(threat)[name](model, *batch))


def test_other_seeds_give_other_images(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    threat = ThreatModel(0.03, SHAPE)
    for make in (lambda s: APGD(threat, steps=2, stream=s), lambda s: Square(threat, queries=9, stream=s)):
        assert not torch.equal(make(Stream(0, "a"))(model, *batch), make(Stream(1, "a"))(model, *batch))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: APGD(t, steps=0), "steps must be >= 1"),
        (lambda t: APGD(t, restarts=0), "restarts must be >= 1"),
        (lambda t: APGD(t, "accuracy"), "loss must be one of"),
        (lambda t: APGD(t, targets=-1), "targets must be >= 0"),
        (lambda t: APGD(t, targets=3), "cross_entropy has no targeted form"),
        (lambda t: Square(t, queries=0), "queries must be >= 1"),
        (lambda t: Square(t, p=0.0), "p must be in"),
        (lambda t: FAB(t, targets=0), "targets must be >= 1"),
        (lambda t: RayS(t, queries=0), "queries must be >= 1"),
        (lambda t: RayS(t, tolerance=0.0), "tolerance must be > 0"),
        (lambda t: Escalation(fgsm(t), fgsm(t), fgsm(t), fgsm(t), t, close=1.5), "close must be in"),
        (lambda t: standard_suite(t, 10, (3, 3)), "give both one shape"),
        (lambda t: quick_suite(t, 1, SHAPE), "at least 2 classes"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[ThreatModel], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(ThreatModel(0.1, SHAPE))


@pytest.mark.parametrize(("targets", "n_classes"), [(0, 2), (3, 3)])
def test_dlr_refuses_models_with_too_few_classes(targets: int, n_classes: int) -> None:
    attack = APGD(ThreatModel(0.1, (4,)), "dlr", targets=targets)
    with pytest.raises(InputError, match="take loss='margin'"):
        attack(Linear(torch.randn(n_classes, 4), torch.zeros(n_classes)), torch.rand(3, 4), torch.zeros(3).long())
