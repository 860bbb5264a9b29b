"""Charts as static SVG: inlined into the page in its own colours, or saved as SVG, PNG and PDF; CSV files."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any

from sparring.errors import need
from sparring.records import atomically
from sparring.report.charts import VARIABLES, Chart

_NOISE = re.compile(
    r' (?:aria-hidden="true"|pointer-events="none"|role="[^"]*"|aria-roledescription="[^"]*"'
    r'|xmlns(?::xlink)?="[^"]*"|class="[^"]*"|font-family="[^"]*"|version="1.1")'
)
_LABELLED = re.compile(r'<(path|rect|line|text) aria-label="([^"]*)"([^>]*?)(?:/>|></\1>)')
_EMPTY = re.compile(r'<path d="M0,0h0v0h0Z"(?: [^>]*)?/>|<g></g>|<g/>')
_DIGITS = re.compile(r"(\d\.\d{2})\d+")
_COLOUR = re.compile(r"#fe0[01][0-9a-f]{2}")
_SIZE = re.compile(r'width="([\d.]+)" height="([\d.]+)" viewBox')


def check() -> None:
    """Raise MissingExtra, naming the pip command, where a package of the report extra is absent."""
    for name in ("altair", "vl_convert", "jinja2"):
        try:
            __import__(name)
        except ImportError:
            raise need(name.replace("vl_convert", "vl-convert-python"), "report") from None


def draw(chart: Chart) -> str:
    """A chart as an SVG document; the same chart gives the same bytes."""
    return _drawn(chart.spec())


def inlined(charts: Iterable[tuple[Chart, str, str]]) -> list[str]:
    """Charts, each with its `alt` and `prefix`, as elements of the page; one is drawn while the next is made."""
    with ThreadPoolExecutor(1) as pool:
        drawn = [(pool.submit(_drawn, chart.spec()), alt, prefix) for chart, alt, prefix in charts]
        return [inline(svg.result(), alt, prefix) for svg, alt, prefix in drawn]


def inline(svg: str, alt: str, prefix: str) -> str:
    """An SVG drawn in PAGE colours as an element of the page.

    Colours become CSS variables, each mark's description its title, and `alt` describes the whole;
    `prefix` makes the ids unique in the page.
    """
    text = _NOISE.sub("", svg)
    text = re.sub(r'<rect width="[\d.]+" height="[\d.]+" fill="transparent"/>', "", text)
    text = _LABELLED.sub(r"<\1\3><title>\2</title></\1>", text)
    text = re.sub(r' aria-label="[^"]*"', "", text)
    for _ in range(4):
        text = _EMPTY.sub("", text)
    text = _DIGITS.sub(r"\1", text)
    text = _COLOUR.sub(lambda found: VARIABLES[found.group()], text)
    text = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = _SIZE.sub(lambda m: f'style="max-width:{float(m[1]):.0f}px" viewBox', text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)


def save(folder: Path, name: str, svg: str) -> None:
    """Write NAME.svg, NAME.png (twice the size) and NAME.pdf, each whole or not at all."""
    import vl_convert

    atomically(folder / f"{name}.svg", svg.encode())
    atomically(folder / f"{name}.png", bytes(vl_convert.svg_to_png(svg, scale=2.0)))
    atomically(folder / f"{name}.pdf", bytes(vl_convert.svg_to_pdf(svg)))


def save_all(folder: Path, drawings: Iterable[tuple[str, str]]) -> None:
    """Write every (name, SVG) as `save` does, one while the next is made."""
    with ThreadPoolExecutor(1) as pool:
        for saved in [pool.submit(save, folder, name, svg) for name, svg in drawings]:
            saved.result()


def save_csv(folder: Path, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the numbers behind a figure as NAME.csv; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomically(folder / f"{name}.csv", text.getvalue().encode())


def _drawn(spec: dict[str, Any]) -> str:
    import vl_convert

    return str(vl_convert.vegalite_to_svg(spec))
