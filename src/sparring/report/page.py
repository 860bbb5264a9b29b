"""`write_report`: an output folder's records as one self-contained HTML file, and its figures as files."""

import base64
import hashlib
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from sparring.records import atomically
from sparring.report import audits, headline, responses, sections, svg, words
from sparring.report import figures as figure_files
from sparring.report.charts import THIN
from sparring.report.source import Source, load


def write_report(out: Path, *, html: Path | None = None, figures: bool = True) -> Path:
    """Write OUT/report.html (or `html`) from OUT's records and, unless `figures` is false, OUT/figures/.

    Returns the page's path. Each file is replaced whole or not at all. Where a record file is absent, its
    section says so in a sentence. Raises InputError where OUT holds no reproduction.json or a broken record
    file, MissingExtra where the report extra is not installed.
    """
    out = Path(out)
    source = load(out)
    svg.check()
    page = html or source.paths.report
    written = figure_files.write(source) if figures else frozenset()
    atomically(page, _render(source, page, written).encode())
    return page


def _render(source: Source, page: Path, written: frozenset[str]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["words"] = words
    script = _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        source=source,
        head=source.head,
        style=_asset("style.css"),
        script=script,
        script_hash=digest,
        palette=words.PALETTE,
        thin=THIN,
        written=written,
        folder=_relative(source.paths.figures, page.parent),
        **_sections(source),
    )


def _sections(source: Source) -> dict[str, Any]:
    return {
        "columns": headline.columns(source),
        "headline": headline.table(source),
        "findings": headline.sentences(source),
        "verdicts": headline.verdicts(source),
        "ledger": sections.ledger(source),
        "examples": sections.examples(source),
        "legend": figure_files.legend(source),
        "curves": figure_files.curve_panels(source),
        "curve_tests": sections.comparisons(source, "F2"),
        "reliability": figure_files.reliability_panels(source),
        "calibration_tests": sections.comparisons(source, "F3"),
        "transfer": sections.transfer(source),
        "transfer_tests": sections.comparisons(source, "D2"),
        "exploitability": sections.exploitability(source),
        "responses": responses.rows(source),
        "response_kinds": responses.kinds(source),
        "response_radii": responses.radii(source),
        "response_seeds": responses.fresh_seeds(source),
        "response_precision": responses.precision(source.responses),
        "audits": audits.rows(source),
        "audit_eps": audits.grid(source),
        "memory": audits.memory(source),
        "learned": figure_files.strength_panels(source),
        "learned_kinds": sections.learned_kinds(source),
        "readings": sections.readings(source),
        "sweeps": sections.sweeps(source),
        "other_tests": sections.comparisons(source, "N", "D1", "D3", "F1"),
        "training": figure_files.training_panels(source),
        "runs": sections.runs(source),
        "attacks": sections.attacks(source),
        "machine": sections.environment(source),
        "paper_n8": figure_files.paper_value(source),
    }


def _asset(name: str) -> str:
    return files("sparring.report").joinpath(name).read_text(encoding="utf-8")


def _relative(folder: Path, start: Path) -> str:
    return Path(os.path.relpath(folder, start)).as_posix()
