"""The ledger: every claim of the paper with its verdict, in the paper's order."""

from collections.abc import Sequence
from itertools import chain

from sparring.claims import explanations, numbers, rankings
from sparring.claims.evidence import Evidence
from sparring.records import (
    ClaimRecord,
    ComparisonRecord,
    ExampleRecord,
    ExploitabilityRecord,
    SummaryRecord,
    SweepRecord,
    TransferRecord,
)


def ledger(
    summary: Sequence[SummaryRecord],
    comparisons: Sequence[ComparisonRecord],
    transfer: Sequence[TransferRecord],
    exploitability: Sequence[ExploitabilityRecord],
    sweeps: Sequence[SweepRecord],
    examples: Sequence[ExampleRecord],
    *,
    data_name: str,
) -> list[ClaimRecord]:
    """One record a claim, N1 to N11, F1 to F3b, D1 to D3, always all of them: what was not measured says so."""
    evidence = Evidence(summary, comparisons, transfer, exploitability, sweeps, examples, data_name)
    every = chain(numbers.judges(), rankings.judges(), explanations.judges())
    return [judge(evidence) for judge in every]
