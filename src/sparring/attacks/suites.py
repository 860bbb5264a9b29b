"""Attacks that together make an evaluation, in order of cost, and the cascade that runs them one after the other."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.apgd import APGD
from sparring.attacks.contract import Attack
from sparring.attacks.rows import answers, chunks, fooled
from sparring.attacks.square import Square
from sparring.errors import InputError
from sparring.losses import margin
from sparring.randomness import Stream
from sparring.threat import ThreatModel

CHUNK = 1000  # examples that are only classified, at a time


def standard_suite(threat: ThreatModel, n_classes: int, shape: tuple[int, ...], seed: int = 0) -> tuple[Attack, ...]:
    """The evaluation to report; bench/attack.py sets it beside AutoAttack's standard version.

    Auto-PGD on cross-entropy; targeted on the margin, for the three strongest wrong classes; targeted on DLR (on the margin again
    where there are fewer than four classes), for nine; on cross-entropy from four more starts; Square Attack with 500 queries,
    and with 5,000 where that or twenty steps of Auto-PGD on the margin say that it may pay (`Escalation`). FAB, the fourth member
    of AutoAttack, is left out. Raises InputError where `shape` is not the threat's.
    """
    loss = _checked(threat, n_classes, shape)
    square = Escalation(
        scout=Square(threat, queries=500, stream=Stream(seed, "suite.scout")),
        beside=APGD(threat, "margin", steps=20, stream=Stream(seed, "suite.beside")),
        attack=Square(threat, queries=5000, stream=Stream(seed, "suite.square")),
        threat=threat,
    )
    return (
        APGD(threat, "cross_entropy", stream=Stream(seed, "suite.cross_entropy")),
        APGD(threat, "margin", targets=min(3, n_classes - 1), stream=Stream(seed, "suite.margin")),
        APGD(threat, loss, targets=min(9, n_classes - 1), stream=Stream(seed, "suite.targeted")),
        APGD(threat, "cross_entropy", restarts=4, stream=Stream(seed, "suite.restarts")),
        square,
    )


def quick_suite(threat: ThreatModel, n_classes: int, shape: tuple[int, ...], seed: int = 0) -> tuple[Attack, ...]:
    """The same kinds of attack at about a tenth of the cost, for a look during work; its numbers are a little too high."""
    loss = _checked(threat, n_classes, shape)
    return (
        APGD(threat, "cross_entropy", steps=20, stream=Stream(seed, "suite.cross_entropy")),
        APGD(threat, loss, targets=min(3, n_classes - 1), steps=20, stream=Stream(seed, "suite.targeted")),
        Square(threat, queries=500, stream=Stream(seed, "suite.square")),
    )


@dataclass(frozen=True)
class Cascade:
    """Attacks in turn, each aimed at this threat and run on what all before it left standing.

    An example that stands at the end returns the last attack's answer. Where labels have more than one axis the model
    may be a stack, and every attack is given all examples.
    """

    attacks: tuple[Attack, ...]
    threat: ThreatModel

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach()
        if not y.numel():
            return x.clone()
        with modes.evaluation(model):
            x_adv, standing = x.clone(), ~fooled(answers(model, x, y, CHUNK), y)
            for attack in self.attacks:
                for index, threat in chunks(standing, len(x), self.threat):
                    found = aimed(attack, threat)(model, x[index], y[index]).detach()
                    still = standing[index]
                    x_adv[index] = torch.where(threat.over_pixels(still), found, x_adv[index])
                    standing[index] = still & ~fooled(answers(model, found, y[index], CHUNK), y[index])
        return x_adv


@dataclass(frozen=True)
class Escalation:
    """A dear attack, only on the examples where its cheap form, the scout, or another kind of attack says that it may pay.

    Judged by margins, the best wrong logit less the right one, each found by the scout and by the attack `beside` it. An example
    is gone on with where the scout's is no lower: a gradient that leads no further than a short random search may be worth
    nothing. It is too where either leaves no more than `close` of the clean margin. For the others the scout's answer stands.
    Each member is aimed at this threat.
    """

    scout: Attack
    beside: Attack
    attack: Attack
    threat: ThreatModel
    close: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.close <= 1:
            raise InputError(f"close must be in [0, 1], a share of the clean margin; got {self.close:g}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach()
        if not y.numel():
            return x.clone()
        with modes.evaluation(model):
            x_adv = aimed(self.scout, self.threat)(model, x, y).detach().clone()  # it may hand back x itself
            logits = answers(model, x_adv, y, CHUNK)
            standing, scouted = ~fooled(logits, y), margin(logits, y)
            promising = torch.zeros_like(standing)
            for index, threat in chunks(standing, len(x), self.threat):
                there = aimed(self.beside, threat)(model, x[index], y[index]).detach()
                gradient, clean = (margin(answers(model, at, y[index], CHUNK), y[index]) for at in (there, x[index]))
                far = torch.maximum(scouted[index], gradient) < self.close * clean
                promising[index] = standing[index] & ~(far & (scouted[index] < gradient))  # NaN decides nothing
            for index, threat in chunks(promising, len(x), self.threat):
                found = aimed(self.attack, threat)(model, x[index], y[index]).detach()
                x_adv[index] = torch.where(threat.over_pixels(promising[index]), found, x_adv[index])
        return x_adv


def aimed(attack: Attack, threat: ThreatModel) -> Attack:
    """The attack with this threat, where it is a dataclass that has one."""
    return replace(attack, threat=threat) if hasattr(attack, "threat") else attack  # type: ignore[type-var]


def _checked(threat: ThreatModel, n_classes: int, shape: tuple[int, ...]) -> str:
    if tuple(shape) != threat.shape:
        raise InputError(f"the threat is for inputs {threat.shape}, the suite for {tuple(shape)}; give both one shape")
    if n_classes < 2:
        raise InputError(f"a suite needs at least 2 classes; got {n_classes}")
    return "dlr" if n_classes >= 4 else "margin"
