"""The recurrent adversary: one small cell, the same for every pixel, that asks the defender for gradients step after step.

A learned optimizer (Andrychowicz et al. 2016) whose variable is the perturbation. Letters: S copies, B batch, F features, H
hidden units, K queries; u is the perturbation over the radius, in [-1, 1].
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.adversaries.adversary import Adversary, Seen, stack_adversaries
from sparring.errors import CannotStack, InputError, line_of

# u -> the gradient of the log odds there, which may be written over, and these, (...)
Asked = Callable[[Tensor], tuple[Tensor, Tensor]]

FEATURES = ("gradient", "its mean so far", "gradient x perturbation", "pixel", "radius", "log odds")
MEMORY = 0.75  # share of the earlier gradients in their mean
LARGEST_GRADIENT, ODDS_UNIT = 4.0, 8.0
ROUNDS = 10  # of an adversary that had warm starts in its game, where it meets an example for the first time


class RecurrentAdversary(nn.Module):
    """K queries from a starting point: at each, u moves by that query's learned step size times the cell's answer in [-1, 1].

    The cell sees, at each pixel, FEATURES: the gradient of the log odds that the defender is wrong, over the example's mean
    magnitude and within [-4, 4]; its running mean; the product of gradient and u; the pixel; and for the whole example the
    radius and tanh(log odds / 8). It is linear with `hidden` 0, else has tanh units beside that; its answer is clipped.
    Untrained, it follows the gradient's sign, by `step` radii a query, wherever the magnitude is above 1 / `follow` of the mean.
    In a stack every parameter has the leading axis S.

    As an attack it starts at the example and repeats its K queries `rounds` times over, each time from where it ended: what
    that many epochs of a game with warm starts are to a training example. With `begin` it starts with every pixel moved by so
    many radii: off the example the first gradient says more of a defender that was trained on gradients at the examples.
    """

    sees: tuple[Seen, ...] = ("x", "label", "gradient")

    def __init__(
        self,
        shape: Sequence[int],
        *,
        queries: int = 2,
        hidden: int = 0,
        step: float | Sequence[float] = 0.5,
        follow: float = 2.0,
        rounds: int = 1,
        begin: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """`step`: radii, of every query or one for each; `follow`: the initial weight of the gradient."""
        super().__init__()
        steps = [float(step)] * queries if isinstance(step, int | float) else [float(s) for s in step]
        if queries < 1 or hidden < 0 or rounds < 1 or not all(0 < s < math.inf for s in steps):
            got = f"{queries}, {hidden}, {step}, {rounds}"
            raise ValueError(f"queries must be >= 1, hidden >= 0, step > 0 and finite, rounds >= 1; got {got}")
        if len(steps) != queries:
            raise ValueError(f"step must be one number, or one for each of {queries} queries; got {len(steps)}")
        if not -1 <= begin <= 1:
            raise ValueError(f"begin must be in [-1, 1], radii; got {begin}")
        self.shape, self.queries, self.hidden, self.rounds, self.begin = tuple(shape), queries, hidden, rounds, begin
        weight = torch.zeros(len(FEATURES))
        weight[0] = follow  # of the gradient
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(()))
        self.log_step = nn.Parameter(torch.tensor(steps).log())
        if hidden:
            generator = generator or torch.Generator().manual_seed(0)
            self.into = nn.Parameter(torch.randn(hidden, len(FEATURES), generator=generator) * len(FEATURES) ** -0.5)
            self.shift = nn.Parameter(torch.zeros(hidden))
            self.out = nn.Parameter(torch.zeros(hidden))

    def afresh(self, generator: torch.Generator | None = None) -> "RecurrentAdversary":
        """An untrained one of its class with as many queries, hidden units and rounds.

        Raises InputError where a class of its own is not made with these settings: it should have an `afresh` of its own.
        """
        try:
            return type(self)(self.shape, **self.settings, generator=generator)
        except TypeError as error:
            name, words = type(self).__name__, line_of(error)
            raise InputError(f"an untrained {name} cannot be made ({words}); give it an `afresh` of its own") from None

    @property
    def settings(self) -> dict[str, Any]:
        """What an untrained one of its kind is made with, beside the shape."""
        return {"queries": self.queries, "hidden": self.hidden, "rounds": self.rounds, "begin": self.begin}

    def first_point(self, x: Tensor) -> Tensor:
        """The u, of the shape of inputs x, that it starts from as an attack."""
        return torch.full_like(x, self.begin)

    def forward(self, ask: Asked, x: Tensor, radius: Tensor, start: Tensor, first: Sequence[int] = ()) -> Tensor:
        """u (..., *shape) after K queries, from `start`, for inputs x and radii (...).

        With `first`, K ascending indices, query k is for the examples from first[k] on, and what is asked is shown theirs only.
        What is asked is not differentiated, nor is u where it multiplies a gradient.
        """
        u, before = start, None  # the mean of earlier gradients
        own, learning = -1 - len(self.shape), torch.is_grad_enabled()  # the batch axis
        settled = list[Tensor]()  # where something is learned: examples that have had their queries
        whole = start  # where nothing is: all examples, from the first query on a copy, in which u is moved
        for k in range(self.queries):
            n = first[k] - (first[k - 1] if k else 0) if first else 0
            if n:
                settled.append(u.narrow(own, 0, n))
                u, x, radius = _without(n, own, u), _without(n, own, x), _without(n, -1, radius)
                before = None if before is None else _without(n, own, before)
            gradient, odds = ask(u.detach())
            gradient = scaled(gradient, len(self.shape))
            mean = None if before is None else torch.lerp(before, gradient, 1 - MEMORY)
            answer = _within(self._cell(gradient, mean, u, x, odds, radius))
            step = self._own(self.log_step.exp()[..., k])
            if learning:
                u = _within(torch.addcmul(u, step, answer))
            elif k:
                u.addcmul_(step, answer).clamp_(-1, 1)
            else:
                whole = torch.empty_like(start, dtype=torch.result_type(u, answer))
                whole.narrow(own, 0, n).copy_(start.narrow(own, 0, n))
                u = torch.addcmul(u, step, answer, out=_without(n, own, whole)).clamp_(-1, 1)
            if k + 1 < self.queries:
                before = (1 - MEMORY) * gradient if mean is None else mean
        if not learning:
            return whole
        return torch.cat((*settled, u), own) if settled else u

    def extra_repr(self) -> str:
        told = f"queries={self.queries}, hidden={self.hidden}, rounds={self.rounds}"
        return f"{told}, begin={self.begin:g}" if self.begin else told

    def _cell(
        self, gradient: Tensor, mean: Tensor | None, u: Tensor, x: Tensor, odds: Tensor, radius: Tensor
    ) -> Tensor:
        """The cell's answer before its bound, at every pixel, in few passes over them; no mean: it is of this gradient only."""
        of_gradient, of_mean, of_product, of_pixel = (self._own(w) for w in self.weight[..., :4].unbind(-1))
        if mean is None:
            of_gradient = of_gradient + (1 - MEMORY) * of_mean
        per_example = self.bias.unsqueeze(-1) + self.weight[..., 4, None] * radius
        per_example = per_example + self.weight[..., 5, None] * _squashed(odds)
        # one number for many pixels is broadcast three times as fast by mul and add as by addcmul
        answer = (x * of_pixel).add_(per_example[(..., *[None] * len(self.shape))])
        if mean is not None:
            answer = answer.addcmul_(of_mean, mean)
        answer = answer.addcmul_(gradient, (u.detach() * of_product).add_(of_gradient))
        if self.hidden:
            over = (..., *[None] * len(self.shape))
            of_example = (radius[over].expand_as(x), _squashed(odds)[over].expand_as(x))
            mean = (1 - MEMORY) * gradient if mean is None else mean
            answer = answer + self._hidden((gradient, mean, gradient * u.detach(), x, *of_example))
        return answer

    def _hidden(self, features: Sequence[Tensor]) -> Tensor:
        lead = features[0].shape[: self.weight.ndim - 1]  # () or (S,)
        flat = torch.stack([feature.reshape(*lead, -1) for feature in features], -2)  # (..., F, B * D)
        units = torch.tanh(self.into @ flat + self.shift.unsqueeze(-1))
        return (self.out.unsqueeze(-2) @ units).reshape(features[0].shape)

    def _own(self, value: Tensor) -> Tensor:
        """A number of each copy, () or (S,), beside pixels (..., B, *shape)."""
        return value[(..., *[None] * (len(self.shape) + 1))]


def stack_recurrent(adversaries: Sequence[RecurrentAdversary]) -> RecurrentAdversary:
    """S of them as one; raises CannotStack where they differ in more than their weights, or are of a class of their own."""
    first = adversaries[0]
    if own := next((type(a).__name__ for a in adversaries if type(a) is not RecurrentAdversary), ""):
        raise CannotStack(f"a stack needs adversaries of class RecurrentAdversary itself, got {own}")
    if any((a.shape, a.settings) != (first.shape, first.settings) for a in adversaries):
        raise CannotStack("a stack needs recurrent adversaries of one shape, number of queries and hidden units")
    learned = [{name: p.requires_grad for name, p in a.named_parameters()} for a in adversaries]
    if any(own != learned[0] for own in learned):
        raise CannotStack("a stack needs recurrent adversaries of which the same parameters learn")
    stacked = first.afresh()
    for name, learns in learned[0].items():
        joined = torch.stack([getattr(a, name).detach() for a in adversaries])
        setattr(stacked, name, nn.Parameter(joined, requires_grad=learns))
    return stacked


AnyAdversary = Adversary | RecurrentAdversary


def stack_any(adversaries: Sequence[AnyAdversary], probe: Tensor | None = None) -> AnyAdversary:
    """A stack of adversaries of either kind, with a `probe` tried out on it; raises CannotStack where they differ."""
    recurrent = [a for a in adversaries if isinstance(a, RecurrentAdversary)]
    networks = [a for a in adversaries if isinstance(a, Adversary)]
    if recurrent and networks:
        raise CannotStack("a stack needs adversaries of one kind, got networks and recurrent ones")
    return stack_recurrent(recurrent) if recurrent else stack_adversaries(networks, probe)


def scaled(gradient: Tensor, n_own_axes: int) -> Tensor:
    """A gradient over each example's mean magnitude, within [-4, 4], in its own memory; 0 where it vanishes or is not finite."""
    own = tuple(range(-n_own_axes, 0))
    gradient = gradient.contiguous()  # a sum's is one number in many places
    total = gradient.abs().sum(own, keepdim=True)
    if gradient.is_cuda or not torch.isfinite(total).all():  # asking a GPU would wait for it
        gradient.nan_to_num_(0.0, 0.0, 0.0)
        gradient.div_(gradient.abs().amax(own, keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny))
        total = gradient.abs().sum(own, keepdim=True)
    mean = (total / (gradient.numel() // max(1, total.numel()))).clamp(min=torch.finfo(total.dtype).tiny)
    return gradient.div_(mean).clamp_(-LARGEST_GRADIENT, LARGEST_GRADIENT)


def _without(n: int, axis: int, of: Tensor) -> Tensor:
    """All but the first n along an axis."""
    return of.narrow(axis, n, of.shape[axis] - n)


def _squashed(odds: Tensor) -> Tensor:
    return torch.tanh(odds / ODDS_UNIT).nan_to_num(0.0)


def _within(answer: Tensor) -> Tensor:
    """Clipped to [-1, 1], in its own memory where nothing is learned from it; else with a gradient in one pass (`F.hardtanh`)."""
    return F.hardtanh(answer) if answer.requires_grad else answer.clamp_(-1, 1)
