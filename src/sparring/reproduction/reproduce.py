"""The three things a user asks for: the whole paper, some seeds of one recipe, an evaluation of what is there."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sparring import recipes
from sparring.config import Run
from sparring.environment import choose_device, commit, peak_memory_mb
from sparring.errors import InputError
from sparring.experiment import load
from sparring.measure import Measurement, measure_run
from sparring.records import CallRecord, OutPaths, ReproductionRecord, RunRecord, append, read, read_json, restore
from sparring.reproduction.gather import gather
from sparring.reproduction.plan import Plan, Task, key_of, plan_tasks
from sparring.reproduction.tasks import all_left, load_once, measure_transfer
from sparring.reproduction.workers import Notice, Status, play
from sparring.settings import from_dict


def reproduce(plan: Plan, *, notice: Notice, live: Callable[[Status], None] = lambda status: None) -> bool:
    """Play the whole plan and write OUT's records; returns whether there was anything to do.

    Raises Interrupted after Ctrl-C, when every worker has saved its state, and InputError where OUT belongs to another plan.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    measure_on = None if plan.measure_on is None else str(choose_device(plan.measure_on))
    plan = replace(plan, device=str(choose_device(plan.device)), measure_on=measure_on)
    recipes.need_vanilla(plan.recipes)
    train_on, test = load_once(plan.data)
    tasks = plan_tasks(plan)
    notice(
        f"{len(tasks)} tasks over {len(plan.seeds)} seeds on {plan.data.name}, {plan.workers} at a time, in {plan.out}"
    )
    if not all_left(tasks, plan):  # the record of an earlier call is of less than there will be, if this one is killed
        plan.paths.reproduction.unlink(missing_ok=True)
    status = Status(tasks)
    try:
        play(plan, tasks, status, notice, live)
    finally:
        if any(status.done.values()) or status.running:
            seconds = round(time.monotonic() - clock, 1)
            append(plan.paths.calls, CallRecord(started.isoformat(timespec="seconds"), seconds, _peak(plan.workers)))
    before = _earlier(plan)
    if before and not any(status.done.values()) and (before.recipes, before.seeds, before.commit) == _identity(plan):
        notice(f"{plan.out} is complete; nothing to do")
        return False
    calls = read(plan.paths.calls, CallRecord)
    gather(
        plan,
        train_on,
        test,
        title=plan.title,
        started=datetime.fromisoformat(calls[0].started) if calls else started,
        seconds=sum(call.seconds for call in calls),
        peak_memory_mb=max((call.peak_memory_mb for call in calls if call.peak_memory_mb), default=None),
        notice=notice,
    )
    return True


def train_seeds(
    run: Run,
    seeds: Sequence[int],
    out: Path,
    *,
    workers: int,
    device: str,
    restart: bool,
    notice: Notice,
    live: Callable[[Status], None] = lambda status: None,
) -> list[RunRecord]:
    """Train one recipe's seeds, each to its own folder; what an initialised game needs of vanilla is trained first."""
    device = str(choose_device(device))
    load_once(run.data)
    if len(set(seeds)) != len(seeds) or not seeds:
        raise InputError(f"seeds must be different numbers, at least one; got {tuple(seeds)}")
    parts = stacks_of(seeds, workers, device)
    plan = Plan(out, run.data, tuple(seeds), ("vanilla",), workers=len(parts), device=device)
    tasks = []
    for part in parts:
        needs: tuple[str, ...] = ()
        if run.alone is not None and not all(plan.paths.run("vanilla", seed).done.is_file() for seed in part):
            vanilla = replace(recipes.vanilla(), data=run.data, precision=run.precision)
            # all of them, though some may be done: the others go on in the stack that they began in
            tasks.append(Task("train", "vanilla", part, vanilla, 60.0 * len(part)))
            needs = (key_of("vanilla", part),)
        tasks.append(Task("train", run.recipe, part, run, 300.0 * len(part), needs, restart, "--restart"))
    play(plan, tasks, Status(tasks), notice, live)
    return [restore(RunRecord, read_json(OutPaths(out).run(run.recipe, seed).done)) for seed in seeds]


def stacks_of(seeds: Sequence[int], workers: int, device: str) -> list[tuple[int, ...]]:
    """Which seeds train in one process: a worker's share each; on a GPU all of them, which cost it little more than one."""
    n = 1 if device.startswith("cuda") else min(workers, len(seeds))
    return [tuple(seeds[i::n]) for i in range(n)]


def evaluate_folder(
    folder: Path, settings: Measurement, *, data_root: str | None, device: str, command: str, notice: Notice
) -> Path:
    """Measure every finished run of an output folder (or of the one that a run's folder lies in) and gather; returns OUT.

    Recipes that lack a seed which others have are left out, with a notice. Raises InputError where there is no finished
    run, or where runs are on different data.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    device = str(choose_device(device))
    out = OutPaths(folder.resolve().parent.parent.parent if (folder / "config.json").is_file() else folder)
    finished = _finished(out)
    if not finished:
        raise InputError(f"{folder} holds no finished run; `sparring train RECIPE --out {folder}` makes one")
    runs = [from_dict(Run, read_json(out.run(name, seed).config)) for name, seed in finished]
    if len(sets := sorted({run.data.name for run in runs})) > 1:
        raise InputError(f"the runs in {out.folder} are on different data: {', '.join(sets)}")
    data = replace(runs[0].data, root=data_root or runs[0].data.root)
    seeds = tuple(sorted({seed for _, seed in finished}))
    names = tuple(name for name in recipes.RECIPES if all((name, seed) in finished for seed in seeds))
    for name in sorted({name for name, _ in finished} - set(names)):
        notice(f"{name} is left out: it lacks some of the seeds {seeds}")
    if not names:
        raise InputError(f"no recipe in {out.folder} has all the seeds {seeds}; train the missing ones first")
    plan = Plan(out.folder, data, seeds, names, settings, sweeps=False, device=device, command=command)
    train_on, test = load_once(data)
    for name, seed in finished:
        paths = out.run(name, seed)
        if name in names and read_json(paths.done)["status"] == "done":
            notice(f"measuring {name} seed {seed}")
            measure_run(load(paths.folder), paths, train_on, test, settings, device=device)
    for seed in seeds:
        out.transfer(seed).unlink(missing_ok=True)  # recipes may have joined since
        measure_transfer(plan, seed)
    gather(
        plan,
        train_on,
        test,
        title="An evaluation",
        started=started,
        seconds=time.monotonic() - clock,
        peak_memory_mb=peak_memory_mb(),
        notice=notice,
    )
    return out.folder


def _finished(out: OutPaths) -> list[tuple[str, int]]:
    """(recipe, seed) of every run that has ended, in the recipes' order."""
    found = [(name, int(folder.name.removeprefix("seed"))) for name in recipes.RECIPES for folder in out.runs(name)]
    return [(name, seed) for name, seed in found if out.run(name, seed).done.is_file()]


def _identity(plan: Plan) -> tuple[tuple[str, ...], tuple[int, ...], str]:
    """What a complete output folder must agree in, to be left as it is."""
    return plan.recipes, plan.seeds, commit()


def _earlier(plan: Plan) -> ReproductionRecord | None:
    path = OutPaths(plan.out).reproduction
    return restore(ReproductionRecord, read_json(path)) if path.is_file() else None


def _peak(workers: int) -> float | None:
    """Memory of this process and, as an upper bound, of as many workers as large as the largest."""
    try:
        import resource
    except ImportError:
        return None
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return round((peak_memory_mb() or 0.0) + (workers * largest if workers > 1 else 0.0), 1)
