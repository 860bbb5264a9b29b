"""The audit: checks that can withhold a robust accuracy. `audit` is the short way in."""

from sparring.auditing.audit import CHECKS, audit, audit_subject
from sparring.auditing.check import TITLES, Check
from sparring.auditing.levels import LEVELS, Level
from sparring.auditing.subject import Claimed, Drop, Fresh, Provenance, Subject
from sparring.auditing.thresholds import Thresholds
from sparring.auditing.verdict import Audit, Headline

__all__ = [
    "CHECKS",
    "LEVELS",
    "TITLES",
    "Audit",
    "Check",
    "Claimed",
    "Drop",
    "Fresh",
    "Headline",
    "Level",
    "Provenance",
    "Subject",
    "Thresholds",
    "audit",
    "audit_subject",
]
