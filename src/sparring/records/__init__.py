"""Typed records, their JSON lines, and the names of every file of a run.

A record is a frozen dataclass; a file of records holds one JSON object a line. Rates are fractions in [0, 1]; `low` and
`high` bound a 95 % interval. The report is made from these files alone, so whatever it prints stands here first.
"""

from sparring.records.audited import (
    AuditRecord,
    BestResponseRecord,
    CheckRecord,
    CheckStatus,
    HeadlineRecord,
    LearnedAttackRecord,
    PayoffRecord,
    WorstCaseRecord,
)
from sparring.records.files import append, atomically, line, plain, read, read_json, restore, write, write_json
from sparring.records.gathered import (
    CallRecord,
    ClaimRecord,
    ComparisonRecord,
    ExampleRecord,
    ReproductionRecord,
    SummaryRecord,
    Verdict,
)
from sparring.records.measured import (
    AccuracyRecord,
    BinRecord,
    CalibrationRecord,
    EpochRecord,
    ExploitabilityRecord,
    Protocol,
    ReadingRecord,
    RunRecord,
    SweepRecord,
    TransferRecord,
)
from sparring.records.paths import OutPaths, RunPaths, seed_folders

__all__ = [
    "AccuracyRecord",
    "AuditRecord",
    "BestResponseRecord",
    "BinRecord",
    "CalibrationRecord",
    "CallRecord",
    "CheckRecord",
    "CheckStatus",
    "ClaimRecord",
    "ComparisonRecord",
    "EpochRecord",
    "ExampleRecord",
    "ExploitabilityRecord",
    "HeadlineRecord",
    "LearnedAttackRecord",
    "OutPaths",
    "PayoffRecord",
    "Protocol",
    "ReadingRecord",
    "ReproductionRecord",
    "RunPaths",
    "RunRecord",
    "SummaryRecord",
    "SweepRecord",
    "TransferRecord",
    "Verdict",
    "WorstCaseRecord",
    "append",
    "atomically",
    "line",
    "plain",
    "read",
    "read_json",
    "restore",
    "seed_folders",
    "write",
    "write_json",
]
