"""The figures: as inline SVG for the page, and as SVG, PNG, PDF and CSV files in OUT/figures."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from sparring.records import SummaryRecord
from sparring.report import charts, pixels, sections, svg, words
from sparring.report.sections import Rows
from sparring.report.source import Source

_SUMMARY = ("recipe", "metric", "attack", "eps", "protocol", "mean", "low", "high", "n_seeds", "n", "values")
_EXAMPLE = (
    *("recipe", "attack", "seed", "eps", "index", "label", "prediction", "confidence"),
    *("perturbed_prediction", "perturbed_confidence"),
)
_BIN = (
    *("recipe", "seed", "attack", "eps", "protocol", "n", "left", "right", "count"),
    *("confidence", "accuracy", "low", "high"),
)
_WIDE, _NARROW = (800, 400), (300, 270)


def write(source: Source) -> frozenset[str]:
    """Write every figure that the records allow; returns the names of the files written."""
    folder = source.paths.figures
    _write_tables(source)
    svg.save_all(folder, _drawings(source))
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def curve_panels(source: Source) -> list[dict[str, Any]]:
    """Figure 2 for the page: a wide and a narrow drawing and a table for each attack and protocol."""
    panels = sections.curve_panels(source)
    drawn = svg.inlined(
        (_curve(source, records, charts.PAGE, *size), _curve_alt(attack, protocol, records), f"f2-{k}-{size[0]}")
        for k, (attack, protocol, records) in enumerate(panels)
        for size in (_WIDE, _NARROW)
    )
    return [
        {
            "tab": _tab(attack, protocol),
            "attack": words.attack_label(attack),
            "protocol": words.PROTOCOLS[protocol],
            "wide": wide,
            "narrow": narrow,
            "table": sections.curve_table(source, records, attack, protocol),
            "seeds": max(r.n_seeds for r in records),
            "n": max(r.n for r in records),
        }
        for (attack, protocol, records), wide, narrow in zip(panels, drawn[::2], drawn[1::2], strict=True)
    ]


def reliability_panels(source: Source) -> list[dict[str, Any]]:
    """Figure 3 for the page: an attack, radius and protocol a panel, a diagram a recipe, and a table."""
    kinds = sections.calibration_panels(source)
    wheres = ["clean images" if k[0] == "clean" else f"{words.attack_label(k[0])}, {_at(k[1])}" for k in kinds]
    wanted = [
        (k, recipe, look, records)
        for k, kind in enumerate(kinds)
        for recipe, look in source.looks.items()
        if (records := [c for c in source.calibration if c.recipe == recipe and _kind(c) == kind])
    ]
    drawn = svg.inlined(
        (charts.reliability(records, look, charts.PAGE), _reliability_alt(look, wheres[k]), f"f3-{k}-{recipe}")
        for k, recipe, look, records in wanted
    )
    made = []
    for k, kind in enumerate(kinds):
        attack, eps, protocol = kind
        of = [c for c in source.calibration if _kind(c) == kind]
        made.append(
            {
                "tab": "Clean" if attack == "clean" else f"{_tab(attack, protocol)}, {_at(eps)}",
                "where": wheres[k],
                "protocol": words.PROTOCOLS[protocol],
                "diagrams": [
                    {"label": look.label, "svg": element}
                    for (panel, _, look, _), element in zip(wanted, drawn, strict=True)
                    if panel == k
                ],
                "table": sections.calibration_table(source, kind),
                "n": max(c.n for c in of),
                "seeds": len({c.seed for c in of}),
            }
        )
    return made


def training_panels(source: Source) -> list[dict[str, str]]:
    """Training curves for the page: a small drawing a recipe."""
    wanted = [
        (recipe, look, records)
        for recipe, look in source.looks.items()
        if (records := [e for e in source.epochs if e.recipe == recipe])
    ]
    drawn = svg.inlined(
        (charts.training(records, charts.PAGE), _training_alt(look), f"train-{recipe}")
        for recipe, look, records in wanted
    )
    return [{"label": look.label, "svg": element} for (_, look, _), element in zip(wanted, drawn, strict=True)]


def strength_panels(source: Source) -> list[dict[str, Any]]:
    """The learned attack beside PGD and Auto-PGD for the page: a radius a panel, a small drawing and table rows a defender."""
    groups = sections.learned_attacks(source)
    drawn = svg.inlined(
        (charts.strength(g["records"], g["floor"], source.head.n_test, charts.PAGE), _strength_alt(g), f"learned-{k}")
        for k, g in enumerate(groups)
    )
    panels: dict[float, dict[str, Any]] = {}
    for group, element in zip(groups, drawn, strict=True):
        panel = panels.setdefault(group["eps"], {"eps": words.eps(group["eps"]), "n": group["n"], "defenders": []})
        panel["defenders"].append({k: group[k] for k in ("label", "rows", "references")} | {"svg": element})
    return list(panels.values())


def legend(source: Source) -> list[dict[str, str]]:
    """Swatches of the recipes for Figure 2: colour, dash and marker."""
    used = {r.recipe for r in source.summaries("accuracy")}
    return [
        {
            "label": look.label,
            "colour": f"var(--c{look.slot})",
            "slot": str(look.slot),
            "dash": " ".join(map(str, look.dash)) or "none",
            "shape": _SHAPES[look.shape],
        }
        for recipe, look in source.looks.items()
        if recipe in used
    ]


def paper_value(source: Source) -> float | None:
    """The paper's number for claim N8 in per cent, where the ledger gives one."""
    claim = source.claim("N8")
    try:
        return float(claim.paper.split()[0]) if claim else None
    except (ValueError, IndexError):
        return None


# Vega's symbols in a box of 10 around 0, for the legend's swatches
_SHAPES = {
    "circle": "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0Z",
    "square": "M-3.2-3.2h6.4v6.4h-6.4Z",
    "triangle-up": "M0-3.8L4 3.4H-4Z",
    "triangle-down": "M0 3.8L4-3.4H-4Z",
    "triangle-right": "M3.8 0L-3.4 4V-4Z",
    "triangle-left": "M-3.8 0L3.4 4V-4Z",
    "diamond": "M0-4.4L3.4 0L0 4.4L-3.4 0Z",
    "cross": "M-4-1.4h2.6v-2.6h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6Z",
}


def _drawings(source: Source) -> Iterable[tuple[str, str]]:
    if source.examples:
        yield "figure1", pixels.panels(source.examples[: sections.SHOWN_EXAMPLES])
    panels = sections.curve_panels(source)
    if panels:
        parts = [
            _curve(
                source,
                records,
                charts.FILE,
                380,
                260,
                title=f"{words.attack_label(attack)}, {protocol} protocol",
            )
            for attack, protocol, records in panels
        ]
        yield "figure2", svg.draw(charts.together(parts, charts.FILE, columns=2))
    for number, kind in enumerate(sections.calibration_panels(source)[:1], start=3):
        small = [
            charts.reliability(records, look, charts.FILE, side=150, title=look.label)
            for recipe, look in source.looks.items()
            if (records := [c for c in source.calibration if c.recipe == recipe and _kind(c) == kind])
        ]
        yield f"figure{number}", svg.draw(charts.together(small, charts.FILE))
    matrix = sections.transfer(source)
    if matrix["records"]:
        yield (
            "transfer",
            svg.draw(charts.heat(matrix["records"], matrix["names"], matrix["defenders"], charts.FILE)),
        )
    strengths = [
        charts.strength(
            g["records"], g["floor"], source.head.n_test, charts.FILE, title=f"{g['label']}, {_at(g['eps'])}"
        )
        for g in sections.learned_attacks(source)
    ]
    if strengths:
        yield "learned", svg.draw(charts.together(strengths, charts.FILE))
    dots = [
        _dot(row["label"], series, row["records"][metric])
        for row in sections.exploitability(source)
        for metric, series in (("in_game", "in the game"), ("fresh", "fresh adversaries"))
        if row["records"][metric]
    ]
    if dots:
        yield "exploitability", svg.draw(charts.marks(dots, charts.FILE, axis="accuracy, %"))
    dots = [_dot(r["record"].reading, "accuracy", r["summary"]) for r in sections.readings(source) if r["summary"]]
    if dots:
        drawing = charts.marks(dots, charts.FILE, axis="vanilla under FGSM, %", paper=paper_value(source))
        yield "readings", svg.draw(drawing)
    lines = [
        charts.training(epochs, charts.FILE, title=look.label)
        for recipe, look in source.looks.items()
        if (epochs := [e for e in source.epochs if e.recipe == recipe])
    ]
    if lines:
        yield "training", svg.draw(charts.together(lines, charts.FILE))


def _write_tables(source: Source) -> None:
    """The numbers behind each figure and table as CSV files."""
    at = (None, 0.0, source.head.eps)
    shown = [r for r in source.summaries("accuracy") if r.eps in at]
    tables = {
        "headline": (_SUMMARY, _flats(shown) + _metrics(source, "in_game", "fresh", "worst_case")),
        "figure1": (_EXAMPLE, _flats(source.examples)),
        "figure2": (_SUMMARY, _metrics(source, "accuracy", "area")),
        "figure3": (_BIN, [{**_flat(c), **_flat(b)} for c in source.calibration for b in c.bins]),
        "calibration": (_SUMMARY, _metrics(source, "ece", "adaptive_ece", "brier", "nll")),
        "transfer": (_SUMMARY, _metrics(source, "transfer")),
        "exploitability": (_SUMMARY, _metrics(source, "in_game", "fresh", "gap")),
        "audit": (_SUMMARY, _metrics(source, "worst_case")),
        "payoffs": _columns(source.payoffs),
        "responses": _columns(source.responses),
        "learned": _columns(source.learned),
        "readings": (_SUMMARY, _metrics(source, "reading")),
        "comparisons": _columns(source.comparisons),
        "claims": _columns(source.claims),
        "sweeps": _columns(source.sweeps),
        "training": _columns(source.epochs),
    }
    for name, (columns, rows) in tables.items():
        if rows:
            svg.save_csv(source.paths.figures, name, columns, rows)


def _metrics(source: Source, *metrics: str) -> Rows:
    return [_flat(r) for metric in metrics for r in source.summaries(metric)]


def _columns(records: Sequence[Any]) -> tuple[tuple[str, ...], Rows]:
    return (tuple(f.name for f in dataclasses.fields(records[0])) if records else ()), _flats(records)


def _flats(records: Sequence[Any]) -> Rows:
    return [_flat(record) for record in records]


def _flat(record: Any) -> dict[str, Any]:
    row = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    return {key: " ".join(map(str, v)) if isinstance(v, tuple) else v for key, v in row.items()}


def _curve(
    source: Source,
    records: list[SummaryRecord],
    theme: charts.Theme,
    width: int,
    height: int,
    title: str = "",
) -> Any:
    return charts.curves(
        records, source.looks, theme, bound=source.head.majority_rate, width=width, height=height, title=title
    )


def _dot(name: str, series: str, record: SummaryRecord) -> dict[str, Any]:
    bounds = {"low": record.low, "high": record.high}
    shown = {key: None if value is None else 100 * value for key, value in bounds.items()}
    return {"name": name, "series": series, "value": 100 * record.mean, **shown}


def _kind(record: Any) -> tuple[str, float | None, str]:
    return record.attack, record.eps, record.protocol


def _at(eps: float | None) -> str:
    return "pooled over eps" if eps is None else f"eps {words.eps(eps)}"


def _tab(attack: str, protocol: str) -> str:
    text = words.attack_label(attack)
    return text[:1].upper() + text[1:] + (", paper's protocol" if protocol == "paper" else "")


def _curve_alt(attack: str, protocol: str, records: list[SummaryRecord]) -> str:
    last = max(r.eps or 0.0 for r in records)
    names = words.listing([words.label(r) for r in dict.fromkeys(r.recipe for r in records)])
    return (
        f"Accuracy over eps from 0 to {words.eps(last)} under {words.attack_label(attack)}, "
        f"{words.PROTOCOLS[protocol]}, for {names}; the numbers stand in the table below"
    )


def _reliability_alt(look: words.Look, where: str) -> str:
    return f"Reliability diagram of {look.label}, {where}: accuracy over confidence, one line a seed"


def _strength_alt(group: dict[str, Any]) -> str:
    return (
        f"Accuracy that the learned attack, PGD and Auto-PGD leave of {group['label']} at {_at(group['eps'])}, over passes an "
        "image; the numbers stand in the table below"
    )


def _training_alt(look: words.Look) -> str:
    return f"Training of {look.label}: loss and learning rate of both players over epochs, a line a seed"
