"""Attacks of one step over many eps at once, against the same attacks at one eps after the other."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.adversaries import Adversary
from sparring.attacks import PGD, LearnedAttack, Noise, fgsm
from sparring.data.batches import Data
from sparring.errors import InputError
from sparring.evaluation import Outcome, attacked, curve
from sparring.evaluation.accuracy import averaged_over_passes
from sparring.evaluation.one_step import OneStep, one_step, one_step_curve, one_step_over_passes
from sparring.models import mlp
from sparring.randomness import Stream
from sparring.threat import ThreatModel

SHAPE = (1, 4, 4)
C = 4
THREAT = ThreatModel(0.1, SHAPE)
GRID = (0.3, 0.0, 0.05, 1.0)
STREAM = Stream(3, "test")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> nn.Module:
    model = mlp(SHAPE, [16, C], generator=seeded(1)).train()
    model(torch.rand(100, *SHAPE, generator=seeded(2)))
    return model.eval()


@pytest.fixture
def data() -> Data:
    x = torch.rand(150, *SHAPE, generator=seeded(3))
    return Data(x, torch.randint(C, (150,), generator=seeded(4)), C, "random")


def adversary(*sees: Any) -> Adversary:
    seen = ("x", *sees)
    n = 16 * (1 + ("gradient" in sees)) + C * ("label" in sees)
    network = mlp((n,) if sees else SHAPE, [8, 16], generator=seeded(5))
    return Adversary(network, "tanh", SHAPE, sees=seen, n_classes=C)


ATTACKS: dict[str, OneStep] = {
    "fgsm": fgsm(THREAT),
    "fgsm in training mode": fgsm(THREAT, mode="training"),
    "fgsm on the model's own answer": fgsm(THREAT, label="predicted", loss="margin"),
    "uniform noise": Noise(THREAT, "uniform", STREAM),
    "sign noise": Noise(THREAT, "sign", STREAM),
    "adversary": LearnedAttack(adversary(), THREAT),
    "adversary in training mode": LearnedAttack(adversary(), THREAT, "training"),
    "adversary that sees label and gradient": LearnedAttack(adversary("label", "gradient"), THREAT),
}


def alike(found: Outcome, expected: Outcome) -> bool:
    """Equal to the bit, in all but the seconds."""
    tensors = all(torch.equal(getattr(found, n), getattr(expected, n)) for n in ("correct", "invalid", "logits"))
    costs = (found.cost.forwards, found.cost.backwards) == (expected.cost.forwards, expected.cost.backwards)
    same = (found.attack, found.eps, found.max_distance) == (expected.attack, expected.eps, expected.max_distance)
    return tensors and costs and same


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_all_eps_at_once_give_what_each_gives_alone(name: str, mode: Any, model: nn.Module, data: Data) -> None:
    attack, order = ATTACKS[name], torch.randperm(150, generator=seeded(0))
    settings: dict[str, Any] = {"batch_size": 40, "streams": [STREAM], "order": order, "mode": mode}
    expected = curve(model, data, lambda threat: replace(attack, threat=threat), GRID, **settings)  # type: ignore[type-var]
    found = one_step_curve(model, data, attack, GRID, **settings)
    assert list(found) == list(expected) == sorted(GRID)
    assert all(alike(found[eps], expected[eps]) for eps in GRID)
    assert not found[1.0].correct.equal(found[0.0].correct)


def test_verdicts_in_either_mode_share_a_direction(model: nn.Module, data: Data) -> None:
    attack = fgsm(THREAT, mode="training")
    found = one_step(model, data, attack, [(0.1, "evaluation"), (0.1, "training")], batch_size=50)
    for mode, outcome in zip(("evaluation", "training"), found, strict=True):
        assert alike(outcome, attacked(model, data, attack, THREAT, batch_size=50, mode=mode))  # type: ignore[arg-type]


def test_passes_are_averaged_as_one_eps_alone_would_be(model: nn.Module, data: Data) -> None:
    attack = fgsm(THREAT, mode="training")
    for eps, (mean, first) in one_step_over_passes(model, data, attack, GRID, passes=2, batch_size=30, seed=4).items():
        threat = THREAT.at(eps)
        alone = averaged_over_passes(
            model, data, replace(attack, threat=threat), threat, passes=2, batch_size=30, seed=4
        )
        assert mean == alone[0] and alike(first, alone[1])


def test_the_model_is_asked_for_one_direction_a_batch(model: nn.Module, data: Data) -> None:
    calls: list[int] = []
    model.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    one_step_curve(model, data, fgsm(THREAT), GRID, batch_size=50)
    assert len(calls) == 3 * (1 + len(GRID))
    calls.clear()
    assert one_step_curve(model, data, fgsm(THREAT), []) == {} and not calls


@pytest.mark.parametrize(
    ("change", "message"), [(lambda d: 1.01 * d, "left the ball"), (lambda d: d * float("nan"), "left the ball")]
)
def test_a_direction_that_leaves_the_ball_is_refused(
    change: Callable[[Tensor], Tensor], message: str, model: nn.Module, data: Data
) -> None:
    class Wide(Noise):
        def direction(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return change(super().direction(model, x, y))

    grey = Data(torch.full_like(data.images, 0.5), data.labels, C, "grey")  # nothing is clipped
    with pytest.raises(InputError, match=message):
        one_step_curve(model, grey, Wide(THREAT, "sign", STREAM), [0.1])


@pytest.mark.parametrize("other", [PGD(THREAT, steps=2), PGD(THREAT, steps=1)])
def test_an_attack_of_another_step_than_eps_has_no_direction(other: PGD, model: nn.Module, data: Data) -> None:
    with pytest.raises(InputError, match="only FGSM goes in one direction"):
        one_step_curve(model, data, other, GRID)
