"""The attacks of the audit by kind, and those of the headline: the one place that names them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks import PGD, Attack
from sparring.attacks.apgd import APGD
from sparring.attacks.hard_label import RayS
from sparring.attacks.square import Square
from sparring.auditing.levels import Level
from sparring.auditing.runs import AttackRun
from sparring.evaluation.worst_case import Suite
from sparring.losses import cross_entropy
from sparring.randomness import Stream
from sparring.threat import ThreatModel

KINDS = ("cross-entropy", "margin", "targeted", "score-based", "hard-label", "transfer", "learned")


@dataclass(frozen=True)
class Draws:
    """The first of `draws` random points of the ball, uniform and corners in turn, that is misclassified; else the last.

    `at_once` of them are shown to the model in one pass, which is faster where examples are few.
    """

    threat: ThreatModel
    draws: int = 100
    at_once: int = 1
    stream: Stream = field(default_factory=lambda: Stream(0, "audit.noise"))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        generator, found, standing = self.stream.generator(x.device), x.clone(), torch.ones_like(y, dtype=torch.bool)
        with torch.no_grad(), modes.evaluation(model):
            low, high = (self.threat.project(x + way * self.threat.radius(x), x) for way in (-1, 1))
            for first in range(0, self.draws, self.at_once):
                n = min(self.at_once, self.draws - first)
                noise = torch.empty(n, *x.shape, dtype=x.dtype, device=x.device).uniform_(-1, 1, generator=generator)
                noise[(first + 1) % 2 :: 2].sign_()
                here = torch.clamp(noise.mul_(self.threat.radius(x)).add_(x), low, high)
                wrong = model(here.flatten(0, 1)).argmax(-1).view(n, *y.shape) != y
                broken = wrong.any(0)
                which = torch.where(broken, wrong.int().argmax(0), n - 1)
                now = here[which, torch.arange(len(y), device=x.device)]
                found = torch.where(self.threat.over_pixels(standing), now, found)
                standing = standing & ~broken
        return found


@dataclass(frozen=True, eq=False)
class From:
    """PGD-T on cross-entropy from given starts (B, *shape), one for each example of the one batch that it is called with.

    A start that is misclassified already proves nothing of the gradient: such an example is returned clean.
    """

    threat: ThreatModel
    start: Tensor
    steps: int

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_adv, found = self.start.clone(), x.clone()
        with torch.no_grad():
            open_ = model(self.start).argmax(-1) == y
        for step in range(self.steps + 1):
            probe = x_adv.detach().requires_grad_()
            with torch.enable_grad():
                logits = model(probe)
                (grad,) = torch.autograd.grad(cross_entropy(logits, y).sum(), probe)
            found = torch.where(self.threat.over_pixels(open_), x_adv, found)
            open_ = open_ & (logits.argmax(-1) == y)
            size = self.threat.eps / 4 * (1 - step / self.steps)  # ever smaller, so that it settles
            x_adv = self.threat.project(x_adv + size * grad.sign(), x)
        return found

    def __repr__(self) -> str:
        return f"From(threat={self.threat}, start=on the way to what another attack found, steps={self.steps})"


def pgd(threat: ThreatModel, steps: int, *, loss: str = "cross_entropy", restarts: int = 1, name: str = "white") -> PGD:
    """PGD-T of the audit: T steps of 2.5 eps / T from a random start, the best example kept."""
    return PGD(threat, steps=steps, loss=loss, restarts=restarts, stream=Stream(0, f"audit.{name}"))


def targeted(threat: ThreatModel, steps: int, n_classes: int) -> Attack:
    """APGD towards the likeliest wrong classes, one after the other; DLR where there are classes enough for it."""
    loss = "dlr" if n_classes >= 4 else "margin"
    return APGD(threat, loss, targets=min(9, n_classes - 1), steps=steps, stream=Stream(0, "audit.targeted"))


def score_based(threat: ThreatModel, queries: int) -> Attack:
    """Sees logits, no gradient."""
    return Square(threat, queries, rescale=True, stream=Stream(0, "audit.square"))


def hard_label(threat: ThreatModel, queries: int) -> Attack:
    """Sees the class only."""
    return RayS(threat, queries)


HEADLINE_KINDS = {"cross-entropy": "cross-entropy", "margin": "margin", "targeted": "targeted", "Square": "score-based"}


def headline(level: Level, n_classes: int, claimed: float) -> Suite:
    """The attacks of the headline at one eps, cheap ones first; at the claimed eps Square runs among the checks."""

    def suite(threat: ThreatModel) -> list[tuple[str, Attack]]:
        attacks: list[tuple[str, Attack]] = [
            (f"APGD-{level.steps} cross-entropy", APGD(threat, steps=level.steps)),
            (
                f"APGD-{level.steps} margin",
                APGD(threat, "margin", steps=level.steps, restarts=2, stream=Stream(0, "audit.apgd")),
            ),
            (f"APGD-{level.steps} targeted", targeted(threat, level.steps, n_classes)),
        ]
        if threat.eps != claimed:
            attacks.append((f"Square, {level.queries} queries", score_based(threat, level.queries)))
        return attacks

    return suite


def distinct(runs: Iterable[AttackRun], eps: float) -> set[str]:
    """The different attacks among the runs at one eps: another start, length, seed or epoch of one is no attack of its own."""
    return {attack_of(run.name) for run in runs if run.eps == eps and not run.again}


def attack_of(name: str) -> str:
    """The attack that a run or a stage of this name belongs to: seeds and lengths of a training are one, and so are epochs."""
    return re.sub(r"^((?:fresh|past) adversary|best response \w+) .*", r"\1", name)


def kind_of(name: str) -> str:
    """The kind of an attack of the headline, by its name."""
    return next((kind for word, kind in HEADLINE_KINDS.items() if word in name), "candidate")
