"""`sparring reproduce` and `sparring demo`: a plan through to its report."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sparring import config, recipes, records
from sparring.cli import flags, terminal


@dataclass(frozen=True)
class Demo(terminal.Common):
    """What `demo` takes."""

    out: Path = Path("out/demo")
    seeds: tuple[int, ...] = (0, 1, 2)
    """how many (one number N: 0 to N - 1), or which (several)"""


@dataclass(frozen=True)
class Reproduce(terminal.Common):
    """What `reproduce` takes."""

    out: Path = Path("out/paper")
    data: str = "mnist"
    """mnist, fashion-mnist, kmnist, or the embedded digits"""
    data_root: str | None = None
    """folder with the data; else $SPARRING_DATA, else the usual cache, else a download"""
    allow_unknown_data: bool = False
    """accept data files whose SHA-256 is not the published one"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """how many (one number N: 0 to N - 1), or which (several)"""
    regimes: tuple[str, ...] = ("paper",)
    """groups of recipes: paper, beyond, ablation; the vanilla model is always among them"""
    recipes: tuple[str, ...] = ()
    """which recipes, by name, instead; `sparring recipes` lists them"""
    sweeps: bool = True
    """also the paper's conjectures D1 and D3, as variants of the tanh game"""
    measure_on: str | None = None
    """device of the measurements, if not that of the trainings: cpu, where there are many cores beside one GPU"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of the trainings' matrix products; every evaluation is in fp32"""
    max_epochs: int | None = None
    """a cap on every training; games that end early have not converged"""
    batch_size: int | None = None
    """of every training, instead of each recipe's own (reading d of the paper)"""
    report: bool = True
    """write report.html and the figures"""


def demo(words: list[str]) -> int:
    """The paper's seven regimes and the game that holds, on the embedded digits, through to a report, in a few minutes."""
    (options,) = flags.read(words, "demo", demo.__doc__, Demo)
    names = (*recipes.PAPER, "gan_recurrent")
    return _whole(options, config.Data("digits"), "sparring demo", names, sweeps=False)


def reproduce(words: list[str]) -> int:
    """The paper, whole: train every regime, measure, write records, ledger and report. Run again to go on."""
    (options,) = flags.read(words, "reproduce", reproduce.__doc__, Reproduce)
    data = config.Data(options.data, options.data_root, options.allow_unknown_data)
    return _whole(
        options,
        data,
        f"sparring reproduce {shlex.join(words)}".strip(),
        options.recipes or tuple(dict.fromkeys(("vanilla", *recipes.of_regimes(options.regimes)))),
        sweeps=options.sweeps,
        max_epochs=options.max_epochs,
        batch_size=options.batch_size,
        precision=options.precision,
        measure_on=options.measure_on,
        report=options.report,
    )


def _whole(
    options: Demo | Reproduce,
    data: config.Data,
    command: str,
    names: tuple[str, ...],
    *,
    sweeps: bool,
    max_epochs: int | None = None,
    batch_size: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    measure_on: str | None = None,
    report: bool = True,
) -> int:
    for name in names:
        run = recipes.recipe(name)
        recipes.configured(run, data, precision=precision, max_epochs=max_epochs, batch_size=batch_size)
    recipes.need_vanilla(names)
    workers = terminal.n_workers(options.workers)
    if options.dry_run:
        terminal.check_devices(options.device, measure_on)
        on = f"{data.name} with seeds {terminal.spaced(options.seeds)}"
        return terminal.would(f"train and measure {', '.join(names)} on {on}, into {options.out}", options.json)
    from sparring.measure import Measurement
    from sparring.reproduction import Plan
    from sparring.reproduction import reproduce as play

    small = data.name == "digits"
    plan = Plan(
        out=options.out,
        data=data,
        seeds=options.seeds,
        recipes=names,
        measurement=Measurement(fresh_epochs=5, fresh_seeds=(0, 1), n_resamples=50) if small else Measurement(),
        sweeps=sweeps,
        sweep_epochs=40 if small else 4,
        workers=workers,
        device=options.device,
        command=command,
        max_epochs=max_epochs,
        batch_size=batch_size,
        precision=precision,
        measure_on=measure_on,
    )
    with terminal.progress() as (notice, live):
        changed = play(plan, notice=notice, live=live)
    paths = records.OutPaths(options.out)
    if report and (changed or not paths.report.is_file()):
        from sparring.report import write_report

        terminal.say("writing the report and the figures")
        write_report(options.out)
    if options.json:
        terminal.result({"out": options.out, "report": paths.report, "claims": paths.claims})
        return 0
    print(terminal.headline(paths))
    if paths.report.is_file():
        print(f"\nreport: {paths.report.resolve()}")
    return 0
