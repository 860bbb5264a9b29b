"""One task of a plan, done in a worker process on one thread, its results in files of their own."""

import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sparring.adversaries import AnyAdversary
from sparring.attacks import LearnedAttack
from sparring.config import Adversary as AdversaryConfig
from sparring.config import Data as DataConfig
from sparring.config import Optimizer, Run
from sparring.data import Data
from sparring.evaluation.accuracy import attacked, clean
from sparring.evaluation.exploitability import fresh_adversaries
from sparring.evaluation.one_step import fgsm_curve
from sparring.evaluation.statistics import wilson
from sparring.evaluation.transfer import transfer
from sparring.experiment import Trained, load, load_data
from sparring.measure import measure_run, measured, readings
from sparring.models import stack
from sparring.process import give_back_freed_memory, on_one_thread
from sparring.records import (
    RunPaths,
    RunRecord,
    SweepRecord,
    TransferRecord,
    read_json,
    restore,
    write,
    write_json,
)
from sparring.reproduction.plan import CAPACITY, Kind, Plan, Task
from sparring.reproduction.signals import received
from sparring.session import train_runs
from sparring.threat import ThreatModel


def work(task: Task, plan: Plan) -> float:
    """Do one task in this process, on one thread; returns the seconds it took, 0 where it was done before."""
    on_one_thread()
    started = time.monotonic()
    did = _DO[task.kind](task, plan)
    give_back_freed_memory()
    return time.monotonic() - started if did else 0.0


def settled(task: Task, plan: Plan) -> bool:
    """Whether a task, all of whose needs are done, was done before too; what it left is then verified."""
    if task.restart or not _left(task, plan):
        return False
    _DO[task.kind](task, plan)  # finds nothing to do
    return True


def all_left(tasks: Sequence[Task], plan: Plan) -> bool:
    """Whether all that the tasks leave, each after what it needs, is there."""
    done = set[str]()
    for task in tasks:
        if task.restart or not done.issuperset(task.needs) or not _left(task, plan):
            return False
        done.add(task.key)
    return True


def _left(task: Task, plan: Plan) -> bool:
    """Whether all that a task leaves is there, made with the plan's settings."""
    return all(_left_of(task, plan, seed) for seed in task.seeds)


def _left_of(task: Task, plan: Plan, seed: int) -> bool:
    if task.kind == "alone":
        return _alone_is_left(plan, task.name, seed)
    if task.run is None:
        return _transferred(plan, seed)
    paths = plan.paths.run(task.run.recipe, seed)
    if task.kind == "measure":
        return read_json(paths.done)["status"] != "done" or _measured(paths, plan)
    left = {"train": paths.done, "sweep": paths.sweep, "reading": paths.readings}[task.kind].is_file()
    return left or (paths.done.is_file() and read_json(paths.done)["status"] != "done")


def _measured(paths: RunPaths, plan: Plan) -> bool:
    data, defender = load_once(plan.data)[1].fingerprint, read_json(paths.done)["defender_sha256"]
    return measured(paths, {"settings": plan.measurement, "data": data, "defender": defender})


def _transferred(plan: Plan, seed: int) -> bool:
    return _is_of(plan.paths.transfer(seed), _defenders(plan, seed, _trained(plan, seed)))


def _alone_is_left(plan: Plan, bound: str, seed: int) -> bool:
    return _is_of(plan.paths.alone(bound, seed), _defenders(plan, seed, ["vanilla"]))


def _defenders(plan: Plan, seed: int, names: Sequence[str]) -> dict[str, str]:
    """The digests of a seed's defenders: what was made of others is made again."""
    return {name: read_json(plan.paths.run(name, seed).done)["defender_sha256"] for name in names}


def _is_of(path: Path, defenders: dict[str, str]) -> bool:
    """Whether a file is there and was made of these defenders."""
    made_of = path.with_suffix(".json")
    return path.is_file() and made_of.is_file() and bool(read_json(made_of) == defenders)


def _keep(path: Path, records: Sequence[TransferRecord], defenders: dict[str, str]) -> None:
    """Write a file, then of which defenders it was made."""
    path.with_suffix(".json").unlink(missing_ok=True)
    write(path, records)
    write_json(path.with_suffix(".json"), defenders)


def _trained(plan: Plan, seed: int) -> list[str]:
    return [name for name in plan.recipes if read_json(plan.paths.run(name, seed).done)["status"] == "done"]


def _measure(task: Task, plan: Plan) -> bool:
    """Measure one run."""
    (run,) = task.runs
    paths = plan.paths.run(run.recipe, run.seed)
    before = _stamp(paths)
    if read_json(paths.done)["status"] == "done":
        trained, (train_on, test), device = load(paths.folder), load_once(plan.data), plan.measure_on or plan.device
        measure_run(trained, paths, train_on, test, plan.measurement, device=device, interrupted=received)
    return _stamp(paths) != before


def _train(task: Task, plan: Plan) -> bool:
    """Train the runs, no more."""
    were_done = not task.restart and all(plan.paths.run(run.recipe, run.seed).done.is_file() for run in task.runs)
    _trained_runs(task, plan, lambda text: print(text, file=sys.stderr, flush=True))
    return not were_done


def _trained_runs(task: Task, plan: Plan, notice: Callable[[str], None] = lambda text: None) -> list[RunRecord]:
    """All seeds trained together; where an initialised game lacks its vanilla model, it has diverged with that."""
    assert task.run is not None
    runs, needs_vanilla = task.runs, task.run.alone is not None
    if needs_vanilla:
        for run in runs:
            if read_json(plan.paths.run("vanilla", run.seed).done)["status"] != "done":
                _without_vanilla(run, plan.paths.run(run.recipe, run.seed))
    todo = [run for run in runs if not (needs_vanilla and _lacked_vanilla(plan.paths.run(run.recipe, run.seed)))]
    if todo:
        train_runs(
            todo,
            [plan.paths.run(run.recipe, run.seed) for run in todo],
            load_once(plan.data)[0],
            vanilla=[partial(_vanilla_model, plan, run.seed) for run in todo] if needs_vanilla else None,
            device=plan.device,
            notice=notice,
            interrupted=received,
            restart=task.restart,
            anew=task.anew,
        )
    return [restore(RunRecord, read_json(plan.paths.run(run.recipe, run.seed).done)) for run in runs]


NO_VANILLA = "the vanilla model of this seed diverged, so there was none to train the adversary against"


def _without_vanilla(run: Run, paths: RunPaths) -> None:
    paths.folder.mkdir(parents=True, exist_ok=True)
    write_json(paths.done, RunRecord(run.recipe, run.seed, "diverged", 0, "", 0.0, 0, 0, "", NO_VANILLA))


def _lacked_vanilla(paths: RunPaths) -> bool:
    return paths.done.is_file() and read_json(paths.done)["message"] == NO_VANILLA


def _sweep(task: Task, plan: Plan) -> bool:
    """Train one variant of the tanh game and judge it by fresh adversaries."""
    if _left(task, plan):
        return False
    ended = zip(task.runs, _trained_runs(task, plan), strict=True)
    records = [
        record
        for run, record in ended
        if record.status == "done" and not plan.paths.run(run.recipe, run.seed).sweep.is_file()
    ]
    if not records:
        return True
    recipe, device = records[0].recipe, plan.device
    trained = [load(plan.paths.run(recipe, record.seed).folder) for record in records]
    train_on, test = (part.to(device) for part in load_once(plan.data))
    threat = trained[0].attack().threat
    seeds = [record.seed for record in records]
    fresh = _fresh([one.defender for one in trained], train_on, threat, seeds, plan.measurement.fresh_epochs)
    for one, record, adversary in zip(trained, records, fresh, strict=True):
        judged = _judged(task.name, one, record, LearnedAttack(adversary, threat), test)
        write(plan.paths.run(recipe, record.seed).sweep, [judged])
    return True


def _fresh(
    models: Sequence[nn.Module], data: Data, threat: ThreatModel, seeds: Sequence[int], epochs: int, **settings: Any
) -> list[AnyAdversary]:
    """One fresh adversary for each model, all trained as one stack."""
    target = stack(models).to(data.images.device).eval()
    return fresh_adversaries(target, data, threat, seeds=seeds, epochs=epochs, stacked=True, **settings)


def _judged(variant: str, trained: Trained, record: RunRecord, fresh: LearnedAttack, test: Data) -> SweepRecord:
    """What a fresh adversary leaves of one run of a sweep."""
    defender, own, run = trained.defender.to(test.images.device), trained.attack(), trained.run
    own = LearnedAttack(own.adversary.to(test.images.device), own.threat)
    return SweepRecord(
        claim="D3" if variant in CAPACITY else "D1",
        variant=variant,
        seed=run.seed,
        eps=run.judged,
        clean=clean(defender, test).accuracy,
        in_game=attacked(defender, test, own, own.threat).accuracy,
        fresh=attacked(defender, test, fresh, fresh.threat).accuracy,
        fgsm=fgsm_curve(defender, test, [run.judged])[run.judged].accuracy,
        defender_parameters=record.defender_parameters,
        adversary_parameters=record.adversary_parameters,
        epochs=record.epochs,
    )


def _reading(task: Task, plan: Plan) -> bool:
    """Train the vanilla models in another reading and measure claim N8 on them."""
    if _left(task, plan):
        return False
    test = load_once(plan.data)[1].to(plan.device)
    for run, record in zip(task.runs, _trained_runs(task, plan), strict=True):
        paths = plan.paths.run(run.recipe, run.seed)
        if record.status == "done" and not paths.readings.is_file():
            model = load(paths.folder).defender.to(plan.device)
            write(paths.readings, readings(run, model, test, "PyTorch's initial weights, "))
    return True


def _alone(task: Task, plan: Plan) -> bool:
    """Adversaries trained alone with Adam instead of SGD against the vanilla models (ambiguity r)."""
    missing = [seed for seed in task.seeds if not _alone_is_left(plan, task.name, seed)]
    sound = [seed for seed in missing if read_json(plan.paths.run("vanilla", seed).done)["status"] == "done"]
    for seed in set(missing) - set(sound):
        _keep(plan.paths.alone(task.name, seed), [], _defenders(plan, seed, ["vanilla"]))
    if not sound:
        return bool(missing)
    train_on, test = (part.to(plan.device) for part in load_once(plan.data))
    threat = ThreatModel(0.1, test.shape)
    adam = Optimizer("adam", lr=1e-3, weight_decay=0.0)
    settings = AdversaryConfig(bound=task.name, optimizer=adam)  # type: ignore[arg-type]
    models = [_vanilla_model(plan, seed).to(plan.device) for seed in sound]
    fresh = _fresh(models, train_on, threat, sound, plan.sweep_epochs, settings=settings)
    for seed, model, adversary in zip(sound, models, fresh, strict=True):
        correct = attacked(model, test, LearnedAttack(adversary, threat), threat).correct
        cell = _cell(f"gan_{task.name}_init", "trained alone, Adam", "vanilla", seed, 0.1, "sound", correct)
        _keep(plan.paths.alone(task.name, seed), [cell], _defenders(plan, seed, ["vanilla"]))
    return True


def measure_transfer(plan: Plan, seed: int) -> bool:
    """Every adversary of a seed against every defender of that seed, in both protocols; returns whether it had to be done."""
    if _transferred(plan, seed):
        return False
    out, names = plan.paths, _trained(plan, seed)
    test = load_once(plan.data)[1].to(plan.device)
    trained = {name: load(out.run(name, seed).folder) for name in names}
    eps = next(iter(trained.values())).run.judged if trained else 0.1
    defenders = {name: one.defender.to(plan.device) for name, one in trained.items()}
    co_trained = {name: one.adversary.to(plan.device) for name, one in trained.items() if one.adversary}
    alone = {f"{n} (alone)": one.trained_alone.to(plan.device) for n, one in trained.items() if one.trained_alone}
    records = []
    for protocol in ("sound", "paper"):
        mode: Literal["evaluation", "training"] = "evaluation" if protocol == "sound" else "training"
        cells = transfer(co_trained | alone, defenders, test, eps, mode=mode, seed=seed)
        for (attacker, defender), correct in cells.items():
            kind = "noise" if "noise" in attacker else "trained alone" if attacker in alone else "co-trained"
            name = attacker.removesuffix(" (alone)")
            records.append(_cell(name, kind, defender, seed, eps, protocol, correct))
    _keep(out.transfer(seed), records, _defenders(plan, seed, names))
    return True


def _cell(
    adversary: str, kind: str, defender: str, seed: int, eps: float, protocol: str, correct: torch.Tensor
) -> TransferRecord:
    n, n_correct = correct.numel(), int(correct.sum())
    interval = wilson(n_correct, n)
    return TransferRecord(
        adversary=adversary,
        adversary_kind=kind,  # type: ignore[arg-type]
        defender=defender,
        seed=seed,
        eps=eps,
        protocol=protocol,  # type: ignore[arg-type]
        n=n,
        correct=n_correct,
        accuracy=n_correct / n,
        low=interval.low,
        high=interval.high,
    )


def _stamp(paths: RunPaths) -> list[object]:
    """What changes when a run is trained or measured."""
    return [read_json(path) if path.is_file() else None for path in (paths.done, paths.evaluated)]


@cache
def load_once(settings: DataConfig) -> tuple[Data, Data]:
    """(training, test), read once by this process."""
    return load_data(settings)


def _vanilla_model(plan: Plan, seed: int) -> nn.Module:
    return load(plan.paths.run("vanilla", seed).folder).defender


_DO: dict[Kind, Callable[[Task, Plan], bool]] = {
    "train": _train,
    "measure": _measure,
    "sweep": _sweep,
    "alone": _alone,
    "reading": _reading,
    "transfer": lambda task, plan: measure_transfer(plan, task.seeds[0]),
}
