"""Accuracy of a classifier under attack, measured from outside: who is still right, at what distance, at what cost.

Knows nothing of how a model was trained. Letters: N examples, S copies, C classes.
"""

import dataclasses
import itertools
import numbers
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks import PGD, Attack, Cascade, WorstCase, described, identity
from sparring.attacks.contract import aimed, has_threat
from sparring.data import Data, as_data
from sparring.errors import InputError
from sparring.hooks import after_forward
from sparring.models import TRIED, checked_logits, tried
from sparring.precision import full_fp32
from sparring.randomness import Stream, check_seed
from sparring.threat import ThreatModel


@dataclass
class Cost:
    """Example passes through the model, and seconds."""

    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What one attack at one eps left, example by example; S copies add a leading axis."""

    attack: str  # its repr
    eps: float
    correct: Tensor  # (N,) bool; an example with a non-finite logit is never correct
    invalid: Tensor  # (N,) bool: non-finite logits
    logits: Tensor  # (N, C), on the perturbed examples; zeros for examples that were skipped
    max_distance: float  # largest l_inf distance measured
    cost: Cost = field(default_factory=Cost)

    @property
    def accuracy(self) -> float:
        """The share of all examples that is still classified correctly."""
        return int(self.correct.sum()) / self.correct.numel()


def attacked(
    model: nn.Module,
    data: Data,
    attack: Attack,
    threat: ThreatModel,
    *,
    batch_size: int = 500,
    skip: Tensor | None = None,
    mode: Literal["evaluation", "training"] = "evaluation",
    n_copies: int | None = None,
    streams: Sequence[Stream] = (),
    order: Tensor | None = None,
) -> Outcome:
    """Attack every example and classify what comes back.

    The attack is given copies, so that one that writes to them is seen through. `streams` are those that it draws from: every
    batch has its own place in them.
    `skip` (N,), for a stack (S, N): examples already known to be broken inside this ball; they are not attacked and count
    as wrong. `mode` "training" classifies with batch norm in training mode, whose verdict depends on the batch: the *paper*
    protocol, not a sound one. `order` (N,), for a stack (S, N) too, is the order in which examples meet in batches. A stack of
    `n_copies` is shown the same examples, each copy those that it still withstands. Raises InputError where the attack leaves
    the threat model or the model does not return logits (..., C).
    """
    check_count("batch_size", batch_size)
    n, device = len(data), data.images.device
    leading = () if n_copies is None else (n_copies,)
    correct = torch.zeros(*leading, n, dtype=torch.bool, device=device)
    invalid = torch.zeros_like(correct)
    logits = torch.zeros(*leading, n, data.n_classes, device=device)
    max_distance = 0.0
    indices, counts = _standing(n, leading, skip, order, device)
    with counted(model) as cost, full_fp32():
        for number, index in enumerate(indices.split(batch_size, -1)):
            for stream in streams:
                stream.seek(number)
            x, y = data.floats(index), data.labels[index]
            x_adv = attack(model, x.clone(), y.clone()).detach()
            max_distance = max(max_distance, checked_distance(threat, x_adv, x))
            with torch.no_grad(), in_mode(model, mode):
                out = checked_logits(model(x_adv), x, data.n_classes, len(threat.shape))
            finite = torch.isfinite(out).all(-1)
            asked = torch.arange(number * batch_size, number * batch_size + index.shape[-1], device=device) < counts
            correct.scatter_(-1, index, (out.argmax(-1) == y) & finite & asked)
            invalid.scatter_(-1, index, ~finite & asked)
            logits.scatter_(-2, index.unsqueeze(-1).expand(out.shape), out.float().where(asked.unsqueeze(-1), 0.0))
    return Outcome(described(attack), float(threat.eps), correct, invalid, logits, max_distance, cost)


def _standing(
    n: int, leading: tuple[int, ...], skip: Tensor | None, order: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Who is attacked, in order: indices (M,) or (S, M), and how many of them, () or (S, 1); a copy's surplus is filled up.

    What fills up a copy's row are its broken examples, each once, whose outcome is then not asked.
    """
    indices = (torch.arange(n, device=device) if order is None else order.to(device)).expand(*leading, n)
    if skip is None:
        return indices, torch.full((*leading, 1) if leading else (), n, device=device)
    broken = skip.to(device).expand(*leading, n).gather(-1, indices)
    first = broken.to(torch.uint8).argsort(dim=-1, stable=True)
    counts = (~broken).sum(-1, keepdim=True)
    return indices.gather(-1, first)[..., : int(counts.max())], counts if leading else counts.squeeze(-1)


def curve(
    model: nn.Module,
    data: Data,
    attack: Callable[[ThreatModel], Attack],
    grid: Iterable[float],
    *,
    reuse: bool = False,
    **settings: Any,
) -> dict[float, Outcome]:
    """One attack over a grid of eps. With `reuse`, what a smaller eps broke is not attacked again: it lies in the larger ball."""
    outcomes: dict[float, Outcome] = {}
    skip: Tensor | None = None
    for eps in sorted(grid):
        threat = ThreatModel(eps, data.shape)
        outcomes[eps] = attacked(model, data, attack(threat), threat, skip=skip, **settings)
        if reuse:
            skip = ~outcomes[eps].correct
    return outcomes


def pgd_curve(
    model: nn.Module,
    data: Data,
    grid: Sequence[float],
    *,
    steps: int = 40,
    restarts: int = 2,
    seed: int = 0,
    **settings: Any,
) -> dict[float, Outcome]:
    """PGD over a grid of eps, worst case over restarts and over smaller eps.

    The first starts at the example and raises cross-entropy, the second at random and raises the margin, and so on in
    turn. Only what still stands is attacked.
    """
    check_count("restarts", restarts)
    seed = check_seed(seed)
    outcomes: dict[float, Outcome] = {}
    broken, last = None, None
    for eps in sorted(grid):
        threat = ThreatModel(eps, data.shape)
        rounds = [] if last is None else [dataclasses.replace(last, eps=eps, cost=Cost())]
        for restart in range(restarts if eps > 0 else 1):
            loss = "cross_entropy" if restart % 2 == 0 else "margin"
            stream = Stream(seed, f"eval.pgd.{restart}")
            attack: Attack = PGD(threat, steps=steps, random_start=restart > 0, loss=loss, stream=stream, drop=True)
            attack = attack if eps > 0 else identity
            outcome = attacked(model, data, attack, threat, skip=broken, streams=[stream], **settings)
            rounds.append(outcome)
            broken = ~outcome.correct
        last = _together(rounds, f"PGD(steps={steps}, restarts={restarts}, worst over smaller eps)")
        outcomes[eps] = last
    return outcomes


def clean(model: nn.Module, data: Data, **settings: Any) -> Outcome:
    """Accuracy without perturbation."""
    return attacked(model, data, identity, ThreatModel(0.0, data.shape), **settings)


def averaged_over_passes(
    model: nn.Module,
    data: Data,
    attack: Attack,
    threat: ThreatModel,
    *,
    passes: int = 3,
    batch_size: int = 128,
    seed: int = 0,
) -> tuple[float, Outcome]:
    """The *paper* protocol: batch norm in training mode for the verdict, averaged over passes in different orders.

    Returns the mean accuracy and the first pass. The attack should take its gradients in training mode too.
    """
    outcomes = [
        attacked(model, data, attack, threat, batch_size=batch_size, mode="training", order=order)
        for order in orders(len(data), passes, seed)
    ]
    return sum(outcome.accuracy for outcome in outcomes) / passes, outcomes[0]


def orders(n: int, passes: int, seed: int) -> list[Tensor]:
    """The order of n examples in each pass of the *paper* protocol."""
    return [torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1000 + i)) for i in range(passes)]


@contextmanager
def counted(model: nn.Module) -> Iterator[Cost]:
    """Count example passes through the model, forwards and backwards, and seconds, by hooks."""
    cost = Cost()

    def backward(grad: Tensor) -> None:
        cost.backwards += grad.shape[:-1].numel()

    def forward(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            cost.forwards += output.shape[:-1].numel()
            if output.requires_grad:
                output.register_hook(backward)

    hook = after_forward(model, forward)
    started = time.perf_counter()
    try:
        yield cost
    finally:
        hook.remove()
        cost.seconds = time.perf_counter() - started


def data_for(model: nn.Module, data: Any) -> Data:
    """The data where the model is, with as many classes as it knows, of which not all may occur; it is tried on a few of them.

    Raises InputError for data that cannot be read, and for a model that fails on them or does not return their logits.
    """
    found = as_data(data)
    found = found.to(next((p.device for p in model.parameters()), found.images.device))
    few = found.floats(torch.arange(min(TRIED, len(found))))
    with full_fp32():
        return dataclasses.replace(found, n_classes=tried(model, few, max(2, int(found.labels.max()) + 1)))


def check_count(name: str, value: object) -> None:
    """Raises InputError where an argument that counts something is no whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise InputError(f"{name} must be a whole number >= 1; got {value!r}")


def inside(attack: Attack, threat: ThreatModel) -> Attack:
    """The attack inside this threat model.

    One that has a `threat` is given this one, and so are those within it; a plain callable keeps its own radius, and what it
    returns is projected into the ball.
    """
    if isinstance(attack, WorstCase | Cascade):
        return dataclasses.replace(attack, attacks=tuple(inside(one, threat) for one in attack.attacks), threat=threat)
    return aimed(attack, threat) if has_threat(attack) else _Projected(attack, threat)


@dataclass(frozen=True)
class _Projected:
    attack: Attack
    threat: ThreatModel

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return self.threat.project(self.attack(model, x.clone(), y), x)

    def __repr__(self) -> str:
        return f"{described(self.attack)}, projected into {self.threat}"


def in_mode(model: nn.Module, mode: Literal["evaluation", "training"]) -> Any:
    """The block in which a model gives its verdict; batch norm's statistics stay as they are."""
    return modes.training(model, keep_statistics=True) if mode == "training" else modes.evaluation(model)


def checked_distance(threat: ThreatModel, x_adv: Tensor, x: Tensor) -> float:
    """The largest distance; raises InputError where it is more than eps, or a pixel is out of range."""
    if x_adv.shape != x.shape:
        raise InputError(f"the attack returned shape {tuple(x_adv.shape)} for inputs of shape {tuple(x.shape)}")
    if not x.numel():
        return 0.0
    extremes = (*torch.aminmax(x_adv - x), *torch.aminmax(x_adv))
    least, most, lowest, highest = torch.stack(extremes).tolist()  # at once: on a GPU each question waits
    distance: float = max(abs(least), abs(most))
    if not distance <= float(threat.eps) + 1e-6:  # NaN is outside
        raise InputError(f"the attack left the ball: distance {distance:.6f} > eps {float(threat.eps):g}")
    if lowest < threat.low - 1e-6 or highest > threat.high + 1e-6:
        raise InputError(f"the attack left the pixel range: {lowest:.4f}..{highest:.4f}")
    return distance


def _together(rounds: Sequence[Outcome], name: str) -> Outcome:
    """Restarts as one: correct is what survived them all; each ran on what the last one left, and logits are its last word."""
    last, logits = rounds[-1], rounds[0].logits
    for before, r in itertools.pairwise(rounds):
        logits = torch.where(before.correct.unsqueeze(-1), r.logits, logits)
    cost = Cost(*(sum(getattr(r.cost, f.name) for r in rounds) for f in dataclasses.fields(Cost)))
    invalid = torch.stack([r.invalid for r in rounds]).any(0)
    farthest = max(r.max_distance for r in rounds)
    return Outcome(name, last.eps, last.correct, invalid, logits, farthest, cost)
