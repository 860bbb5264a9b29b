"""How often each check of groups I and II objected to honest models: the audits of a results folder, counted.

    python runs/false_alarms.py results/paper-mnist

The models of a reproduction were trained as they say and were not used to choose a threshold, so whatever objects to them in
these groups is a false alarm. The rates, of each check and of an audit, are exact one-sided 95 % bounds; a check that was skipped
does not count.
"""

import sys
from collections import Counter
from pathlib import Path

from sparring.evaluation.statistics import upper_bound
from sparring.records import AuditRecord, OutPaths, read


def table(audits: list[AuditRecord]) -> str:
    """A row a check: how often it passed, informed, warned, failed or was skipped, and what that says of its false alarms."""
    statuses = ("PASS", "INFO", "WARN", "FAIL", "SKIP")
    lines = [f"| check | {' | '.join(statuses)} | alarms, in less than |", "|---|---|---|---|---|---|---|"]
    ids = dict.fromkeys(check.id for audit in audits for check in audit.checks if check.id[0] in "IS")
    for name in ids:
        counts: Counter[str] = Counter(check.status for audit in audits for check in audit.checks if check.id == name)
        made = counts.total() - counts["SKIP"]
        rate = f"{100 * upper_bound(counts['WARN'] + counts['FAIL'], made):.1f} %" if made else "–"
        lines.append(f"| {name} | " + " | ".join(str(counts[s]) for s in statuses) + f" | {rate} |")
    alarmed = [audit for audit in audits if any(c.status in ("WARN", "FAIL") and c.id[0] in "IS" for c in audit.checks)]
    n, bad = len(audits), len(alarmed)
    said = f"{bad} of {n} audits of honest models raised an alarm in group I or II"
    bound = f"; the rate is below {100 * upper_bound(bad, n):.1f} % (one-sided 95 %)"
    sizes = ", ".join(sorted({f"n = {a.n:,}, level {a.level}, thresholds {a.thresholds}" for a in audits}))
    return "\n".join([*lines, "", f"{said}{bound}. {sizes}."])


if __name__ == "__main__":
    print(table(read(OutPaths(Path(sys.argv[1])).records("audits"), AuditRecord)))
