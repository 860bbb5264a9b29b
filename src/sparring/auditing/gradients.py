"""The input gradient itself: is it there, is it the derivative, does it turn within the ball?

Letters: N examples, P probe examples, R directions.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.losses import LOSSES
from sparring.randomness import own_draws
from sparring.threat import ThreatModel

STEPS = (1e-4, 1e-3, 1e-2)  # h of the differences
JITTER = 0.01


def input_gradient(
    model: nn.Module, x: Tensor, y: Tensor, loss: str = "cross_entropy", batch_size: int = 500
) -> Tensor:
    """The loss's gradient for each image, (N, *shape)."""
    found = []
    with modes.frozen(model), torch.enable_grad():
        for part, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            probe = part.detach().clone().requires_grad_()
            (grad,) = torch.autograd.grad(LOSSES[loss](model(probe), labels).sum(), probe)
            found.append(grad)
    return torch.cat(found)


@dataclass(frozen=True)
class Differences:
    """Autograd against central differences over P x R directional derivatives of the margin, at the best h."""

    error: float  # median relative error
    cosine: float
    h: float
    vanishing: bool  # autograd says 0 everywhere
    moves: bool  # the differences do not


def differences(model: nn.Module, x: Tensor, y: Tensor, *, directions: int = 8, seed: int = 0) -> Differences:
    """Central differences in float64 along random sign directions, on a copy of the model.

    Raises RuntimeError or TypeError where the model cannot be copied or run in float64.
    """
    with modes.evaluation(model), torch.no_grad():  # else a scripted model's copies are no leaves
        twin = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(seed)
    jitter = torch.empty(x.shape).uniform_(-JITTER, JITTER, generator=generator).to(x)
    x = (x + jitter).double()  # flat regions of an image are ties of max pooling, where no derivative exists
    signs = torch.empty(directions, *x.shape).uniform_(-1, 1, generator=generator).sign().to(x)
    with _repeatable(seed, x.device):
        grad = input_gradient(twin, x, y, "margin")
    said = (grad * signs).flatten(2).sum(-1)  # (R, P)
    vanishing, moves = bool((said == 0).all()), False
    best: Differences | None = None
    for h in STEPS:
        seen = torch.stack([_slope(twin, x, y, direction, h, seed) for direction in signs])
        moves |= bool((seen != 0).any())
        scale = torch.maximum(said.abs(), seen.abs())
        error = torch.where(scale > 1e-12, (said - seen).abs() / scale.clamp(min=1e-12), 0.0)
        cosine = float((said * seen).sum() / (said.norm() * seen.norm()).clamp(min=1e-300))
        if float(scale.max()) <= 1e-12:
            cosine = 1.0
        now = Differences(float(error.median()), cosine, h, vanishing, False)
        if best is None or (now.cosine >= 0.95, -now.error) > (best.cosine >= 0.95, -best.error):
            best = now
    assert best is not None
    return Differences(best.error, best.cosine, best.h, vanishing, moves)


def linearity(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int = 0) -> Tensor:
    """Cosine, (N,), between the gradient at x and at a random point of the ball; NaN where either is zero."""
    there = threat.random_start(x, torch.Generator(x.device).manual_seed(seed))
    a = input_gradient(model, x, y, "margin").flatten(1)
    b = input_gradient(model, there, y, "margin").flatten(1)
    norms = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(norms > 0, (a * b).sum(1) / norms, torch.nan)


def _slope(model: nn.Module, x: Tensor, y: Tensor, direction: Tensor, h: float, seed: int) -> Tensor:
    with torch.no_grad(), modes.evaluation(model):
        with _repeatable(seed, x.device):
            above = LOSSES["margin"](model(x + h * direction), y)
        with _repeatable(seed, x.device):
            below = LOSSES["margin"](model(x - h * direction), y)
    return (above - below) / (2 * h)


@contextmanager
def _repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """The same draws for a random model, each time."""
    with own_draws(device) as draw_from:
        draw_from(seed)
        yield
