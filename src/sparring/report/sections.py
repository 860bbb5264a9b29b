"""What each section of the page prints, as plain rows for the template.

Records are looked up here, never computed with.
"""

import json
from collections.abc import Sequence
from typing import Any

from sparring.records import ComparisonRecord, Protocol, SummaryRecord
from sparring.report import pixels, words
from sparring.report.headline import Cell, cell
from sparring.report.source import Source, same_eps

Rows = list[dict[str, Any]]
Kind = tuple[str, float | None, Protocol]  # attack, eps (None: pooled), protocol
_ORDER = ("fgsm", "pgd", "own", "noise", "sign_noise")
SHOWN_EXAMPLES = 12


def ledger(source: Source) -> Rows:
    """One row a claim."""
    return [{"claim": claim, "symbol": words.VERDICTS.get(claim.verdict, "?")} for claim in source.claims]


def examples(source: Source) -> Rows:
    """The panels of Figure 1 that the page shows."""
    return [
        {
            "record": e,
            "recipe": words.label(e.recipe),
            "attack": words.attack_label(e.attack),
            "image": pixels.grey(e.image),
            "delta": pixels.signed(e.delta, e.eps),
            "perturbed": pixels.grey(e.perturbed),
            "factor": f"{1 / e.eps:.3g}" if e.eps else "1",
            "flipped": e.perturbed_prediction != e.label,
            "size": len(e.image),
        }
        for e in source.examples[:SHOWN_EXAMPLES]
    ]


def curve_panels(source: Source) -> list[tuple[str, Protocol, list[SummaryRecord]]]:
    """Attack, protocol and summaries of every panel of Figure 2 with two radii or more; FGSM first."""
    kinds = dict.fromkeys((r.attack, r.protocol) for r in source.summaries("accuracy") if r.attack != "clean")
    panels = []
    for attack, protocol in sorted(kinds, key=lambda kind: (_place(kind[0]), kind[1] != "sound")):
        found = [r for r in source.summaries("accuracy", attack=attack, protocol=protocol) if r.eps is not None]
        if len({r.eps for r in found}) > 1:
            panels.append((attack, protocol, sorted(found, key=lambda r: r.eps or 0.0)))
    return panels


def curve_table(source: Source, records: Sequence[SummaryRecord], attack: str, protocol: str) -> dict[str, Any]:
    """The numbers of one panel of Figure 2: recipe by eps, and the areas under the curves where recorded."""
    grid = sorted({r.eps for r in records if r.eps is not None})
    rows = []
    for recipe in [r for r in source.recipes if any(r == record.recipe for record in records)]:
        at = {r.eps: r for r in records if r.recipe == recipe}
        area = source.one("area", recipe, attack=attack, protocol=protocol)
        rows.append(
            {
                "label": words.label(recipe),
                "cells": [cell(at.get(eps)) for eps in grid],
                "area": None if area is None else plain(area),
                "seeds": max((r.n_seeds for r in at.values()), default=0),
            }
        )
    return {"grid": [words.eps(eps) for eps in grid], "rows": rows, "area": any(row["area"] for row in rows)}


def comparisons(source: Source, *prefixes: str) -> Rows:
    """Tests grouped by claim: what the claim says, then a row a test."""
    groups: dict[str, list[ComparisonRecord]] = {}
    for record in source.compared(*prefixes):
        groups.setdefault(record.claim, []).append(record)
    made = []
    for name, records in groups.items():
        claim = source.claim(name)
        made.append(
            {
                "id": name,
                "claim": claim.claim if claim else "",
                "tests": [_test(record) for record in records],
                "holds": sum(record.holds for record in records),
            }
        )
    return made


def calibration_panels(source: Source) -> list[Kind]:
    """The panels of Figure 3: at the radius of training, pooled, and clean; six at most, FGSM first."""
    kinds = dict.fromkeys((c.attack, c.eps, c.protocol) for c in source.calibration)
    kept = [k for k in kinds if k[1] is None or same_eps(k[1], source.head.eps) or k[0] == "clean"]
    return sorted(kept, key=lambda k: (_place(k[0]), k[1] is None, k[2] != "sound"))[:6]


def calibration_table(source: Source, kind: Kind) -> dict[str, Any]:
    """Calibration errors over seeds, a row a recipe; where no summary exists, the table has no rows."""
    attack, eps, protocol = kind
    metrics = ("ece", "adaptive_ece", "brier", "nll")
    rows = []
    for recipe in source.recipes:
        found = [
            next((r for r in source.summaries(m, recipe=recipe, attack=attack, protocol=protocol)
                  if same_eps(r.eps, eps)), None)
            for m in metrics
        ]  # fmt: skip
        if any(found):
            n_seeds = max(r.n_seeds for r in found if r)
            rows.append({"label": words.label(recipe), "cells": [plain(r) for r in found], "seeds": n_seeds})
    return {"columns": [words.METRICS[m] for m in metrics], "rows": rows}


def transfer(source: Source) -> dict[str, Any]:
    """Rows of defenders, columns of adversaries with the noises last; every cell a mean over seeds."""
    records = source.summaries("transfer")
    eps = source.first_eps(r.eps for r in records)
    records = [r for r in records if same_eps(r.eps, eps) and r.protocol == "sound"] or records
    noises = {t.adversary for t in source.transfer if t.adversary_kind == "noise"} | {
        "uniform noise",
        "sign noise",
    }
    names = list(dict.fromkeys(r.attack for r in records))
    learned = [name for name in names if name not in noises]
    learned.sort(key=lambda name: name.endswith(" (alone)"))
    noisy = [name for name in names if name in noises]
    defenders = [d for d in source.recipes if any(r.recipe == d for r in records)]
    at = {(r.recipe, r.attack): r for r in records}
    return {
        "eps": words.eps(eps),
        "records": records,
        "names": learned + noisy,
        "defenders": defenders,
        "columns": [
            {"label": words.attack_label(name), "noise": name in noises, "first_noise": noisy[:1] == [name]}
            for name in learned + noisy
        ],
        "rows": [
            {"label": words.label(d), "cells": [_shade(at.get((d, name))) for name in learned + noisy]}
            for d in defenders
        ],
        "seeds": max((r.n_seeds for r in records), default=0),
        "n": max((r.n for r in records), default=0),
    }


def exploitability(source: Source) -> Rows:
    """A row a recipe: in the game, fresh and gap over seeds, and every seed's own numbers."""
    rows = []
    for recipe in source.recipes:
        values = {m: source.one(m, recipe, eps=source.head.eps) for m in ("in_game", "fresh", "gap")}
        seeds = [x for x in source.exploitability if x.recipe == recipe]
        if any(values.values()) or seeds:
            rows.append(
                {
                    "label": words.label(recipe),
                    "records": values,
                    "cells": [cell(values[m]) for m in ("in_game", "fresh", "gap")],
                    "seeds": seeds,
                    "n_seeds": max((r.n_seeds for r in values.values() if r), default=len(seeds)),
                    "fresh": max((len(x.fresh) for x in seeds), default=0),
                    "epochs": max((x.epochs for x in seeds), default=0),
                }
            )
    return rows


def learned_attacks(source: Source) -> Rows:
    """A row a radius and defender: the records, and for each number of gradients what each attack leaves.

    `references`, of no number of gradients, are the standard suite, which is the floor, and the official AutoAttack.
    """
    made, kinds = Rows(), learned_kinds(source)
    for eps, recipe in sorted({(r.eps, r.recipe) for r in source.learned if r.queries}):
        own = [r for r in source.learned if (r.eps, r.recipe) == (eps, recipe)]
        records, references = [r for r in own if r.queries], [r for r in own if not r.queries]
        rows = []
        for queries in sorted({r.queries for r in records}):
            left = {words.learned_attack(r.attack): r for r in records if r.queries == queries}
            found = [left.get(name) for name in kinds]
            cells = [Cell(words.percent(r.accuracy), words.interval(r.low, r.high)) if r else Cell("–") for r in found]
            rows.append({"queries": queries, "cells": cells})
        compared = {"records": records, "rows": rows, "references": references}
        floor = next((r for r in references if r.attack == words.FLOOR), None)
        label, n = words.label(recipe), max(r.n for r in records)
        made.append({"eps": eps, "label": label, "n": n, "floor": floor, **compared})
    return made


def learned_kinds(source: Source) -> list[str]:
    """Those of LEARNED_ATTACKS that stand beside each other."""
    found = {words.learned_attack(r.attack) for r in source.learned if r.queries}
    return [kind for kind in words.LEARNED_ATTACKS if kind in found]


def readings(source: Source) -> Rows:
    """N8: a row a reading, its modes, and the accuracy over seeds."""
    rows = []
    first = {r.reading: r for r in reversed(source.readings)}
    for reading in dict.fromkeys(r.reading for r in source.readings):
        summary = next((s for s in source.summaries("reading") if s.attack == reading), None)
        rows.append({"record": first[reading], "summary": summary, "cell": cell(summary)})
    return rows


def sweeps(source: Source) -> Rows:
    """D1 and D3: every cell of the sweeps as it was measured, a row a variant and seed."""
    return [{"record": s} for s in sorted(source.sweeps, key=lambda s: s.claim)]


def runs(source: Source) -> Rows:
    """Every training; a diverged one shows no accuracy."""
    clean = {(r.recipe, r.seed): r for r in source.results if r.attack == "clean" and r.protocol == "sound"}
    rows = []
    for run in source.runs:
        record = clean.get((run.recipe, run.seed)) if run.status == "done" else None
        rows.append({"run": run, "label": words.label(run.recipe), "clean": record})
    return rows


def attacks(source: Source) -> Rows:
    """Each attack's full configuration at the radius of training, as the evaluation recorded it."""
    shown: dict[str, str] = {}
    for record in source.results:
        if same_eps(record.eps, source.head.eps):
            shown.setdefault(record.attack, record.attack_repr)
    return [{"label": words.attack_label(name), "repr": text} for name, text in shown.items()]


def environment(source: Source) -> list[tuple[str, str]]:
    """Versions and hardware as label and value; nested values as JSON."""
    return [
        (key.replace("_", " "), value if isinstance(value, str) else json.dumps(value, sort_keys=True))
        for key, value in source.head.machine.items()
    ]


def plain(record: SummaryRecord | None) -> dict[str, str]:
    """A summary that is no percentage, to three digits."""
    if record is None:
        return {"value": "–", "interval": ""}
    return {
        "value": words.plain_number(record.mean),
        "interval": words.plain_interval(record.low, record.high),
    }


def _test(record: ComparisonRecord) -> dict[str, Any]:
    rate = record.metric in ("accuracy", "transfer", "in_game", "fresh", "gap")
    show, bounds = (words.percent, words.interval) if rate else (words.plain_number, words.plain_interval)
    tone, said = words.outcome(record)
    return {
        "better": words.side_label(record.better),
        "worse": words.side_label(record.worse),
        "metric": words.METRICS.get(record.metric, record.metric),
        "eps": words.eps(record.eps) if record.eps is not None or record.metric != "area" else "all",
        "protocol": record.protocol,
        "difference": ("+" if record.difference > 0 else "") + show(record.difference),
        "unit": "points" if rate else "",
        "interval": bounds(record.low, record.high),
        "p": words.p_value(record.p_value),
        "seeds": len(record.per_seed),
        "tone": tone,
        "said": said,
    }


def _shade(record: SummaryRecord | None) -> dict[str, Any]:
    shown = cell(record)
    lost = 0.0 if record is None else 100 * (1 - record.mean)
    return {"cell": shown, "lost": f"{lost:.0f}", "deep": lost > 50}


def _place(attack: str) -> int:
    return _ORDER.index(attack) if attack in _ORDER else len(_ORDER)
