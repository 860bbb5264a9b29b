"""Attacks on models of the attacker's own, shown to another one: what is found without asking it for a gradient.

Letters: B batch, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.contract import Attack, aimed
from sparring.errors import InputError
from sparring.randomness import Stream
from sparring.threat import ThreatModel

MEMORY = 0.75  # of a rehearsal's earlier gradients in their running mean
DECAY, SMALLEST_STEP = 0.85, 0.1  # of its steps, the first of which is one radius


@dataclass(frozen=True, eq=False)
class Transferred:
    """An attack on the model `source`, shown to this one, which is asked nothing; at `threat`, or else at the attack's own."""

    source: nn.Module
    attack: Attack
    threat: ThreatModel | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with modes.frozen(self.source):
            return self._attack(self.source, x, y)

    def __repr__(self) -> str:
        return f"Transferred(from={type(self.source).__name__}, {self._attack!r})"

    @property
    def _attack(self) -> Attack:
        return self.attack if self.threat is None else aimed(self.attack, self.threat)


class Together(nn.Module):
    """Several classifiers as one, whose logits (..., C) are the mean of their log probabilities."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not models:
            raise ValueError("classifiers together are at least one; got none")
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([model(x).log_softmax(-1) for model in self.models]).mean(0)


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """Where attacks on models of one's own end, of which the model attacked chooses: the end that it is nearest to failing at.

    For each of `starts` random corners of the ball and each of the C - 1 wrong classes, `steps` signed steps with momentum up
    what that class's logit has over the right one's, summed over the `sources` with random weights; every example has the same
    draws. The model answers once at every end, `starts` x (C - 1) forwards an example and no gradient; kept is the end where the
    class that was aimed at has most over the right one. The models of one's own are passed forwards and backwards `starts` x
    (C - 1) x `steps` times each. Raises InputError for no sources, and for starts or steps below 1.

    What it is for is to be gone on from (`LearnedAttack(start=...)`): which wrong class is nearest is what a few gradients of
    the model itself do not tell.
    """

    sources: Sequence[nn.Module]
    threat: ThreatModel
    starts: int = 5
    steps: int = 10
    stream: Stream = field(default_factory=lambda: Stream(0, "rehearsal"))

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("a rehearsal needs at least one model of the attacker's own; got none")
        if self.starts < 1 or self.steps < 1:
            raise InputError(f"starts and steps must be >= 1; got {self.starts} and {self.steps}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach()
        found, most = x, torch.full(y.shape, -torch.inf, dtype=x.dtype, device=x.device)
        own = nn.ModuleList(self.sources)
        with modes.frozen(own), modes.frozen(model):
            with torch.no_grad():
                n_classes = own[0](x).shape[-1]
            for _ in range(self.starts):
                for offset in range(1, n_classes):
                    target = (y + offset) % n_classes
                    end = self._end(own, x, y, target)
                    with torch.no_grad():
                        ahead = _ahead(model(end), target, y)
                    better = ahead > most
                    found = torch.where(self.threat.over_pixels(better), end, found)
                    most = torch.where(better, ahead, most)
        return found

    def _end(self, own: nn.ModuleList, x: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """Where the steps towards these classes (...) end."""
        threat, pixels = self.threat, tuple(range(-len(self.threat.shape), 0))
        generator = self.stream.generator(x.device)
        weights = x.new_empty(len(own)).uniform_(generator=generator).square_()
        corner = x.new_empty(threat.shape).uniform_(-1, 1, generator=generator).sign_()
        x_adv, mean = threat.moved(x, corner.expand_as(x)), torch.zeros_like(x)
        for step in range(self.steps):
            point = x_adv.requires_grad_()
            with torch.enable_grad():
                ahead = [weight * _ahead(model(point), target, y) for weight, model in zip(weights, own, strict=True)]
                (gradient,) = torch.autograd.grad(torch.stack(ahead).sum(), point)
            size = gradient.abs().mean(pixels, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
            mean = MEMORY * mean + (1 - MEMORY) * gradient / size
            reach = threat.radius(x) * max(SMALLEST_STEP, DECAY**step)
            x_adv = threat.project(x_adv.detach() + reach * mean.sign(), x)
        return x_adv.detach()

    def __repr__(self) -> str:
        named = ", ".join(type(source).__name__ for source in self.sources)
        return f"Rehearsal(from=[{named}], threat={self.threat}, starts={self.starts}, steps={self.steps}, stream={self.stream})"


def _ahead(logits: Tensor, target: Tensor, y: Tensor) -> Tensor:
    """By how much a class's logit is above the right one's, of shape (...)."""
    there = logits.gather(-1, torch.stack((target, y), -1))
    return there[..., 0] - there[..., 1]
