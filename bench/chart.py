"""A chart of `bench/train.py --scaling`: the share of the machine's matmul rate over seeds, batch and width.

python bench/chart.py results/bench/scaling.json docs/scaling.svg
"""

import json
import sys
from pathlib import Path
from typing import Any

import altair as alt

BASE = {"seeds": 10, "batch": 128, "width": 1}
TITLES = {"seeds": "seeds in a stack", "batch": "batch", "width": "times the width"}


def panel(rows: list[dict[str, Any]], size: str) -> alt.Chart:
    """The rows that differ from the base in this size only."""
    others = [name for name in BASE if name != size]
    shown = [row for row in rows if all(row[name] == BASE[name] for name in others)]
    x = alt.X(f"{size}:O", title=TITLES[size], axis=alt.Axis(labelAngle=0))
    y = alt.Y(
        "share:Q",
        title="needed products, of the matmul rate",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="%"),
    )
    colour = alt.Color("training:N", title=None)
    chart: alt.Chart = alt.Chart(alt.Data(values=shown)).mark_line(point=True).encode(x=x, y=y, color=colour)
    return chart.properties(width=180, height=180)


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    rows = json.loads(source.read_text())["rows"]
    alt.hconcat(*(panel(rows, size) for size in BASE)).save(target)


if __name__ == "__main__":
    main()
