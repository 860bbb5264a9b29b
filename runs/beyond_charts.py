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
    "gan_recurrent": ("recurrent game", "#00825f"),
    "pgd_drawn": ("PGD-7, radii drawn", "#a8347f"),
    "pgd2_drawn": ("PGD-2, radii drawn", "#ea8cc4"),
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


def strength(records: list[LearnedAttackRecord], *, cost: bool) -> alt.HConcatChart:
    """What attacks leave of defenders that the learned one has not seen: with as many gradients, or at their whole cost.

    Dotted rules: what the standard suite leaves of each.
    """
    panels = []
    for eps in sorted({r.eps for r in records}):
        rows = [
            {
                "attack": words.learned_attack(r.attack),
                "queries": r.queries,
                "passes": words.passes(r, ATTACKED),
                "left": r.accuracy,
                "on": r.recipe,
            }
            for r in records
            if r.eps == eps and r.queries and words.learned_attack(r.attack) in words.DRAWN_ATTACKS
        ]
        floors = [{"floor": r.accuracy, "on": r.recipe} for r in records if r.eps == eps and not r.queries]
        asked = alt.X("queries:O", title="gradients", axis=alt.Axis(labelAngle=0))
        spent = alt.X("passes:Q", title="passes an image", scale=alt.Scale(type="log"))
        chart = alt.Chart(alt.Data(values=rows)).encode(
            x=spent if cost else asked,
            y=alt.Y("left:Q", title=f"accuracy left, eps {eps:g}", axis=AXIS, scale=alt.Scale(zero=False)),
            color=alt.Color("on:N", title="defender"),
        )
        stroke = alt.Legend(symbolType="stroke", symbolStrokeColor="#444444", symbolSize=400)
        lines = chart.mark_line().encode(strokeDash=alt.StrokeDash("attack:N", title="attack", legend=stroke))
        points = chart.mark_point(filled=True, opacity=1).encode(detail="attack:N")
        rules = alt.Chart(alt.Data(values=floors)).mark_rule(strokeDash=[1, 3], opacity=0.8)
        rules = rules.encode(
            y=alt.Y("floor:Q", title=f"accuracy left, eps {eps:g}"), color=alt.Color("on:N", title="defender")
        )
        panels.append(alt.layer(rules, lines, points).properties(width=260, height=260))
    return alt.hconcat(*panels)


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
