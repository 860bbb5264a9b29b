"""The audit's outcome: checks, attacks, headline, verdict; printed, as JSON, as an exit code."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sparring.auditing.check import GROUPS, Check
from sparring.evaluation.statistics import Interval, wilson

NO_OBJECTION = "NO OBJECTION FOUND"
GAME_WORDS = 'as "robust to its adversary"'


@dataclass(frozen=True)
class Headline:
    """Worst case over all attacks that ran, at one eps: a count of N, a share, Wilson's 95 % interval."""

    eps: float
    n: int
    survived: float
    attacks: int

    @property
    def accuracy(self) -> float:
        """The share that survives everything; an upper bound on robust accuracy."""
        return self.survived / self.n

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval."""
        return wilson(round(self.survived), self.n)


@dataclass(frozen=True)
class AttackRow:
    """One attack of the table: what it left of the images it met."""

    attack: str
    kind: str
    eps: float
    attacked: int
    survived: float
    forwards: int
    backwards: int
    seconds: float
    configuration: str


@dataclass(frozen=True)
class SelfTest:
    """Which faults were caught and which honest models stayed clear; print it for a line."""

    missed: dict[str, tuple[str, ...]]  # fault -> the sets of checks of which none fired
    alarmed: dict[str, tuple[str, ...]]  # honest model -> the checks of groups I and II that warned or failed
    n_broken: int
    n_honest: int

    @property
    def passed(self) -> bool:
        """Whether the audit caught everything and raised no false alarm."""
        return not self.missed and not self.alarmed

    def __str__(self) -> str:
        text = f"zoo {self.n_broken - len(self.missed)}/{self.n_broken} broken caught, "
        text += f"{self.n_honest - len(self.alarmed)}/{self.n_honest} honest clear"
        named = [f"{name} not by {', '.join(sets)}" for name, sets in self.missed.items()]
        named += [f"{name} alarmed by {', '.join(ids)}" for name, ids in self.alarmed.items()]
        return text + (f" ({'; '.join(named)})" if named else "")


@dataclass(frozen=True)
class Audit:
    """What an audit found. Print it; `exit_code` is 4 where anything failed, else 0."""

    subject: str
    data: str
    n: int
    indices: str
    level: str
    thresholds: str
    clean: float
    declared_random: bool
    checks: tuple[Check, ...]
    attacks: tuple[AttackRow, ...]
    headlines: tuple[Headline, ...]  # empty where no attack was worth running
    strict: bool = False
    self_test: SelfTest | None = None  # None where it was not run
    seconds: float = 0.0
    seed: int = 0
    commit: str = ""
    threat: dict[str, Any] = field(default_factory=dict)
    too_little: str = ""  # in what the data are too few for a headline; empty where they are enough

    def __getitem__(self, id: str) -> Check:
        """A check by its name, such as "S6"; raises KeyError for one that does not exist."""
        return next_or_key_error(self.checks, id)

    @property
    def failed(self) -> tuple[Check, ...]:
        """What failed; with `strict`, also what warned or was skipped."""
        bad = ("FAIL", "WARN", "SKIP") if self.strict else ("FAIL",)
        return tuple(check for check in self.checks if check.status in bad)

    @property
    def distrusted(self) -> bool:
        """Whether the auditor failed its own test, so that nothing it says of the number is worth anything."""
        return self.self_test is not None and not self.self_test.passed

    @property
    def withheld(self) -> bool:
        """Whether the headline may not be shown: too little data, or a failure in group I or II, of T4 or of the self-test."""
        failed = any(check.group in ("I", "II") or check.id == "T4" for check in self.failed)
        return self.distrusted or failed or bool(self.too_little)

    @property
    def shown(self) -> tuple[AttackRow, ...]:
        """The attacks; those of the worst case only where its number may be shown."""
        return tuple(row for row in self.attacks if not (self.withheld and row.kind == "worst case"))

    @property
    def verdict(self) -> str:
        """NO OBJECTION FOUND, NO HEADLINE or NOT CREDIBLE and why. Never "robust": checks can refute, none can prove."""
        names = [check.id for check in self.failed if check.group in ("I", "II") or check.id == "T4"]
        if self.distrusted:
            return f"NOT CREDIBLE: {', '.join(['self-test', *names])} (the auditor failed its own test)"
        if names:
            return f"NOT CREDIBLE: {', '.join(names)} ({self[names[0]].title})"
        if any(check.id == "G1" for check in self.failed):
            return f"NOT CREDIBLE {GAME_WORDS}"
        if self.failed:
            return f"NOT CREDIBLE: {', '.join(check.id for check in self.failed)} ({self.failed[0].title})"
        return f"NO HEADLINE: {self.too_little}" if self.too_little else NO_OBJECTION

    @property
    def exit_code(self) -> int:
        """4 if anything failed, the auditor's own test included, else 0."""
        return 4 if self.failed or self.distrusted else 0

    def to_json(self) -> dict[str, Any]:
        """Everything, as what json.dumps takes."""
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "withheld": self.withheld,
            "too_little": self.too_little,
            "subject": self.subject,
            "data": self.data,
            "n": self.n,
            "indices_sha256": self.indices,
            "level": self.level,
            "thresholds": self.thresholds,
            "clean": self.clean,
            "declared_random": self.declared_random,
            "strict": self.strict,
            "self_test": self._self_test,
            "self_test_passed": None if self.self_test is None else self.self_test.passed,
            "seconds": round(self.seconds, 2),
            "seed": self.seed,
            "commit": self.commit,
            "threat": self.threat,
            "headlines": [
                {
                    "eps": h.eps,
                    "n": h.n,
                    "survived": h.survived,
                    "accuracy": h.accuracy,
                    "low": h.interval.low,
                    "high": h.interval.high,
                    "attacks": h.attacks,
                }
                for h in ([] if self.withheld else self.headlines)
            ],
            "checks": [asdict(check) | {"group": check.group, "title": check.title} for check in self.checks],
            "attacks": [asdict(row) for row in self.shown],
        }

    def __str__(self) -> str:
        lines = [self._head(), *(self._group(group) for group in GROUPS)]
        skipped = [f"{check.id} ({check.evidence})" for check in self.checks if check.status == "SKIP"]
        lines += _labelled("skipped", skipped or ["nothing"])
        lines += _labelled("self-test", [f"{self._self_test}; thresholds {self.thresholds}"])
        return "\n".join([*lines, *self._quotable()])

    def table(self) -> str:
        """The attacks one by one."""
        width = max((len(row.attack) for row in self.shown), default=6)
        lines = [f"{'attack':<{width}}    eps   met  left  forwards backwards  seconds"]
        lines += [
            f"{row.attack:<{width}} {row.eps:>6g} {row.attacked:>5} {row.survived:>5.0f} {row.forwards:>9} "
            f"{row.backwards:>9} {row.seconds:>8.2f}"
            for row in self.shown
        ]
        return "\n".join(lines)

    @property
    def _self_test(self) -> str:
        return "not run" if self.self_test is None else str(self.self_test)

    def _head(self) -> str:
        eps = ", ".join(f"{h.eps:g}" for h in self.headlines) or str(self.threat.get("eps", "?"))
        kind = "declared random" if self.declared_random else "deterministic"
        return (
            f"ROBUSTNESS AUDIT  {self.subject}: {self.data}, N={self.n} (indices {self.indices[:6]}), "
            f"l_inf eps={eps}, white-box, {kind} defender, level {self.level}"
        )

    def _group(self, group: str) -> str:
        checks = [check for check in self.checks if check.group == group]
        made = [check for check in checks if check.status != "SKIP"]
        passed = sum(check.status == "PASS" for check in made)
        noted = [check for check in made if check.status in ("FAIL", "WARN")]
        told = sum(check.status == "INFO" for check in made)
        head = f" {group:<4}{GROUPS[group]:<20}{passed}/{len(checks)} PASS"
        head += f", {told} INFO" if told else ""
        return "\n".join([head, *(f"      {check}" for check in noted)])

    def _quotable(self) -> Sequence[str]:
        clean = f"clean {100 * self.clean:.1f} %"
        if self.too_little:
            found = wilson(round(self.clean * self.n), self.n)
            clean += f" [{100 * found.low:.1f}, {100 * found.high:.1f}], N={self.n}"
            clean += "" if self.verdict.endswith(self.too_little) else f"; {self.too_little}"
        if self.withheld or not self.headlines:
            return [f"VERDICT  {self.verdict}.  Robust accuracy withheld, {clean}"]
        told = [
            f"Worst case over {h.attacks} attacks at eps {h.eps:g}: {100 * h.accuracy:.1f} % "
            f"[{100 * h.interval.low:.1f}, {100 * h.interval.high:.1f}], N={h.n}"
            for h in self.headlines
        ]
        return [f"VERDICT  {self.verdict}.  {'; '.join(told)}; {clean}, N={self.n}"]


def next_or_key_error(checks: Sequence[Check], id: str) -> Check:
    """The check with this name."""
    for check in checks:
        if check.id == id:
            return check
    raise KeyError(f"no check {id!r}; there are {', '.join(check.id for check in checks)}")


def _labelled(label: str, items: Sequence[str]) -> list[str]:
    return [f" {label if k == 0 else '':<24}{item}" for k, item in enumerate(items)]
