"""`sparring audit`: is a robustness number one to believe?"""

from dataclasses import dataclass
from pathlib import Path

from sparring.cli import flags, terminal
from sparring.errors import InputError, Interrupted


@dataclass(frozen=True)
class Audit:
    """What `audit` takes."""

    target: str
    """a run's folder, an output folder with runs/, module:callable that returns a model, a weights file, or a .pt2"""
    data: str | None = None
    """mnist, fashion-mnist, kmnist or digits; a run knows its own"""
    data_root: str | None = None
    """folder with the data; else $SPARRING_DATA, else the usual cache, else a download"""
    eps: tuple[float, ...] = ()
    """radii in [0, 1] on the pixel scale, the claimed one first; a run knows its own"""
    level: str = "quick"
    """quick (seconds), standard (minutes), deep (for releases)"""
    factory: str | None = None
    """module:callable that returns the model, for a file of weights"""
    full: bool = False
    """take the headline at the claimed eps over the whole test set"""
    declared_random: bool = False
    """the model is random on purpose: average over draws"""
    strict: bool = False
    """count WARN and SKIP as FAIL"""
    seed: int = 0
    out: Path | None = None
    """also write the result to this JSON file; a run has it as audit.json in its folder"""
    workers: int = 0
    """runs at the same time, one core each; 0: as many as there are cores"""
    json: bool = False
    """print the result as JSON on the standard output"""


def audit(words: list[str]) -> int:
    """Attack a classifier from every side, check the attacks, and give a verdict; 4 where a check failed."""
    (options,) = flags.read(words, "audit", audit.__doc__, Audit)
    folder = Path(options.target)
    if (folder / "config.json").is_file() or (folder / "runs").is_dir():
        return _runs(options, folder)
    return _model(options)


def _runs(options: Audit, folder: Path) -> int:
    """A run, or all runs of an output folder."""
    if options.data or options.factory or options.declared_random:
        raise InputError("--data, --factory and --declared-random are for other models; a run knows its own")
    from sparring.records import RunPaths, read_json, write_json
    from sparring.reproduction.audits import AuditPlan, audit_runs

    plan = AuditPlan(options.level, options.eps, options.full, options.strict, options.seed, options.data_root)
    with terminal.progress() as (notice, _):
        records = audit_runs(folder, plan, workers=terminal.n_workers(options.workers), notice=notice)
    if options.out is not None:
        write_json(options.out, records)
    if options.json:
        terminal.result(records)
    elif RunPaths(folder).audit.is_file():
        if RunPaths(folder).payoffs.is_file():
            print(f"past adversaries against past defenders: {RunPaths(folder).payoffs}\n")
        print(read_json(RunPaths(folder).audit)["printed"])
    else:
        for record in records:
            print(f"{record.recipe:<16} seed {record.seed}  {record.verdict}")
        print(f"\nnext: sparring report {folder}")
    return max(record.exit_code for record in records)


def _model(options: Audit) -> int:
    """A classifier of anyone's."""
    from sparring.process import use_faster_products
    from sparring.records import write_json
    from sparring.targets import run_audit

    use_faster_products()
    try:
        with terminal.progress() as (notice, _):
            found = run_audit(
                options.target,
                data=options.data,
                root=options.data_root,
                eps=options.eps or None,
                level=options.level,
                factory=options.factory,
                full=options.full,
                strict=options.strict,
                declared_random=options.declared_random,
                seed=options.seed,
                notice=notice,
            )
    except KeyboardInterrupt:
        raise Interrupted(2, "stopped; of a model's audit nothing is kept, the same command begins it again") from None
    if options.out is not None:
        write_json(options.out, found.to_json())
    if options.json:
        terminal.result(found.to_json())
    else:
        print(found.table())
        print()
        print(found)
    return found.exit_code
