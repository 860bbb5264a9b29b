"""What is gathered from all runs of an output folder: means, tests, verdicts, examples, and the head of it all."""

from dataclasses import dataclass, field
from typing import Any, Literal

from sparring.records.measured import Protocol


@dataclass(frozen=True)
class SummaryRecord:
    """A metric over seeds: mean, t interval (None with one seed), and every seed's value."""

    recipe: str
    metric: str  # "accuracy", "ece", "adaptive_ece", "brier", "nll", "in_game", "fresh", "gap", "area"
    attack: str
    eps: float | None
    protocol: Protocol
    mean: float
    low: float | None
    high: float | None
    n_seeds: int
    values: tuple[float, ...]
    n: int = 0  # images behind each value


@dataclass(frozen=True)
class ComparisonRecord:
    """A claimed "A beats B", tested: paired over images and seeds, corrected within its family."""

    claim: str
    family: str
    better: str
    worse: str
    metric: str
    eps: float | None
    protocol: Protocol
    difference: float  # of the metric, better minus worse; positive supports the claim
    low: float  # bootstrap over images and seeds
    high: float
    per_seed: tuple[float, ...]
    p_value: float  # Holm-corrected
    same_sign: bool
    holds: bool


Verdict = Literal["reproduced", "explained", "refuted", "undecided"]


@dataclass(frozen=True)
class ClaimRecord:
    """One line of the ledger."""

    id: str
    claim: str
    paper: str
    measured: str
    interval: str
    n_seeds: int
    verdict: Verdict
    sentence: str
    protocol_values: dict[str, str] = field(default_factory=dict)  # "sound", "paper" -> the value in each


@dataclass(frozen=True)
class ExampleRecord:
    """One panel of Figure 1: an image and what an attack makes of it. Pixels are rows of values in [0, 1]."""

    attack: str
    recipe: str
    seed: int
    eps: float
    index: int
    label: int
    image: tuple[tuple[float, ...], ...]
    delta: tuple[tuple[float, ...], ...]  # in [-eps, eps]
    perturbed: tuple[tuple[float, ...], ...]
    prediction: int
    confidence: float
    perturbed_prediction: int
    perturbed_confidence: float


@dataclass(frozen=True)
class ReproductionRecord:
    """What was run, where, and how to run it again: the head of a report."""

    command: str
    title: str
    data: str
    data_sha256: dict[str, str]  # "train", "test" -> fingerprint
    n_train: int
    n_test: int
    n_classes: int
    majority_rate: float  # share of the commonest class in the test set: the grey-image bound
    seeds: tuple[int, ...]
    recipes: tuple[str, ...]
    eps: float  # the radius of training
    grid: tuple[float, ...]
    machine: dict[str, Any]  # environment(): versions, threads, processor, memory
    commit: str
    started: str  # ISO 8601, UTC
    seconds: float  # of all calls so far
    training_seconds: float  # of all runs, each on one core
    peak_memory_mb: float | None
    recipes_described: dict[str, str] = field(default_factory=dict)  # recipe -> one sentence
    settings: dict[str, Any] = field(default_factory=dict)  # the resolved config of the first recipe and differences


@dataclass(frozen=True)
class CallRecord:
    """One call of `sparring reproduce` on an output folder: a reproduction may take several."""

    started: str  # ISO 8601, UTC
    seconds: float
    peak_memory_mb: float | None
