"""What the strong attacks share: which examples still stand, and attacking only those, in chunks that fit a processor's cache."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from sparring.threat import ThreatModel

Chunk = Callable[[Tensor, ThreatModel], tuple[Tensor, Tensor]]


def fooled(logits: Tensor, y: Tensor) -> Tensor:
    """Which examples count as broken, (...): the answer is wrong, or a logit is not finite, so that nothing was decided."""
    return (logits.argmax(-1) != y) | ~torch.isfinite(logits).all(-1)


@torch.no_grad()
def answers(model: nn.Module, x: Tensor, y: Tensor, chunk: int) -> Tensor:
    """The model's logits (..., C), `chunk` examples at a time where the labels have one axis; empty for no example."""
    if y.ndim != 1 or len(y) <= chunk:
        logits: Tensor = model(x)
        return logits
    return torch.cat([model(part) for part in x.split(chunk)])


def chunks(standing: Tensor, chunk: int, threat: ThreatModel) -> Iterator[tuple[Any, ThreatModel]]:
    """Indices of the standing examples, a chunk at a time, each with the threat for those examples.

    `standing` (...) is bool. Where labels have more than one axis the model may be a stack that needs every example in its place:
    then there is one chunk, all of them, while any stands.
    """
    if standing.ndim != 1:
        if bool(standing.any()):
            yield (), threat
        return
    for index in standing.nonzero().squeeze(-1).split(chunk):
        if len(index):
            yield index, part(threat, standing.shape, index)


@dataclass
class Best:
    """Over several ascents the best that is known of every example: its first broken point, else the one of highest loss."""

    x_adv: Tensor  # (..., *shape)
    standing: Tensor  # (...) bool
    loss: Tensor  # (...)

    @classmethod
    def of(cls, clean: Tensor, x: Tensor, y: Tensor) -> "Best":
        """Before any ascent: x itself, whose logits are `clean`."""
        loss = torch.full(y.shape, -torch.inf, dtype=x.dtype, device=x.device)
        return cls(x.clone(), ~fooled(clean, y), loss)

    def take(self, index: Any, threat: ThreatModel, points: Tensor, loss: Tensor, broken: Tensor) -> None:
        """What an ascent found for the examples at `index`, those of one of the `chunks` of `standing`, with its threat."""
        loss = loss.to(self.loss.dtype)  # a model may answer in half precision
        better = self.standing[index] & (broken | (loss > self.loss[index]))
        self.x_adv[index] = torch.where(threat.over_pixels(better), points, self.x_adv[index])
        self.loss[index] = torch.where(better, loss, self.loss[index])
        self.standing[index] &= ~broken


def part(threat: ThreatModel, shape: torch.Size, index: Tensor) -> ThreatModel:
    """The threat for the examples at these indices: an eps per example is indexed as they are."""
    eps = threat.eps
    if not isinstance(eps, Tensor):
        return threat
    return threat.at(eps.expand(shape)[index.to(eps.device)])


def bounds(threat: ThreatModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value that each pixel may take, each (N, D) for N examples in all."""
    eps = threat.radius(x)
    low, high = (x - eps).clamp_(threat.low, threat.high), (x + eps).clamp_(threat.low, threat.high)
    return rows(threat, low), rows(threat, high)


def rows(threat: ThreatModel, x: Tensor) -> Tensor:
    """x (..., *shape) as (N, D): one row per example, whatever the leading axes."""
    return threat.flat(x).reshape(-1, threat.flat(x).shape[-1])


class Rows:
    """A dataclass of tensors (or None) with one row per example, of which some can be kept and the others dropped."""

    def keep(self, mask: Tensor) -> None:
        """Drop the rows where `mask` is False."""
        index = mask.nonzero().squeeze(-1)
        for name in (field.name for field in fields(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value.index_select(0, index))


def put(into: Tensor, mask: Tensor, values: Tensor) -> None:
    """into[mask] = values[mask] for (N, D), in place."""
    index = mask.nonzero().squeeze(-1)
    if 2 * len(index) > len(mask):
        torch.where(mask.unsqueeze(-1), values, into, out=into)
    elif len(index):
        into.index_copy_(0, index, values.index_select(0, index))


def put_at(into: Tensor, at: Tensor, mask: Tensor, values: Tensor) -> None:
    """into[at[mask]] = values[mask], in place."""
    index = mask.nonzero().squeeze(-1)
    if len(index):
        into.index_copy_(0, at.index_select(0, index), values.index_select(0, index))


def signs(grad: Tensor, out: Tensor | None = None) -> Tensor:
    """The gradient's signs, written to `out` if given; a derivative that is no number gives 0.

    The gradient itself is left alone: a model may hand out memory that is shared between pixels.
    """
    finite = bool(torch.isfinite(grad.sum()))
    found = torch.sign(grad, out=out)
    return found if finite else found.nan_to_num_(nan=0.0)
