"""The paper's claims as a checklist: records of all runs in, means over seeds, paired tests and verdicts out (docs/claims.md)."""

from sparring.claims.comparisons import comparisons
from sparring.claims.ledger import ledger
from sparring.claims.summary import summarise

__all__ = ["comparisons", "ledger", "summarise"]
