"""Typed records, their JSON lines, and the names of every file of a run.

A record is a frozen dataclass; a file of records holds one JSON object a line. Rates are fractions in [0, 1]; `low` and
`high` bound a 95 % interval. The report is made from these files alone, so whatever it prints stands here first.
"""

import dataclasses
import json
import math
import os
import tempfile
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from sparring.errors import InputError

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


@dataclass(frozen=True)
class RunPaths:
    """Every file of one run, OUT/runs/RECIPE/seedK/, named once."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def environment(self) -> Path:
        return self.folder / "environment.json"

    @property
    def epochs(self) -> Path:
        return self.folder / "epochs.jsonl"

    @property
    def defender(self) -> Path:
        return self.folder / "defender.safetensors"

    @property
    def adversary(self) -> Path:
        return self.folder / "adversary.safetensors"

    @property
    def trained_alone(self) -> Path:
        """The initialised games' adversary, as it was before the game."""
        return self.folder / "adversary-alone.safetensors"

    @property
    def done(self) -> Path:
        """A RunRecord; written last, so that its presence says the training is complete."""
        return self.folder / "run.json"

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration.jsonl"

    @property
    def readings(self) -> Path:
        return self.folder / "readings.jsonl"

    @property
    def sweep(self) -> Path:
        return self.folder / "sweep.jsonl"

    @property
    def evaluated(self) -> Path:
        """What the evaluation used and took; written last, so that its presence says the evaluation is complete."""
        return self.folder / "evaluation.json"

    @property
    def exploitability(self) -> Path:
        return self.folder / "exploitability.jsonl"

    @property
    def outcomes(self) -> Path:
        """Which test images survived which attack: one boolean row per attack and eps, for paired tests."""
        return self.folder / "outcomes.safetensors"

    @property
    def lock(self) -> Path:
        return self.folder / "run.lock"

    def checkpoint(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step:09d}.safetensors"


@dataclass(frozen=True)
class OutPaths:
    """Every file of an output folder, named once."""

    folder: Path

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    @property
    def reproduction(self) -> Path:
        return self.folder / "reproduction.json"

    @property
    def claims(self) -> Path:
        return self.folder / "claims.json"

    @property
    def calls(self) -> Path:
        """A CallRecord for every call that trained or measured, interrupted ones too."""
        return self.folder / "runs" / "calls.jsonl"

    @property
    def runs_done(self) -> Path:
        return self.folder / "runs.jsonl"

    def transfer(self, seed: int) -> Path:
        return self.folder / "runs" / "transfer" / f"seed{seed}.jsonl"

    def alone(self, bound: str, seed: int) -> Path:
        """The adversary trained alone with Adam, measured (claims N9 and N10, ambiguity r)."""
        return self.folder / "runs" / f"alone-adam-{bound}" / f"seed{seed}.jsonl"

    def records(self, name: str) -> Path:
        """results, epochs, calibration, transfer, exploitability, readings, sweeps, summary, comparisons, examples."""
        return self.folder / f"{name}.jsonl"

    def run(self, recipe: str, seed: int) -> RunPaths:
        return RunPaths(self.folder / "runs" / recipe / f"seed{seed}")


R = TypeVar("R")


def write(path: Path, records: Iterable[Any]) -> None:
    """Replace a file of records, whole or not at all."""
    atomically(path, "".join(line(record) + "\n" for record in records).encode())


def append(path: Path, record: Any) -> None:
    """Add one record to a file, in one write; a cut last line (a killed writer's) goes first."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write((line(record) + "\n").encode())


def read(path: Path, kind: type[R]) -> list[R]:
    """All records of a file, none if there is no file. A cut last line (a killed writer's) is dropped.

    Raises InputError for a line that is not such a record.
    """
    return list(_records(path, kind)) if path.exists() else []


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file, whole or not at all; dataclasses become objects, non-finite numbers null."""
    atomically(path, (json.dumps(plain(value), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value of a JSON file; raises InputError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}); remove it and run again") from error


def line(record: Any) -> str:
    """A record as one line of JSON."""
    return json.dumps(plain(record), allow_nan=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as what JSON knows; NaN and infinities as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def restore(kind: type[R], value: Any) -> R:
    """The record of this kind that `plain` made `value` from; raises KeyError or TypeError where it is none."""
    return typing.cast(R, _restored(kind, value))


def atomically(path: Path, content: bytes) -> None:
    """Write a file aside, flush it to the disk, and rename it: afterwards it is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _records(path: Path, kind: type[R]) -> Iterator[R]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a file of sparring records ({error})") from error
    for number, text in enumerate(lines[:-1], start=1):  # what follows the last newline is empty or cut
        try:
            yield restore(kind, json.loads(text))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}:{number} is not a sparring {kind.__name__} ({error})") from error


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _restored(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        known = {f.name for f in dataclasses.fields(kind)}
        if unknown := set(value) - known:
            raise TypeError(f"unknown field {sorted(unknown)[0]!r}")
        return kind(**{name: _restored(hints[name], item) for name, item in value.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        return tuple(_restored(k, item) for k, item in zip(kinds, value, strict=True))
    if origin in (typing.Union, types.UnionType) and value is not None:
        return _restored(next(k for k in arguments if k is not type(None)), value)
    if kind is float and value is None:
        return math.nan
    return value
