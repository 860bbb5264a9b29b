"""The threat model: which perturbed inputs count, ||x_adv - x||_inf <= eps inside the pixel range (the paper's lambda).

Letters: S copies (seeds), B batch, D pixels; every leading axis is batch.
"""

import copy
import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparring.errors import InputError


@dataclass(frozen=True)
class ThreatModel:
    """An l_inf ball of radius `eps` around an input of `shape`, cut by the pixel range [low, high].

    `eps` is a number in [0, 1] on the pixel scale, or a tensor that broadcasts against the labels: (B,) or (S, B) for
    one per example, (S, 1) for one per copy. Raises InputError for an eps that is negative, above high - low, NaN or no number;
    of a tensor on a GPU, which would have to be waited for, the values are not looked at.
    """

    eps: float | Tensor
    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.eps, Tensor):
            _check_radii(self.eps, self.high - self.low)
        else:
            checked = check_eps(self.eps, self.high - self.low)
            if type(self.eps) not in (int, float):
                object.__setattr__(self, "eps", checked)
        if not self.shape or any(size < 1 for size in self.shape):
            raise InputError(f"shape must be the shape of one input, such as (1, 28, 28); got {self.shape}")

    def at(self, eps: float | Tensor) -> "ThreatModel":
        """The same threat with another radius. Radii in a tensor, which training draws at every step, are taken as they are."""
        if not isinstance(eps, Tensor):
            return replace(self, eps=eps)
        other = copy.copy(self)
        object.__setattr__(other, "eps", eps)
        return other

    def radius(self, x: Tensor) -> float | Tensor:
        """eps in a form that broadcasts against x (..., *shape)."""
        return self.over_pixels(self.eps.to(x.device, x.dtype)) if isinstance(self.eps, Tensor) else self.eps

    def radii(self, x: Tensor, y: Tensor) -> Tensor:
        """The radius of each example, (...) like its labels y, of x's type."""
        if isinstance(self.eps, Tensor):
            return self.eps.to(x.device, x.dtype).expand(y.shape)
        return torch.full(y.shape, self.eps, dtype=x.dtype, device=x.device)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The nearest point to x_adv that is within eps of x and inside the pixel range; differentiable where inside."""
        eps = self.radius(x)
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(self.low, self.high)

    def random_start(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A uniform point of the ball around x, clipped to the pixel range."""
        return self.moved(x, torch.empty_like(x).uniform_(-1, 1, generator=generator))

    def moved(self, x: Tensor, delta: Tensor, out: Tensor | None = None) -> Tensor:
        """x moved by eps times delta, which is in [-1, 1] like x, clipped to the pixel range; written to `out`, if that is given
        and nothing differentiates."""
        radius = self.radius(x)
        if out is not None:
            return torch.mul(delta, radius, out=out).add_(x).clamp_(self.low, self.high)
        by = radius * delta
        if by.requires_grad or x.requires_grad or (by.shape, by.dtype) != (x.shape, x.dtype):
            return F.hardtanh(x + by, self.low, self.high)  # clamp, but for its gradient: one pass, not four
        return by.add_(x).clamp_(self.low, self.high)  # to the bit the same, in memory that is already at hand

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The l_inf distance of each example, of shape (...)."""
        return self.flat(x_adv - x).abs().amax(-1)

    def flat(self, x: Tensor) -> Tensor:
        """x of shape (..., *shape) as (..., D)."""
        return x.flatten(-len(self.shape)) if len(self.shape) > 1 else x

    def unflat(self, x: Tensor) -> Tensor:
        """x of shape (..., D) as (..., *shape)."""
        return x.unflatten(-1, self.shape) if len(self.shape) > 1 else x

    def over_pixels(self, value: Tensor) -> Tensor:
        """One value per example, (...), with an axis of size 1 for each of an example's own axes."""
        return value[(..., *[None] * len(self.shape))]


def check_eps(eps: Any, largest: float = 1.0) -> float:
    """eps, a number of Python, NumPy or PyTorch, as a float, or an InputError that says what was expected."""
    number = eps.item() if getattr(eps, "ndim", None) == 0 else eps
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise InputError(f"eps must be a number in [0, {largest:g}] on the pixel scale, got {eps!r}")
    value = float(number)
    if math.isnan(value) or not 0 <= value <= largest:
        hint = f"; did you mean {value:g}/255 = {value / 255:.4f}?" if 1 < value <= 255 else ""
        raise InputError(f"eps must be in [0, {largest:g}] on the pixel scale, got {value:g}{hint}")
    return value


def check_grid(eps: Any) -> list[float]:
    """eps, one number or several, as a list of what `check_eps` makes of each."""
    several = isinstance(eps, Iterable) and not isinstance(eps, str | bytes) and getattr(eps, "ndim", 1) > 0
    return [check_eps(one) for one in eps] if several else [check_eps(eps)]


def _check_radii(eps: Tensor, largest: float) -> None:
    """Raises InputError where one of the radii in a tensor on the CPU is none."""
    if eps.is_complex() or eps.dtype == torch.bool:
        raise InputError(f"eps must be a number in [0, {largest:g}] on the pixel scale, got a tensor of {eps.dtype}")
    if eps.device.type == "cpu" and eps.numel():
        try:
            extremes = [float(extreme) for extreme in eps.aminmax()]  # a NaN anywhere comes out here
        except RuntimeError:  # under a transform such as vmap, which knows no values
            return
        for extreme in extremes:
            check_eps(extreme, max(largest, float(eps.new_tensor(largest))))
