"""What is measured on one run, or on the runs of one seed."""

from dataclasses import dataclass
from typing import Literal

Protocol = Literal["sound", "paper"]  # batch norm in evaluation mode; in training mode, batches of 128


@dataclass(frozen=True)
class AccuracyRecord:
    """How much of a test set one defender still classifies correctly under one attack at one eps."""

    recipe: str
    seed: int
    attack: str  # a short name: clean, fgsm, pgd, noise, sign_noise, own
    eps: float
    protocol: Protocol
    n: int
    correct: int
    accuracy: float
    low: float  # Wilson
    high: float
    invalid: int  # examples with non-finite logits, counted as wrong
    max_distance: float  # largest l_inf distance measured from the clean images
    forwards: int  # example passes through the defender
    backwards: int
    seconds: float
    attack_repr: str  # the attack's whole configuration
    commit: str


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of one training: means over its steps. Loss is in nats."""

    recipe: str
    seed: int
    phase: Literal["adversary", "main"]  # "adversary": it trains alone before the game
    epoch: int
    steps: int
    defender_loss: float | None
    adversary_loss: float | None  # the loss that the adversary tries to raise
    defender_lr: float | None
    adversary_lr: float | None
    defender_grad_norm: float | None
    adversary_grad_norm: float | None
    clean_accuracy: float | None  # on the training batches, as they were met
    perturbed_accuracy: float | None
    clipped: float | None  # share of perturbed pixels at an end of the pixel range
    seconds: float


@dataclass(frozen=True)
class BinRecord:
    """One bin of a reliability diagram; `confidence`, `accuracy`, `low` and `high` are None in an empty bin."""

    left: float
    right: float
    count: int
    confidence: float | None
    accuracy: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class CalibrationRecord:
    """Calibration of one defender under one attack at one eps (`eps` None: pooled over the grid)."""

    recipe: str
    seed: int
    attack: str
    eps: float | None
    protocol: Protocol
    n: int
    accuracy: float
    confidence: float
    bins: tuple[BinRecord, ...]
    ece: float
    ece_low: float
    ece_high: float
    adaptive_ece: float
    adaptive_ece_low: float
    adaptive_ece_high: float
    brier: float
    brier_low: float
    brier_high: float
    nll: float
    nll_low: float
    nll_high: float


@dataclass(frozen=True)
class TransferRecord:
    """Accuracy of one defender against an adversary that another run trained ("noise": random signs, no adversary)."""

    adversary: str  # a recipe, "uniform noise" or "sign noise"
    adversary_kind: Literal["co-trained", "trained alone", "trained alone, Adam", "noise"]
    defender: str
    seed: int
    eps: float
    protocol: Protocol
    n: int
    correct: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class ExploitabilityRecord:
    """What fresh adversaries, trained against the frozen defender, leave of it, beside its co-trained adversary."""

    recipe: str
    seed: int
    eps: float
    n: int
    clean: float
    in_game: float | None  # accuracy against the co-trained adversary; None where there is none
    fresh: tuple[float, ...]  # accuracy left by each fresh adversary
    worst: float  # per-example worst case over the fresh adversaries
    low: float
    high: float
    gap: float | None  # in_game - worst
    gap_low: float | None
    gap_high: float | None
    epochs: int
    adversary: str  # the fresh adversaries' configuration


@dataclass(frozen=True)
class ReadingRecord:
    """Accuracy of the vanilla model under FGSM at eps 0.1 in one reading of the paper's protocol (claim N8)."""

    reading: str  # a sentence fragment for the table
    seed: int
    gradient_mode: Literal["evaluation", "training"]
    verdict_mode: Literal["evaluation", "training"]
    loss: Literal["logits", "softmax twice"]
    batch_size: int
    eps: float
    n: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class SweepRecord:
    """One cell of the D1 and D3 sweeps: a game variant judged by a fresh adversary."""

    claim: Literal["D1", "D3"]
    variant: str
    seed: int
    eps: float
    clean: float
    in_game: float
    fresh: float
    fgsm: float
    defender_parameters: int
    adversary_parameters: int
    epochs: int


@dataclass(frozen=True)
class RunRecord:
    """One finished training, as the report's list of runs shows it."""

    recipe: str
    seed: int
    status: Literal["done", "diverged"]
    epochs: int
    stopped: str  # why training ended
    seconds: float
    defender_parameters: int
    adversary_parameters: int
    defender_sha256: str
    message: str = ""
