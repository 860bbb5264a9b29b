"""The nearest misclassified point: the fast adaptive boundary attack, targeted (Croce and Hein 2020, "Minimally distorted
adversarial examples with a fast adaptive boundary attack", section 3, algorithm 1, l_inf)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.rows import Rows, answers, chunks, fooled, put_at, rows
from sparring.errors import InputError
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class FAB:
    """Goes to the boundary with one wrong class after another, taken as a hyperplane, and along it towards the example.

    `targets` counts the wrong classes tried, at most C - 1, those with the largest logits at the example first. Each step costs
    one pass forwards and backwards. As an attack it leaves an example once a misclassified point lies within eps, and
    otherwise returns the nearest such point, projected into the ball. `nearest` looks for the shortest distance whatever eps
    is. No randomness, and every example by itself.
    """

    threat: ThreatModel
    targets: int = 9
    steps: int = 100
    overshoot: float = 1.05  # eta: how far across the hyperplane
    bias: float = 0.1  # alpha_max: the largest weight of the step from the example itself
    retreat: float = 0.9  # beta: how much of the way from the example is kept after a success
    bisections: int = 10  # at the end, between the example and the nearest point found
    chunk: int = field(default=512, repr=False)  # the fastest of several on a processor; changes no result

    def __post_init__(self) -> None:
        for name in ("targets", "steps", "chunk"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1; got {getattr(self, name)}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_adv, distance, wrong = self._all(model, x.detach(), y, within=True)
        x_adv = self.threat.project(x_adv, x.detach())
        return torch.where(self.threat.over_pixels(wrong | distance.isinf()), x.detach(), x_adv)

    def nearest(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest misclassified point found, (..., *shape), and its l_inf distance (...).

        0 and the example itself where it is misclassified; infinite, and the example itself, where nothing was found.
        """
        x_adv, distance, _ = self._all(model, x.detach(), y, within=False)
        return x_adv, distance

    def _all(self, model: nn.Module, x: Tensor, y: Tensor, within: bool) -> tuple[Tensor, Tensor, Tensor]:
        if not y.numel():
            return x.clone(), torch.zeros(y.shape, dtype=x.dtype, device=x.device), y != y
        with modes.frozen(model):
            clean = answers(model, x, y, self.chunk)
            wrong = fooled(clean, y)
            x_adv, distance = x.clone(), torch.full(y.shape, torch.inf, dtype=x.dtype, device=x.device)
            distance.masked_fill_(wrong, 0.0)
            ranked = clean.scatter(-1, y.unsqueeze(-1), -torch.inf).argsort(dim=-1, descending=True)
            for number in range(min(self.targets, clean.shape[-1] - 1)):
                eps = self.threat.eps
                standing = distance > (eps if within else 0.0)
                for index, threat in chunks(standing, self.chunk, self.threat):
                    run = _Run(self, threat, model, x[index], y[index], ranked[..., number][index], within)
                    found, far = run.search(x_adv[index], distance[index])
                    better = standing[index] & (far < distance[index])
                    x_adv[index] = torch.where(threat.over_pixels(better), found, x_adv[index])
                    distance[index] = torch.where(better, far, distance[index])
        return x_adv, distance, wrong


@dataclass
class _Points(Rows):
    """One row per example that is still followed."""

    row: Tensor  # (N,) where it stands in the answer
    x: Tensor  # (N, D)
    now: Tensor
    y: Tensor  # (N,)
    target: Tensor
    enough: Tensor  # a distance at which to stop


class _Run:
    """One target of one chunk of examples."""

    def __init__(
        self, attack: FAB, threat: ThreatModel, model: nn.Module, x: Tensor, y: Tensor, target: Tensor, within: bool
    ) -> None:
        self.attack, self.threat, self.model, self.leading, self.drops = attack, threat, model, y.shape, y.ndim == 1
        self.x, self.y = rows(threat, x), y.reshape(-1)
        eps: Tensor | float = threat.eps if within else 0.0
        enough = torch.zeros(y.shape, dtype=x.dtype, device=x.device) + eps
        row = torch.arange(y.numel(), device=x.device)
        self.points = _Points(row, self.x, self.x.clone(), self.y, target.reshape(-1), enough.reshape(-1))

    def search(self, nearest: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest points and their distances, no farther than those given."""
        attack, points = self.attack, self.points
        self.nearest, self.distance = rows(self.threat, nearest).clone(), distance.reshape(-1).clone()
        for _ in range(attack.steps):
            gap, slope, hit = self._follow()
            far = (points.now - points.x).abs().amax(-1)
            shortest = self.distance[points.row]
            nearer = hit & (far < shortest) & (shortest > points.enough)
            put_at(self.nearest, points.row, nearer, points.now)
            put_at(self.distance, points.row, nearer, far)
            back = torch.lerp(points.x, points.now, attack.retreat)
            points.now = torch.where(hit.unsqueeze(-1), back, self._step(gap, slope))
            done = self.distance[points.row] <= points.enough
            if self.drops and int(done.sum()) >= 0.1 * len(done):
                points.keep(~done)
            if not len(points.row) or bool(done.all()):
                break
        self._bisect()
        return self.nearest.view(*self.leading, *self.threat.shape), self.distance.view(self.leading)

    def _step(self, gap: Tensor, slope: Tensor) -> Tensor:
        """From where it is and from the example to the hyperplane, and a mixture of both (equations 7 and 8 of the paper)."""
        attack, points, threat = self.attack, self.points, self.threat
        gap_at_x = gap + ((points.now - points.x) * slope).sum(-1)
        here, there = (
            _shortest(start, slope, needed, threat.low, threat.high)
            for start, needed in ((points.now, gap), (points.x, gap_at_x))
        )
        length, length_at_x = (d.abs().amax(-1, keepdim=True).clamp_min(1e-8) for d in (here, there))
        weight = (length / (length + length_at_x)).clamp_max(attack.bias)
        here.mul_(attack.overshoot).add_(points.now)
        there.mul_(attack.overshoot).add_(points.x)
        return torch.lerp(here, there, weight).clamp_(threat.low, threat.high)

    def _follow(self) -> tuple[Tensor, Tensor, Tensor]:
        """How far the target's logit is behind (N,), the gradient of their difference (N, D), and what is misclassified."""
        points = self.points
        x = self._shaped(points.now).detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(x)
        values = logits.detach().reshape(len(points.y), -1)
        ahead = torch.zeros_like(values).scatter_(-1, points.target.unsqueeze(-1), 1.0)
        ahead.scatter_(-1, points.y.unsqueeze(-1), -1.0)
        hit = fooled(values, points.y)
        gap = -(values * ahead).sum(-1).to(points.now.dtype)
        if not logits.requires_grad:
            return gap, torch.zeros_like(points.now), hit
        grad = torch.autograd.grad(logits, x, ahead.view_as(logits), allow_unused=True)[0]
        slope = torch.zeros_like(points.now) if grad is None else grad.reshape(points.now.shape)
        return gap, slope.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0), hit

    @torch.no_grad()
    def _bisect(self) -> None:
        """Shorten every way from an example to its nearest point, while what it ends at is misclassified."""
        at = torch.isfinite(self.distance) & (self.distance > 0)
        index = at.nonzero().squeeze(-1) if self.drops else torch.arange(len(at), device=at.device)
        if not len(index) or not bool(at.any()):
            return
        x, y, way = self.x[index], self.y[index], self.nearest[index] - self.x[index]
        low = torch.zeros(len(index), 1, dtype=x.dtype, device=x.device)
        high = torch.ones_like(low)
        for _ in range(self.attack.bisections):
            middle = (low + high) / 2
            logits = self.model(self._shaped(torch.addcmul(x, way, middle)))
            hit = fooled(logits.reshape(len(y), -1), y).unsqueeze(-1)
            low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
        shorter = torch.addcmul(x, way, high)
        far = (shorter - x).abs().amax(-1)
        better = at[index] & (far < self.distance[index])
        put_at(self.nearest, index, better, shorter)
        put_at(self.distance, index, better, far)

    def _shaped(self, points: Tensor) -> Tensor:
        return self.threat.unflat(points.view(*((-1,) if self.drops else self.leading), points.shape[-1]))


def _shortest(start: Tensor, slope: Tensor, gap: Tensor, low: float, high: float) -> Tensor:
    """The least l_inf move (N, D) inside [low, high] that changes slope . z by `gap`; into the corner where none does.

    Every pixel moves by the same amount, or as far as it can. What that achieves is concave and piecewise linear in the amount,
    so Newton's steps from below end at the answer itself, mostly after three or four; the paper sorts instead.
    """
    slope = torch.where((gap < 0).unsqueeze(-1), -slope, slope)
    gap, size = gap.abs().unsqueeze(-1), slope.abs()
    room = torch.where(slope > 0, high - start, start - low)
    amount = gap / size.sum(-1, keepdim=True).clamp_min(1e-30)
    for _ in range(30):
        moved = torch.minimum(room, amount)
        missing = gap - torch.linalg.vecdot(size, moved).unsqueeze(-1)
        left = torch.linalg.vecdot(size, (room > amount).to(size.dtype)).unsqueeze(-1)
        farther = (missing > 1e-6 * gap) & (left > 0)
        if not bool(farther.any()):
            break
        amount = torch.where(farther, amount + missing / left.clamp_min(1e-30), amount)
    return slope.sign() * torch.minimum(room, amount)
