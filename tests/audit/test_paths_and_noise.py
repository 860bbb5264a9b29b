"""What the audit sees of an attack's path, also in parts of a batch, and the noise that it draws."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import APGD, PGD, Attack, RayS
from sparring.auditing import CHECKS, Check, Subject
from sparring.auditing.evidence import Evidence
from sparring.auditing.probe import NONE, SEVERAL, Balls
from sparring.auditing.selftest import SELF
from sparring.auditing.suite import Draws
from sparring.auditing.thresholds import shipped
from sparring.data import load
from sparring.randomness import Stream
from sparring.threat import ThreatModel

TRAIN, TEST = load("digits")
FEW = replace(SELF, n=60, steps=20, queries=50, fresh_steps=20, surrogate_steps=20)


def evidence(model: nn.Module, **more: Any) -> Evidence:
    level = more.pop("level", FEW)
    return Evidence(Subject(**{"model": model, "data": TEST, "eps": (0.1,), "train": TRAIN, **more}), level, shipped())


def made(id: str, model: nn.Module, **more: Any) -> Check:
    return CHECKS[id](evidence(model, **more))


# the path


@dataclass(frozen=True)
class InParts:
    """An attack shown a few examples at a time, in another order."""

    attack: Attack
    size: int

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found = x.clone()
        for index in torch.arange(len(y) - 1, -1, -1).split(self.size):
            found[index] = self.attack(model, x[index], y[index])
        return found


def careless(threat: ThreatModel) -> PGD:
    return PGD(threat, steps=50, keep="last", step_size=0.13)


def test_what_is_lost_on_the_path_is_seen_in_parts_of_a_batch_too(plain: nn.Module) -> None:
    whole, parts = (
        made("S11", plain, attack=make) for make in (careless, lambda threat: InParts(careless(threat), 25))
    )
    assert parts.status == whole.status == "FAIL"
    assert "all 3000 example passes followed" in parts.evidence


@pytest.mark.parametrize(
    "make", [lambda t: InParts(PGD(t, steps=30), 7), lambda t: APGD(t, steps=30), lambda t: RayS(t, 200)]
)
def test_attacks_that_drop_examples_and_keep_the_best_lose_none(
    plain: nn.Module, make: Callable[[ThreatModel], Attack]
) -> None:
    e = evidence(plain, attack=make)
    assert CHECKS["S11"](e).status == "PASS" and e.white.rows > 0
    assert "followed" in CHECKS["S11"](e).evidence and "followed" in CHECKS["S12"](e).evidence
    assert len(e.white.losses) >= 20 and list(e.white.losses) == sorted(e.white.losses)


def test_the_loss_of_parts_is_that_of_the_whole(plain: nn.Module) -> None:
    def steps(threat: ThreatModel) -> PGD:
        return PGD(threat, steps=30, random_start=False)

    whole, parts = (
        evidence(plain, attack=make).white.losses for make in (steps, lambda threat: InParts(steps(threat), 60 // 4))
    )
    assert len(parts) == 31 and parts == pytest.approx(whole, rel=1e-5)


def test_passes_that_cannot_be_followed_are_counted_and_blame_nobody(plain: nn.Module) -> None:
    parts = lambda threat: InParts(PGD(threat, steps=30, keep="last"), 20)  # noqa: E731
    e = evidence(plain, attack=parts, eps=(0.9,))
    for check in (CHECKS["S11"](e), CHECKS["S12"](e)):
        assert f"{e.white.lost} of {e.white.rows} example passes could not be followed" in check.evidence
    assert e.white.lost > 0 and CHECKS["S11"](e).status == "PASS"


def test_a_point_belongs_to_the_one_example_in_whose_ball_it_lies() -> None:
    x = torch.tensor([0.0, 0.5, 0.6, 0.9]).view(4, 1).expand(4, 8).contiguous()
    balls = Balls(x, ThreatModel(0.06, (8,)))
    assert balls.apart.tolist() == [True, False, False, True]
    assert balls.owners(x[[3, 0]] + 0.01).tolist() == [3, 0]
    assert balls.owners(x[[0, 3]] + 0.01).tolist() == [0, 3]
    assert balls.owners(torch.full((3, 8), 0.55)).tolist() == [SEVERAL] * 3
    assert balls.owners(torch.full((3, 8), 0.3)).tolist() == [NONE] * 3
    assert balls.owners(torch.full((5, 8), 0.46)).tolist() == [1] * 5
    assert balls.owners(x).tolist() == [0, 1, 2, 3]
    assert balls.owners(x.flip(0) + 0.01)[[0, 3]].tolist() == [3, 0]  # a batch of that size in another order


# noise


def test_noise_many_at_once_is_noise_one_by_one(plain: nn.Module) -> None:
    x, y, threat = TEST.floats()[:9], TEST.labels[:9], ThreatModel(0.4, TEST.shape)
    one, many = (Draws(threat, 30, n, Stream(3, "noise"))(plain, x, y) for n in (1, 7))
    assert torch.equal(one, many) and bool((plain(one).argmax(-1) != y).any())


def test_a_level_of_many_draws_shows_them_to_the_first_hundred_that_stand(plain: nn.Module) -> None:
    e = evidence(plain, level=replace(FEW, n=300, noise_draws=250), eps=(0.03,))
    (more,) = e.more_noise
    assert more.name == "noise, 250 draws on 100 images" and int(more.attacked.sum()) == 100
    assert "noise, 100 draws" in e.runs and more.name in e.runs and more.forwards >= 100 * 250
    assert bool((e.white.share[more.attacked] > 0).all())
    assert more.name in CHECKS["S7"](e).evidence and more.name in CHECKS["S6"](e).numbers["by"]
    e.__dict__["more_noise"] = [replace(more, share=torch.zeros(e.n))]
    assert CHECKS["S7"](e).status == "FAIL" and CHECKS["S7"](e).numbers["noise"] == 0


def test_other_levels_draw_a_hundred_times(plain: nn.Module) -> None:
    assert evidence(plain).more_noise == []
    assert "noise, 30 draws" in CHECKS["S7"](evidence(plain)).evidence
