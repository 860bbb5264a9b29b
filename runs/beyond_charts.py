"""The figures of the docs.

What failed and how it learned, robustness over radii, what each part is worth, the learned attack beside PGD.

python runs/beyond_charts.py results/beyond-mnist results/paper-mnist
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import altair as alt
from beyond_pages import confirmed_rows, on_fewer

from sparring.evaluation.statistics import mean_interval
from sparring.records import (
    BestResponseRecord,
    EpochRecord,
    LearnedAttackRecord,
    OutPaths,
    SummaryRecord,
    WorstCaseRecord,
    read,
)
from sparring.report import words

Layered = alt.LayerChart | alt.FacetChart  # what altair says that layers become; none of them is a facet here
SHOWN = {  # recipe -> legend, colour
    "gan_recurrent_long": ("recurrent game, long", "#00825f"),
    "pgd_long": ("PGD-7, long", "#a8347f"),
    "gan_recurrent": ("recurrent game", "#38c99b"),
    "pgd_drawn": ("PGD-7, radii drawn", "#ea8cc4"),
    "fgsm_drawn": ("FGSM, radii drawn", "#ff9152"),
    "fgsm_tenth": ("FGSM at 0.1", "#d55e00"),
    "gan_tanh": ("the paper's tanh game", "#0067a5"),
}
GAMES = {  # of the first figure
    "gan_tanh": "the paper's tanh game",
    "gan_scaled": "its scaled game",
    "gan_tanh_init": "initialised, tanh",
    "gan_scaled_init": "initialised, scaled",
    "gan_recurrent": "the recurrent game",
}
OPPONENTS = {"its own adversary": "#0067a5", "fresh adversaries": "#ff9152", "worst case": "#a8347f"}
PARTS = {  # recipe -> what is left out of the whole game, or stands alone
    "gan_recurrent": "the whole game",
    "gan_recurrent_all": "two queries at every radius",
    "gan_recurrent_once": "one query at every radius",
    "gan_recurrent_fixed": "without learning",
    "gan_recurrent_cold": "without the warm start",
    "gan_recurrent_tenth": "without drawn radii",
    "pgd2_drawn": "drawn radii alone (PGD-2)",
    "warm_alone": "the warm start alone",
    "learning_alone": "learning alone",
    "pgd2_tenth": "none of them (PGD-2 at 0.1)",
}
LEARNING = {"gan_tanh": "the paper's tanh game, radius 0.1", "gan_recurrent": "the recurrent game, radii up to 0.3"}
IMAGES = {"clean": ("#38c99b", 5.0), "perturbed by its adversary": ("#a8347f", 1.8)}  # colour, width of the line
RADII = {0.1: "#38c99b", 0.2: "#0067a5", 0.3: "#a8347f"}
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


def robustness(rows: list[dict[str, Any]]) -> Layered:
    """Images that survive every attack, over the radius."""
    names = [name for name, _ in SHOWN.values() if any(row["training"] == name for row in rows)]
    colours = [colour for name, colour in SHOWN.values() if name in names]
    ticks = alt.Axis(values=sorted({row["eps"] for row in rows}), format="~g", labelFlush=False, gridColor="#dfe3e8")
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("eps:Q", title="radius of the attack (eps)", axis=ticks),
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


def failure(results: Path, paper: Path) -> Layered:
    """Games at 0.1: what their own adversaries leave, what fresh ones do, and the worst case over every attack."""
    rows, eps = [], 0.1
    summary = [s for name in ("summary", "robust") for s in read(OutPaths(paper).records(name), SummaryRecord)]
    metrics = dict(zip(("in_game", "fresh", "worst_case"), OPPONENTS, strict=True))
    for s in summary:
        if s.recipe in GAMES and s.metric in metrics and (s.eps, s.protocol) == (eps, "sound"):
            rows.append(_mark(GAMES[s.recipe], metrics[s.metric], s.mean, s.low, s.high))
    own = [
        r for r in read(OutPaths(results).records("responses"), BestResponseRecord)
        if (r.recipe, r.kind, r.eps) == ("gan_recurrent", "recurrent", eps)
    ]  # fmt: skip
    worst = [r.worst / r.n for r in confirmed_rows(results) if (r.recipe, r.eps) == ("gan_recurrent", eps) and r.worst]
    found = ([r.in_game for r in own if r.in_game is not None], [r.worst for r in own], worst)
    for opponent, values in zip(OPPONENTS, found, strict=True):
        mean, interval = mean_interval(values)
        rows.append(_mark(GAMES["gan_recurrent"], opponent, mean, interval.low, interval.high))
    return _dots(rows, list(GAMES.values()), OPPONENTS, "images that survive at 0.1", lanes=True)


def learning(results: Path, paper: Path) -> alt.FacetChart:
    """Accuracy on the training images as they were met, clean and perturbed, by epoch: a panel a game, means over seeds.

    The perturbed images' thin line is drawn over the clean ones' wide one, so both show where they are one.
    """
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for folder, recipe in zip((paper, results), LEARNING, strict=True):
        for r in read(OutPaths(folder).records("epochs"), EpochRecord):
            if (r.recipe, r.phase) == (recipe, "main"):
                for images, accuracy in zip(IMAGES, (r.clean_accuracy, r.perturbed_accuracy), strict=True):
                    if accuracy is not None:
                        found[LEARNING[recipe], images, r.epoch].append(accuracy)
    rows: list[dict[str, Any]] = [
        {"game": game, "images": images, "epoch": epoch, "accuracy": mean_interval(values)[0]}
        for (game, images, epoch), values in found.items()
    ]
    names, (colours, widths) = list(IMAGES), zip(*IMAGES.values(), strict=True)
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolSize=400, labelLimit=240)
    ticks = alt.Axis(values=[1, *range(10, max(row["epoch"] for row in rows) + 1, 10)], grid=False, labelFlush=False)
    lines = alt.Chart(alt.Data(values=rows), mark="line", width=270, height=220).encode(
        x=alt.X("epoch:Q", title="epoch", axis=ticks, scale=alt.Scale(nice=False, zero=False)),
        y=alt.Y("accuracy:Q", title="accuracy while training", axis=AXIS, scale=alt.Scale(domain=[0.6, 1])),
        color=alt.Color("images:N", legend=legend, scale=alt.Scale(domain=names, range=list(colours))),
        strokeWidth=alt.StrokeWidth("images:N", legend=legend, scale=alt.Scale(domain=names, range=list(widths))),
    )
    header = alt.Header(title=None, labelFontSize=12, labelFontWeight="bold", labelPadding=6)
    game = alt.Column("game:N", sort=list(LEARNING.values()), header=header)
    panels: alt.FacetChart = lines.facet(column=game, spacing=24).resolve_scale(x="independent")
    return panels


def parts(results: Path) -> Layered:
    """The whole game, each of its parts left out, and each alone, at three radii, on the images that all of them met."""
    rows, worst = [], read(OutPaths(results).records("worst"), WorstCaseRecord)
    few = min(r.n for r in worst)
    grid = sorted({r.eps for r in worst})
    for recipe, title in PARTS.items():
        for eps in RADII:
            values = [r.accuracy for r in worst if (r.recipe, r.eps) == (recipe, eps)]
            if some := on_fewer(results, worst, recipe, few):
                values = some[grid.index(eps)]
            mean, interval = mean_interval(values)
            rows.append(_mark(title, f"eps {eps:g}", mean, interval.low, interval.high))
    colours = {f"eps {eps:g}": colour for eps, colour in RADII.items()}
    return _dots(rows, list(PARTS.values()), colours, f"of {few:,} images, those that survive every attack")


def _mark(row: str, what: str, mean: float, low: float | None, high: float | None) -> dict[str, Any]:
    ends = {"low": mean if low is None else max(0.0, low), "high": mean if high is None else min(1.0, high)}
    return {"row": row, "what": what, "left": mean, "said": f"{100 * mean:.1f}", **ends}


def _dots(
    rows: list[dict[str, Any]], names: list[str], colours: dict[str, str], title: str, *, lanes: bool = False
) -> Layered:
    """Dots with intervals for each name, each beside its number: in one line, or one under another, in lanes."""
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y(
            "row:N",
            title=None,
            sort=names,
            axis=alt.Axis(labelLimit=240, grid=True, gridColor="#eef0f3", ticks=False, labelPadding=10),
        ),
        color=alt.Color(
            "what:N",
            title=None,
            sort=list(colours),
            scale=scale,
            legend=alt.Legend(orient="top", symbolSize=90, symbolOpacity=1),
        ),
    )
    rule = base.mark_rule(strokeWidth=2, opacity=0.6).encode(
        x=alt.X("low:Q", title=title, axis=AXIS, scale=alt.Scale(domain=[0, 1])), x2="high:Q"
    )
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(x="left:Q")
    texts = base.encode(color=alt.value("#14181f"), text="said:N")  # on the side where there is room
    left = texts.transform_filter("datum.left > 0.5").mark_text(align="right", dx=-8, fontSize=10).encode(x="low:Q")
    right = texts.transform_filter("datum.left <= 0.5").mark_text(align="left", dx=8, fontSize=10).encode(x="high:Q")
    layers = [rule, dots, left, right]
    if lanes:
        layers = [layer.encode(yOffset=alt.YOffset("what:N", sort=list(colours))) for layer in layers]
    return alt.layer(*layers).properties(width=420, height=(44 if lanes else 26) * len(names))


def strength(records: list[LearnedAttackRecord], *, cost: bool) -> alt.VConcatChart:
    """What attacks leave of defenders that the learned one has not seen: with as many gradients, or at their whole cost.

    A row a radius, a small panel a defender, each on a scale of its own. Dotted rules: what the standard suite leaves.
    """
    rows = []
    for eps in sorted({r.eps for r in records}):
        panels = list[Layered]()
        for recipe in dict.fromkeys(r.recipe for r in records):
            own = [r for r in records if (r.eps, r.recipe) == (eps, recipe)]
            panels.append(_strength(own, f"{recipe}, eps {eps:g}", cost=cost, first=not panels))
        rows.append(alt.hconcat(*panels, spacing=12))
    return alt.vconcat(*rows, spacing=12)


def _strength(own: list[LearnedAttackRecord], title: str, *, cost: bool, first: bool) -> Layered:
    """One defender at one radius."""
    rows: list[dict[str, Any]] = [
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
    failure(results, paper).save(figures / "failure.svg")
    learning(results, paper).save(figures / "learning.svg")
    robustness(rows_of(results, paper)).save(figures / "robustness.svg")
    parts(results).save(figures / "parts.svg")
    if attacks := read(OutPaths(results).records("attack"), LearnedAttackRecord):
        strength(attacks, cost=False).save(figures / "attack.svg")
        strength(attacks, cost=True).save(figures / "attack-cost.svg")


if __name__ == "__main__":
    main()
