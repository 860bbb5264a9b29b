"""The figures of docs/game.md: robustness over radii, and the learned attack beside PGD, over its gradients and over its cost.

python runs/beyond_charts.py results/beyond-mnist results/paper-mnist
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import altair as alt

from sparring.evaluation.statistics import mean_interval
from sparring.records import LearnedAttackRecord, OutPaths, SummaryRecord, WorstCaseRecord, read
from sparring.report import words

SHOWN = {  # recipe -> legend, colour
    "gan_recurrent_long": ("recurrent game, long", "#00825f"),
    "pgd_long": ("PGD-7, long", "#a8347f"),
    "gan_recurrent": ("recurrent game", "#38c99b"),
    "pgd_drawn": ("PGD-7, radii drawn", "#ea8cc4"),
    "fgsm_drawn": ("FGSM, radii drawn", "#ff9152"),
    "fgsm_tenth": ("FGSM at 0.1", "#d55e00"),
    "gan_tanh": ("the paper's tanh game", "#0067a5"),
}
ATTACKED = 10_000  # images over which the learned attack's training is spread
AXIS = alt.Axis(format="%", grid=True, gridColor="#dfe3e8")


def rows_of(results: Path, paper: Path) -> list[dict[str, Any]]:
    """Means over seeds with their t intervals, at every radius."""
    values: dict[tuple[str, float], list[float]] = defaultdict(list)
    for r in read(OutPaths(results).records("worst"), WorstCaseRecord):
        values[r.recipe, r.eps].append(r.accuracy)
    rows = []
    for (recipe, eps), found in values.items():
        if recipe in SHOWN:
            mean, interval = mean_interval(found)
            rows.append(
                {"training": SHOWN[recipe][0], "eps": eps, "left": mean, "low": interval.low, "high": interval.high}
            )
    for s in read(OutPaths(paper).records("robust"), SummaryRecord):
        if s.recipe == "gan_tanh" and s.metric == "worst_case":
            rows.append({"training": SHOWN["gan_tanh"][0], "eps": s.eps, "left": s.mean, "low": s.low, "high": s.high})
    return rows


def robustness(rows: list[dict[str, Any]]) -> alt.LayerChart:
    """Images that survive every attack, over the radius."""
    names = [name for name, _ in SHOWN.values() if any(row["training"] == name for row in rows)]
    colours = [colour for name, colour in SHOWN.values() if name in names]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("eps:Q", title="radius of the attack (eps)"),
        color=alt.Color(
            "training:N",
            title=None,
            legend=alt.Legend(symbolOpacity=1),
            sort=names,
            scale=alt.Scale(domain=names, range=colours),
        ),
    )
    y = alt.Y("left:Q", title="images that survive every attack", axis=AXIS, scale=alt.Scale(domain=[0, 1]))
    band = base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", title=""), y2="high:Q")
    return alt.layer(band, base.mark_line(point=True).encode(y=y)).properties(width=420, height=280)


def strength(records: list[LearnedAttackRecord], *, cost: bool) -> alt.VConcatChart:
    """What attacks leave of defenders that the learned one has not seen: with as many gradients, or at their whole cost.

    A row a radius, a small panel a defender, each on a scale of its own. Dotted rules: what the standard suite leaves.
    """
    rows = []
    for eps in sorted({r.eps for r in records}):
        panels = []
        for recipe in dict.fromkeys(r.recipe for r in records):
            own = [r for r in records if (r.eps, r.recipe) == (eps, recipe)]
            panels.append(_strength(own, f"{recipe}, eps {eps:g}", cost=cost, first=not panels))
        rows.append(alt.hconcat(*panels, spacing=12))
    return alt.vconcat(*rows, spacing=12)


def _strength(own: list[LearnedAttackRecord], title: str, *, cost: bool, first: bool) -> alt.LayerChart:
    """One defender at one radius."""
    rows = [
        {
            "attack": words.learned_attack(r.attack),
            "queries": r.queries,
            "passes": words.passes(r, ATTACKED),
            "left": r.accuracy,
        }
        for r in own
        if r.queries and words.learned_attack(r.attack) in words.DRAWN_ATTACKS
    ]
    floor = [{"floor": r.accuracy} for r in own if r.attack == words.FLOOR]
    log = alt.Scale(type="log")
    if cost:
        ticks = alt.Axis(values=[1, 10, 100, 1000, 10000], grid=True)
        x = alt.X("passes:Q", title="passes an image", scale=log, axis=ticks)
    else:
        x = alt.X("queries:Q", title="gradients", scale=log, axis=alt.Axis(values=[1, 2, 5, 10, 20, 40], grid=False))
    left = alt.Y(
        "left:Q",
        title="accuracy left" if first else None,
        axis=alt.Axis(
            format=".1%" if max(row["left"] for row in rows) > 0.9 else "%", tickCount=5, gridColor="#dfe3e8"
        ),
        scale=alt.Scale(zero=False),
    )
    names = list(words.DRAWN_ATTACKS)
    colours = alt.Scale(domain=names, range=["#00825f", "#00825f", "#a8347f", "#0067a5"])
    dashes = alt.Scale(domain=names, range=[[5, 3], [1, 0], [2, 2], [1, 0]])
    legend = alt.Legend(title=None, orient="bottom", symbolType="stroke", symbolSize=400)
    chart = alt.Chart(alt.Data(values=rows), title=alt.Title(title, fontSize=11)).encode(x=x, y=left)
    chart = chart.encode(color=alt.Color("attack:N", scale=colours, legend=legend))
    rule = alt.Chart(alt.Data(values=floor)).mark_rule(strokeDash=[1, 3], color="#444444").encode(y="floor:Q")
    dash = alt.StrokeDash("attack:N", scale=dashes, legend=legend)
    line = chart.mark_line(strokeWidth=1.8).encode(strokeDash=dash)
    return alt.layer(rule, line, chart.mark_point(filled=True, opacity=1, size=24)).properties(width=150, height=130)


def main() -> None:
    results, paper = map(Path, sys.argv[1:])
    figures = results / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    robustness(rows_of(results, paper)).save(figures / "robustness.svg")
    if attacks := read(OutPaths(results).records("attack"), LearnedAttackRecord):
        strength(attacks, cost=False).save(figures / "attack.svg")
        strength(attacks, cost=True).save(figures / "attack-cost.svg")


if __name__ == "__main__":
    main()
