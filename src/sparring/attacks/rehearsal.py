"""A search with models of the attacker's own, in which the model attacked is asked how near it is to failing, and no gradient.

Letters: C classes, S sources; "..." the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.errors import InputError
from sparring.randomness import Stream
from sparring.threat import ThreatModel

MEMORY = 0.75  # of earlier gradients in their running mean
DECAY, SMALLEST_STEP = 0.85, 0.1  # of the steps, over the first and in radii
FIRST_STEP, FIRST_STEP_BACK = 1.0, 0.5  # in radii: from a corner, and from an end that is gone on from
STEPS_BACK = 0.6  # so many for each step from a corner
ANEW = 0.3  # the share of an end's pixels that a return puts at a random corner
RIVALS = 2  # a return is to the best ends of so many classes in turn
CHANCE, CHANCE_BACK = 0.5, 1.0  # how much of a source's weight is drawn


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """Where attacks on models of one's own end, of which the model attacked chooses: the end that it is nearest to failing at.

    First, for each of `starts` random corners of the ball and each of the C - 1 wrong classes, `steps` signed steps with
    momentum up what that class's logit has over the right one's, summed over the `sources`. Then `returns` times, in turn, to
    the best and the second best class's best end so far: with 30 % of its pixels back at a random corner it is the start of six
    tenths as many smaller steps, and replaced where these end higher (basin hopping, Wales and Doye 1997). The model answers
    once at every end, `starts` x (C - 1) + `returns` forwards an example and no gradient; kept is the end where the class that
    was aimed at has most over the right one.

    A source's weight is random, and in inverse proportion to the squared error with which it has foretold the logits of the
    model at this example's ends so far. All examples have the same draws, so that an example's end does not depend on its
    batch's others. Each source is passed forwards and backwards `passes` times an example, and once forwards at each end.
    Raises InputError for no sources, for starts or steps below 1 and returns below 0.

    What it is for is to be gone on from (`LearnedAttack(start=...)`): which wrong class is nearest is what a few gradients of
    the model itself do not tell.
    """

    sources: Sequence[nn.Module]
    threat: ThreatModel
    starts: int = 3
    returns: int = 45
    steps: int = 10
    stream: Stream = field(default_factory=lambda: Stream(0, "rehearsal"))

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("a rehearsal needs at least one model of the attacker's own; got none")
        if self.starts < 1 or self.steps < 1 or self.returns < 0:
            got = f"{self.starts}, {self.steps} and {self.returns}"
            raise InputError(f"starts and steps must be >= 1 and returns >= 0; got {got}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x, own = x.detach(), nn.ModuleList(self.sources)
        with modes.frozen(own), modes.frozen(model):
            ends = _Ends(own, model, self.threat, x, y, self.stream.generator(x.device))
            for _ in range(self.starts):
                for offset in range(1, ends.n_classes):
                    ends.go_on(torch.full_like(y, offset), ends.corner(), self.steps, FIRST_STEP, CHANCE)
            for turn in range(self.returns):
                rival, end = ends.best(turn % min(RIVALS, ends.n_classes - 1))
                ends.go_on(rival, ends.partly_anew(end), self.steps_back, FIRST_STEP_BACK, CHANCE_BACK)
            return ends.best()[1]

    @property
    def steps_back(self) -> int:
        """The steps of a return."""
        return max(1, round(STEPS_BACK * self.steps))

    def forwards(self, n_classes: int) -> int:
        """How often the model answers an example, for no gradient; each source does as often beside its passes."""
        return self.starts * (n_classes - 1) + self.returns

    def passes(self, n_classes: int) -> int:
        """How often an example passes forwards and backwards through each source."""
        return self.starts * (n_classes - 1) * self.steps + self.returns * self.steps_back

    def __repr__(self) -> str:
        named = ", ".join(type(source).__name__ for source in self.sources)
        counts = f"starts={self.starts}, returns={self.returns}, steps={self.steps}"
        return f"Rehearsal(from=[{named}], threat={self.threat}, {counts}, stream={self.stream})"


class _Ends:
    """The best end towards every class so far, and how well the sources have foretold the model."""

    def __init__(
        self, own: nn.ModuleList, model: nn.Module, threat: ThreatModel, x: Tensor, y: Tensor, draws: torch.Generator
    ) -> None:
        self.own, self.model, self.threat, self.x, self.y, self.draws = own, model, threat, x, y, draws
        with torch.no_grad():
            self.n_classes = own[0](x).shape[-1]
        self._found = x.expand(self.n_classes - 1, *x.shape).clone()  # of class y + 1, y + 2, ... modulo C
        self._most = x.new_full((self.n_classes - 1, *y.shape), -torch.inf)
        self._error = x.new_zeros((len(own), *y.shape))  # summed squares

    def best(self, rank: int = 0) -> tuple[Tensor, Tensor]:
        """Of the class that is nearest, or next but `rank`: its distance from the right one (...), and the end (..., *shape)."""
        row = self._most.topk(rank + 1, 0).indices[rank]
        return row + 1, self._found.gather(0, self._rows(row))[0]

    def corner(self) -> Tensor:
        """A random corner of the ball, the same for every example."""
        signs = self.x.new_empty(self.threat.shape).uniform_(-1, 1, generator=self.draws).sign_()
        return self.threat.moved(self.x, signs.expand_as(self.x))

    def partly_anew(self, end: Tensor) -> Tensor:
        """The end with some of its pixels at a random corner."""
        corner = self.corner()
        return torch.where(self.x.new_empty(self.threat.shape).uniform_(generator=self.draws) < ANEW, corner, end)

    def go_on(self, offset: Tensor, start: Tensor, steps: int, first: float, chance: float) -> None:
        """Steps towards these classes, and what the model says of where they end."""
        target, threat, x, y = (self.y + offset) % self.n_classes, self.threat, self.x, self.y
        pixels = tuple(range(-len(threat.shape), 0))
        weights, x_adv, mean = self._weights(chance), start, torch.zeros_like(x)
        for step in range(steps):
            point = x_adv.requires_grad_()
            with torch.enable_grad():
                ahead = [
                    weight * _ahead(source(point), target, y) for weight, source in zip(weights, self.own, strict=True)
                ]
                (gradient,) = torch.autograd.grad(torch.stack(ahead).sum(), point)
            size = gradient.abs().mean(pixels, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
            mean = MEMORY * mean + (1 - MEMORY) * gradient / size
            reach = threat.radius(x) * max(SMALLEST_STEP, first * DECAY**step)
            x_adv = threat.project(x_adv.detach() + reach * mean.sign(), x)
        self._ask(offset - 1, target, x_adv.detach())

    def _weights(self, chance: float) -> Tensor:
        """Of every source for every example, of shape (S, ...)."""
        drawn = self.x.new_empty(len(self.own)).uniform_(generator=self.draws).square_()
        drawn = drawn.view(-1, *[1] * self.y.ndim)
        if not self._error.any():
            return drawn.expand_as(self._error)
        error = self._error + torch.finfo(self._error.dtype).tiny
        trusted = (error.amin(0) / error).nan_to_num(1.0)  # alike, where the model answers no number
        return trusted * (1 - chance + 2 * chance * drawn)

    def _ask(self, row: Tensor, target: Tensor, end: Tensor) -> None:
        with torch.no_grad():
            said = self.model(end)
            for error, source in zip(self._error, self.own, strict=True):
                error += (_over(source(end), self.y) - _over(said, self.y)).square().mean(-1)
        ahead, most = _ahead(said, target, self.y), self._most.gather(0, row[None])[0]
        better, rows = ahead > most, self._rows(row)
        self._most.scatter_(0, row[None], torch.where(better, ahead, most)[None])
        kept = torch.where(self.threat.over_pixels(better), end, self._found.gather(0, rows)[0])
        self._found.scatter_(0, rows, kept[None])

    def _rows(self, row: Tensor) -> Tensor:
        """An index (1, ..., *shape) of these rows (...) among the ends."""
        return self.threat.over_pixels(row).expand_as(self.x)[None]


def _over(logits: Tensor, y: Tensor) -> Tensor:
    """By how much every class's logit is above the right one's, of shape (..., C)."""
    return logits - logits.gather(-1, y[..., None])


def _ahead(logits: Tensor, target: Tensor, y: Tensor) -> Tensor:
    """By how much a class's logit is above the right one's, of shape (...)."""
    there = logits.gather(-1, torch.stack((target, y), -1))
    return there[..., 0] - there[..., 1]
