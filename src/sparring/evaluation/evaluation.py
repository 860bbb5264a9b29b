"""evaluate: the short way in. Accuracy with intervals over a grid of eps, for a model of anyone's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from sparring import modes
from sparring.attacks import Attack, Noise
from sparring.errors import InputError, NotFinite
from sparring.evaluation.accuracy import Outcome, check_count, clean, curve, data_for, inside, pgd_curve
from sparring.evaluation.calibration import calibrate
from sparring.evaluation.one_step import fgsm_curve, one_step_curve
from sparring.evaluation.pieces import streams
from sparring.evaluation.statistics import Interval, wilson
from sparring.models import check_single
from sparring.precision import full_fp32
from sparring.randomness import Stream, check_seed
from sparring.threat import ThreatModel, check_grid

OWN = ("clean", "noise", "fgsm", "pgd")  # the rows of every evaluation


@dataclass(frozen=True)
class Row:
    """One attack at one eps: fractions in [0, 1], `interval` Wilson's 95 %."""

    attack: str
    eps: float
    n: int
    correct: int
    accuracy: float
    interval: Interval
    max_distance: float
    forwards: int
    backwards: int
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Every attack at every eps; `ece` is the expected calibration error on clean inputs. Print it for a table."""

    rows: tuple[Row, ...]
    ece: float
    outcomes: dict[tuple[str, float], Outcome]

    def accuracy(self, attack: str, eps: float) -> float:
        """The accuracy under this attack at this eps; raises KeyError where it was not measured."""
        return self.outcomes[attack, eps].accuracy

    def worst_case(self, eps: float) -> float:
        """Robust accuracy: the share of examples that survive every attack that ran at this eps."""
        survived = [outcome.correct for (_, e), outcome in self.outcomes.items() if e == eps]
        if not survived:
            raise KeyError(f"nothing was measured at eps {eps:g}")
        left = survived[0]
        for correct in survived[1:]:
            left = left & correct
        return int(left.sum()) / left.numel()

    def __str__(self) -> str:
        width = max(12, *(len(row.attack) for row in self.rows))
        lines = [f"{'attack':<{width}} {'eps':>5}  accuracy  95 % interval   n = {self.rows[0].n}"]
        for row in self.rows:
            interval = f"[{100 * row.interval.low:5.1f}, {100 * row.interval.high:5.1f}]"
            lines.append(f"{row.attack:<{width}} {row.eps:>5g}  {100 * row.accuracy:6.1f} %  {interval}")
        lines.append(f"expected calibration error, clean: {self.ece:.3f}")
        return "\n".join(lines)


def evaluate(
    model: nn.Module,
    data: Any,
    *,
    eps: float | Sequence[float] = (0.0, 0.1, 0.2),
    attacks: Mapping[str, Attack] | None = None,
    steps: int = 40,
    restarts: int = 2,
    batch_size: int = 500,
    seed: int = 0,
) -> Evaluation:
    """Clean accuracy, and accuracy under noise, FGSM, PGD and the given `attacks` at every eps.

    `data` is a Data, a Dataset, a DataLoader or arrays (x, y), x in [0, 1]. An attack with a `threat` field is aimed at
    each eps, and so are attacks within it; any other callable (model, x, y) -> x_adv keeps its radius and is projected. The
    model is attacked in evaluation mode and left as it was. Raises InputError for unusable input, NotFinite where a logit is
    not finite: then no accuracy is reported.
    """
    grid, seed = check_grid(eps), check_seed(seed)
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_count("batch_size", batch_size)
    if taken := [name for name in attacks or {} if name in OWN]:
        raise InputError(f"attacks need names that differ from {', '.join(OWN)}; got {', '.join(taken)}")
    check_single(model, "evaluate")
    test = data_for(model, data)
    outcomes: dict[tuple[str, float], Outcome] = {}
    with modes.frozen(model), full_fp32():  # frozen also for an attack that calls backward, or forgets the mode
        plain = clean(model, test, batch_size=batch_size)
        _all_finite(plain)
        outcomes["clean", 0.0] = plain
        positive = sorted({value for value in grid if value > 0})
        stream = Stream(seed, "eval.noise")
        noise = Noise(ThreatModel(0.0, test.shape), "uniform", stream)
        curves = {
            "noise": one_step_curve(model, test, noise, positive, streams=[stream], batch_size=batch_size),
            "fgsm": fgsm_curve(model, test, positive, batch_size=batch_size),
            "pgd": pgd_curve(model, test, positive, steps=steps, restarts=restarts, seed=seed, batch_size=batch_size),
        }
        for name, attack in (attacks or {}).items():
            aim, draws = partial(inside, attack), streams(attack)
            curves[name] = curve(model, test, aim, positive, streams=draws, batch_size=batch_size)
    for name, found in curves.items():
        for value, outcome in found.items():
            _all_finite(outcome)
            outcomes[name, value] = outcome
    ece = float(calibrate(plain.logits.cpu(), test.labels.cpu(), n_resamples=20).ece)
    return Evaluation(tuple(_row(name, value, o) for (name, value), o in outcomes.items()), ece, outcomes)


def _row(attack: str, eps: float, outcome: Outcome) -> Row:
    n, correct = outcome.correct.numel(), int(outcome.correct.sum())
    cost = outcome.cost
    return Row(
        attack,
        eps,
        n,
        correct,
        correct / n,
        wilson(correct, n),
        outcome.max_distance,
        cost.forwards,
        cost.backwards,
        cost.seconds,
    )


def _all_finite(outcome: Outcome) -> None:
    if n_invalid := int(outcome.invalid.sum()):
        first = int(outcome.invalid.nonzero()[0, 0])
        raise NotFinite(
            f"logits are not finite for {n_invalid} of {outcome.invalid.numel()} examples (first: {first}) "
            f"under {outcome.attack}; no accuracy is reported"
        )
