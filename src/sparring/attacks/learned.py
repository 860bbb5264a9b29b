"""A trained adversary as an attack like any other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring import modes
from sparring.adversaries import Adversary, AnyAdversary, RecurrentAdversary
from sparring.attacks.contract import Attack, aimed
from sparring.attacks.gradient import Mode
from sparring.errors import one_of
from sparring.losses import LOSSES, Loss, log_odds, margin
from sparring.threat import ThreatModel

Clip = Literal["plain", "straight_through", "none"]
Asks = Literal["log_odds", "margin"]


class Shown(TypedDict, total=False):
    """What an adversary sees beside x."""

    y: Tensor
    gradient: Tensor


@dataclass(frozen=True, eq=False)
class LearnedAttack:
    """x_adv = clip(x + eps * A(x)), the adversary A in evaluation mode (paper, section 3.1).

    Differentiable in A's parameters; evaluation detaches. One forward pass of A; it asks the model nothing, unless A sees the
    model's gradient: then one pass forwards and backwards.
    `mode` "training" leaves A's batch norm in training mode (its statistics are put back): part of the *paper* protocol.

    A recurrent adversary goes on from where the attack `start` ends, if there is one, instead of from its first point. Such a
    start may be an attack on models of one's own, which asks the attacked model for no gradient (`Transferred`, `Rehearsal`) or
    for one (`FittedRehearsal`). `asks` names the loss whose gradient it is shown: that of "margin" is of the nearest wrong class
    alone, which serves where the start has chosen one. Raises InputError for another name, or another mode.
    """

    adversary: AnyAdversary
    threat: ThreatModel
    mode: Mode = "evaluation"
    start: Attack | None = None
    asks: Asks = "log_odds"

    def __post_init__(self) -> None:
        one_of("asks", self.asks, get_args(Asks))
        one_of("mode", self.mode, get_args(Mode))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return self.threat.project(x + self.threat.radius(x) * self.direction(model, x, y), x)

    def direction(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The adversary's answer d in [-1, 1]; x + eps * d, clipped, is the perturbed input.

        At every eps, unless the adversary is recurrent: then d is for the threat's own.
        """
        training, adversary = self.mode == "training", self.adversary
        if isinstance(adversary, RecurrentAdversary):
            d = adversary.first_point(x)
            if self.start is not None:
                d = end_of(aimed(self.start, self.threat), self.threat, model, x, y)
            for _ in range(adversary.rounds):
                d = pursue(adversary, model, self.threat, x, y, d, asks=LOSSES[self.asks])
            return d
        with modes.training(adversary, keep_statistics=True) if training else modes.evaluation(adversary):
            return answer(adversary, x, **shown_to(adversary, model, x, y))

    def __repr__(self) -> str:
        adversary = self.adversary
        if isinstance(adversary, RecurrentAdversary):
            start = "" if self.start is None else f", start={self.start!r}"
            asks = "" if self.asks == "log_odds" else f", asks={self.asks!r}"
            return f"LearnedAttack({adversary!r}, threat={self.threat}{start}{asks})"
        sees = "" if adversary.sees == ("x",) else f", sees={adversary.sees!r}"
        return f"LearnedAttack(bound={adversary.bound!r}{sees}, threat={self.threat}, mode={self.mode!r})"


def end_of(attack: Attack, threat: ThreatModel, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Where an attack ends, as a perturbation over the radius, (..., *shape) in [-1, 1]; 0 where the radius is."""
    moved, radius = attack(model, x, y).detach() - x, torch.as_tensor(threat.radius(x), dtype=x.dtype, device=x.device)
    return torch.where(radius > 0, moved / radius, 0.0).clamp(-1, 1)


def pursue(
    adversary: RecurrentAdversary,
    model: nn.Module,
    threat: ThreatModel,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    first: Sequence[int] = (),
    asks: Loss = log_odds,
) -> Tensor:
    """The perturbation over the radius, (..., *shape) in [-1, 1], after the adversary's queries to the model from `start`.

    With `first` query k is for the examples from first[k] on. Differentiable in the adversary's parameters; the model is asked,
    for the gradient of the loss `asks`, in evaluation mode and not differentiated through.
    """
    x = x.detach()
    radius = threat.radii(x, y)
    own = y.ndim - 1  # the batch axis

    def ask(u: Tensor) -> tuple[Tensor, Tensor]:
        among = slice(y.shape[own] - u.shape[own], None)  # the last ones
        aimed = threat.at(radius[..., among]) if among.start else threat
        with torch.enable_grad():
            point = aimed.moved(x[(slice(None),) * own + (among,)], u).requires_grad_()
            odds = asks(model(point), y[..., among])
            if not odds.requires_grad:
                return torch.zeros_like(u), odds
            (gradient,) = torch.autograd.grad(odds.sum(), point, allow_unused=True, materialize_grads=True)
        return gradient, odds.detach()

    with modes.frozen(model):
        moved: Tensor = adversary(ask, x, radius, start, first)
    return moved


def perturb(
    adversary: Adversary,
    threat: ThreatModel,
    x: Tensor,
    clip: Clip = "plain",
    *,
    y: Tensor | None = None,
    gradient: Tensor | None = None,
) -> Tensor:
    """x + eps * A(x) in A's present mode, clipped to the pixel range (ambiguity s).

    "plain": a pixel at an end of the range passes no gradient. "straight_through": clipped forwards, not backwards. "none":
    not clipped, so outside the threat model; for training only. `y` and `gradient` are what `shown_to` gives.
    """
    radius, d = threat.radius(x), answer(adversary, x, y, gradient)
    free = x + radius * d if isinstance(radius, Tensor) else torch.add(x, d, alpha=radius)
    if clip == "none":
        return free
    if clip == "straight_through":
        return free + (free.clamp(threat.low, threat.high) - free).detach()
    return F.hardtanh(free, threat.low, threat.high)  # clamp, but for its gradient: one pass, not four


def answer(adversary: Adversary, x: Tensor, y: Tensor | None = None, gradient: Tensor | None = None) -> Tensor:
    """A(x) in [-1, 1], of x's shape, in A's present mode."""
    found: Tensor = adversary(x) if adversary.sees == ("x",) else adversary(x, y, gradient)
    return found


def shown_to(adversary: Adversary, model: nn.Module, x: Tensor, y: Tensor) -> Shown:
    """What this adversary sees beside x; nothing for one that sees x only."""
    shown = Shown()
    if "label" in adversary.sees:
        shown["y"] = y
    if "gradient" in adversary.sees:
        shown["gradient"] = input_gradient(model, x, y)
    return shown


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The input gradient of the margin loss over each example's mean magnitude, within [-4, 4]; 0 where there is none.

    Detached, the model in evaluation mode. The margin, as its gradient does not vanish where cross-entropy saturates; not the
    sign alone, as the magnitudes tell which pixels may be spent otherwise.
    """
    with modes.frozen(model), torch.enable_grad():
        point = x.detach().requires_grad_()
        total = margin(model(point), y).sum()
        if not total.requires_grad:
            return torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(total, point, allow_unused=True, materialize_grads=True)
    return _over_its_mean(gradient.nan_to_num(0.0, 0.0, 0.0), x.ndim - y.ndim)


def _over_its_mean(gradient: Tensor, n_own_axes: int) -> Tensor:
    own = tuple(range(-n_own_axes, 0))
    mean = gradient.abs().mean(own, keepdim=True)
    return (gradient / mean.clamp(min=torch.finfo(mean.dtype).tiny)).clamp(-4, 4)
