"""The audit's section: a row a recipe with its verdict and what is left at every eps, and every check of every run."""

from collections import Counter

from sparring.records import AuditRecord, CheckRecord
from sparring.report import words
from sparring.report.headline import cell, withheld
from sparring.report.sections import Rows
from sparring.report.source import Source

TONES = {"PASS": "yes", "WARN": "warn", "FAIL": "other", "INFO": "no", "SKIP": "no"}


def grid(source: Source) -> list[float]:
    """The radii that were audited, ascending."""
    return sorted({h.eps for audit in source.audits for h in audit.headlines})


def rows(source: Source) -> Rows:
    """A row a recipe: verdicts, robust accuracy over seeds at every eps, and each seed's checks."""
    made = []
    for recipe in source.recipes:
        audits = [audit for audit in source.audits if audit.recipe == recipe]
        if not audits:
            continue
        found = [source.one("worst_case", recipe, eps=eps) for eps in grid(source)]
        made.append(
            {
                "label": words.label(recipe),
                "verdicts": list(Counter(audit.verdict for audit in audits).items()),
                "withheld": withheld(source, recipe),
                "cells": [cell(record) for record in found],
                "ns": [record.n if record else 0 for record in found],
                "seeds": [_seed(audit) for audit in audits],
            }
        )
    return made


def _seed(audit: AuditRecord) -> dict[str, object]:
    """One run's audit: the checks that did not pass first, then the rest."""
    order = ("FAIL", "WARN", "SKIP", "INFO", "PASS")
    checks = sorted(audit.checks, key=lambda check: order.index(check.status))
    return {
        "audit": audit,
        "counts": ", ".join(f"{n} {status}" for status, n in sorted(_counts(audit), key=lambda c: order.index(c[0]))),
        "checks": [{"check": check, "tone": TONES[check.status], "text": _text(check)} for check in checks],
    }


def _counts(audit: AuditRecord) -> list[tuple[str, int]]:
    return list(Counter(str(check.status) for check in audit.checks).items())


def _text(check: CheckRecord) -> str:
    return "; ".join(part for part in (check.value, check.evidence) if part)
