"""An attack that sees answers only, no logits: RayS (Chen and Gu 2020, "RayS: a ray searching method for hard-label adversarial
attack", algorithms 1 to 3, l_inf)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.rows import Rows, answers, chunks, fooled, put_at, rows
from sparring.errors import InputError
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class RayS:
    """Searches the direction in {-1, 1}^D along which the model's answer changes soonest.

    Blocks of pixels change their sign in turn: all of them, the halves, the quarters, ... A new direction is asked once, at the
    best distance so far; only if the answer is wrong there is its own distance found, first at eps, then by bisection to
    `tolerance`, or as far as x's type can tell. So a model whose gradient and logits say nothing is attacked all the same. An
    example is left once it is broken within eps, or after `queries` passes (a bisection under way is finished); one that stands
    returns the point at eps along the best direction. No randomness.

    Queries are counted per example, so its result does not depend on which others are in the batch. Labels with one axis are
    attacked `chunk` at a time; of a stack (labels (S, B)) all at once.
    """

    threat: ThreatModel
    queries: int = 2000
    tolerance: float = 1e-3  # of the pixel range, as in the authors' code
    chunk: int = field(default=512, repr=False)  # changes no result

    def __post_init__(self) -> None:
        for name in ("queries", "chunk"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1; got {getattr(self, name)}")
        if not self.tolerance > 0:
            raise InputError(f"tolerance must be > 0; got {self.tolerance:g}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach()
        if not y.numel():
            return x.clone()
        with modes.frozen(model), torch.no_grad():
            x_adv, standing = x.clone(), ~fooled(answers(model, x, y, self.chunk), y)
            for index, threat in chunks(standing, self.chunk, self.threat):
                found = _Search(self, threat, model, x[index], y[index]).run()
                x_adv[index] = torch.where(threat.over_pixels(standing[index]), found, x[index])
        return x_adv


@dataclass
class _Points(Rows):
    """One row per example that is still followed."""

    row: Tensor  # (N,) where it stands in the answer
    x: Tensor  # (N, D)
    sign: Tensor  # the direction tried, else the best
    y: Tensor  # (N,)
    distance: Tensor  # (N, 1) along the best direction; infinite while none is known to lead to a wrong answer
    eps: Tensor  # (N, 1)
    used: Tensor  # (N, 1) queries


class _Search:
    """The search for one chunk of examples."""

    def __init__(self, attack: RayS, threat: ThreatModel, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.attack, self.threat, self.model, self.leading, self.drops = attack, threat, model, y.shape, y.ndim == 1
        flat, at = rows(threat, x), torch.arange(y.numel(), device=x.device)
        eps = threat.radii(x, y).reshape(-1, 1)
        far, used = torch.full_like(eps, torch.inf), torch.zeros_like(at).unsqueeze(1)
        self.points = _Points(at, flat, -torch.ones_like(flat), y.reshape(-1), far, eps, used)
        self.found = torch.empty_like(flat)

    def run(self) -> Tensor:
        """The points within eps along the best directions, (..., *shape)."""
        points = self.points
        for left, right in _blocks(points.x.shape[1]):
            points.sign[:, left:right].neg_()
            going = (points.distance > points.eps) & (points.used < self.attack.queries)
            hit = going & self._wrong(points, points.distance.clamp_max(self.threat.high - self.threat.low))
            points.used += going
            points.sign[:, left:right] *= torch.where(hit, 1, -1).to(points.sign.dtype)
            self._shorten(hit)
            done = (points.distance <= points.eps) | (points.used >= self.attack.queries)
            if bool(done.all()) or (self.drops and int(done.sum()) >= 0.1 * len(done)):
                found = _at(points, points.distance.minimum(points.eps), self.threat)
                put_at(self.found, points.row, done.squeeze(1), found)
                if bool(done.all()):
                    break
                points.keep(~done.squeeze(1))
        return self.found.view(*self.leading, *self.threat.shape)

    def _shorten(self, hit: Tensor) -> None:
        """The distance along a new direction, of the examples that it breaks: eps where that is enough, else bisected above."""
        points = self.points
        if not bool(hit.any()):
            return
        some = self._some(hit.squeeze(1))
        reached = self._wrong(some, some.eps)
        low = torch.where(reached, 0.0, some.eps)
        high = torch.where(reached, some.eps, some.distance.clamp_max(self.threat.high - self.threat.low))
        used = torch.ones_like(some.used)
        while True:
            middle = (low + high) / 2
            narrow = (
                (high - low <= self.attack.tolerance) | (middle <= low) | (middle >= high)
            )  # or no number lies between
            if not bool((going := ~reached & ~narrow).any()):
                break
            wrong = self._wrong(some, middle)
            low = torch.where(going & ~wrong, middle, low)
            high = torch.where(going & wrong, middle, high)
            used += going
        if self.drops:
            index = hit.squeeze(1).nonzero().squeeze(1)
            points.distance.index_copy_(0, index, high)
            points.used.index_add_(0, index, used)
        else:
            points.distance = torch.where(hit, high, points.distance)
            points.used += used * hit

    def _some(self, mask: Tensor) -> _Points:
        """The rows of the mask; all of them where examples need every other beside them."""
        some = replace(self.points)
        if self.drops:
            some.keep(mask)
        return some

    def _wrong(self, points: _Points, distance: Tensor) -> Tensor:
        x = _at(points, distance, self.threat).view(*((-1,) if self.drops else self.leading), points.x.shape[1])
        logits = self.model(self.threat.unflat(x))
        return fooled(logits.reshape(len(points.y), -1), points.y).unsqueeze(1)


def _at(points: _Points, distance: Tensor, threat: ThreatModel) -> Tensor:
    return torch.addcmul(points.x, points.sign, distance).clamp_(threat.low, threat.high)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Blocks of range(size) without end: the whole, its halves, its quarters, ..., every single place, the whole again."""
    parts = 1
    while True:
        edges = [number * size // parts for number in range(parts + 1)]
        yield from pairwise(edges)
        parts = 1 if parts == size else min(2 * parts, size)
