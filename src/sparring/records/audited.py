"""Records of the audit: what each check found, what stands behind the robust accuracy, and how past players fare."""

from dataclasses import dataclass
from typing import Literal

CheckStatus = Literal["PASS", "WARN", "FAIL", "INFO", "SKIP"]


@dataclass(frozen=True)
class CheckRecord:
    """One check: what was found against which threshold, and what to do about it. A SKIP says why in `evidence`."""

    id: str  # I1..I10 measured correctly, S1..S18 attack strength, G1..G7 game, T1..T6 statistics
    title: str
    status: CheckStatus
    value: str
    threshold: str
    evidence: str
    advice: str


@dataclass(frozen=True)
class HeadlineRecord:
    """Examples that survive every attack that ran, at one eps: an upper bound on robust accuracy, with Wilson's interval."""

    eps: float
    n: int
    survived: float  # a whole number, unless the model is declared random
    accuracy: float
    low: float
    high: float
    attacks: int


@dataclass(frozen=True)
class AuditRecord:
    """One audited run. `headlines` is empty where a check withholds the number."""

    recipe: str
    seed: int
    verdict: str
    withheld: bool
    exit_code: int
    level: str
    n: int  # examples behind the checks
    indices_sha256: str
    thresholds: str
    self_test: str
    clean: float
    headlines: tuple[HeadlineRecord, ...]
    checks: tuple[CheckRecord, ...]
    seconds: float
    commit: str


@dataclass(frozen=True)
class BestResponseRecord:
    """What fresh adversaries of one kind leave of one frozen defender; by default trained for as long as its own adversary.

    All figures are of the longest training, but for `gain`: accuracy left after half of it less that after the whole, mean over
    fresh seeds, paired. A gap found is proof; a gap not found is training not spent, the more so the larger the gain.
    """

    recipe: str
    seed: int  # of the run
    defender_sha256: str
    kind: str  # what the adversary sees: "x"; "xy", the label too; "xg", the defender's gradient at x too
    eps: float
    n: int
    epochs: int  # of the training set, each fresh adversary
    steps: int
    examples: int  # seen in training, repetitions counted
    co_trained_examples: int | None  # perturbed ones that the co-trained adversary saw; None without one
    parameters: int
    left: tuple[float, ...]  # accuracy left by each fresh seed
    worst: float  # per-example worst case over them
    low: float  # Wilson
    high: float
    in_game: float | None  # accuracy against the co-trained adversary
    gap: float | None  # in_game - worst, with its paired bootstrap interval
    gap_low: float | None
    gap_high: float | None
    gain: float
    gain_low: float
    gain_high: float
    precision: str  # of the training; attacks are in fp32
    seconds: float  # of training, all of them


@dataclass(frozen=True)
class WorstCaseRecord:
    """One run's examples that survive every attack of a suite, at one eps; clean at eps 0. An upper bound on robust accuracy."""

    recipe: str
    seed: int
    eps: float
    n: int
    correct: int
    accuracy: float
    low: float  # Wilson
    high: float
    attacks: tuple[str, ...]  # in the order they ran; none at eps 0
    epochs: int  # of the training
    seconds: float  # of the training, in a stack its share


@dataclass(frozen=True)
class LearnedAttackRecord:
    """What an attack with `queries` gradients leaves of a defender; the learned one was trained on other defenders."""

    recipe: str
    seed: int
    eps: float
    queries: int
    attack: str
    n: int
    correct: int
    accuracy: float
    low: float  # Wilson
    high: float
    passes: int  # forwards and backwards of an example, in its training
    seconds: float  # of its training, one core
    rehearsal: int = 0  # forwards and backwards an image through models of the attacker's own
    forwards: int = 0  # an image, of the defender attacked, without a gradient: where a rehearsal ended


@dataclass(frozen=True)
class PayoffRecord:
    """One cell of a game's memory: the defender of one epoch under the adversary of another, batch norm in evaluation mode."""

    recipe: str
    seed: int
    eps: float
    adversary_epoch: int
    defender_epoch: int
    n: int
    correct: int
    accuracy: float
    low: float  # Wilson
    high: float
