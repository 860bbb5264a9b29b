"""Attacks of one step over many radii: their direction does not depend on eps, so it is found once for all of them.

Letters: N examples, S copies, C classes.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from sparring.attacks import described, fgsm
from sparring.data import Data
from sparring.evaluation.accuracy import Cost, Outcome, check_count, checked_distance, counted, in_mode, orders
from sparring.models import checked_logits
from sparring.precision import full_fp32
from sparring.randomness import Stream
from sparring.threat import ThreatModel

Mode = Literal["evaluation", "training"]


class OneStep(Protocol):
    """A dataclass of an attack that answers x + eps * d clipped to the pixel range, d in [-1, 1] the same at every eps."""

    @property
    def threat(self) -> ThreatModel: ...

    def direction(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """d, of x's shape (..., *threat.shape)."""
        ...

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor: ...


def one_step_curve(
    model: nn.Module, data: Data, attack: OneStep, grid: Iterable[float], *, mode: Mode = "evaluation", **settings: Any
) -> dict[float, Outcome]:
    """What `accuracy.curve` gives for this attack over a grid of eps, from one direction per batch."""
    radii = sorted(grid)
    return dict(zip(radii, one_step(model, data, attack, [(eps, mode) for eps in radii], **settings), strict=True))


def one_step_over_passes(
    model: nn.Module,
    data: Data,
    attack: OneStep,
    grid: Iterable[float],
    *,
    passes: int = 3,
    batch_size: int = 128,
    seed: int = 0,
) -> dict[float, tuple[float, Outcome]]:
    """What `accuracy.averaged_over_passes` gives for this attack over a grid of eps, from one direction per batch and pass."""
    curves = [
        one_step_curve(model, data, attack, grid, mode="training", batch_size=batch_size, order=order)
        for order in orders(len(data), passes, seed)
    ]
    return {eps: (sum(found[eps].accuracy for found in curves) / passes, first) for eps, first in curves[0].items()}


def fgsm_curve(model: nn.Module, data: Data, grid: Sequence[float], **settings: Any) -> dict[float, Outcome]:
    """FGSM over a grid of eps: a single gradient step, so no bound on robust accuracy."""
    return one_step_curve(model, data, fgsm(ThreatModel(0.0, data.shape)), grid, **settings)


def one_step(
    model: nn.Module,
    data: Data,
    attack: OneStep,
    verdicts: Sequence[tuple[float, Mode]],
    *,
    batch_size: int = 500,
    n_copies: int | None = None,
    streams: Sequence[Stream] = (),
    order: Tensor | None = None,
) -> list[Outcome]:
    """What `accuracy.attacked` gives at each (eps, mode of the verdict), its arguments as there; each attack judged as there.

    The passes that find the direction count in full towards every outcome: an attack costs what it would cost alone.
    """
    check_count("batch_size", batch_size)
    if not verdicts:
        return []
    device = data.images.device
    indices = torch.arange(len(data), device=device) if order is None else order.to(device)
    leading = () if n_copies is None else (n_copies,)
    tallies = [_Tally(data, leading, dataclasses.replace(attack.threat, eps=eps)) for eps, _ in verdicts]
    with torch.no_grad(), full_fp32():
        for number, index in enumerate(indices.split(batch_size)):
            for stream in streams:
                stream.seek(number)
            x, y = data.floats(index), data.labels[index]
            x, y = x.expand(*leading, *x.shape), y.expand(*leading, *y.shape)
            with counted(model) as shared:
                direction = attack.direction(model, x, y)
            for tally, (_, mode) in zip(tallies, verdicts, strict=True):
                with counted(model) as own:
                    tally.judge(model, x, y, direction, index, mode)
                tally.pay(shared)
                tally.pay(own)
    return [tally.outcome(attack) for tally in tallies]


class _Tally:
    """One radius: what became of the examples so far."""

    def __init__(self, data: Data, leading: tuple[int, ...], threat: ThreatModel) -> None:
        self.threat = threat
        self.correct = torch.zeros(*leading, len(data), dtype=torch.bool, device=data.images.device)
        self.invalid = torch.zeros_like(self.correct)
        self.logits = torch.zeros(*leading, len(data), data.n_classes, device=data.images.device)
        self.max_distance = 0.0
        self.cost = Cost()

    def judge(self, model: nn.Module, x: Tensor, y: Tensor, direction: Tensor, index: Tensor, mode: Mode) -> None:
        """Step from x (..., B, *shape), see that it stays inside the threat model, and classify."""
        threat = self.threat
        x_adv = torch.mul(direction, threat.radius(x)).add_(x).clamp_(threat.low, threat.high)
        self.max_distance = max(self.max_distance, checked_distance(threat, x_adv, x))
        with in_mode(model, mode):
            out = checked_logits(model(x_adv), x, self.logits.shape[-1], len(threat.shape))
        finite = torch.isfinite(out).all(-1)
        self.correct[..., index] = (out.argmax(-1) == y) & finite
        self.invalid[..., index] = ~finite
        self.logits[..., index, :] = out.float()

    def pay(self, cost: Cost) -> None:
        """Add to what the attack has cost."""
        self.cost.forwards += cost.forwards
        self.cost.backwards += cost.backwards
        self.cost.seconds += cost.seconds

    def outcome(self, attack: OneStep) -> Outcome:
        aimed = dataclasses.replace(attack, threat=self.threat)  # type: ignore[type-var]
        threat = self.threat
        return Outcome(
            described(aimed), float(threat.eps), self.correct, self.invalid, self.logits, self.max_distance, self.cost
        )
