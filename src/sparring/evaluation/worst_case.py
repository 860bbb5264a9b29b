"""Which examples withstand every attack of a suite, over a grid of eps: the number that may be called robust accuracy.

Letters: N examples, E values of eps. Attacks run in order of cost, each on what still stands. An example is broken from the
distance of its adversarial example on: at every eps that is at least as large, and nowhere below.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks import Attack
from sparring.errors import InputError
from sparring.evaluation.accuracy import check_count, data_for
from sparring.evaluation.pieces import code, fingerprint, pieces
from sparring.evaluation.standing import CLEAN, GREY, ROUNDING, SWAP, Stage, Standing
from sparring.evaluation.statistics import Interval, wilson
from sparring.models import check_single
from sparring.precision import full_fp32
from sparring.randomness import check_seed
from sparring.threat import ThreatModel, check_grid

# the attacks at one eps in order of cost, with names or without
Suite = Callable[[ThreatModel], Sequence[tuple[str, Attack]] | Sequence[Attack]]
EXPECTED = "a function of the threat model that returns attacks or pairs (name, attack)"


@dataclass(frozen=True)
class WorstCases:
    """What a suite left of a model at every eps, example by example. Print it for a table."""

    eps: tuple[float, ...]  # ascending, > 0
    names: tuple[str, ...]  # the attacks, by index of `broken_by`; also "clean", "grey image", "swap image"
    robust: Tensor  # (E, N) bool: right when clean, with finite logits, and under every attack at this and every smaller eps
    broken_by: Tensor  # (E, N) int16: index into `names` of what first broke it; -1 where it stands
    invalid: Tensor  # (E, N) bool: broken by a non-finite logit
    x_adv: Tensor  # (E, N, *shape) float32: what broke it, inside the ball; the clean image where it stands or was wrong clean
    stages: tuple[Stage, ...]  # in the order they ran, the clean pass first, at eps 0

    def accuracy(self, eps: float) -> float:
        """Robust accuracy at an eps of the grid, clean accuracy at 0; raises InputError for any other."""
        return self._standing(eps) / self.robust.shape[1]

    def interval(self, eps: float) -> Interval:
        """Wilson's 95 % interval of `accuracy(eps)`."""
        return wilson(self._standing(eps), self.robust.shape[1])

    def _standing(self, eps: float) -> int:
        if eps == 0:
            return int((self.broken_by[0] != self.names.index(CLEAN)).sum())
        if eps not in self.eps:
            raise InputError(f"eps {eps:g} was not measured; measured: {', '.join(f'{e:g}' for e in self.eps)}")
        return int(self.robust[self.eps.index(eps)].sum())

    def __str__(self) -> str:
        lines = [f"  eps  robust  95 % interval   n = {self.robust.shape[1]}, broken first by"]
        for eps in (0.0, *self.eps):
            interval, shares = self.interval(eps), ""
            if eps:
                counts = torch.bincount(self.broken_by[self.eps.index(eps)].long() + 1, minlength=len(self.names) + 1)
                shares = ", ".join(f"{n} {k}" for n, k in zip(self.names, counts.tolist()[1:], strict=True) if k)
            low, high = 100 * interval.low, 100 * interval.high
            lines.append(f"{eps:>5g}  {100 * self.accuracy(eps):5.1f}%  [{low:5.1f}, {high:5.1f}]  {shares}".rstrip())
        return "\n".join(lines)


def worst_case(
    model: nn.Module,
    data: Any,
    eps: float | Sequence[float],
    suite: Suite,
    *,
    batch_size: int | None = None,
    store: str | Path | None = None,
    seed: int = 0,
    candidates: bool = True,
    on_stage: Callable[[Stage], None] = lambda stage: None,
    interrupted: Callable[[], int] = lambda: 0,
    notice: Callable[[str], None] = lambda text: None,
) -> WorstCases:
    """Attack with every attack of the suite at every eps, and judge each adversarial example from outside, by its true label.

    `data` is what `sparring.evaluate` takes; attacks that the suite does not name are named after what they are. The model
    is in evaluation mode and frozen throughout, and left as found. `candidates` adds two free ones wherever they lie inside an
    example's ball: the grey image, and a test image that the model puts into another class. `batch_size` None is 500. With
    `store`, a folder, every finished batch is kept there: a call that was stopped or killed goes on, to the same result bit for
    bit; what another model, data, grid, suite, seed or release left there is removed, with a notice. `interrupted` is asked
    after each batch for the number of a signal that has come. Raises InputError for unusable input and where an attack leaves
    the threat model, Interrupted, and Busy where another process uses the store.
    """
    check_single(model, "worst_case")
    grid, seed = _checked_grid(eps), check_seed(seed)
    size = 500 if batch_size is None else batch_size
    check_count("batch_size", size)
    test = data_for(model, data)
    suites = [_checked_suite(suite, ThreatModel(value, test.shape)) for value in grid]
    stamp = {
        "model": fingerprint(model),
        "data": test.fingerprint,
        "eps": grid,
        "attacks": [[(name, fingerprint(attack)) for name, attack in attacks] for attacks in suites],
        "seed": seed,
        "batch_size": size,
        "candidates": candidates,
        "code": code(),
    }
    with pieces(None if store is None else Path(store), stamp, notice) as kept, modes.frozen(model), full_fp32():
        run = Standing(model, test, size, seed, kept, interrupted, list(_names(suites)))
        run.report(run.clean(), on_stage)
        for number, (value, attacks) in enumerate(zip(grid, suites, strict=True)):
            for name in (GREY, SWAP) if candidates else ():
                run.report(run.candidate(value, name), on_stage)
            for name, attack in attacks:
                run.report(run.stage(number, value, name, attack), on_stage)
        return _result(run, grid)


def _result(run: Standing, grid: tuple[float, ...]) -> WorstCases:
    """What is left at every eps, on the CPU."""
    radii = run.distance.new_tensor(grid).unsqueeze(1)
    robust = run.distance > radii + ROUNDING
    x_adv = torch.where(run.threat.over_pixels(robust), run.data.floats(), run.found)
    return WorstCases(
        eps=grid,
        names=tuple(run.names),
        robust=robust.cpu(),
        broken_by=torch.where(robust, -1, run.broken_by).cpu(),
        invalid=(run.invalid & ~robust).cpu(),
        x_adv=x_adv.cpu(),
        stages=tuple(run.stages),
    )


def named(attacks: Sequence[Attack]) -> list[tuple[str, Attack]]:
    """Attacks with names for a suite: the class, or the function, and the loss; a number where that occurs again."""
    found: dict[str, Attack] = {}
    for attack in attacks:
        name = getattr(attack, "__name__", type(attack).__name__)
        name = " ".join([name, *([str(attack.loss)] if hasattr(attack, "loss") else [])])
        again = (f"{name} {k}" for k in itertools.count(2))
        found[name if name not in found else next(other for other in again if other not in found)] = attack
    return list(found.items())


def _checked_grid(eps: float | Sequence[float]) -> tuple[float, ...]:
    grid = tuple(sorted(set(check_grid(eps))))
    if not grid or grid[0] == 0:
        raise InputError(f"eps must be one or more radii > 0, got {eps}; clean accuracy is `accuracy(0)`")
    return grid


def _checked_suite(suite: Suite, threat: ThreatModel) -> list[tuple[str, Attack]]:
    if not callable(suite):
        raise InputError(f"suite is a {type(suite).__name__}; expected {EXPECTED}")
    given: Any = suite(threat)
    if not isinstance(given, Sequence):
        raise InputError(f"suite returned a {type(given).__name__}; expected {EXPECTED}")
    attacks: list[Any] = named(given) if all(map(callable, given)) else list(given)
    for one in attacks:
        if not (isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) and callable(one[1])):
            raise InputError(f"suite returned {one!r} among its attacks; expected {EXPECTED}")
    names = [name for name, _ in attacks]
    if not names:
        raise InputError("a suite needs at least one attack, as (name, attack); got none")
    if len(set(names)) < len(names) or {CLEAN, GREY, SWAP} & set(names):
        raise InputError(f"a suite needs names that differ, also from {CLEAN}, {GREY}, {SWAP}; got {', '.join(names)}")
    return attacks


def _names(suites: Sequence[Sequence[tuple[str, Attack]]]) -> dict[str, None]:
    """All attacks in order of their first appearance, then what the engine itself tries."""
    return dict.fromkeys([*(name for name, _ in itertools.chain(*suites)), CLEAN, GREY, SWAP])
