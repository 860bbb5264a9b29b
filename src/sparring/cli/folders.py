"""`sparring evaluate` and `sparring report`: commands that read a folder of finished runs."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from sparring import records
from sparring.cli import flags, terminal


@dataclass(frozen=True)
class Evaluate:
    """What `evaluate` takes."""

    folder: Path
    """an output folder with runs/, or the folder of one run"""
    data_root: str | None = None
    """folder with the data, if not where training found it"""
    device: str = "cpu"
    pgd_steps: int = 40
    pgd_restarts: int = 2
    fresh_epochs: int = 1
    """epochs of training for each fresh adversary"""
    fresh_seeds: tuple[int, ...] = (0, 1, 2)
    json: bool = False


@dataclass(frozen=True)
class Report:
    """What `report` takes."""

    folder: Path
    """a folder that `reproduce`, `demo` or `evaluate` wrote"""
    out: Path | None = None
    """the HTML file; FOLDER/report.html unless given"""
    figures: bool = True
    """also SVG, PNG, PDF and CSV files"""


def evaluate(words: list[str]) -> int:
    """Measure trained runs: accuracy over eps, calibration, transfer, exploitability; then gather their records."""
    (options,) = flags.read(words, "evaluate", evaluate.__doc__, Evaluate)
    from sparring.measure import Measurement
    from sparring.reproduction import evaluate_folder

    settings = Measurement(
        pgd_steps=options.pgd_steps,
        pgd_restarts=options.pgd_restarts,
        fresh_epochs=options.fresh_epochs,
        fresh_seeds=options.fresh_seeds,
    )
    command = f"sparring evaluate {shlex.join(words)}"
    with terminal.progress() as (notice, _):
        out = evaluate_folder(
            options.folder, settings, data_root=options.data_root, device=options.device, command=command, notice=notice
        )
    paths = records.OutPaths(out)
    if options.json:
        terminal.result(records.read(paths.records("summary"), records.SummaryRecord))
    else:
        print(terminal.headline(paths))
        print(f"\nnext: sparring report {out}")
    return 0


def report(words: list[str]) -> int:
    """Make the HTML report and the figures from a folder's records alone: no model, no GPU."""
    (options,) = flags.read(words, "report", report.__doc__, Report)
    from sparring.report import write_report

    path = write_report(options.folder, html=options.out, figures=options.figures)
    print(path.resolve())
    return 0
