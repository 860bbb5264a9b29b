"""A planted example: can the attack find a point that is known to be there? (after Zimmermann et al. 2022)

For each image a linear readout on the model's own frozen features says "inner" for the image and for random points of its
ball, and "planted" for one random corner of the ball. Letters: P images, K inner points, F features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks import Attack
from sparring.auditing.runs import images_of
from sparring.precision import widened
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class Planted:
    """How many of the images with a separable planted point the attack, and random noise, found."""

    n: int
    found: int
    by_noise: int


def planted(
    model: nn.Module, x: Tensor, attack: Attack, threat: ThreatModel, *, inner: int, tries: int, seed: int
) -> Planted:
    """Plant one point in each image's ball and let the attack look for it, as often as it has restarts."""
    generator = torch.Generator(x.device).manual_seed(seed)
    with modes.frozen(model), Features(model) as features:
        with torch.no_grad():
            corner = threat.project(x + threat.radius(x) * _signs(x, generator), x)
            inside = torch.stack([features(point) for point in (x, *_points(x, threat, inner, generator))], 1)
            weight, bias, separable = _fit(widened(inside), widened(features(corner)))
            readout = _Readout(features, weight.to(x), bias.to(x))
            lucky = torch.stack([readout(point).argmax(-1) for point in _points(x, threat, inner, generator)]).any(0)
        hit = torch.cat(  # one image at a time: an attack may drop images, and each has its own readout
            [
                _finds(attack, _Readout(features, w[None], b[None]), one[None], tries)
                for one, w, b in zip(x, weight.to(x), bias.to(x), strict=True)
            ]
        )
    return Planted(int(separable.sum()), int((hit & separable).sum()), int((lucky & separable).sum()))


class Features:
    """The input of a model's last linear layer, else its outputs; a context manager that hooks the layer."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self.layer = linears[-1] if linears else None
        self.seen: Tensor | None = None

    def __enter__(self) -> "Features":
        self.hook = self.layer.register_forward_pre_hook(self._note) if self.layer is not None else None
        return self

    def __exit__(self, *exc: object) -> None:
        if self.hook is not None:
            self.hook.remove()

    def _note(self, module: nn.Module, inputs: Any) -> None:
        self.seen = inputs[0]

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        features = out if self.layer is None or self.seen is None else self.seen
        return features.flatten(1) + 0 * out.flatten(1).sum(1, keepdim=True)


class _Readout(nn.Module):
    """One linear readout an image: logits (P, 2)."""

    def __init__(self, features: Features, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.features, self.weight, self.bias = features, weight, bias

    def forward(self, x: Tensor) -> Tensor:
        score = (self.features(x) * self.weight).sum(-1) + self.bias
        return torch.stack((-score, score), -1)


def _fit(inside: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fisher's discriminant of the inner points (P, K, F) against the planted one (P, F); the threshold near the latter."""
    mean = inside.mean(1)
    spread = inside - mean.unsqueeze(1)
    covariance = spread.mT @ spread / inside.shape[1]
    ridge = 1.0 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-12)
    covariance = covariance + ridge[:, None, None] * torch.eye(
        inside.shape[-1], dtype=inside.dtype, device=inside.device
    )
    weight = torch.linalg.solve(covariance, target - mean)
    weight = weight / weight.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    highest = (inside @ weight.unsqueeze(-1)).squeeze(-1).amax(1)
    planted = (target * weight).sum(-1)
    threshold = highest + 0.75 * (planted - highest)
    gap = (planted - highest).abs().clamp(min=1e-9)
    return weight / gap.unsqueeze(-1), -threshold / gap, planted > highest + 1e-6 * planted.abs()


def _points(x: Tensor, threat: ThreatModel, n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Random points of the ball, corners and uniform ones in turn."""
    for k in range(n):
        if k % 2:
            yield threat.random_start(x, generator)
        else:
            yield threat.project(x + threat.radius(x) * _signs(x, generator), x)


def _finds(attack: Attack, model: nn.Module, x: Tensor, tries: int) -> Tensor:
    found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(tries):
        x_adv = images_of(attack(model, x.clone(), torch.zeros(len(x), dtype=torch.long, device=x.device)), x)
        with torch.no_grad():
            found = model(x_adv).argmax(-1) == 1
        if bool(found.all()):
            break
    return found


def _signs(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty_like(x).uniform_(-1, 1, generator=generator).sign()
