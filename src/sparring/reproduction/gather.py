"""All runs of an output folder gathered into its records: what the report, the ledger and others read."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import torch

from sparring import recipes as named
from sparring.attacks import PGD, Attack, LearnedAttack, Noise, fgsm
from sparring.claims import comparisons, ledger, summarise
from sparring.data import Data
from sparring.environment import commit, environment
from sparring.experiment import Trained, load
from sparring.measure import read_outcomes
from sparring.randomness import Stream
from sparring.records import (
    AccuracyRecord,
    CalibrationRecord,
    EpochRecord,
    ExampleRecord,
    ExploitabilityRecord,
    OutPaths,
    ReadingRecord,
    ReproductionRecord,
    RunPaths,
    RunRecord,
    SweepRecord,
    TransferRecord,
    read,
    read_json,
    restore,
    write,
    write_json,
)
from sparring.reproduction.plan import Plan, sweep_runs, torch_init
from sparring.threat import ThreatModel

R = TypeVar("R")


def gather(
    plan: Plan,
    train_on: Data,
    test: Data,
    *,
    title: str,
    started: datetime,
    seconds: float,
    peak_memory_mb: float | None,
    notice: Callable[[str], None] = lambda text: None,
) -> None:
    """Write every record file of the output folder from the files of its runs; claims.json and the rest are replaced whole."""
    out, recipes, seeds = plan.paths, plan.recipes, plan.seeds
    notice("gathering the records, testing the claims")
    folders = [out.run(recipe, seed) for seed in seeds for recipe in recipes]
    done = [restore(RunRecord, read_json(paths.done)) for paths in folders]
    finished = [paths for paths, record in zip(folders, done, strict=True) if record.status == "done"]
    results = _all(finished, AccuracyRecord, lambda paths: paths.results)
    calibration = _all(finished, CalibrationRecord, lambda paths: paths.calibration)
    exploited = _all(finished, ExploitabilityRecord, lambda paths: paths.exploitability)
    others = [out.run(torch_init().recipe, seed) for seed in seeds]
    readings = _all([*finished, *others], ReadingRecord, lambda paths: paths.readings)
    transfers = [record for seed in seeds for record in read(out.transfer(seed), TransferRecord)]
    transfers += [
        r for seed in seeds for bound in ("tanh", "scaled") for r in read(out.alone(bound, seed), TransferRecord)
    ]
    sweeps = [
        record
        for seed in seeds
        for run in sweep_runs(plan.sweep_epochs).values()
        for record in read(out.run(run.recipe, seed).sweep, SweepRecord)
    ]
    examples = figure_one(out, seeds[0], test)
    outcomes = {(p.folder.parent.name, _seed(p)): read_outcomes(p) for p in finished}
    summary = summarise(results, calibration, exploited, transfers, readings)
    tests = comparisons(outcomes, calibration, grid=plan.measurement.grid)
    claims = ledger(summary, tests, transfers, exploited, sweeps, examples, data_name=plan.data.name)
    write(out.records("results"), results)
    write(out.records("calibration"), calibration)
    write(out.records("exploitability"), exploited)
    write(out.records("readings"), readings)
    write(out.records("transfer"), transfers)
    write(out.records("sweeps"), sweeps)
    write(out.records("summary"), summary)
    write(out.records("comparisons"), tests)
    write(out.records("examples"), examples)
    write(out.records("epochs"), _all(folders, EpochRecord, lambda paths: paths.epochs))
    write(out.runs_done, done)
    write_json(out.claims, claims)
    configs = {
        name: read_json(out.run(name, seeds[0]).config) for name in recipes if out.run(name, seeds[0]).config.is_file()
    }
    write_json(
        out.reproduction,
        ReproductionRecord(
            command=plan.command,
            title=title,
            data=plan.data.name,
            data_sha256={"train": train_on.fingerprint, "test": test.fingerprint},
            n_train=len(train_on),
            n_test=len(test),
            n_classes=test.n_classes,
            majority_rate=float(test.labels.bincount().max()) / len(test),
            seeds=seeds,
            recipes=recipes,
            eps=float(next(iter(configs.values()))["eps"]),
            grid=plan.measurement.grid,
            machine=environment(plan.device),
            commit=commit(),
            started=started.isoformat(timespec="seconds"),
            seconds=round(seconds, 1),
            training_seconds=round(sum(record.seconds for record in done), 1),
            peak_memory_mb=peak_memory_mb,
            recipes_described={name: named.describe(name) for name in recipes},
            settings=configs,
        ),
    )


def figure_one(out: OutPaths, seed: int, test: Data) -> list[ExampleRecord]:
    """Images and what several attacks make of them: for each the first test image that it turns, else the first of all."""
    vanilla = _loaded(out.run("vanilla", seed))
    if vanilla is None:
        return []
    tanh, scaled = (_loaded(out.run(f"gan_{bound}_init", seed)) for bound in ("tanh", "scaled"))
    found = []
    for eps in (0.05, 0.1):
        threat = ThreatModel(eps, test.shape)
        panels: list[tuple[str, Attack]] = [("fgsm", fgsm(threat))]
        if eps == 0.1:
            panels.append(("pgd", PGD(threat, steps=40, random_start=False)))
            panels.append(("sign_noise", Noise(threat, "sign", Stream(seed, "eval.figure"))))
            for bound, run in (("tanh", tanh), ("scaled", scaled)):
                if run is not None and run.trained_alone is not None:
                    panels.append((f"learned, {bound}", LearnedAttack(run.trained_alone, threat)))
        found += [_example(name, attack, vanilla, threat, test) for name, attack in panels]
    return found


def _example(name: str, attack: Attack, trained: Trained, threat: ThreatModel, test: Data) -> ExampleRecord:
    n = min(500, len(test))
    x, y = test.floats(slice(0, n)).cpu(), test.labels[:n].cpu()
    x_adv = attack(trained.defender, x, y).detach()
    with torch.no_grad():
        before, after = trained.defender(x).softmax(-1), trained.defender(x_adv).softmax(-1)
    right = before.argmax(-1) == y
    turned = right & (after.argmax(-1) != y)
    i = int((turned if bool(turned.any()) else right).float().argmax())
    side = tuple(x.shape[-2:]) if x.ndim > 2 else (1, x.shape[-1])

    def rows(pixels: torch.Tensor) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(round(float(v), 4) for v in row) for row in pixels.reshape(-1, *side)[0])

    return ExampleRecord(
        attack=name,
        recipe=trained.run.recipe,
        seed=trained.run.seed,
        eps=float(threat.eps),
        index=i,
        label=int(y[i]),
        image=rows(x[i]),
        delta=rows(x_adv[i] - x[i]),
        perturbed=rows(x_adv[i]),
        prediction=int(before[i].argmax()),
        confidence=float(before[i].max()),
        perturbed_prediction=int(after[i].argmax()),
        perturbed_confidence=float(after[i].max()),
    )


def _loaded(paths: RunPaths) -> Trained | None:
    if not paths.done.is_file() or read_json(paths.done)["status"] != "done":
        return None
    return load(paths.folder)


def _all(folders: Sequence[RunPaths], kind: type[R], path: Callable[[RunPaths], Any]) -> list[R]:
    return [record for paths in folders for record in read(path(paths), kind)]


def _seed(paths: RunPaths) -> int:
    return int(paths.folder.name.removeprefix("seed"))
