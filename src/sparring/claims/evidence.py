"""What the verdicts are judged from, how it is looked up, and how its numbers are printed."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sparring.claims.summary import attacker
from sparring.evaluation.statistics import Interval, wilson
from sparring.records import (
    ClaimRecord,
    ComparisonRecord,
    ExampleRecord,
    ExploitabilityRecord,
    Protocol,
    SummaryRecord,
    SweepRecord,
    TransferRecord,
)

EPS = 0.1  # the radius of the paper's numbers
SHORT = {
    "vanilla": "vanilla",
    "noise": "noise training",
    "fgsm": "FGSM training",
    "gan_tanh": "the tanh game",
    "gan_scaled": "the scaled game",
    "gan_tanh_init": "the initialised tanh game",
    "gan_scaled_init": "the initialised scaled game",
}
UNKNOWN = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class Evidence:
    """All records behind the ledger."""

    summary: Sequence[SummaryRecord]
    comparisons: Sequence[ComparisonRecord]
    transfer: Sequence[TransferRecord]
    exploitability: Sequence[ExploitabilityRecord]
    sweeps: Sequence[SweepRecord]
    examples: Sequence[ExampleRecord]
    data_name: str

    @property
    def papers_data(self) -> bool:
        """Whether the paper's numbers are about these data."""
        return self.data_name == "mnist"

    @property
    def on_data(self) -> str:
        """A sentence's opening where the data are not the paper's: "On digits: "."""
        return "" if self.papers_data else f"On {self.data_name}: "

    def find(
        self, recipe: str, metric: str, attack: str, eps: float | None, protocol: Protocol = "sound"
    ) -> SummaryRecord | None:
        """The summary of one metric, or None where it was not measured."""
        wanted = (recipe, metric, attack, protocol)
        found = (s for s in self.summary if (s.recipe, s.metric, s.attack, s.protocol) == wanted)
        return next((s for s in found if same_eps(s.eps, eps)), None)

    def transferred(self, adversary: str, defender: str, protocol: Protocol = "sound") -> dict[int, float]:
        """Seed -> what the adversary leaves of the defender at the training radius."""
        return {
            t.seed: t.accuracy
            for t in self.transfer
            if (attacker(t), t.defender, t.protocol) == (adversary, defender, protocol) and same_eps(t.eps, EPS)
        }


@dataclass(frozen=True)
class Claim:
    """A line of the paper: what is tested, before any measurement."""

    id: str
    text: str
    paper: str


Judge = Callable[[Evidence], ClaimRecord]


def not_measured(claim: Claim, what: str) -> ClaimRecord:
    """The verdict on what nobody ran."""
    sentence = f"There are no records of {what}; `sparring reproduce` makes them."
    return ClaimRecord(claim.id, claim.text, claim.paper, "not measured", "", 0, "undecided", sentence)


def bounds(found: SummaryRecord) -> Interval:
    """The t interval over seeds; for one seed the Wilson interval over its images, undefined where their number is unknown."""
    if found.low is not None and found.high is not None:
        return Interval(found.low, found.high)
    if found.n_seeds == 1 and found.n > 0 and 0 <= found.mean <= 1:
        return wilson(round(found.mean * found.n), found.n)
    return UNKNOWN


def same_eps(a: float | None, b: float | None) -> bool:
    """Whether two radii are the same up to rounding; None, "pooled", equals only None."""
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, abs_tol=1e-9)


def percent(value: float, digits: int = 1) -> str:
    """`97.2 %`, of a fraction."""
    return f"{_fixed(100 * value, digits)} %"


def points(value: float, digits: int = 1) -> str:
    """`+1.2 points`, of a difference of fractions."""
    text = _fixed(100 * value, digits)
    return f"{text if float(text) <= 0 else '+' + text} points"


def between(interval: Interval, digits: int = 1) -> str:
    """`[97.0, 97.4]` in per cent or points, or nothing where no interval exists."""
    if not interval.defined:
        return ""
    return f"[{_fixed(100 * interval.low, digits)}, {_fixed(100 * interval.high, digits)}]"


def spread(found: SummaryRecord, digits: int = 1) -> str:
    """An interval that says what it is over: seeds, or the images of one seed."""
    text = between(bounds(found), digits)
    return f"{text}, images of one seed" if text and found.n_seeds == 1 else text


def seeds(n: int) -> str:
    """`1 seed`, `10 seeds`."""
    return "1 seed" if n == 1 else f"{n} seeds"


def listing(words: Iterable[str]) -> str:
    """`a, b and c`."""
    items = list(words)
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def both_protocols(sound: SummaryRecord | None, paper: SummaryRecord | None, digits: int = 1) -> dict[str, str]:
    """The value in each protocol, where both exist."""
    if sound is None or paper is None:
        return {}
    return {"sound": percent(sound.mean, digits), "paper": percent(paper.mean, digits)}


def _fixed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text
