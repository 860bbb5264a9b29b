"""The command line: flags from the config's dataclasses, one line an error, an exit code a reason. Loads torch only to work."""

import contextlib
import dataclasses
import difflib
import io
import json
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from sparring import config, recipes, records
from sparring.errors import (
    Busy,
    CorruptCheckpoint,
    Diverged,
    InputError,
    Interrupted,
    MissingExtra,
    NotFinite,
    nearest,
    need,
)


@dataclass(frozen=True)
class Common:
    """What every command that works takes."""

    out: Path = Path("out")
    """output folder"""
    seeds: tuple[int, ...] = (0,)
    """one or more, each a run of its own"""
    device: str = "cpu"
    """cpu, cuda, mps, or auto. Small networks are often fastest on the CPU"""
    workers: int = 0
    """runs at the same time, one core each; 0: as many as there are cores"""
    dry_run: bool = False
    """say what would be done, and do nothing"""
    json: bool = False
    """print the result as JSON on the standard output"""


@dataclass(frozen=True)
class Train(Common):
    """What `train` takes beside the settings of its recipe."""

    restart: bool = False
    """forget an earlier training in this folder"""


@dataclass(frozen=True)
class Reproduce(Common):
    """The paper, whole: train every regime, measure, write records, ledger and report. Run again to go on."""

    out: Path = Path("out/paper")
    data: str = "mnist"
    """mnist, fashion-mnist, kmnist, or the embedded digits"""
    data_root: str | None = None
    """folder with the data; else $SPARRING_DATA, else the usual cache, else a download"""
    allow_unknown_data: bool = False
    """accept data files whose SHA-256 is not the published one"""
    seeds: tuple[int, ...] = (3,)
    """how many seeds (one number), or which (several)"""
    recipes: tuple[str, ...] = tuple(recipes.RECIPES)
    """which regimes; `sparring recipes` lists them"""
    sweeps: bool = True
    """also the paper's conjectures D1 and D3, as variants of the tanh game"""
    max_epochs: int | None = None
    """a cap on every training, for trials"""
    report: bool = True
    """write report.html and the figures"""


@dataclass(frozen=True)
class Demo(Common):
    """The seven regimes on the embedded digits, through to a report, in a few minutes."""

    out: Path = Path("out/demo")
    seeds: tuple[int, ...] = (3,)
    """how many seeds (one number), or which (several)"""


@dataclass(frozen=True)
class Evaluate:
    """Measure trained runs: accuracy over eps, calibration, transfer, exploitability; then gather their records."""

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
    """Make the HTML report and the figures from a folder's records alone: no model, no GPU."""

    folder: Path
    """a folder that `reproduce`, `demo` or `evaluate` wrote"""
    out: Path | None = None
    """the HTML file; FOLDER/report.html unless given"""
    figures: bool = True
    """also SVG, PNG, PDF and CSV files"""


@dataclass(frozen=True)
class Listing:
    """The named experiments, one line each."""

    json: bool = False


@dataclass(frozen=True)
class Info:
    """Versions, processor, devices, and where the data are."""

    data_root: str | None = None
    json: bool = False


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code; see docs/evaluation.md for the codes."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = _explain(Interrupted(2, "stopped; the same command goes on from what is finished"))
    except Exception as error:
        code = _explain(error)
    sys.exit(code)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if words[0] == "--version":
        import sparring

        print(f"sparring {sparring.__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}{nearest(name, COMMANDS)}")
    return COMMANDS[name](rest)


def _explain(error: Exception) -> int:
    """One line for what a user can mend, a traceback for a bug; returns the exit code."""
    codes: tuple[tuple[type[Exception], int], ...] = (
        (Diverged, 3),
        (NotFinite, 4),
        (CorruptCheckpoint, 5),
        (Busy, 75),
        (MissingExtra, 2),
        (ValueError, 2),
        (TypeError, 2),
        (OSError, 74),
    )
    if isinstance(error, Interrupted):
        print(f"sparring: {error}", file=sys.stderr)
        return 128 + error.signal_number
    for kind, code in codes:
        if isinstance(error, kind):
            if os.environ.get("SPARRING_DEBUG"):
                traceback.print_exception(error)
            else:
                print(f"sparring: {' '.join(str(error).split())}", file=sys.stderr)
            return code
    traceback.print_exception(error)
    return 1


def _usage() -> str:
    lines = ["usage: sparring COMMAND [options]      (COMMAND --help tells its options)", ""]
    texts = {
        "demo": Demo.__doc__,
        "reproduce": Reproduce.__doc__,
        "train": "Train one recipe: `sparring train gan_tanh --seeds 0 1 2`. Run again to go on.",
        "evaluate": Evaluate.__doc__,
        "report": Report.__doc__,
        "recipes": Listing.__doc__,
        "info": Info.__doc__,
    }
    lines += [f"  {name:<10} {text}" for name, text in texts.items()]
    lines += ["", "Exit codes: 0 done, 2 wrong input, 3 diverged, 4 evaluation not credible, 5 checkpoint corrupt,"]
    lines += ["74 input/output, 75 folder in use, 130 interrupted (state saved), 1 a bug in sparring."]
    return "\n".join(lines)


def _parse(kind: type[Any], words: Sequence[str], program: str) -> Any:
    try:
        import tyro
    except ImportError:
        raise need("tyro") from None
    complaint = io.StringIO()
    words = ["--seeds" + word.removeprefix("--seed") if re.match("--seed(=|$)", word) else word for word in words]
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=words, prog=f"sparring {program}")
    except SystemExit as end:
        if not end.code:
            raise
    raise InputError(f"{_in_one_line(complaint.getvalue(), _flags(kind))} (sparring {program} --help lists all)")


def _in_one_line(complaint: str, flags: Sequence[str]) -> str:
    """What tyro says in a box, as one line, with the option that was probably meant."""
    lines = [line.strip(" │|") for line in complaint.splitlines()[1:]]  # the first is the box's title
    parts = re.split(r"(?:^|\n)[-─ ]{3,}(?:\n|$)", "\n".join(lines).strip())
    said = next((part for part in parts if part.strip()), complaint).partition("Argument helptext:")[0]
    text = re.sub(r"^Error parsing (?!--)[\w.]+: ", "", " ".join(said.split()))
    unknown = re.match("Unrecognized options: ([^ ,=]+)", text)
    close = difflib.get_close_matches(unknown[1], flags, n=1) if unknown else []
    return f"{text}; did you mean {close[0]!r}?" if close else text


def _flags(kind: type[Any]) -> list[str]:
    """The options that a dataclass of settings has, those of settings within settings included."""

    def names(value: Any, prefix: str) -> Iterator[str]:
        for f in dataclasses.fields(value):
            inner = f.default if isinstance(value, type) else getattr(value, f.name)
            if dataclasses.is_dataclass(inner):
                yield from names(inner, f"{prefix}{f.name}.")
            else:
                yield f"--{prefix}{f.name}".replace("_", "-")

    return list(names(kind, ""))


def _reproduce(words: list[str]) -> int:
    options = _parse(Reproduce, words, "reproduce")
    data = config.Data(options.data, options.data_root, options.allow_unknown_data)
    return _whole(options, data, f"sparring reproduce {shlex.join(words)}".strip(), options.recipes, options.sweeps)


def _demo(words: list[str]) -> int:
    options = _parse(Demo, words, "demo")
    return _whole(options, config.Data("digits"), "sparring demo", tuple(recipes.PAPER), False)


def _whole(options: Any, data: config.Data, command: str, names: tuple[str, ...], sweeps: bool) -> int:
    """A plan through to its report: what `demo` and `reproduce` share."""
    seeds = tuple(range(options.seeds[0])) if len(options.seeds) == 1 else options.seeds
    for name in names:
        recipes.recipe(name)
    if options.dry_run:
        return _dry(
            f"train and measure {', '.join(names)} on {data.name} with seeds {_list(seeds)}, into {options.out}",
            options.json,
        )
    from sparring.measure import Measurement
    from sparring.reproduction import Plan, reproduce

    small = data.name == "digits"
    plan = Plan(
        out=options.out,
        data=data,
        seeds=seeds,
        recipes=names,
        measurement=Measurement(fresh_epochs=5, fresh_seeds=(0, 1), n_resamples=50) if small else Measurement(),
        sweeps=sweeps,
        sweep_epochs=40 if small else 4,
        workers=_workers(options.workers),
        device=options.device,
        command=command,
        max_epochs=getattr(options, "max_epochs", None),
    )
    with _progress() as (notice, live):
        changed = reproduce(plan, notice=notice, live=live)
    paths = records.OutPaths(options.out)
    if getattr(options, "report", True) and (changed or not paths.report.is_file()):
        from sparring.report import write_report

        _say("writing the report and the figures")
        write_report(options.out)
    _result(options.json, {"out": str(options.out), "report": str(paths.report), "claims": str(paths.claims)})
    if not options.json:
        print(_headline(paths))
        if paths.report.is_file():
            print(f"\nreport: {paths.report.resolve()}")
    return 0


def _train(words: list[str]) -> int:
    """`train RECIPE`: the recipe's own settings are the defaults, a TOML file goes over them, flags over both."""
    named = [word for word in words if word in recipes.RECIPES]  # before other words: `--out X RECIPE` is allowed
    name = next((word for word in [*named, *words] if not word.startswith("-")), None)
    if name is None:
        if "-h" in words or "--help" in words:
            print(f"usage: sparring train RECIPE [options]\n\nrecipes: {', '.join(recipes.RECIPES)}")
            print("`sparring train RECIPE --help` shows every setting with the recipe's value.")
            return 0
        raise InputError(f"train needs a recipe: {', '.join(recipes.RECIPES)}")
    run = recipes.recipe(name)
    rest = [word for i, word in enumerate(words) if i != words.index(name)]
    rest = [part for word in rest for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    options: dict[str, Any] = {}
    if "--config" in rest:
        at = rest.index("--config")
        if at + 1 >= len(rest):
            raise InputError("--config needs a TOML file")
        values = config.read_toml(Path(rest[at + 1]))
        for key in ("recipe", "seed"):
            if key in values:
                raise InputError(f"{key!r} cannot stand in a config file; give it on the command line")
        kinds: dict[str, type[Any]] = {"out": str, "seeds": list, "device": str, "workers": int}
        options = {key: values.pop(key) for key in kinds if key in values}
        for key, value in options.items():
            if not isinstance(value, kinds[key]) or isinstance(value, bool):
                raise InputError(f"{key} must be {kinds[key].__name__}, got {value!r}")
        run = config.updated(run, values)
        del rest[at : at + 2]
    command = _train_command(run, options)
    chosen = _parse(command, rest, f"train {name}")
    settings = {f.name: getattr(chosen, f.name) for f in dataclasses.fields(run) if hasattr(chosen, f.name)}
    run = dataclasses.replace(run, **settings)
    if chosen.dry_run:
        return _dry(
            f"train {name} with seeds {_list(chosen.seeds)} into {chosen.out}; the resolved config:\n"
            + json.dumps(config.to_dict(run), indent=1),
            chosen.json,
        )
    from sparring.reproduction import train_seeds

    with _progress() as (notice, live):
        done = train_seeds(
            run,
            chosen.seeds,
            chosen.out,
            workers=_workers(chosen.workers),
            device=chosen.device,
            restart=chosen.restart,
            notice=notice,
            live=live,
        )
    _result(chosen.json, [records.plain(record) for record in done])
    if not chosen.json:
        for record in done:
            folder = records.OutPaths(chosen.out).run(name, record.seed).folder
            what = record.message or f"{record.epochs} epochs, {record.stopped}, {record.seconds:.0f} s"
            print(f"{name} seed {record.seed}: {record.status}, {what}  ({folder})")
        print(f"next: sparring evaluate {chosen.out}")
    return 3 if any(record.status == "diverged" for record in done) else 0


def _train_command(run: config.Run, options: dict[str, Any]) -> type[Any]:
    """A dataclass with the common options and every setting that this recipe has, as defaults."""
    given = options | ({"out": Path(options["out"])} if "out" in options else {})
    given |= {"seeds": tuple(options["seeds"])} if "seeds" in options else {}
    fields: list[Any] = [
        (f.name, f.type, field(default=given[f.name])) for f in dataclasses.fields(Train) if f.name in given
    ]
    for f in dataclasses.fields(run):
        value = getattr(run, f.name)
        if f.name not in ("recipe", "seed") and value is not None:
            fields.append((f.name, float if f.name == "eps" else type(value), field(default=value)))
    made: type[Any] = dataclasses.make_dataclass("Train", fields, bases=(Train,), frozen=True)
    made.__doc__ = recipes.describe(run.recipe)
    return made


def _evaluate(words: list[str]) -> int:
    options = _parse(_positional(Evaluate, "folder"), words, "evaluate")
    from sparring.measure import Measurement
    from sparring.reproduction import evaluate_folder

    settings = Measurement(
        pgd_steps=options.pgd_steps,
        pgd_restarts=options.pgd_restarts,
        fresh_epochs=options.fresh_epochs,
        fresh_seeds=options.fresh_seeds,
    )
    command = f"sparring evaluate {shlex.join(words)}"
    with _progress() as (notice, _):
        out = evaluate_folder(
            options.folder, settings, data_root=options.data_root, device=options.device, command=command, notice=notice
        )
    paths = records.OutPaths(out)
    summary = records.read(paths.records("summary"), records.SummaryRecord)
    _result(options.json, records.plain(summary))
    if not options.json:
        print(_headline(paths))
        print(f"\nnext: sparring report {out}")
    return 0


def _report(words: list[str]) -> int:
    options = _parse(_positional(Report, "folder"), words, "report")
    from sparring.report import write_report

    path = write_report(options.folder, html=options.out, figures=options.figures)
    print(path.resolve())
    return 0


def _recipes(words: list[str]) -> int:
    options = _parse(Listing, words, "recipes")
    if options.json:
        _result(True, {name: recipes.describe(name) for name in recipes.RECIPES})
    else:
        print("\n".join(f"{name:<16} {recipes.describe(name)}" for name in recipes.RECIPES))
    return 0


def _info(words: list[str]) -> int:
    options = _parse(Info, words, "info")
    import torch

    from sparring import data
    from sparring.environment import commit, environment

    facts: dict[str, Any] = environment() | {"commit": commit()}
    facts["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    facts["mps"] = "available" if torch.backends.mps.is_available() else "none"
    for name in data.NAMES:
        try:
            train_on, test = data.load(name, root=options.data_root, download=False)
            facts[f"data {name}"] = f"{len(train_on)} + {len(test)} images"
        except (ValueError, OSError):
            facts[f"data {name}"] = "not on this machine"
    _result(options.json, facts)
    if not options.json:
        print("\n".join(f"{key:<18} {value}" for key, value in facts.items()))
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": _demo,
    "reproduce": _reproduce,
    "train": _train,
    "evaluate": _evaluate,
    "report": _report,
    "recipes": _recipes,
    "info": _info,
}


def _positional(kind: type[Any], name: str) -> type[Any]:
    """The dataclass with one field as a positional argument; tyro's marker is not known to the dataclass itself."""
    try:
        import tyro
    except ImportError:
        raise need("tyro") from None
    here = next(f for f in dataclasses.fields(kind) if f.name == name)
    marked: list[Any] = [(name, Annotated[here.type, tyro.conf.Positional])]
    made: type[Any] = dataclasses.make_dataclass(kind.__name__, marked, bases=(kind,), frozen=True)
    made.__doc__ = kind.__doc__
    return made


@contextlib.contextmanager
def _progress() -> Iterator[tuple[Callable[[str], None], Callable[[Any], None]]]:
    """(notice, live): lines when piped; on a terminal a bar with what runs now and an honest ETA, on the error output."""
    if not sys.stderr.isatty():
        yield _say, lambda status: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
    except ImportError:
        yield _say, lambda status: None
        return
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[eta]}"))
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("starting", total=1.0, eta="")

        def live(status: Any) -> None:
            now, total = time.monotonic(), sum(task.cost for task in status.tasks)
            done = sum(task.cost for task in status.tasks if task.key in status.done)
            running = ", ".join(f"{key} ({now - since:.0f} s)" for key, since in status.running.items())
            eta = status.eta(max(1, len(status.running)))
            left = (
                f"about {eta / 60:.0f} min to go"
                if eta is not None and eta > 90
                else ""
                if eta is None
                else "nearly done"
            )
            progress.update(bar, description=running or "gathering", completed=done / total, eta=left)

        yield console.print, live


def _headline(paths: records.OutPaths) -> str:
    """The table a terminal shows: per recipe, means over seeds with their intervals."""
    summary = records.read(paths.records("summary"), records.SummaryRecord)
    columns = (
        ("clean", "accuracy", "clean", 0.0),
        ("FGSM .1", "accuracy", "fgsm", 0.1),
        ("PGD .1", "accuracy", "pgd", 0.1),
        ("in-game .1", "in_game", "own", 0.1),
        ("fresh .1", "fresh", "fresh", 0.1),
    )
    names = list(dict.fromkeys(record.recipe for record in summary))
    n_seeds = max((record.n_seeds for record in summary), default=0)
    lines = [f"accuracy in %, mean over {n_seeds} seed{'s' * (n_seeds != 1)} and 95 % interval; fresh: new adversaries"]
    lines.append(f"{'':<16}" + "".join(f"{title:>20}" for title, *_ in columns))
    for name in names:
        cells = []
        for _, metric, attack, eps in columns:
            found = [
                r
                for r in summary
                if (r.recipe, r.metric, r.eps, r.protocol) == (name, metric, eps, "sound")
                and r.attack in (attack, "own", "fresh")
                and (metric != "accuracy" or r.attack == attack)
            ]
            cells.append(f"{_cell(found[0]) if found else '–':>20}")
        lines.append(f"{name:<16}" + "".join(cells))
    return "\n".join(lines)


def _cell(record: records.SummaryRecord) -> str:
    mean = f"{100 * record.mean:.1f}"
    if record.low is None or record.high is None:
        return mean
    return f"{mean} [{100 * max(record.low, 0):.1f}, {100 * min(record.high, 1):.1f}]"


def _result(as_json: bool, value: Any) -> None:
    if as_json:
        print(json.dumps(records.plain(value)))


def _dry(text: str, as_json: bool) -> int:
    print(json.dumps({"would": text}) if as_json else f"would {text}")
    return 0


def _workers(n: int) -> int:
    if n < 0:
        raise InputError(f"workers must be >= 0; got {n}")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return n or available


def _list(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
