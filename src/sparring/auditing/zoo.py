"""Planted faults: models, attacks and harnesses that look robust and are not, with the checks that must catch each.

The wrappers take an honest, trained model; the audit tests itself on them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring import modes
from sparring.adversaries import Adversary
from sparring.attacks import PGD, Attack, fgsm
from sparring.auditing.subject import Claimed, Drop, Provenance, Subject
from sparring.data import Data
from sparring.models import mlp
from sparring.threat import ThreatModel


class Wrapped(nn.Module):
    """An honest model with a fault before or after it."""

    def __init__(
        self,
        model: nn.Module,
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(self.before(x) if self.before else x)
        return self.after(logits) if self.after else logits


class BatchStatistics(nn.Module):
    """Batch norm that normalises by the batch whatever mode it is in, and moves its statistics."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm1d)]
        before = [norm.training for norm in norms]
        for norm in norms:
            norm.training = len(x) > 1  # batch statistics of one image do not exist
        try:
            logits: Tensor = self.model(x)
            return logits
        finally:
            for norm, mode in zip(norms, before, strict=True):
                norm.training = mode


class Leaking(nn.Module):
    """Knows the labels of the evaluation set by position in the batch."""

    def __init__(self, model: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self.model, self.labels = model, labels

    def forward(self, x: Tensor) -> Tensor:
        known = F.one_hot(self.labels[torch.arange(len(x)) % len(self.labels)], self.model(x).shape[-1])
        logits: Tensor = self.model(x) + 1e3 * known
        return logits


class Readout(nn.Module):
    """Random features with a discontinuous activation, and a linear readout fitted to training data by least squares."""

    def __init__(self, train: Data, activation: Callable[[Tensor], Tensor], width: int = 512, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        x = train.floats().flatten(1)
        self.register_buffer("weight", torch.randn(x.shape[1], width, generator=generator) / x.shape[1] ** 0.5)
        self.register_buffer("mean", x.mean(0))
        self.activation = activation
        self.last = nn.utils.skip_init(nn.Linear, width, train.n_classes)  # draws nothing; filled below
        features = self._features(x).double()
        wanted = F.one_hot(train.labels, train.n_classes).double()
        bias = torch.cat([features, torch.ones(len(x), 1, dtype=torch.float64)], 1)
        gram = bias.T @ bias + 1e-2 * len(x) * torch.eye(width + 1, dtype=torch.float64)
        solved = torch.linalg.solve(gram, bias.T @ wanted).float()
        with torch.no_grad():
            self.last.weight.copy_(10 * solved[:-1].T)
            self.last.bias.copy_(10 * solved[-1])

    def _features(self, x: Tensor) -> Tensor:
        return self.activation(4 * (x.flatten(1) - self.get_buffer("mean")) @ self.get_buffer("weight"))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self._features(x))
        return logits


def winners(h: Tensor, share: float = 0.03) -> Tensor:
    """k-winners-take-all: the largest activations pass, all others are zero."""
    kept = h.topk(max(1, round(share * h.shape[-1])), dim=-1).values[..., -1:]
    return torch.where(h >= kept, h, 0.0)


def blockwise(x: Tensor, size: int = 4, step: float = 0.5) -> Tensor:
    """Cosine coefficients of size x size blocks rounded, as JPEG does; the gradient is zero."""
    k = torch.arange(size, dtype=x.dtype, device=x.device)
    basis = torch.cos(torch.pi * (2 * k[None] + 1) * k[:, None] / (2 * size)) * (2 / size) ** 0.5
    basis[0] /= 2**0.5
    blocks = x.unflatten(-2, (-1, size)).unflatten(-1, (-1, size)).transpose(-3, -2)
    coefficients = ((basis @ blocks @ basis.T) / step).round() * step
    image: Tensor = (basis.T @ coefficients @ basis).transpose(-3, -2).flatten(-2).flatten(-3, -2).clamp(0, 1)
    return image


@dataclass(frozen=True)
class Wider:
    """An attack that forgets the pixel range."""

    threat: ThreatModel

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        grad = PGD(self.threat, steps=10)(model, x, y) - x
        return x + float(self.threat.eps) * grad.sign()


@dataclass(frozen=True)
class Retreating:
    """An attack that goes on from its best example and returns a later one, halfway back to the image."""

    threat: ThreatModel

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (x + PGD(self.threat, steps=10)(model, x, y)) / 2


@dataclass(frozen=True)
class Mutating:
    """An attack that leaves its traces in batch norm's statistics."""

    threat: ThreatModel

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad(), modes.training(model):
            model(x)
        return PGD(self.threat, steps=10)(model, x, y)


@dataclass(frozen=True)
class Elsewhere:
    """An attack that never asks the model: no pass can be counted."""

    threat: ThreatModel

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return self.threat.project(x + float(self.threat.eps) * (2.0 * (y % 2) - 1).view(-1, *[1] * (x.ndim - 1)), x)


@dataclass(frozen=True)
class Row:
    """One planted fault. Every set of `fires` must hold a check that warns or fails."""

    name: str
    subject: Subject
    fires: tuple[frozenset[str], ...]


def rows(model: nn.Module, train: Data, test: Data, eps: float, n: int, order: Tensor) -> list[Row]:
    """All planted faults around an honest model of batch norm; `order` (n,) are the audited indices of `test`."""
    x, y = test.take(order).floats(), test.take(order).labels

    def row(name: str, fires: str, subject: nn.Module = model, at: float = eps, **more: object) -> Row:
        expected = tuple(frozenset(word.split("|")) for word in fires.split())
        return Row(name, Subject(model=subject.eval(), data=test, eps=(at,), name=name, train=train, **more), expected)  # type: ignore[arg-type]

    def pgd(**more: object) -> Callable[[ThreatModel], Attack]:
        return lambda threat: PGD(threat, **{"steps": 50, **more})  # type: ignore[arg-type]

    ends = PGD(ThreatModel(eps, test.shape), steps=50)(model, x, y)
    with torch.no_grad():
        clean, attacked = model(x), model(ends)
    right, same = attacked.argmax(-1) == y, attacked.argmax(-1) == clean.argmax(-1)
    unsure = attacked.softmax(-1).amax(-1) < 0.9
    n_pixels = x[0].numel()
    idle = Adversary(mlp(test.shape, [8, n_pixels]))
    for parameter in idle.parameters():
        parameter.data.zero_()
    masked = Wrapped(model, after=lambda z: 1e4 * z).eval()
    other = Wrapped(model, lambda z: z + 0.3 * torch.randn_like(z))
    return [
        row("logits x 1e4", "S5 S6 S7 S8 S9", Wrapped(model, after=lambda z: 1e4 * z)),
        row("input in 9 levels", "S5 S6 S7 S9 S10", Wrapped(model, lambda z: (8 * z).round() / 8)),
        row("detached gradient", "S5 S6 S7 S9 S10 S13", Wrapped(model, lambda z: z.detach())),
        row("input noise", "I3 I6 S1 S2 S5 S6 S7", other),
        row("batch norm by the batch", "I1 I2 S8|S2", BatchStatistics(model)),
        row("softmax output", "I8", Wrapped(model, after=lambda z: z.softmax(-1))),
        row("NaN logits", "I4", Wrapped(model, after=lambda z: z * torch.nan)),
        row("temperature", "S8|S9 S6", Wrapped(model, after=lambda z: 100 * z)),
        row("k winners take all", "S10 S6", Readout(train, winners)),
        row("sign activation", "S9 S10 S6", Readout(train, torch.sign)),
        row("block quantisation", "S9|S10 S6", Wrapped(model, blockwise)),
        row("rejections counted as correct", "I5", claimed=Claimed(ends, right | unsure, eps)),
        row("labels by position", "I2", Leaking(model, y)),
        row("half the eps in secret", "I5 S6", attack=lambda t: PGD(t.at(float(t.eps) / 2), steps=50)),
        row("wider than the pixel range", "I5", attack=Wider),
        row("last example, not the best", "S11", attack=Retreating),
        row("predicted labels", "I9", attack=pgd(label="predicted")),
        row("clean-wrong counted as robust", "I5", claimed=Claimed(ends, same, eps)),
        row("attack changes the model", "I1", attack=Mutating),
        row(
            "gradients in training mode",
            "I1",
            attack=pgd(mode="training"),
            fgsm=lambda t: fgsm(t, mode="training"),
        ),
        row(
            "reported in-game only",
            "G1 G7",
            adversary=idle,
            statements=["robust accuracy 97 % against its own adversary"],
        ),
        row("attack that asks nothing", "I10", attack=Elsewhere),
        row("chosen on the test set", "T3 T4", provenance=Provenance("test", 100, (0,))),
        row("eps between grey levels", "I7", at=0.003),
        row("loss still rising", "S12", attack=pgd(steps=40, reach=1.0, random_start=False)),
        row("twin that does not break", "S14", twin=masked),
        row("FGSM ran away", "G6", history=[Drop(100, 0.9, 0.6)]),
    ]
