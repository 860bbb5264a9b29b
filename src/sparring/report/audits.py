"""The audit's section, a row a recipe and every check of every run; and the memory's: past adversaries, past defenders."""

from collections import Counter
from typing import Any

from sparring.records import AuditRecord, CheckRecord, PayoffRecord
from sparring.report import words
from sparring.report.headline import cell, withheld
from sparring.report.sections import Rows
from sparring.report.source import Source

TONES = {"PASS": "yes", "WARN": "warn", "FAIL": "other", "INFO": "no", "SKIP": "no"}
SHOWN_EPOCHS = 14  # a side of a matrix; the file has all


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


def memory(source: Source) -> Rows:
    """A matrix a run and radius: adversaries of past epochs as rows, defenders as columns, oldest first."""
    runs = dict.fromkeys((p.recipe, p.seed, p.eps) for p in source.payoffs)
    return [_matrix([p for p in source.payoffs if (p.recipe, p.seed, p.eps) == run]) for run in runs]


def _matrix(payoffs: list[PayoffRecord]) -> dict[str, Any]:
    """One run's matrix; marked are the least accuracy of each shown column, and each defender against its own adversary."""
    first, at = payoffs[0], {(p.adversary_epoch, p.defender_epoch): p for p in payoffs}
    adversaries, defenders = sorted({a for a, _ in at}), sorted({d for _, d in at})
    lines, columns = _spread(adversaries), _spread(defenders)
    least = {d: min((at[a, d].accuracy for a in lines if (a, d) in at), default=0.0) for d in columns}
    rows = []
    for a in lines:
        found = [at.get((a, d)) for d in columns]
        rows.append({"epoch": a, "cells": [_payoff(p, least[d]) for p, d in zip(found, columns, strict=True)]})
    last = [p for p in payoffs if p.defender_epoch == defenders[-1]]
    own = at.get((defenders[-1], defenders[-1]))
    return {
        "label": words.label(first.recipe),
        "first": first,
        "columns": columns,
        "rows": rows,
        "thinned": len(columns) < len(defenders) or len(rows) < len(adversaries),
        "n_epochs": len(defenders),
        "last": defenders[-1],
        "own": own,
        "worst": min(last, key=lambda p: p.accuracy),
    }


def _payoff(record: PayoffRecord | None, least: float) -> dict[str, Any]:
    if record is None:
        return {"value": "–", "lost": "0", "deep": False, "own": False, "least": False, "interval": ""}
    return {
        "value": words.percent(record.accuracy),
        "interval": words.interval(record.low, record.high),
        "lost": f"{100 * (1 - record.accuracy):.0f}",
        "deep": record.accuracy < 0.33,  # from here on white is the more legible
        "own": record.adversary_epoch == record.defender_epoch,
        "least": record.accuracy == least,
    }


def _spread(epochs: list[int]) -> list[int]:
    """At most so many of the epochs as are shown, evenly, with the first and the last."""
    most = SHOWN_EPOCHS
    if len(epochs) <= most:
        return epochs
    return [epochs[round(k * (len(epochs) - 1) / (most - 1))] for k in range(most)]


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
