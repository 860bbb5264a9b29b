"""Ascent along gradients averaged over a neighbourhood: for models whose gradient is there, but too rough to follow."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.ascent import ASCENTS
from sparring.attacks.rows import Best, answers, chunks, fooled, part
from sparring.errors import InputError
from sparring.randomness import Stream
from sparring.threat import ThreatModel

LONG, SHORT = 0.5, 0.15  # steps of the first and of the second half, in radii


@dataclass(frozen=True)
class Smoothed:
    """Signed steps with momentum, along gradients that are taken at random points about the present one.

    At each step the gradient is taken at `samples` points, normal about the present one with a standard deviation of `noise`
    radii, clipped to the ball; each example's is divided by its mean magnitude and added to `momentum` times the sum so far.
    What one step's point gets wrong the next ones average out. A step asks each example for `samples` gradients, and for one
    answer at the point that it comes to. An example is left as soon as it is broken; one that stands returns the point of
    highest loss. `restarts` repeats everything from other points with other draws.

    Where the loss is smooth already, as a perceptron's, the noise only hurts: Auto-PGD is stronger there (docs/evaluation.md).

    Every example gets the same draws, so its result does not depend on which others are in the batch, or on their order. Labels
    with one axis are attacked `chunk` at a time; of a stack (labels (S, B)) all at once.
    """

    threat: ThreatModel
    loss: str = "cross_entropy"
    steps: int = 100
    noise: float = 1.0
    samples: int = 1
    momentum: float = 0.75
    restarts: int = 1
    stream: Stream = field(default_factory=lambda: Stream(0, "smoothed"))
    chunk: int = field(default=512, repr=False)  # changes no result

    def __post_init__(self) -> None:
        for name in ("steps", "samples", "restarts", "chunk"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1; got {getattr(self, name)}")
        if not (self.noise >= 0 and 0 <= self.momentum < 1):
            raise InputError(f"noise must be >= 0 and momentum in [0, 1); got {self.noise:g} and {self.momentum:g}")
        if self.loss not in ASCENTS:
            raise InputError(f"loss must be one of {', '.join(ASCENTS)}; got {self.loss!r}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach()
        if not y.numel():
            return x.clone()
        with modes.frozen(model):
            best = Best.of(answers(model, x, y, self.chunk), x, y)
            generator = self.stream.generator(x.device)
            for _ in range(self.restarts):
                draws = self._draws(x, generator)
                for index, threat in chunks(best.standing, self.chunk, self.threat):
                    best.take(index, threat, *self._ascend(model, threat, x[index], y[index], draws))
        return best.x_adv

    def _draws(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A starting point (*shape), in radii, and the points about the present one, (steps, samples, *shape)."""
        shape = self.threat.shape
        start = torch.empty(shape, dtype=x.dtype, device=x.device).uniform_(-1, 1, generator=generator)
        about = torch.empty(self.steps, self.samples, *shape, dtype=x.dtype, device=x.device)
        return start, about.normal_(generator=generator) * self.noise

    def _ascend(
        self, model: nn.Module, threat: ThreatModel, x: Tensor, y: Tensor, draws: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The points (..., *shape), their losses (...) and whether they are misclassified."""
        start, about = draws
        drops = y.ndim == 1  # a stack needs every example in its place
        now = threat.moved(x, start.expand(x.shape))
        found, sum_so_far = now.clone(), torch.zeros_like(x)
        best = torch.full(y.shape, -torch.inf, dtype=x.dtype, device=x.device)
        broken = torch.zeros_like(y, dtype=torch.bool)
        at = torch.arange(len(y), device=x.device) if drops else ...  # who is still followed
        for step, points in enumerate(about):
            sum_so_far = self.momentum * sum_so_far + self._gradient(model, threat, x, now, y, points)
            by = LONG if 2 * step < self.steps else SHORT
            now = threat.project(now + by * threat.radius(x) * sum_so_far.sign(), x)
            with torch.no_grad():
                logits = model(now)
            loss, falls = _losses(self.loss, logits, y), fooled(logits, y)
            better = ~broken[at] & (falls | (loss > best[at]))
            found[at] = torch.where(threat.over_pixels(better), now, found[at])
            best[at] = torch.where(better, loss.to(best.dtype), best[at])
            broken[at] = broken[at] | falls
            if bool(broken.all()):
                break
            if drops and bool(falls.any()):
                left = (~falls).nonzero().squeeze(-1)
                threat = part(threat, y.shape, left)
                at, x, y, now, sum_so_far = at[left], x[left], y[left], now[left], sum_so_far[left]  # type: ignore[index]
        return found, best, broken

    def _gradient(
        self, model: nn.Module, threat: ThreatModel, x: Tensor, now: Tensor, y: Tensor, points: Tensor
    ) -> Tensor:
        """The sum over the points about `now`, each example's over its mean magnitude."""
        found = torch.zeros_like(now)
        for point in points:
            there = threat.project(now + threat.radius(x) * point, x).requires_grad_()
            with torch.enable_grad():
                logits = model(there)
                flat = logits.detach().flatten(0, -2)
                direction = ASCENTS[self.loss](flat, y.reshape(-1), None)[1].view(logits.shape)
                (gradient,) = torch.autograd.grad(
                    (logits * direction).sum(), there, allow_unused=True, materialize_grads=True
                )
            gradient = gradient.nan_to_num(nan=0.0)
            size = threat.flat(gradient).abs().mean(-1).clamp(min=torch.finfo(x.dtype).tiny)
            found = found + gradient / threat.over_pixels(size)
        return found


def _losses(name: str, logits: Tensor, y: Tensor) -> Tensor:
    return ASCENTS[name](logits.flatten(0, -2), y.reshape(-1), None)[0].view(y.shape)
