"""The recurrent adversary: one small cell, the same for every pixel, that asks the defender for gradients step after step.

A learned optimizer (Andrychowicz et al. 2016) whose variable is the perturbation. Letters: S copies, B batch, F features, H
hidden units, K queries; u is the perturbation over the radius, in [-1, 1].
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sparring.adversaries.adversary import Seen
from sparring.errors import CannotStack

Asked = Callable[
    [Tensor], tuple[Tensor, Tensor]
]  # u (..., *shape) -> the gradient of the log odds there, and these (...)

FEATURES = ("gradient", "its mean so far", "perturbation", "gradient x perturbation", "pixel", "log odds", "radius")
MEMORY = 0.75  # share of the earlier gradients in their mean
LARGEST_GRADIENT, ODDS_UNIT = 4.0, 8.0


class RecurrentAdversary(nn.Module):
    """K queries from a starting point: at each, u moves by that query's learned step size times the cell's answer in [-1, 1].

    The cell sees, at each pixel, FEATURES: the gradient of the log odds that the defender is wrong, over the example's mean
    magnitude and within [-4, 4]; its running mean; u; the product of gradient and u; the pixel; and for the whole example
    tanh(log odds / 8) and the radius. It is linear with `hidden` 0, else has tanh units beside the linear part. Untrained, it
    follows the gradient's sign, softly, by `step` radii a query. In a stack every parameter has the leading axis S.

    As an attack it starts at the example and repeats its K queries `rounds` times over, each time from where it ended: what
    that many epochs of a game with warm starts are to a training example.
    """

    sees: tuple[Seen, ...] = ("x", "label", "gradient")

    def __init__(
        self,
        shape: Sequence[int],
        *,
        queries: int = 2,
        hidden: int = 0,
        step: float = 0.5,
        rounds: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if queries < 1 or hidden < 0 or not step > 0 or rounds < 1:
            got = f"{queries}, {hidden}, {step:g}, {rounds}"
            raise ValueError(f"queries must be >= 1, hidden >= 0, step > 0 and rounds >= 1; got {got}")
        self.shape, self.queries, self.hidden, self.rounds = tuple(shape), queries, hidden, rounds
        weight = torch.zeros(len(FEATURES))
        weight[0] = 2.0  # of the gradient: tanh is then near its sign where it is above the mean
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(()))
        self.log_step = nn.Parameter(torch.full((queries,), step).log())
        if hidden:
            generator = generator or torch.Generator().manual_seed(0)
            self.into = nn.Parameter(torch.randn(hidden, len(FEATURES), generator=generator) * len(FEATURES) ** -0.5)
            self.shift = nn.Parameter(torch.zeros(hidden))
            self.out = nn.Parameter(torch.zeros(hidden))

    def forward(self, ask: Asked, x: Tensor, radius: Tensor, start: Tensor) -> Tensor:
        """u (..., *shape) after K queries, from `start`, for inputs x and radii (...); what is asked is not differentiated."""
        u, mean = start, torch.zeros_like(start)
        for k in range(self.queries):
            gradient, odds = ask(u.detach())
            gradient = scaled(gradient, len(self.shape))
            mean = MEMORY * mean + (1 - MEMORY) * gradient
            answer = self._cell(gradient, mean, u, x, odds, radius)
            u = (u + self._own(self.log_step.exp()[..., k]) * torch.tanh(answer)).clamp(-1, 1)
        return u

    def extra_repr(self) -> str:
        return f"queries={self.queries}, hidden={self.hidden}, rounds={self.rounds}"

    def _cell(self, gradient: Tensor, mean: Tensor, u: Tensor, x: Tensor, odds: Tensor, radius: Tensor) -> Tensor:
        """The cell's answer before its bound, at every pixel."""
        over = (..., *[None] * len(self.shape))
        pixels = (gradient, mean, u, gradient * u.detach(), x - 0.5)
        examples = (torch.tanh(odds / ODDS_UNIT), radius)
        weights = [self._own(weight) for weight in self.weight.unbind(-1)]
        of_example = weights[5].flatten(-len(self.shape))[..., 0] * examples[0]
        of_example = of_example + weights[6].flatten(-len(self.shape))[..., 0] * examples[1]
        answer = of_example[over] + self._own(self.bias)
        for weight, feature in zip(weights, pixels, strict=False):
            answer = torch.addcmul(answer, weight, feature)
        if self.hidden:
            answer = answer + self._hidden([*pixels, *(e[over].expand_as(x) for e in examples)])
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
    """S of them as one; raises CannotStack where they differ in more than their weights."""
    first = adversaries[0]
    if len({(a.shape, a.queries, a.hidden, a.rounds) for a in adversaries}) > 1:
        raise CannotStack("a stack needs recurrent adversaries of one shape, number of queries and hidden units")
    stacked = RecurrentAdversary(first.shape, queries=first.queries, hidden=first.hidden, rounds=first.rounds)
    for name, _ in list(stacked.named_parameters()):
        setattr(stacked, name, nn.Parameter(torch.stack([getattr(a, name).detach() for a in adversaries])))
    return stacked


def scaled(gradient: Tensor, n_own_axes: int) -> Tensor:
    """A gradient over each example's mean magnitude, within [-4, 4]; 0 where it vanishes or is not finite."""
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    mean = gradient.abs().mean(tuple(range(-n_own_axes, 0)), keepdim=True)
    largest = LARGEST_GRADIENT
    return (gradient / mean.clamp(min=torch.finfo(mean.dtype).tiny)).clamp(-largest, largest)
