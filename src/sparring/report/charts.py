"""Records to Altair charts.

A `Theme` says in which colours: real ones for files, or marks that the page's CSS replaces.

No chart here aggregates: every point is a field of a record.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from sparring.records import CalibrationRecord, EpochRecord, LearnedAttackRecord, SummaryRecord
from sparring.report import words

THIN = 30  # a bin of fewer images is drawn hollow
_THOUSANDS = "datum.value >= 1000 ? datum.value / 1000 + 'k' : datum.value"
Rows = dict[str, list[dict[str, Any]]]  # the rows of a chart, by name


class Chart(NamedTuple):
    """An Altair chart and, by name, its rows: apart, because altair copies whatever a chart holds."""

    plot: Any
    data: Rows
    theme: "Theme"

    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification."""
        return {**self.plot.to_dict(validate=False), "datasets": self.data, "config": _config(self.theme)}


@dataclass(frozen=True)
class Theme:
    """The colours of a chart by role, and whether it carries its own legend, titles and background."""

    slots: tuple[str, ...]
    ink: str
    muted: str
    rule: str
    standalone: bool

    def colour(self, look: words.Look) -> str:
        return self.slots[look.slot]


FILE = Theme(tuple(light for light, _ in words.PALETTE), "#14181f", "#5a6472", "#dfe3e8", True)
# each role is a colour that no chart draws; svg.inline puts a CSS variable in its place
PAGE = Theme(tuple(f"#fe00{k:02x}" for k in range(len(words.PALETTE))), "#fe0130", "#fe0131", "#fe0132", False)
VARIABLES = {
    **{colour: f"var(--c{k})" for k, colour in enumerate(PAGE.slots)},
    PAGE.ink: "var(--ink)",
    PAGE.muted: "var(--muted)",
    PAGE.rule: "var(--rule)",
}


def curves(
    records: Sequence[SummaryRecord],
    looks: Mapping[str, words.Look],
    theme: Theme,
    *,
    bound: float | None,
    width: int,
    height: int,
    title: str = "",
) -> Chart:
    """Figure 2 for one attack: accuracy over eps, a line and a band a recipe, and the grey-image bound."""
    import altair as alt

    data: Rows = {}
    rows = [
        {
            "recipe": looks[r.recipe].label,
            "eps": r.eps,
            "mean": 100 * r.mean,
            "low": None if r.low is None else 100 * max(r.low, 0.0),
            "high": None if r.high is None else 100 * min(r.high, 1.0),
            "text": f"{looks[r.recipe].label}, eps {words.eps(r.eps)}: {words.percent(r.mean)} % "
            f"{words.interval(r.low, r.high)} ({words.seeds(r.n_seeds)})",
        }
        for r in records
    ]
    used = [looks[recipe] for recipe in looks if any(r.recipe == recipe for r in records)]
    names = [look.label for look in used]
    legend = alt.Legend(title=None, symbolStrokeWidth=0, symbolSize=60, symbolOpacity=1) if theme.standalone else None
    x = alt.X("eps:Q", title="eps", scale=alt.Scale(nice=False, zero=True), axis=alt.Axis(tickCount=6, grid=False))
    y = alt.Y("mean:Q", title="accuracy, %", scale=alt.Scale(domain=[0, 100]), axis=alt.Axis(tickCount=5))
    colour = alt.Color("recipe:N", scale=alt.Scale(domain=names, range=[theme.colour(k) for k in used]), legend=legend)
    dash = alt.StrokeDash(
        "recipe:N", scale=alt.Scale(domain=names, range=[list(k.dash) or [1, 0] for k in used]), legend=legend
    )
    shape = alt.Shape("recipe:N", scale=alt.Scale(domain=names, range=[k.shape for k in used]), legend=legend)
    base = _base(data, rows)
    layers = []
    if any(row["low"] is not None for row in rows):
        layers.append(base.mark_area(opacity=0.16).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour))
    layers.append(base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash))
    layers.append(
        base.mark_point(filled=True, size=42, opacity=1).encode(
            x=x, y=y, color=colour, shape=shape, description="text:N"
        )
    )
    top = max((r.eps or 0.0 for r in records), default=0.0)
    if bound is not None and top > 0.5:
        layers.append(_bound(data, bound, top, theme))
    return Chart(_finish(alt.layer(*layers), theme, width, height, title), data, theme)


def reliability(
    records: Sequence[CalibrationRecord], look: words.Look, theme: Theme, *, side: int = 170, title: str = ""
) -> Chart:
    """Figure 3 for one recipe: accuracy over confidence, a line and band a seed, the counts below."""
    rows = [_bin_row(record, b) for record in records for b in record.bins]
    ends = [{"confidence": 0, "accuracy": 0}, {"confidence": 100, "accuracy": 100}]
    name = f"bins-{look.slot}-{title}"
    plot = _reliability(name, theme.colour(look), max(len(records), 1), theme, side, title)
    return Chart(plot, {name: rows, "diagonal": ends}, theme)


def training(records: Sequence[EpochRecord], theme: Theme, *, width: int = 190, title: str = "") -> Chart:
    """Loss and learning rate of both players over the epochs of one recipe, one thin line a seed."""
    import altair as alt

    data: Rows = {}
    first = _starts(records)
    rows = [
        {
            "seed": r.seed,
            "player": player,
            "epoch": r.epoch - first[r.seed] if r.phase == "adversary" else r.epoch,
            "loss": loss,
            "lr": lr,
            "line": f"{player} {r.seed} {r.phase}",
        }
        for r in records
        for player, loss, lr in (
            ("defender", r.defender_loss, r.defender_lr),
            ("adversary", r.adversary_loss, r.adversary_lr),
        )
        if loss is not None or lr is not None
    ]
    players = ["defender", "adversary"]
    colour = alt.Color(
        "player:N",
        scale=alt.Scale(domain=players, range=[theme.slots[4], theme.slots[2]]),
        legend=alt.Legend(title=None) if theme.standalone else None,
    )
    dash = alt.StrokeDash("player:N", scale=alt.Scale(domain=players, range=[[1, 0], [4, 2]]), legend=None)
    epoch = alt.Scale(nice=False, zero=False)
    base = _base(data, rows)

    def strip(name: str, text: str, height: int, scale: Any, ticks: int, labels: bool) -> Any:
        axis = alt.Axis(grid=False, labels=labels, tickCount=5, format="d")
        return (
            base.transform_filter(f"isValid(datum.{name})")
            .mark_line(strokeWidth=1.1, opacity=0.8, interpolate="linear" if name == "loss" else "step")
            .encode(
                x=alt.X("epoch:Q", title="epoch" if labels else None, scale=epoch, axis=axis),
                y=alt.Y(
                    f"{name}:Q",
                    title=text,
                    scale=scale,
                    axis=alt.Axis(tickCount=ticks, format="~g", grid=name == "loss"),
                ),
                color=colour,
                strokeDash=dash,
                detail="line:N",
            )
            .properties(width=width, height=height)
        )

    loss = strip("loss", "loss, nats", 110, alt.Scale(zero=True), 4, False)
    rate = strip("lr", "learning rate", 52, alt.Scale(type="log"), 3, True)
    chart = alt.vconcat(loss, rate, spacing=8)
    return Chart(_titled(chart, theme, title), data, theme)


def strength(
    records: Sequence[LearnedAttackRecord],
    floor: LearnedAttackRecord | None,
    spread: int,
    theme: Theme,
    *,
    title: str = "",
) -> Chart:
    """What attacks leave of one defender over their cost an image, in forward and backward passes, on a logarithmic scale.

    A learned attack's training is spread over `spread` images; PGD is the best of PGD_SETTINGS, of which each is paid for. The
    floor, what many attacks leave whatever they cost, is a rule.
    """
    import altair as alt

    data: Rows = {}
    rows = [
        {
            "attack": words.learned_attack(r.attack),
            "passes": words.passes(r, spread),
            "left": 100 * r.accuracy,
            "low": 100 * r.low,
            "high": 100 * r.high,
            "text": f"{words.learned_attack(r.attack)}, {r.queries} gradients: {words.percent(r.accuracy)} % "
            f"{words.interval(r.low, r.high)}",
        }
        for r in records
        if words.learned_attack(r.attack) in words.DRAWN_ATTACKS
    ]
    names = list(words.DRAWN_ATTACKS)
    legend = alt.Legend(title=None, symbolOpacity=1) if theme.standalone else None
    colours = [theme.slots[k] for k in (2, 2, 4, 6)]
    dashes = [[1, 0], [7, 2], [4, 2], [1, 2]]
    dash = alt.StrokeDash("attack:N", scale=alt.Scale(domain=names, range=dashes), legend=legend)
    axis = alt.Axis(grid=False, values=[1, 3, 10, 30, 100, 300, 1000, 3000, 10000])
    base = _base(data, rows).encode(
        x=alt.X("passes:Q", title="passes an image", scale=alt.Scale(type="log"), axis=axis),
        color=alt.Color("attack:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
    )
    left = alt.Y("left:Q", title="accuracy left, %", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    layers = [
        base.mark_rule(opacity=0.45).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=left, strokeDash=dash),
        base.mark_point(filled=True, size=34, opacity=1).encode(y=left, description="text:N"),
    ]
    if floor is not None:
        said = f"{words.FLOOR}: {words.percent(floor.accuracy)} % {words.interval(floor.low, floor.high)}"
        under = _base(data, [{"floor": 100 * floor.accuracy, "text": said}])
        rule = under.mark_rule(color=theme.muted, strokeDash=[2, 3])
        layers.insert(0, rule.encode(y=alt.Y("floor:Q", title="accuracy left, %"), description="text:N"))
    return Chart(_finish(alt.layer(*layers), theme, 190, 150, title), data, theme)


def heat(records: Sequence[SummaryRecord], columns: Sequence[str], rows: Sequence[str], theme: Theme) -> Chart:
    """The transfer matrix as a file: a row a defender, a column an adversary, accuracies in the cells."""
    import altair as alt

    data: Rows = {}
    values = [
        {
            "defender": words.label(r.recipe),
            "adversary": words.attack_label(r.attack),
            "accuracy": 100 * r.mean,
            "text": words.percent(r.mean),
        }
        for r in records
    ]
    base = _base(data, values).encode(
        x=alt.X(
            "adversary:N",
            sort=[words.attack_label(c) for c in columns],
            title="adversary",
            axis=alt.Axis(orient="top", labelAngle=-35),
        ),
        y=alt.Y("defender:N", sort=[words.label(r) for r in rows], title="defender"),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("accuracy:Q", scale=alt.Scale(domain=[0, 100], range=["#0b4f8a", "#ffffff"]), legend=None)
    )
    text = base.mark_text(fontSize=11).encode(
        text="text:N", color=alt.condition("datum.accuracy < 50", alt.value("#ffffff"), alt.value(theme.ink))
    )
    size = 52 * max(len(columns), 1), 30 * max(len(rows), 1)
    return Chart(_finish(alt.layer(cells, text), theme, *size, ""), data, theme)


def marks(rows: Sequence[Mapping[str, Any]], theme: Theme, *, axis: str, paper: float | None = None) -> Chart:
    """A dot plot as a file: rows of name, series, value, low, high, %; a rule at the paper's value."""
    import altair as alt

    data: Rows = {}
    names = list(dict.fromkeys(row["name"] for row in rows))
    series = list(dict.fromkeys(row["series"] for row in rows))
    base = _base(data, [dict(row) for row in rows])
    scale = alt.Scale(domain=[0, 100])
    y = alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=360))
    legend = alt.Legend(title=None) if len(series) > 1 else None
    colour = alt.Color(
        "series:N", scale=alt.Scale(domain=series, range=[*theme.slots[4::-2], *theme.slots]), legend=legend
    )
    layers = [
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale, title=axis), x2="high:Q", y=y, color=colour),
        base.mark_point(filled=True, size=60, opacity=1).encode(
            x=alt.X("value:Q", scale=scale, title=axis),
            y=y,
            color=colour,
            shape=alt.Shape("series:N", scale=alt.Scale(domain=series), legend=legend),
        ),
    ]
    if paper is not None:
        rule = _base(data, [{"value": paper}]).mark_rule(color=theme.ink, strokeDash=[3, 3])
        layers.append(rule.encode(x="value:Q"))
    return Chart(_finish(alt.layer(*layers), theme, 420, 30 * len(names), ""), data, theme)


def together(charts: Sequence[Chart], theme: Theme, columns: int = 4) -> Chart:
    """Several standalone charts as one file."""
    import altair as alt

    data = {name: rows for chart in charts for name, rows in chart.data.items()}
    return Chart(alt.concat(*(chart.plot for chart in charts), columns=columns, spacing=24), data, theme)


@cache
def _reliability(name: str, colour: str, seeds: int, theme: Theme, side: int, title: str) -> Any:
    """The chart without its rows, the same for every attack; making it takes longer than drawing it."""
    import altair as alt

    scale = alt.Scale(domain=[0, 100])
    ticks = [0, 50, 100]
    size = 22 if seeds <= 4 else 12
    bare = alt.Axis(values=ticks, grid=False, labels=False)
    x = alt.X("confidence:Q", scale=scale, title=None, axis=bare)
    y = alt.Y("accuracy:Q", scale=scale, title="accuracy, %", axis=alt.Axis(values=ticks))
    bins = alt.Chart(alt.NamedData(name=name))
    filled = bins.transform_filter("isValid(datum.accuracy)")
    diagonal = alt.Chart(alt.NamedData(name="diagonal")).mark_line(color=theme.muted, strokeDash=[3, 3], strokeWidth=1)
    band = filled.mark_area(color=colour, opacity=max(0.3 / seeds, 0.06))
    line = filled.mark_line(color=colour, strokeWidth=1.2 if seeds <= 4 else 0.7)
    thick = filled.transform_filter(f"datum.count >= {THIN}").mark_point(
        filled=True, color=colour, size=size, opacity=0.9
    )
    thin = filled.transform_filter(f"datum.count < {THIN}").mark_point(
        filled=False, color=colour, size=size + 4, strokeWidth=1, opacity=0.9
    )
    above = alt.layer(
        diagonal.encode(x=x, y=y),
        band.encode(x=x, y=alt.Y("low:Q"), y2="high:Q", detail="seed:N"),
        line.encode(x=x, y=y, detail="seed:N"),
        thick.encode(x=x, y=y, description="text:N"),
        thin.encode(x=x, y=y, description="text:N"),
    )
    height = side // 4
    counts = bins.mark_bar(color=colour, opacity=max(0.75 / seeds, 0.12)).encode(
        x=alt.X("left:Q", scale=scale, title="confidence, %", axis=alt.Axis(values=ticks, grid=False)),
        x2="right:Q",
        y=alt.Y(
            "count:Q",
            stack=None,
            scale=alt.Scale(type="symlog", constant=10, domainMin=0),
            title="images",
            axis=alt.Axis(values=[0, 100, 10_000], labelExpr=_THOUSANDS, grid=False),
        ),
        y2=alt.value(height),
    )
    parts = above.properties(width=side, height=side), counts.properties(width=side, height=height)
    return _titled(alt.vconcat(*parts, spacing=6), theme, title)


def _base(data: Rows, rows: list[dict[str, Any]]) -> Any:
    """An empty chart over rows, which go to `data` under a name made from what they hold."""
    import altair as alt

    name = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]
    data[name] = rows
    return alt.Chart(alt.NamedData(name=name))


def _bound(data: Rows, rate: float, top: float, theme: Theme) -> Any:
    import altair as alt

    value = 100 * rate
    rows = [{"eps": 0.5, "mean": value}, {"eps": top, "mean": value}]
    line = _base(data, rows).mark_line(color=theme.ink, strokeDash=[1, 3], strokeWidth=1.6)
    text = _base(data, rows[1:]).mark_text(
        align="right",
        baseline="bottom",
        dy=-5,
        color=theme.ink,
        fontSize=11,
        text=f"grey-image bound {value:.2f} %",
    )
    return alt.layer(line.encode(x="eps:Q", y="mean:Q"), text.encode(x="eps:Q", y="mean:Q"))


def _bin_row(record: CalibrationRecord, b: Any) -> dict[str, Any]:
    known = b.confidence is not None and b.accuracy is not None
    where = f"seed {record.seed}, confidence {100 * b.left:.0f} to {100 * b.right:.0f} %: {b.count} images"
    return {
        "seed": record.seed,
        "left": 100 * b.left,
        "right": 100 * b.right,
        "count": b.count,
        "confidence": 100 * b.confidence if known else None,
        "accuracy": 100 * b.accuracy if known else None,
        "low": None if b.low is None else 100 * b.low,
        "high": None if b.high is None else 100 * b.high,
        "text": f"{where}, accuracy {words.percent(b.accuracy)} % {words.interval(b.low, b.high)}",
    }


def _starts(records: Sequence[EpochRecord]) -> dict[int, int]:
    """For each seed the last epoch of the adversary's training alone, which is drawn at 0."""
    last: dict[int, int] = {}
    for record in records:
        if record.phase == "adversary":
            last[record.seed] = max(last.get(record.seed, 0), record.epoch)
    return last


def _finish(chart: Any, theme: Theme, width: int, height: int, title: str) -> Any:
    return _titled(chart.properties(width=width, height=height), theme, title)


def _titled(chart: Any, theme: Theme, title: str) -> Any:
    """The chart with its title, if it has one: in the page the titles are HTML."""
    import altair as alt

    if not title:
        return chart
    return chart.properties(title=alt.TitleParams(title, color=theme.ink, fontSize=13, anchor="start"))


def _config(theme: Theme) -> dict[str, Any]:
    """The look of all charts: no frame, quiet axes, the theme's inks."""
    quiet = {"labelColor": theme.muted, "titleColor": theme.muted}
    lines = {"domainColor": theme.rule, "tickColor": theme.rule, "gridColor": theme.rule}
    return {
        "font": "sans-serif" if theme.standalone else "system-ui, sans-serif",
        "background": "#ffffff" if theme.standalone else "transparent",
        "padding": 4,
        "view": {"stroke": None},
        "axis": {
            **quiet,
            **lines,
            "titleFontWeight": "normal",
            "tickSize": 4,
            "labelFontSize": 11,
            "titleFontSize": 11,
        },
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "legend": {"labelColor": theme.ink, "titleColor": theme.muted, "labelFontSize": 11},
    }
