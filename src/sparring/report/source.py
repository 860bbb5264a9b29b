"""All records of an output folder, read once, and the look-ups the sections share."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sparring.errors import InputError
from sparring.records import (
    AccuracyRecord,
    AuditRecord,
    BestResponseRecord,
    CalibrationRecord,
    ClaimRecord,
    ComparisonRecord,
    EpochRecord,
    ExampleRecord,
    ExploitabilityRecord,
    LearnedAttackRecord,
    OutPaths,
    PayoffRecord,
    ReadingRecord,
    ReproductionRecord,
    RunRecord,
    SummaryRecord,
    SweepRecord,
    TransferRecord,
    read,
    read_json,
    restore,
)
from sparring.report import words


@dataclass(frozen=True)
class Source:
    """The records of one output folder; a list is empty where its file is absent."""

    paths: OutPaths
    head: ReproductionRecord
    claims: list[ClaimRecord] = field(default_factory=list)
    runs: list[RunRecord] = field(default_factory=list)
    results: list[AccuracyRecord] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    calibration: list[CalibrationRecord] = field(default_factory=list)
    transfer: list[TransferRecord] = field(default_factory=list)
    exploitability: list[ExploitabilityRecord] = field(default_factory=list)
    readings: list[ReadingRecord] = field(default_factory=list)
    sweeps: list[SweepRecord] = field(default_factory=list)
    summary: list[SummaryRecord] = field(default_factory=list)
    comparisons: list[ComparisonRecord] = field(default_factory=list)
    examples: list[ExampleRecord] = field(default_factory=list)
    audits: list[AuditRecord] = field(default_factory=list)
    payoffs: list[PayoffRecord] = field(default_factory=list)
    responses: list[BestResponseRecord] = field(default_factory=list)
    learned: list[LearnedAttackRecord] = field(default_factory=list)

    @property
    def recipes(self) -> list[str]:
        """The recipes in the order of the run, then any that only the summary knows."""
        judged = [r.recipe for r in self.summary if r.metric in ("accuracy", "in_game", "fresh")]
        return list(dict.fromkeys([*self.head.recipes, *judged]))

    @property
    def looks(self) -> dict[str, words.Look]:
        return words.looks(self.recipes)

    @property
    def games(self) -> list[str]:
        """The recipes that trained against an adversary network: those with an accuracy in the game."""
        known = {r.recipe for r in self.summary if r.metric == "in_game"}
        return [recipe for recipe in self.recipes if recipe in known]

    def diverged(self, recipe: str) -> list[RunRecord]:
        return [run for run in self.runs if run.recipe == recipe and run.status == "diverged"]

    def summaries(
        self,
        metric: str,
        *,
        recipe: str | None = None,
        attack: str | None = None,
        protocol: str | None = None,
    ) -> list[SummaryRecord]:
        """The summaries of a metric, in the records' order."""
        return [
            r
            for r in self.summary
            if r.metric == metric
            and recipe in (None, r.recipe)
            and attack in (None, r.attack)
            and protocol in (None, r.protocol)
        ]

    def one(
        self,
        metric: str,
        recipe: str,
        *,
        attack: str | None = None,
        eps: float | None = None,
        protocol: str | None = "sound",
    ) -> SummaryRecord | None:
        """The summary of a metric of one recipe at one radius (None: at any), or None."""
        found = self.summaries(metric, recipe=recipe, attack=attack, protocol=protocol)
        return next((r for r in found if eps is None or same_eps(r.eps, eps)), None)

    def claim(self, name: str) -> ClaimRecord | None:
        return next((c for c in self.claims if c.id == name), None)

    def compared(self, *prefixes: str) -> list[ComparisonRecord]:
        """The comparisons whose claim starts with one of the prefixes, in the order of claims."""
        found = [c for c in self.comparisons if c.claim.startswith(prefixes)]
        return sorted(found, key=lambda c: c.claim)

    def first_eps(self, values: Iterable[float | None]) -> float | None:
        """The radius of training where a list has it, else the first of the list."""
        found = list(values)
        near = [e for e in found if same_eps(e, self.head.eps)]
        return near[0] if near else (found[0] if found else None)


def load(out: Path) -> Source:
    """Read an output folder; raises InputError where it is none, or a file is not what its name says."""
    paths = OutPaths(out)
    if not paths.reproduction.is_file():
        raise InputError(f"{out} holds no {paths.reproduction.name}; make one with: sparring reproduce --out {out}")
    value = read_json(paths.reproduction)
    claims = read_json(paths.claims) if paths.claims.is_file() else []
    try:
        head = restore(ReproductionRecord, value)
        ledger = [restore(ClaimRecord, claim) for claim in claims]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{out} holds no readable {paths.reproduction.name} and {paths.claims.name} ({error})"
        ) from None
    return Source(
        paths=paths,
        head=head,
        claims=ledger,
        runs=read(paths.runs_done, RunRecord),
        results=read(paths.records("results"), AccuracyRecord),
        epochs=read(paths.records("epochs"), EpochRecord),
        calibration=read(paths.records("calibration"), CalibrationRecord),
        transfer=read(paths.records("transfer"), TransferRecord),
        exploitability=read(paths.records("exploitability"), ExploitabilityRecord),
        readings=read(paths.records("readings"), ReadingRecord),
        sweeps=read(paths.records("sweeps"), SweepRecord),
        summary=[s for name in ("summary", "robust", "gaps") for s in read(paths.records(name), SummaryRecord)],
        comparisons=read(paths.records("comparisons"), ComparisonRecord),
        examples=read(paths.records("examples"), ExampleRecord),
        audits=read(paths.records("audits"), AuditRecord),
        payoffs=read(paths.records("payoffs"), PayoffRecord),
        responses=read(paths.records("responses"), BestResponseRecord),
        learned=read(paths.records("attack"), LearnedAttackRecord),
    )


def same_eps(a: float | None, b: float | None) -> bool:
    """Whether two radii are the same up to rounding; None equals only None."""
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, abs_tol=1e-9)
