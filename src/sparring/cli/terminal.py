"""What a terminal or a program reads: results on the standard output, progress on the error output."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring import records
from sparring.errors import InputError


@dataclass(frozen=True)
class Common:
    """What every command that trains takes."""

    out: Path = Path("out")
    """output folder"""
    seeds: tuple[int, ...] = (0,)
    """how many (one number N: 0 to N - 1), or which (several); those of a worker train as one stack or a few"""
    device: str = "cpu"
    """cpu, cuda, mps, or auto. Small networks are often fastest on the CPU"""
    workers: int = 0
    """runs at the same time, one core each; 0: as many as there are cores. On a GPU a recipe's seeds stay together"""
    dry_run: bool = False
    """say what would be done, and do nothing"""
    json: bool = False
    """print the result as JSON on the standard output"""


def result(value: Any) -> None:
    """A command's result for a program."""
    print(json.dumps(records.plain(value)))


def would(text: str, as_json: bool) -> int:
    """What a dry run says; returns its exit code."""
    print(json.dumps({"would": text}) if as_json else f"would {text}")
    return 0


def check_devices(*names: str | None) -> None:
    """For a dry run: refuse the devices that the run itself would refuse. The processor needs no look, and no torch."""
    if asked := [name for name in names if name not in (None, "cpu")]:
        from sparring.environment import choose_device

        for name in asked:
            choose_device(str(name))


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def spaced(seeds: Sequence[int]) -> str:
    """`0 1 2`."""
    return " ".join(map(str, seeds))


def n_workers(n: int) -> int:
    """How many worker processes `--workers N` means."""
    if n < 0:
        raise InputError(f"workers must be >= 0; got {n}")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return n or available


@contextlib.contextmanager
def progress() -> Iterator[tuple[Callable[[str], None], Callable[[Any], None]]]:
    """(notice, live): lines when piped; on a terminal a bar with what runs now and an honest ETA, on the error output."""
    if not sys.stderr.isatty():
        yield say, lambda status: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
    except ImportError:
        yield say, lambda status: None
        return
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[eta]}"))
    with Progress(*columns, console=console, transient=True) as shown:
        bar = shown.add_task("starting", total=1.0, eta="")

        def live(status: Any) -> None:
            now, total = time.monotonic(), sum(task.cost for task in status.tasks)
            done = sum(task.cost for task in status.tasks if task.key in status.done)
            running = ", ".join(f"{key} ({now - since:.0f} s)" for key, since in status.running.items())
            eta = status.eta(max(1, len(status.running)))
            left = "" if eta is None else f"about {eta / 60:.0f} min to go" if eta > 90 else "nearly done"
            shown.update(bar, description=running or "gathering", completed=done / total, eta=left)

        yield console.print, live


def headline(paths: records.OutPaths) -> str:
    """The table that a terminal shows: per recipe, means over seeds with their intervals."""
    summary = records.read(paths.records("summary"), records.SummaryRecord)
    columns = {
        "clean": ("accuracy", "clean", 0.0),
        "FGSM .1": ("accuracy", "fgsm", 0.1),
        "PGD .1": ("accuracy", "pgd", 0.1),
        "in-game .1": ("in_game", "own", 0.1),
        "fresh .1": ("fresh", "fresh", 0.1),
    }
    found = {(r.recipe, (r.metric, r.attack, r.eps)): r for r in reversed(summary) if r.protocol == "sound"}
    n_seeds = max((record.n_seeds for record in summary), default=0)
    lines = [f"accuracy in %, mean over {n_seeds} seed{'s' * (n_seeds != 1)} and 95 % interval; fresh: new adversaries"]
    lines.append(f"{'':<16}" + "".join(f"{title:>20}" for title in columns))
    for name in dict.fromkeys(record.recipe for record in summary):
        cells = [_cell(found.get((name, of))) for of in columns.values()]
        lines.append(f"{name:<16}" + "".join(f"{cell:>20}" for cell in cells))
    names = dict.fromkeys(record.recipe for record in summary)
    both = {name: [found.get((name, columns[column])) for column in ("in-game .1", "PGD .1")] for name in names}
    gaps = [f"{name} {100 * (own.mean - pgd.mean):.1f}" for name, (own, pgd) in both.items() if own and pgd]
    if gaps:
        lines.append(f"in-game less PGD, in points, 0 where the game's own adversary is a real one: {', '.join(gaps)}")
    return "\n".join(lines)


def _cell(record: records.SummaryRecord | None) -> str:
    if record is None:
        return "–"
    mean = f"{100 * record.mean:.1f}"
    if record.low is None or record.high is None:
        return mean
    return f"{mean} [{100 * max(record.low, 0):.1f}, {100 * min(record.high, 1):.1f}]"
