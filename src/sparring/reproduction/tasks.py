"""One task of a plan, done in a worker process on one thread, its result in files of its own."""

import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch

from sparring.attacks import LearnedAttack
from sparring.config import Adversary as AdversaryConfig
from sparring.config import Data as DataConfig
from sparring.config import Optimizer
from sparring.data import Data
from sparring.evaluation.accuracy import attacked, clean
from sparring.evaluation.exploitability import fresh_adversary
from sparring.evaluation.one_step import fgsm_curve
from sparring.evaluation.statistics import wilson
from sparring.evaluation.transfer import transfer
from sparring.experiment import Trained, load, load_data, train_run
from sparring.measure import measure_run, readings
from sparring.records import RunPaths, RunRecord, SweepRecord, TransferRecord, plain, read, read_json, write, write_json
from sparring.reproduction.plan import CAPACITY, Kind, Plan, Task
from sparring.reproduction.signals import received
from sparring.threat import ThreatModel


def work(task: Task, plan: Plan) -> float:
    """Do one task in this process, on one thread; returns the seconds it took, 0 where it was done before."""
    torch.set_num_threads(1)
    started = time.monotonic()
    did = _DO[task.kind](task, plan)
    return time.monotonic() - started if did else 0.0


def settled(task: Task, plan: Plan) -> bool:
    """Whether a task, all of whose needs are done, was done before too; what it left is then verified."""
    if task.restart or not _left(task, plan):
        return False
    _DO[task.kind](task, plan)  # finds nothing to do
    return True


def _left(task: Task, plan: Plan) -> bool:
    """Whether all that a task leaves is there, made with the plan's settings."""
    if task.kind == "alone":
        return plan.paths.alone(task.name, task.seed).is_file()
    if task.run is None:
        return _transferred(plan, task.seed)
    paths = plan.paths.run(task.run.recipe, task.seed)
    if task.kind == "run":
        return paths.done.is_file() and (read_json(paths.done)["status"] != "done" or _measured(paths, plan))
    return {"train": paths.done, "sweep": paths.sweep, "reading": paths.readings}[task.kind].is_file()


def _measured(paths: RunPaths, plan: Plan) -> bool:
    data, defender = load_once(plan.data)[1].fingerprint, read_json(paths.done)["defender_sha256"]
    stamp = plain({"settings": plan.measurement, "data": data, "defender": defender})
    return paths.evaluated.is_file() and bool(read_json(paths.evaluated) == stamp)


def _transferred(plan: Plan, seed: int) -> bool:
    path = plan.paths.transfer(seed)
    return path.is_file() and {record.defender for record in read(path, TransferRecord)} == set(_trained(plan, seed))


def _trained(plan: Plan, seed: int) -> list[str]:
    return [name for name in plan.recipes if read_json(plan.paths.run(name, seed).done)["status"] == "done"]


def _run(task: Task, plan: Plan) -> bool:
    """Train one run and measure it."""
    assert task.run is not None
    paths = plan.paths.run(task.run.recipe, task.seed)
    before = _stamp(paths)
    train_on, test = load_once(plan.data)
    if task.run.alone and read_json(plan.paths.run("vanilla", task.seed).done)["status"] != "done":
        message = "the vanilla model of this seed diverged, so there was none to train the adversary against"
        paths.folder.mkdir(parents=True, exist_ok=True)
        write_json(paths.done, RunRecord(task.run.recipe, task.seed, "diverged", 0, "", 0.0, 0, 0, "", message))
        return True
    record = train_run(
        task.run,
        paths,
        train_on,
        vanilla=lambda: _vanilla(plan, task.seed).defender,
        device=plan.device,
        interrupted=received,
    )
    if record.status == "done":
        trained, settings = load(paths.folder), plan.measurement
        measure_run(trained, paths, train_on, test, settings, device=plan.device, interrupted=received)
    return _stamp(paths) != before


def _train(task: Task, plan: Plan) -> bool:
    """Train one run, no more."""
    assert task.run is not None
    paths = plan.paths.run(task.run.recipe, task.seed)
    was_done = paths.done.is_file() and not task.restart
    train_run(
        task.run,
        paths,
        load_once(plan.data)[0],
        vanilla=lambda: _vanilla(plan, task.seed).defender,
        device=plan.device,
        notice=lambda text: print(text, file=sys.stderr, flush=True),
        interrupted=received,
        restart=task.restart,
    )
    return not was_done


def _sweep(task: Task, plan: Plan) -> bool:
    """Train one variant of the tanh game and judge it by a fresh adversary."""
    assert task.run is not None and task.run.adversary is not None
    paths = plan.paths.run(task.run.recipe, task.seed)
    if paths.sweep.is_file():
        return False
    train_on, test = load_once(plan.data)
    record = train_run(task.run, paths, train_on, device=plan.device, interrupted=received)
    if record.status != "done":
        return True
    trained = load(paths.folder)
    train_on, test = train_on.to(plan.device), test.to(plan.device)
    defender, own = trained.defender.to(plan.device), trained.attack()
    own = LearnedAttack(own.adversary.to(plan.device), own.threat)
    threat, settings = own.threat, plan.measurement
    fresh = fresh_adversary(defender, train_on, threat, seed=task.seed, epochs=settings.fresh_epochs)
    sweep = SweepRecord(
        claim="D3" if task.name in CAPACITY else "D1",
        variant=task.name,
        seed=task.seed,
        eps=task.run.eps,
        clean=clean(defender, test).accuracy,
        in_game=attacked(defender, test, own, threat).accuracy,
        fresh=attacked(defender, test, LearnedAttack(fresh, threat), threat).accuracy,
        fgsm=fgsm_curve(defender, test, [task.run.eps])[task.run.eps].accuracy,
        defender_parameters=record.defender_parameters,
        adversary_parameters=record.adversary_parameters,
        epochs=record.epochs,
    )
    write(paths.sweep, [sweep])
    return True


def _reading(task: Task, plan: Plan) -> bool:
    """Train the vanilla model in another reading and measure claim N8 on it."""
    assert task.run is not None
    paths = plan.paths.run(task.run.recipe, task.seed)
    if paths.readings.is_file():
        return False
    train_on, test = load_once(plan.data)
    record = train_run(task.run, paths, train_on, device=plan.device, interrupted=received)
    if record.status == "done":
        model = load(paths.folder).defender.to(plan.device)
        found = readings(task.run, model, test.to(plan.device), "PyTorch's initial weights, ")
        write(paths.readings, found)
    return True


def _alone(task: Task, plan: Plan) -> bool:
    """An adversary trained alone with Adam instead of SGD against the vanilla model (ambiguity r)."""
    path = plan.paths.alone(task.name, task.seed)
    if path.is_file():
        return False
    train_on, test = (part.to(plan.device) for part in load_once(plan.data))
    vanilla = _vanilla(plan, task.seed).defender.to(plan.device)
    threat = ThreatModel(0.1, test.shape)
    adam = Optimizer("adam", lr=1e-3, weight_decay=0.0)
    settings = AdversaryConfig(bound=task.name, optimizer=adam)  # type: ignore[arg-type]
    adversary = fresh_adversary(vanilla, train_on, threat, seed=task.seed, epochs=plan.sweep_epochs, settings=settings)
    outcome = attacked(vanilla, test, LearnedAttack(adversary, threat), threat)
    name = f"gan_{task.name}_init"
    write(path, [_cell(name, "trained alone, Adam", "vanilla", task.seed, 0.1, "sound", outcome.correct)])
    return True


def measure_transfer(plan: Plan, seed: int) -> bool:
    """Every adversary of a seed against every defender of that seed, in both protocols; returns whether it had to be done."""
    if _transferred(plan, seed):
        return False
    out, names = plan.paths, _trained(plan, seed)
    test = load_once(plan.data)[1].to(plan.device)
    trained = {name: load(out.run(name, seed).folder) for name in names}
    eps = next(iter(trained.values())).run.eps if trained else 0.1
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
    write(out.transfer(seed), records)
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


def _vanilla(plan: Plan, seed: int) -> Trained:
    return load(plan.paths.run("vanilla", seed).folder)


_DO: dict[Kind, Callable[[Task, Plan], bool]] = {
    "run": _run,
    "train": _train,
    "sweep": _sweep,
    "alone": _alone,
    "reading": _reading,
    "transfer": lambda task, plan: measure_transfer(plan, task.seed),
}
