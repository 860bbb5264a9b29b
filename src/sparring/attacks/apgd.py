"""Auto-PGD: projected ascent with momentum that sets its own step size (Croce and Hein 2020, "Reliable evaluation of adversarial
robustness with an ensemble of diverse parameter-free attacks", section 3, algorithm 1)."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.ascent import ASCENTS
from sparring.attacks.rows import Best, Rows, answers, bounds, chunks, fooled, part, put, put_at, rows, signs
from sparring.errors import InputError
from sparring.randomness import Stream
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class APGD:
    """Ascent by sign steps with momentum; the step halves, and the best point is taken up again, where progress stalls.

    `targets` 0 raises the loss as it is. k > 0 makes one ascent towards each of the k wrong classes with the largest logits at
    the example, at most C - 1, in that order (section 4 of the paper: DLR, k = 9); "cross_entropy" has no such form. `restarts`
    repeats everything from other random points. An example is left as soon as it is broken; one that stands returns the point of
    highest loss.

    Every example gets the same random starts, so its result does not depend on which others are in the batch, or on their
    order. Labels with one axis are attacked `chunk` at a time, and where fewer stand several restarts or targets of each at
    once; of a stack (labels (S, B)) all at once, one after the other.
    """

    threat: ThreatModel
    loss: str = "cross_entropy"
    targets: int = 0
    steps: int = 100
    restarts: int = 1
    momentum: float = 0.75  # the paper's alpha
    rise: float = 0.75  # the paper's rho: the share of steps that must raise the loss, else the step halves
    stream: Stream = field(default_factory=lambda: Stream(0, "apgd"))
    chunk: int = field(default=512, repr=False)  # the fastest of several on a processor; changes no result

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "chunk"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1; got {getattr(self, name)}")
        if self.loss not in ASCENTS:
            raise InputError(f"loss must be one of {', '.join(ASCENTS)}; got {self.loss!r}")
        if self.targets < 0:
            raise InputError(f"targets must be >= 0; got {self.targets}")
        if self.targets and self.loss == "cross_entropy":
            raise InputError("cross_entropy has no targeted form; take loss='dlr' or 'margin', or targets=0")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach()
        if not y.numel():
            return x.clone()
        with modes.frozen(model):
            clean = answers(model, x, y, self.chunk)
            self._check_classes(clean.shape[-1])
            best = Best.of(clean, x, y)
            ranked = clean.scatter(-1, y.unsqueeze(-1), -torch.inf).argsort(dim=-1, descending=True)
            n_rounds = max(1, min(self.targets, clean.shape[-1] - 1))
            ascents = [(self._start(x), number % n_rounds) for number in range(self.restarts * n_rounds)]
            while ascents and bool(best.standing.any()):
                together = self._together(best.standing, len(ascents))
                starts, targets = zip(*ascents[:together], strict=True)
                ascents = ascents[together:]
                for index, threat in chunks(best.standing, self.chunk, self.threat):
                    target = [ranked[..., k][index] for k in targets] if self.targets else None
                    best.take(index, threat, *self._several(model, threat, x[index], y[index], target, starts))
        return best.x_adv

    def checkpoints(self) -> list[int]:
        """After which steps the step size is reconsidered: ceil(p_j * steps), with the paper's p_j."""
        before, now, found = 0.0, 0.22, []
        while math.ceil(round(now * self.steps, 6)) < self.steps:
            found.append(math.ceil(round(now * self.steps, 6)))
            before, now = now, now + max(now - before - 0.03, 0.06)
        return sorted(set(found))

    def _start(self, x: Tensor) -> Tensor:
        """A random point on the surface of the unit ball, (*shape)."""
        noise = torch.empty(self.threat.shape, dtype=x.dtype, device=x.device)
        noise.uniform_(-1, 1, generator=self.stream.generator(x.device))
        return noise / noise.abs().max()

    def _together(self, standing: Tensor, n_left: int) -> int:
        """How many ascents to make side by side: few examples are asked about as often, in fewer and fuller batches."""
        if standing.ndim != 1:
            return 1
        return max(1, min(n_left, self.chunk // int(standing.sum())))

    def _several(
        self,
        model: nn.Module,
        threat: ThreatModel,
        x: Tensor,
        y: Tensor,
        targets: list[Tensor] | None,
        starts: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What ascents from several starts, each with its targets, find: by example the first that broke it, else the best."""
        if len(starts) == 1:
            return _Ascent(self, threat, model, x, y, targets[0] if targets else None).run(starts[0])
        k, n = len(starts), len(y)
        wide = part(threat, y.shape, torch.arange(n, device=y.device).repeat(k))
        target = torch.cat(targets) if targets else None
        ascent = _Ascent(self, wide, model, x.repeat(k, *[1] * len(threat.shape)), y.repeat(k), target)
        found, loss, broken = ascent.run(torch.stack(starts).repeat_interleave(n, 0))
        loss, broken = loss.view(k, n), broken.view(k, n)
        first = torch.where(broken.any(0), broken.int().argmax(0), loss.argmax(0))
        take = first * n + torch.arange(n, device=y.device)
        return found[take], loss.flatten()[take], broken.any(0)

    def _check_classes(self, n_classes: int) -> None:
        needed = {"dlr": 4 if self.targets else 3}.get(self.loss, 2)
        if n_classes < needed:
            raise InputError(f"this loss needs {needed} classes, the model has {n_classes}; take loss='margin'")


@dataclass
class _Points(Rows):
    """One row per example that is still followed."""

    row: Tensor  # (N,) where it stands in the answer
    low: Tensor  # (N, D), as all points
    high: Tensor
    now: Tensor
    before: Tensor
    sign: Tensor  # of the gradient at `now`
    best: Tensor
    best_sign: Tensor
    y: Tensor  # (N,), as all that follow
    target: Tensor | None
    step: Tensor  # (N, 1)
    loss: Tensor
    best_loss: Tensor
    best_at_check: Tensor
    rises: Tensor  # steps since the last check that raised the loss
    halved: Tensor  # at the last check


class _Ascent:
    """One ascent of one chunk of examples."""

    def __init__(
        self, attack: APGD, threat: ThreatModel, model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None
    ) -> None:
        self.attack, self.threat, self.model, self.x, self.y, self.target = attack, threat, model, x, y, target
        self.ascend = ASCENTS[attack.loss]
        self.leading = y.shape
        self.drops = y.ndim == 1  # a stack needs every example in its place
        self.spare: Tensor | None = None

    def run(self, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The points (..., *shape), their losses (...) and whether they are misclassified, from x + eps * `start`."""
        threat, x, n = self.threat, self.x, self.y.numel()
        y, target = self.y.reshape(-1), None if self.target is None else self.target.reshape(-1)
        low, high = bounds(threat, x)
        now = torch.clamp(rows(threat, x + threat.radius(x) * start), low, high)
        step = 2.0 * threat.radii(x, self.y).reshape(-1, 1)  # section 3: the first step is 2 eps
        self.found, self.loss = now.clone(), torch.zeros(n, dtype=x.dtype, device=x.device)
        self.broken = torch.zeros(n, dtype=torch.bool, device=x.device)
        sign, loss, broken = self._follow(now, y, target, None, last=False)
        none = torch.zeros(n, dtype=torch.long, device=x.device)
        points = _Points(
            torch.arange(n, device=x.device), low, high, now, now, sign, now.clone(), sign.clone(), y, target, step,
            loss, loss.clone(), loss.clone(), none, torch.ones_like(broken),
        )  # fmt: skip
        self._settle(points, broken)
        checks = self.attack.checkpoints()
        since = 0
        for number in range(1, self.attack.steps + 1):
            if not len(points.row) or bool(self.broken.all()):
                break
            self._move(points, first=number == 1)
            last = number == self.attack.steps
            sign, loss, broken = self._follow(points.now, points.y, points.target, points.sign, last)
            points.rises += loss > points.loss
            points.loss, points.sign = loss, sign
            better = loss > points.best_loss
            put(points.best, better, points.now)
            put(points.best_sign, better, sign)
            points.best_loss = torch.where(better, loss, points.best_loss)
            self._settle(points, broken)
            if number in checks:
                self._check(points, number - since)
                since = number
        standing = ~self.broken[points.row]
        put_at(self.found, points.row, standing, points.best)
        self.loss[points.row] = torch.where(standing, points.best_loss.to(x.dtype), self.loss[points.row])
        found = self.found.view(*self.leading, *threat.shape)
        return found, self.loss.view(self.leading), self.broken.view(self.leading)

    def _move(self, points: _Points, first: bool) -> None:
        """A sign step, then a mixture of it with the last move; both inside the ball (algorithm 1, lines 3 and 7)."""
        spare = self.spare if self.spare is not None and self.spare.shape == points.now.shape else None
        z = torch.addcmul(points.now, points.sign, points.step, out=spare)
        z = torch.clamp(z, points.low, points.high, out=z)
        if first:
            points.before, points.now = points.now, z
            return
        # x + a (z - x) + (1 - a) (x - before) lies between 2 x - before and z; all in memory that is there
        self.spare = z
        new = points.before.lerp_(points.now, 2.0).lerp_(z, self.attack.momentum)
        points.before, points.now = points.now, torch.clamp(new, points.low, points.high, out=new)

    def _follow(
        self, now: Tensor, y: Tensor, target: Tensor | None, out: Tensor | None, last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient's signs (none at the last step), written to `out` if given, the loss, and what is misclassified."""
        x = self.threat.unflat(now.view(*((-1,) if self.drops else self.leading), now.shape[-1]))
        x = x.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            logits = self.model(x)
        values = logits.detach().reshape(len(now), -1)
        loss, direction = self.ascend(values, y, target)
        broken = fooled(values, y)
        if last or not logits.requires_grad:  # a model without any gradient: the start is all that is tried
            return torch.zeros_like(now), loss, broken
        grad = torch.autograd.grad(logits, x, direction.view_as(logits), allow_unused=True)[0]
        return (torch.zeros_like(now) if grad is None else signs(grad.reshape(now.shape), out)), loss, broken

    def _settle(self, points: _Points, broken: Tensor) -> None:
        """Write down what is newly misclassified, and drop it where examples may be dropped and enough are."""
        new = broken & ~self.broken[points.row]
        if not bool(new.any()):
            return
        put_at(self.found, points.row, new, points.now)
        self.loss[points.row] = torch.where(new, points.loss.to(self.loss.dtype), self.loss[points.row])
        self.broken[points.row] |= new
        standing = ~self.broken[points.row]
        if self.drops and int(standing.sum()) <= 0.9 * len(standing):
            points.keep(standing)

    def _check(self, points: _Points, n_steps: int) -> None:
        """Conditions 1 and 2 of section 3: halve the step and go back to the best point where either holds."""
        stalled = points.rises < self.attack.rise * n_steps
        stuck = ~points.halved & (points.best_loss <= points.best_at_check)
        halve = stalled | stuck
        points.step = torch.where(halve.unsqueeze(-1), points.step / 2, points.step)
        points.halved = halve
        points.best_at_check = points.best_loss.clone()
        points.rises = torch.zeros_like(points.rises)
        points.loss = torch.where(halve, points.best_loss, points.loss)
        put(points.now, halve, points.best)
        put(points.sign, halve, points.best_sign)
