"""One check of the audit: what was asked, what was found, what to do about it."""

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["PASS", "WARN", "FAIL", "INFO", "SKIP"]
GROUPS = {"I": "measured correctly", "II": "attack strength", "III": "game", "IV": "statistics"}
_GROUP_OF = {"I": "I", "S": "II", "G": "III", "T": "IV"}

TITLES = {
    "I1": "evaluation mode, and nothing changed",
    "I2": "predictions do not depend on the batch",
    "I3": "predictions repeat",
    "I4": "everything is finite",
    "I5": "saved images verified independently",
    "I6": "eps 0 is the clean prediction",
    "I7": "8-bit round trip",
    "I8": "outputs are logits",
    "I9": "data and labels",
    "I10": "threat model recorded",
    "S1": "many steps are at least one step",
    "S2": "converged in steps",
    "S3": "converged in restarts",
    "S4": "more budget never helps the model",
    "S5": "large budgets break it",
    "S6": "black-box attacks add nothing",
    "S7": "random noise is weaker",
    "S8": "cross-entropy does not saturate",
    "S9": "gradients are not zero",
    "S10": "gradients are derivatives",
    "S11": "the best example is kept",
    "S12": "the loss has stopped rising",
    "S13": "a planted example is found",
    "S14": "the undefended twin breaks",
    "S15": "every kind of attack ran",
    "S16": "AutoAttack is no stronger",
    "S17": "information order",
    "S18": "local linearity",
    "G1": "exploitability",
    "G2": "learned against gradient",
    "G3": "best response converged",
    "G4": "past adversaries",
    "G5": "transfer of the adversary",
    "G6": "catastrophic overfitting",
    "G7": "wording",
    "T1": "intervals",
    "T2": "comparisons",
    "T3": "seeds",
    "T4": "test-set discipline",
    "T5": "calibration",
    "T6": "rounding and labels",
}


@dataclass(frozen=True)
class Check:
    """The outcome of one check. A SKIP says why in `evidence` and never counts as a PASS."""

    id: str
    status: Status
    value: str = ""
    threshold: str = ""
    evidence: str = ""
    advice: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    statistic: float | None = None  # what is compared with the threshold, in the threshold's own unit; None without one

    @property
    def group(self) -> str:
        """I, II, III or IV."""
        return _GROUP_OF[self.id[0]]

    @property
    def title(self) -> str:
        """What the check asks, in a few words."""
        return TITLES[self.id]

    def __str__(self) -> str:
        parts = [self.value, f"({self.threshold})" if self.threshold else "", self.evidence]
        text = " ".join(part for part in parts if part)
        return f"{self.id} {self.status} {self.title}: {text}" + (f" -> {self.advice}" if self.advice else "")


def skip(id: str, reason: str, advice: str = "") -> Check:
    """A check that was not made, and why."""
    return Check(id, "SKIP", evidence=reason, advice=advice)


def graded(value: float, passing: float, warning: float) -> Status:
    """PASS up to `passing`, WARN up to `warning`, FAIL beyond."""
    return "PASS" if value <= passing else "WARN" if value <= warning else "FAIL"


def percent(part: float, n: int) -> str:
    """A count out of n as a percentage."""
    return f"{100 * part / n:.1f} %"
