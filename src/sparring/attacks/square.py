"""Square Attack: random search over square windows, from logits alone (Andriushchenko et al. 2020, "Square Attack: a
query-efficient black-box adversarial attack via random search", section 3, algorithms 1 and 2, l_inf)."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.rows import Rows, answers, bounds, chunks, fooled
from sparring.errors import InputError
from sparring.precision import widest
from sparring.randomness import Stream
from sparring.threat import ThreatModel

Colours = list[Tensor] | list[bool]  # one per query; a tensor (C, 1, 1) for several channels
Window = tuple[int, int, int, int]  # first row, last row + 1, first column, last column + 1

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of the share p, at queries of 10,000: the authors' code


@dataclass(frozen=True)
class Square:
    """Sets one window of pixels after another to x + eps or x - eps, and keeps what raises the margin.

    It uses no gradient, so a model that hides its gradient does not stop it. `queries` counts forward passes per example, the
    first included. A window covers the share `p` of the pixels at first, less and less later; `rescale` stretches that schedule,
    made for 10,000 queries, to `queries` (AutoAttack leaves it as it is). Inputs (C, H, W) and (H, W) get squares; flat inputs
    (D,) runs of features. Further leading axes of an input count as channels. A window that would change nothing gets the other
    sign (the paper draws again).

    Every example gets the same draws, so its result does not depend on which others are in the batch, or on their order.
    Labels with one axis are attacked `chunk` at a time; of a stack (labels (S, B)) all at once.
    """

    threat: ThreatModel
    queries: int = 5000
    p: float = 0.8
    rescale: bool = True
    stream: Stream = field(default_factory=lambda: Stream(0, "square"))
    chunk: int = field(default=512, repr=False)  # the fastest of several on a processor; changes no result

    def __post_init__(self) -> None:
        for name in ("queries", "chunk"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1; got {getattr(self, name)}")
        if not 0 < self.p <= 1:
            raise InputError(f"p must be in (0, 1]; got {self.p:g}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach()
        if not y.numel():
            return x.clone()
        with modes.frozen(model), torch.no_grad():
            clean = answers(model, x, y, self.chunk)
            x_adv, standing = x.clone(), ~fooled(clean, y)
            draws = self._draws(x)
            for index, threat in chunks(standing, self.chunk, self.threat):
                found = self._search(model, x[index], y[index], threat, draws)
                x_adv[index] = torch.where(threat.over_pixels(standing[index]), found, x[index])
        return x_adv

    def share(self, query: int) -> float:
        """The share of the pixels that a window covers at this query, 1 being the first window."""
        at = query / self.queries * 10_000 if self.rescale else query
        return self.p * 0.5 ** sum(at > halving for halving in HALVINGS)

    def planes(self) -> tuple[int, int, int]:
        """Channels, rows and columns of an input; a flat one is a single row."""
        shape = self.threat.shape
        return (1, 1, shape[0]) if len(shape) == 1 else (math.prod(shape[:-2]), shape[-2], shape[-1])

    def _draws(self, x: Tensor) -> tuple[Tensor, list[Window], Colours]:
        """The first stripes' signs (C, 1, W), every query's window, and its sign per channel, all at once."""
        n_channels, height, width = self.planes()
        generator, n = self.stream.generator(x.device), self.queries - 1
        stripes = torch.rand(n_channels, 1, width, generator=generator, device=x.device) < 0.5
        places = torch.rand(n, 2, generator=generator, device=x.device, dtype=widest(x.device)).tolist()
        drawn = torch.rand(n, n_channels, 1, 1, generator=generator, device=x.device) < 0.5
        colours: Colours = list(drawn) if n_channels > 1 else drawn.flatten().tolist()
        windows = []
        for query in range(1, n + 1):
            share, (down, right) = self.share(query), places[query - 1]
            if height == 1:
                rows, columns = 1, max(1, round(share * width))
            else:
                rows = columns = max(1, min(height, width, round(math.sqrt(share * height * width))))
            top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
            windows.append((top, top + rows, left, left + columns))
        return stripes, windows, colours

    def _search(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, draws: tuple[Tensor, list[Window], Colours]
    ) -> Tensor:
        """The points found for one chunk, (..., *shape): the first that is misclassified, else the one of largest margin."""
        stripes, windows, colours = draws
        leading, drops = y.shape, y.ndim == 1  # a stack needs every example in its place
        low, high = (bound.view(-1, *self.planes()) for bound in bounds(threat, x))
        at = torch.arange(y.numel(), device=x.device)
        points = _Points(at, low, high, torch.where(stripes, high, low), y.reshape(-1, 1))
        found = points.now.clone()
        best = self._margins(model, points, leading)
        for (top, bottom, left, right), colour in zip(windows, colours, strict=True):
            if not bool(best.max() <= 0):  # NaN, a logit that is not finite, is no sound answer either
                standing = best <= 0
                if drops or not bool(standing.any()):
                    found.index_copy_(0, points.row, points.now)
                    points.keep(standing)
                    best = best[standing]
                if not len(best):
                    return found.view(*leading, *threat.shape)
            here = (..., slice(top, bottom), slice(left, right))
            window, up, down = points.now[here], points.high[here], points.low[here]
            old = window.clone()
            if isinstance(colour, Tensor):
                new, other = torch.where(colour, up, down), torch.where(colour, down, up)
            else:
                new, other = (up, down) if colour else (down, up)
            idle = (new == old).flatten(1).all(1)
            window.copy_(torch.where(idle.view(-1, 1, 1, 1), other, new))
            margins = self._margins(model, points, leading)
            better = ~(margins <= best) if drops else ~(margins <= best) & (best <= 0)
            window.copy_(torch.where(better.view(-1, 1, 1, 1), window, old))
            best = torch.where(better, margins, best)
        found.index_copy_(0, points.row, points.now)
        return found.view(*leading, *threat.shape)

    def _margins(self, model: nn.Module, points: "_Points", leading: torch.Size) -> Tensor:
        """The best wrong logit minus the right one, (N,); NaN where a logit is not finite."""
        x = points.now.view(*((-1,) if len(leading) == 1 else leading), *self.threat.shape)
        logits = model(x).reshape(len(points.y), -1)
        if points.others is None:
            points.others = torch.zeros_like(logits).scatter_(-1, points.y, -torch.inf)
        margins = (logits + points.others).amax(-1) - logits.gather(-1, points.y).squeeze(-1)
        return torch.add(margins, logits.mean(-1), alpha=0)  # 0 times NaN or infinity is NaN


@dataclass
class _Points(Rows):
    """One row per example that still stands."""

    row: Tensor  # (N,) where it stands in the answer
    low: Tensor  # (N, C, H, W), as what follows
    high: Tensor
    now: Tensor
    y: Tensor  # (N, 1)
    others: Tensor | None = None  # (N, classes): 0, but -infinity at the right class
