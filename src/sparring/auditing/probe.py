"""Watching a model from outside: its state, the modes its forward passes run in, and what an attack's path met on the way."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sparring.hooks import after_forward, before_forward
from sparring.losses import cross_entropy
from sparring.modes import in_training
from sparring.precision import widened, widest
from sparring.threat import ThreatModel

ROUNDING = 1e-6
NONE, SEVERAL = -1, -2  # owners of a point: outside every ball, inside more than one
CROWD = 8  # examples that may be near a point; more are not told apart


def state_digest(model: nn.Module) -> str:
    """SHA-256 over every parameter and buffer."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def flags(model: nn.Module) -> dict[str, bool]:
    """Every module's mode and every parameter's requires_grad."""
    modes = {f"{name} mode": in_training(module) for name, module in model.named_modules()}
    return modes | {f"{name} requires_grad": p.requires_grad for name, p in model.named_parameters()}


def by_the_batch(model: nn.Module) -> list[str]:
    """Modules that normalise by the batch even in evaluation mode: batch norm without running statistics."""
    kinds = nn.modules.batchnorm._NormBase
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        and not isinstance(module, nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d)
        and module.running_mean is None
    ]


class Watched:
    """What happened to a model during a block: passes, modules that ran in training mode, changes of its state."""

    def __init__(self) -> None:
        self.forwards = 0
        self.backwards = 0
        self.in_training: set[str] = set()
        self.changed = False


@contextmanager
def watching(model: nn.Module) -> Iterator[Watched]:
    """Count example passes, note modules whose forward runs in training mode, and compare the state before and after."""
    seen, before = Watched(), state_digest(model)

    def backward(grad: Tensor) -> None:
        seen.backwards += grad.shape[:-1].numel()

    def passed(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen.forwards += output.shape[:-1].numel()
            if output.requires_grad:
                output.register_hook(backward)

    def note(name: str) -> Any:
        def entered(module: nn.Module, inputs: Any) -> None:
            for inner, part in module.named_modules() if isinstance(module, torch.jit.ScriptModule) else [("", module)]:
                if in_training(part):
                    seen.in_training.add(".".join(filter(None, (name, inner))) or type(module).__name__)

        return entered

    hooks = [after_forward(model, passed)]
    hooks += [before_forward(module, note(name)) for name, module in model.named_modules()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        seen.changed = state_digest(model) != before


class Path:
    """The iterates of an attack on one batch of B: which examples were broken on the way, and the mean loss by number of looks.

    A pass over other than B rows is followed row by row: each belongs to the example in whose ball it lies, if to one only.
    """

    def __init__(self, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
        self.x, self.y, self.threat, self.balls = x, y, threat, Balls(x, threat)
        self.broken = torch.zeros_like(y, dtype=torch.bool)
        self.best = torch.full(y.shape, -torch.inf, device=x.device)
        self.looks = torch.zeros_like(y)
        self.gains = torch.zeros(0, dtype=widest(x.device), device=x.device)  # of all examples, by number of looks
        self.rows = self.lost = 0

    @property
    def losses(self) -> list[float]:
        """The highest loss so far, on average over the examples that were met, after each of their looks."""
        met = max(1, int((self.looks > 0).sum()))
        return [float(total) / met for total in self.gains.cumsum(0)]

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Look at every forward pass."""
        hook = after_forward(model, self._look)
        try:
            yield
        finally:
            hook.remove()

    @torch.no_grad()
    def _look(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or not output.ndim:
            return
        logits = output.detach().reshape(-1, output.shape[-1]).float()
        self.rows += len(logits)
        points = inputs[0].detach() if inputs and isinstance(inputs[0], Tensor) else torch.empty(0)
        if (
            points.shape[-len(self.threat.shape) :] != self.threat.shape
            or points.numel() != len(logits) * self.x[0].numel()
        ):
            self.lost += len(logits)
            return
        points = points.reshape(-1, *self.threat.shape)
        at = self.balls.owners(points)
        self.lost += int((at == SEVERAL).sum())
        known = at >= 0
        if not bool(known.all()):
            at, points, logits = at[known], points[known], logits[known]
        wrong = (logits.argmax(-1) != self.y[at]) & torch.isfinite(logits).all(-1)
        self.broken[at[wrong & self._inside(points, at)]] = True
        self._rise(at, cross_entropy(logits, self.y[at]))

    def _inside(self, points: Tensor, at: Tensor) -> Tensor:
        inside = self.threat.distance(points, self.x[at]) <= float(self.threat.eps) + ROUNDING
        low, high = self.threat.low - ROUNDING, self.threat.high + ROUNDING
        return inside & self.threat.flat((points >= low) & (points <= high)).all(-1)

    def _rise(self, at: Tensor, loss: Tensor) -> None:
        """One more look at these examples; several rows of one example are one look."""
        highest = torch.full_like(self.best, -torch.inf).scatter_reduce(0, at, loss, "amax")
        met = at.unique()
        better = (highest > self.best)[met]
        before = torch.where(self.best == -torch.inf, 0.0, self.best)[met]
        more = max(0, int(self.looks[met].amax()) + 1 - len(self.gains)) if len(met) else 0
        self.gains = torch.cat([self.gains, self.gains.new_zeros(more)])
        self.gains.index_add_(0, self.looks[met], widened(torch.where(better, highest[met] - before, 0.0)))
        self.best[met] = torch.where(better, highest[met], self.best[met])
        self.looks[met] += 1


class Balls:
    """The balls around the examples of one batch (B, *shape), and whose a point is. Letters: M points, D pixels."""

    def __init__(self, x: Tensor, threat: ThreatModel) -> None:
        self.x, self.flat, self.eps = x, threat.flat(x).float(), float(threat.eps)
        spread = self.flat.amax(0) - self.flat.amin(0)
        self.telling = spread.topk(min(64, len(spread))).indices  # pixels that rule out nearly every other example
        self.last: Tensor | None = None

    @cached_property
    def apart(self) -> Tensor:
        """Whose ball meets no other's, (B,)."""
        return self._only(self.flat, 2 * self.eps) >= 0

    def owners(self, points: Tensor) -> Tensor:
        """Of each point (M, *shape) the example in whose ball alone it lies, (M,); a batch of B may be in their order."""
        flat, last = points.flatten(1).float(), self.last
        if points.shape == self.x.shape:
            order = torch.arange(len(points), device=points.device)
            if self._near(flat, order, self.eps + ROUNDING).all():
                return order
        if last is not None and len(last) == len(flat) and self._near(flat, last, self.eps + ROUNDING).all():
            return last  # most often the same examples again
        found = torch.cat([self._only(part, self.eps) for part in flat.split(2048)])
        self.last = found if bool((found >= 0).all() and self.apart[found].all()) else None
        return found

    def _near(self, flat: Tensor, at: Tensor, reach: float) -> Tensor:
        return (flat - self.flat[at]).abs().amax(1) <= reach

    def _only(self, flat: Tensor, reach: float) -> Tensor:
        """The one example within `reach` of each point, (M,); else NONE or SEVERAL."""
        rough = torch.cdist(flat[:, self.telling], self.flat[:, self.telling], p=torch.inf) <= reach + 2 * ROUNDING
        crowded = rough.sum(1) > CROWD
        point, example = (rough & ~crowded.unsqueeze(1)).nonzero(as_tuple=True)
        pairs = zip(point.split(4096), example.split(4096), strict=True)
        near = torch.cat([self._near(flat[p], k, reach + 2 * ROUNDING) for p, k in pairs])
        point, example = point[near], example[near]
        count = torch.bincount(point, minlength=len(flat))
        found = torch.full((len(flat),), NONE, device=flat.device).index_copy(0, point, example)
        return torch.where((count > 1) | crowded, SEVERAL, found)


class Stop(Exception):
    """Raised on purpose, to see what an attack leaves behind when it is interrupted."""


@contextmanager
def failing(model: nn.Module, after: int = 1) -> Iterator[None]:
    """Make the forward pass number `after` + 1 raise Stop."""
    calls = 0

    def entered(module: nn.Module, inputs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Stop

    hook = before_forward(model, entered)
    try:
        yield
    finally:
        hook.remove()
