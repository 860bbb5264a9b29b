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
        with modes.frozen(model):
            return self.searched(self.sources, self.begun(model, x.detach(), y)).ends.best()[1]

    def begun(self, model: nn.Module, x: Tensor, y: Tensor) -> "Ends":
        """No end yet."""
        with modes.frozen(self.sources[0]), torch.no_grad():
            return Ends(model, self.threat, x, y, self.sources[0](x).shape[-1])

    def searched(self, own: Sequence[nn.Module], ends: "Ends") -> "Search":
        """A search on these models, after which the ends are as near to failing or nearer."""
        models = nn.ModuleList(own)
        with modes.frozen(models):
            search = Search(models, ends, self.stream.generator(ends.x.device))
            for _ in range(self.starts):
                for offset in range(1, ends.n_classes):
                    search.go_on(torch.full_like(ends.y, offset), search.corner(), self.steps, FIRST_STEP, CHANCE)
            for turn in range(self.returns):
                rival, end = ends.best(turn % min(RIVALS, ends.n_classes - 1))
                search.go_on(rival, search.partly_anew(end), self.steps_back, FIRST_STEP_BACK, CHANCE_BACK)
        return search

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


class Ends:
    """The end towards every class at which the model attacked is nearest to failing, and what it says there."""

    def __init__(self, model: nn.Module, threat: ThreatModel, x: Tensor, y: Tensor, n_classes: int) -> None:
        self.model, self.threat, self.x, self.y, self.n_classes = model, threat, x, y, n_classes
        rivals = n_classes - 1  # class y + 1, y + 2, ... modulo C
        self.found, self.said = x.expand(rivals, *x.shape).clone(), x.new_zeros((rivals, *y.shape, n_classes))
        self._most = x.new_full((rivals, *y.shape), -torch.inf)

    def best(self, rank: int = 0) -> tuple[Tensor, Tensor]:
        """Of the class that is nearest, or next but `rank`: its distance from the right one (...), and the end (..., *shape)."""
        row = self._most.topk(rank + 1, 0).indices[rank]
        return row + 1, self.found.gather(0, self._rows(row))[0]

    def ask(self, offset: Tensor, end: Tensor) -> Tensor:
        """The model's logits at an end towards these classes, which is kept where it is the nearest."""
        row = (offset - 1)[None]
        with torch.no_grad():
            said: Tensor = self.model(end).to(self.said.dtype)
            ahead, most = ahead_of(said, (self.y + offset) % self.n_classes, self.y), self._most.gather(0, row)[0]
            better, rows, classes = ahead > most, self._rows(row[0]), row[..., None].expand(1, *said.shape)
            self._most.scatter_(0, row, torch.where(better, ahead, most)[None])
            kept = torch.where(self.threat.over_pixels(better), end, self.found.gather(0, rows)[0])
            self.found.scatter_(0, rows, kept[None])
            self.said.scatter_(0, classes, torch.where(better[..., None], said, self.said.gather(0, classes)[0])[None])
        return said

    def _rows(self, row: Tensor) -> Tensor:
        """An index (1, ..., *shape) of these rows (...) among the ends."""
        return self.threat.over_pixels(row).expand_as(self.x)[None]


class Search:
    """Ways to new ends on models of one's own, and how well those have foretold the model attacked."""

    def __init__(self, own: nn.ModuleList, ends: Ends, draws: torch.Generator) -> None:
        self.own, self.ends, self.draws = own, ends, draws
        self.error = ends.x.new_zeros((len(own), *ends.y.shape))  # summed squares

    def corner(self) -> Tensor:
        """A random corner of the ball, the same for every example."""
        x, threat = self.ends.x, self.ends.threat
        return threat.moved(x, x.new_empty(threat.shape).uniform_(-1, 1, generator=self.draws).sign_().expand_as(x))

    def partly_anew(self, end: Tensor) -> Tensor:
        """The end with some of its pixels at a random corner."""
        corner = self.corner()
        return torch.where(end.new_empty(self.ends.threat.shape).uniform_(generator=self.draws) < ANEW, corner, end)

    def go_on(self, offset: Tensor, start: Tensor, steps: int, first: float, chance: float) -> None:
        """Steps towards these classes, and what the model says of where they end."""
        threat, x, y = self.ends.threat, self.ends.x, self.ends.y
        target, pixels = (y + offset) % self.ends.n_classes, tuple(range(-len(threat.shape), 0))
        weights, x_adv, mean = self._weights(chance), start, torch.zeros_like(x)
        for step in range(steps):
            point = x_adv.requires_grad_()
            with torch.enable_grad():
                ahead = [
                    weight * ahead_of(source(point), target, y)
                    for weight, source in zip(weights, self.own, strict=True)
                ]
                (gradient,) = torch.autograd.grad(torch.stack(ahead).sum(), point)
            size = gradient.abs().mean(pixels, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
            mean = MEMORY * mean + (1 - MEMORY) * gradient / size
            reach = threat.radius(x) * max(SMALLEST_STEP, first * DECAY**step)
            x_adv = threat.project(x_adv.detach() + reach * mean.sign(), x)
        end = x_adv.detach()
        said = self.ends.ask(offset, end)
        with torch.no_grad():
            for error, source in zip(self.error, self.own, strict=True):
                error += (_over(source(end), y) - _over(said, y)).square().mean(-1)

    def _weights(self, chance: float) -> Tensor:
        """Of every source for every example, of shape (S, ...)."""
        drawn = self.error.new_empty(len(self.own)).uniform_(generator=self.draws).square_()
        drawn = drawn.view(-1, *[1] * self.ends.y.ndim)
        if not self.error.any():
            return drawn.expand_as(self.error)
        error = self.error + torch.finfo(self.error.dtype).tiny
        trusted = (error.amin(0) / error).nan_to_num(1.0)  # alike, where the model answers no number
        return trusted * (1 - chance + 2 * chance * drawn)


def _over(logits: Tensor, y: Tensor) -> Tensor:
    """By how much every class's logit is above the right one's, of shape (..., C)."""
    return logits - logits.gather(-1, y[..., None])


def ahead_of(logits: Tensor, target: Tensor, y: Tensor) -> Tensor:
    """By how much a class's logit is above the right one's, of shape (...)."""
    there = logits.gather(-1, torch.stack((target, y), -1))
    return there[..., 0] - there[..., 1]
