"""How often each check of groups I and II objected to honest models: the audits of a results folder, counted.

    python runs/false_alarms.py results/paper-mnist

The models of a reproduction were trained as they say and were not used to choose a threshold, so whatever objects to them in
these groups is a false alarm. No alarm in n audits bounds the rate of an audit below 1 - 0.05^(1/n), one-sided, at 95 %.
"""

import sys
from collections import Counter
from pathlib import Path

from sparring.records import AuditRecord, OutPaths, read


def table(audits: list[AuditRecord]) -> str:
    """A row a check: how often it passed, warned, failed, informed or was skipped, and the values that lay furthest."""
    lines = ["| check | PASS | INFO | WARN | FAIL | SKIP |", "|---|---|---|---|---|---|"]
    ids = dict.fromkeys(check.id for audit in audits for check in audit.checks if check.id[0] in "IS")
    for name in ids:
        counts = Counter(check.status for audit in audits for check in audit.checks if check.id == name)
        lines.append(
            f"| {name} | " + " | ".join(str(counts[s]) for s in ("PASS", "INFO", "WARN", "FAIL", "SKIP")) + " |"
        )
    alarmed = [audit for audit in audits if any(c.status in ("WARN", "FAIL") and c.id[0] in "IS" for c in audit.checks)]
    n, bad = len(audits), len(alarmed)
    said = f"{bad} of {n} audits of honest models raised an alarm in group I or II"
    bound = "" if bad else f"; the rate is below {100 * (1 - 0.05 ** (1 / n)):.1f} % (one-sided 95 %)"
    sizes = ", ".join(sorted({f"n = {a.n:,}, level {a.level}, thresholds {a.thresholds}" for a in audits}))
    return "\n".join([*lines, "", f"{said}{bound}. {sizes}."])


if __name__ == "__main__":
    print(table(read(OutPaths(Path(sys.argv[1])).records("audits"), AuditRecord)))
