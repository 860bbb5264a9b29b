"""A rehearsal on copies of one's own models, which have learned from what the model attacked said of a first one.

Letters: C classes; "..." the batch, of B examples along its last axis (the axes before are a stack's models); N = B (C - 1) ends.
"""

import copy
import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.rehearsal import Ends, Rehearsal, Search, ahead_of
from sparring.errors import InputError

LEARNING_RATE, AT_ONCE, BESIDE = 1e-3, 64, 2  # gradients in a step, and so many answers beside each
NOTHING = 1e-30  # the square of so small a gradient teaches nothing
PASSES = 2 + BESIDE  # of a copy, for an example in an epoch: a gradient that is differentiated counts as two


@dataclass(frozen=True, eq=False, repr=False)
class FittedRehearsal(Rehearsal):
    """Two rehearsals, the second on copies that were fitted to the model attacked at the first one's ends.

    At the best end of the first the model is asked for one gradient, that of how far the class aimed at is ahead of the right
    one. Copies of the `copies` sources that foretold it best over the whole batch learn, in `epochs` passes over the batch, to
    have that gradient there (Sobolev training, Czarnecki et al. 2017) and the model's logits at the best end towards every class
    (a substitute model, Papernot et al. 2017). Both errors are counted relative to what is to be learned. The second rehearsal,
    from new corners, keeps the first one's ends until it finds better.

    A copy learns from every example of the batch, so this attack is the exception to the rule that an example's result does
    not depend on the others: the larger the batch, the better. The copies must be twice differentiable; the sources stay as
    they are. One gradient an example and `forwards` answers. Raises InputError as `Rehearsal` does, and for copies or epochs
    below 1.
    """

    copies: int = 8
    epochs: int = 60

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.copies < 1 or self.epochs < 1:
            raise InputError(f"copies and epochs must be >= 1; got {self.copies} and {self.epochs}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if not y.numel():
            return x.detach().clone()
        with modes.frozen(model):
            first = self.searched(self.sources, self.begun(model, x.detach(), y))
            lessons = _lessons(first.ends)
            copies = [_fitted(source, lessons, self.epochs, first.draws) for source in self._foretelling(first)]
            return self.searched(copies, first.ends).ends.best()[1]

    def forwards(self, n_classes: int) -> int:
        """How often the model answers an example, beside its one gradient; half as often the sources, half the copies."""
        return 2 * super().forwards(n_classes)

    def __repr__(self) -> str:
        return f"Fitted{super().__repr__()[:-1]}, copies={self.copies}, epochs={self.epochs})"

    def _foretelling(self, search: Search) -> list[nn.Module]:
        error = search.error.flatten(1).sum(1).nan_to_num(torch.inf)
        return [self.sources[k] for k in error.topk(min(self.copies, len(error)), largest=False).indices.tolist()]


@dataclass(frozen=True)
class _Lessons:
    """What the model said: a gradient (..., B, *shape) at points, and logits less their mean (..., N, C) at ends."""

    points: Tensor
    y: Tensor
    target: Tensor
    gradient: Tensor
    ends: Tensor
    said: Tensor


def _lessons(ends: Ends) -> _Lessons:
    offset, end = ends.best()
    target, axes = (ends.y + offset) % ends.n_classes, (ends.y.ndim - 1, ends.y.ndim)
    gradient = _gradient(ends.model, end, target, ends.y).detach().nan_to_num(0.0, 0.0, 0.0)
    found, said = (of.movedim(0, axes[1]).flatten(*axes) for of in (ends.found, _over_mean(ends.said)))
    return _Lessons(end, ends.y, target, gradient, found, said.nan_to_num(0.0, 0.0, 0.0))


def _fitted(source: nn.Module, lessons: _Lessons, epochs: int, draws: torch.Generator) -> nn.Module:
    """A copy of the source that has learned them."""
    learner = copy.deepcopy(source)
    parameters = [parameter.requires_grad_() for parameter in learner.parameters() if parameter.is_floating_point()]
    if not parameters:
        return learner
    points, y, target, gradient, ends, said = (getattr(lessons, f.name) for f in fields(lessons))
    batch, pixels = y.ndim - 1, tuple(range(y.ndim, gradient.ndim))
    slope, spread = _weight(gradient, (batch, *pixels)), _weight(said, (batch, said.ndim - 1))
    n, n_ends, device = y.shape[batch], ends.shape[batch], y.device
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(n / AT_ONCE))
    with modes.evaluation(learner), torch.enable_grad():
        for _ in range(epochs):
            for some in torch.randperm(n, generator=draws, device=device).split(AT_ONCE):
                these = [of.index_select(batch, some) for of in (points, target, y, gradient)]
                beside = torch.randint(n_ends, (BESIDE * len(some),), generator=draws, device=device)
                asked, answered = ends.index_select(batch, beside), said.index_select(batch, beside)
                off = _gradient(learner, *these[:3], create_graph=True) - these[3]
                error = slope * off.square().sum(pixels).mean(-1)
                error = error + spread * (_over_mean(learner(asked)) - answered).square().sum(-1).mean(-1)
                optimizer.zero_grad()
                error.sum().backward()  # a stack's copies each learn by themselves
                optimizer.step()
                falling.step()
    return learner


def _weight(lesson: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Of a squared error, so that it is relative to the lesson, (...) without B; 0 where there is nothing to learn."""
    size = lesson.square().sum(axes) / lesson.shape[axes[0]]
    return torch.where((size > NOTHING) & size.isfinite(), 1 / size, 0.0)


def _gradient(model: nn.Module, x: Tensor, target: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    """Of how far the target's logit is ahead of the right one."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        ahead = ahead_of(model(point), target, y).sum()
        if not ahead.requires_grad:
            return torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(
            ahead, point, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
    return gradient


def _over_mean(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)
