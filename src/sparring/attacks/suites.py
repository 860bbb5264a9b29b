"""Attacks that together make an evaluation, in order of cost, and the cascade that runs them one after the other."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.apgd import APGD
from sparring.attacks.contract import Attack, aimed
from sparring.attacks.rows import answers, chunks, fooled
from sparring.attacks.square import Square
from sparring.errors import InputError
from sparring.losses import margin
from sparring.randomness import Stream
from sparring.threat import ThreatModel

CHUNK = 1000  # examples that are only classified, at a time


def standard_suite(threat: ThreatModel, n_classes: int, shape: tuple[int, ...], seed: int = 0) -> tuple[Attack, ...]:
    """The evaluation to report; bench/attack.py sets it beside AutoAttack's standard version.

    Auto-PGD on cross-entropy; Square Attack with 500 queries and Auto-PGD on the margin; and where these say that more may pay
    (`Escalation`), Auto-PGD on DLR for the nine strongest wrong classes from two starts (on the margin where there are fewer than
    four), on cross-entropy from ten more, and Square with 3,000 queries, and with 5,000 more where the gradient is doubtful. FAB,
    the fourth member of AutoAttack, is left out. Raises InputError where `shape` is not the threat's.
    """
    loss = _checked(threat, n_classes, shape)
    thorough = (
        APGD(threat, loss, targets=min(9, n_classes - 1), restarts=2, stream=Stream(seed, "suite.targeted")),
        APGD(threat, "cross_entropy", restarts=10, stream=Stream(seed, "suite.restarts")),
        Square(threat, queries=3000, stream=Stream(seed, "suite.square")),
    )
    return (
        APGD(threat, "cross_entropy", stream=Stream(seed, "suite.cross_entropy")),
        Escalation(
            scout=Square(threat, queries=500, stream=Stream(seed, "suite.scout")),
            beside=APGD(threat, "margin", stream=Stream(seed, "suite.margin")),
            attack=Cascade(thorough, threat),
            search=Square(threat, queries=5000, stream=Stream(seed, "suite.search")),
            threat=threat,
        ),
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
    """Two cheap attacks on every example, and dear ones where these say that they may pay.

    Judged by margins, the best wrong logit less the right one, at what the `scout` and the attack `beside` it found. An example
    that stands is close where either left no more than `close` of its clean margin, and doubtful where the scout's margin is no
    lower than the other's: a gradient that leads no further than some hundred random tries may be worth nothing. `attack` goes on
    with both; `search`, which should need no gradient, then with what stands of the doubtful. Members are aimed at this threat.
    """

    scout: Attack
    beside: Attack
    attack: Attack
    search: Attack
    threat: ThreatModel
    close: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.close <= 1:
            raise InputError(f"close must be in [0, 1], a share of the clean margin; got {self.close:g}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach()
        if not y.numel():
            return x.clone()
        with modes.evaluation(model):
            clean = margin(answers(model, x, y, CHUNK), y)
            x_adv, everything = x.clone(), torch.ones_like(y, dtype=torch.bool)
            standing, scouted = self._tried(self.scout, everything, model, x, y, x_adv)
            standing, shown = self._tried(self.beside, standing, model, x, y, x_adv)
            close = standing & ~(torch.maximum(scouted, shown) < self.close * clean)  # NaN decides nothing
            doubtful = standing & ~(scouted < shown)
            standing, _ = self._tried(self.attack, close | doubtful, model, x, y, x_adv)
            self._tried(self.search, standing & doubtful, model, x, y, x_adv)
        return x_adv

    def _tried(
        self, attack: Attack, on: Tensor, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attack some of the examples and write what was found to x_adv; which of them stand, and all margins, where attacked."""
        standing, margins = on.clone(), torch.full(y.shape, torch.nan, dtype=x.dtype, device=x.device)
        for index, threat in chunks(on, y.numel(), self.threat):
            found = aimed(attack, threat)(model, x[index], y[index]).detach()
            logits = answers(model, found, y[index], CHUNK)
            x_adv[index] = torch.where(threat.over_pixels(on[index]), found, x_adv[index])
            standing[index] &= ~fooled(logits, y[index])
            margins[index] = margin(logits, y[index]).to(margins.dtype)
        return standing, margins


def _checked(threat: ThreatModel, n_classes: int, shape: tuple[int, ...]) -> str:
    if tuple(shape) != threat.shape:
        raise InputError(f"the threat is for inputs {threat.shape}, the suite for {tuple(shape)}; give both one shape")
    if n_classes < 2:
        raise InputError(f"a suite needs at least 2 classes; got {n_classes}")
    return "dlr" if n_classes >= 4 else "margin"
