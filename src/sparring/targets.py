"""What can be audited, by name: a run of this library with all that its folder tells, or a classifier of anyone's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sparring import data
from sparring.attacks import LearnedAttack
from sparring.auditing import Audit, Drop, Fresh, Level, Provenance, Subject, audit_subject
from sparring.auditing.ground import chosen
from sparring.auditing.levels import level_of
from sparring.auditing.loading import load_model
from sparring.auditing.selftest import self_test
from sparring.auditing.verdict import SelfTest
from sparring.errors import InputError
from sparring.evaluation import memory
from sparring.evaluation.pieces import fingerprint
from sparring.evaluation.responses import load_adversary
from sparring.evaluation.statistics import wilson
from sparring.experiment import Trained, history, load, load_data
from sparring.game import closing
from sparring.game.checkpoint import read_verified
from sparring.records import EpochRecord, PayoffRecord, RunPaths, read, read_json, seed_folders
from sparring.threat import ThreatModel, check_grid

PAST = 10  # past adversaries that an audit attacks with, spread over all that were kept


def run_audit(
    target: str,
    *,
    data: str | tuple[data.Data, data.Data] | None = None,
    eps: float | Sequence[float] | None = None,
    level: str | Level = "quick",
    factory: str | None = None,
    train: bool = True,
    store: str | Path | None = None,
    strict: bool = False,
    declared_random: bool = False,
    full: bool = False,
    tested: SelfTest | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> Audit:
    """Audit the run in a folder, or the model that `sparring.auditing.loading.load_model` finds.

    `data` is the name of a known set, or (training, test); None takes the run's own. `eps` None takes the run's.
    `train` False withholds the training data. `full` takes the headline at the claimed eps over the whole test set; `tested` is
    a self-test made before, which is then not repeated. Raises InputError, in one line, for what cannot be used.
    """
    if (Path(target) / "config.json").is_file():
        subject = of_run(Path(target), root=root)
    else:
        if data is None or eps is None:
            raise InputError("name the data and the eps: only a run of sparring knows its own")
        model, (train_on, test) = load_model(target, factory), _pair(data, root)
        subject = Subject(model=model, data=test, eps=(), name=target, train=train_on)
    if data is not None:
        train_on, test = _pair(data, root)
        subject = replace(subject, data=test, train=train_on, fresh=())
    if eps is not None:
        subject = replace(subject, eps=tuple(check_grid(eps)))
    if not train:
        subject = replace(subject, train=None, fresh=())
    subject = replace(subject, declared_random=declared_random)
    checked = (lambda: tested or self_test()) if level_of(level).self_test else None
    return audit_subject(
        subject, level=level, store=store, strict=strict, seed=seed, self_test=checked, full=full, notice=notice
    )


def of_run(folder: Path, *, root: str | Path | None = None) -> Subject:
    """A finished run with what its neighbours tell: the vanilla model of the same seed is the twin, others are attackers.

    Where it kept a history, its past adversaries attack too; where it kept a watch, that is looked at. The folder is
    OUT/runs/RECIPE/seedK, as `sparring train` lays it out.
    """
    trained = load(folder)
    run = trained.run
    train_on, test = load_data(run.data if root is None else replace(run.data, root=str(root)))
    recipes, seed = folder.resolve().parent.parent, folder.resolve().name
    neighbours = {
        other.parent.name: found
        for other in sorted(recipes.glob(f"*/{seed}"))
        if other.resolve() != folder.resolve() and (found := _finished(other, test)) is not None
    }
    twin = neighbours.get("vanilla")
    siblings = {
        other.name: found.defender
        for other in seed_folders(folder.resolve().parent)
        if other.name != seed and (found := _finished(other, test)) is not None
    }
    past = [(s.epoch, s.adversary) for s in history(folder) if s.adversary and s.epoch < trained.record.epochs]
    past = [past[k] for k in spread(len(past), PAST)]
    threat = ThreatModel(run.judged, test.shape)
    return Subject(
        model=trained.defender,
        data=test,
        eps=(run.judged,),
        name=f"{run.recipe} {seed}",
        train=train_on,
        adversary=trained.adversary,
        twin=twin.defender if twin else None,
        sources={name: found.defender for name, found in list(neighbours.items())[:3]},
        learned=_adversaries(neighbours),
        fresh=best_responses_of(folder, trained.defender),
        siblings=siblings,
        past=[LearnedAttack(adversary, threat) for _, adversary in past],
        past_epochs=[epoch for epoch, _ in past],
        history=[Drop(look.step, look.fgsm, look.pgd) for look in memory.read_watch(folder)],
        provenance=Provenance(
            selection="training",  # training stops by the training loss and never reads the test set
            test_evaluations=recorded_evaluations(folder),
            seeds=(run.seed, *(int(name.removeprefix("seed")) for name in siblings)),
            co_trained_examples=co_trained_examples(trained, len(train_on), epochs_alone(folder)),
        ),
    )


def recorded_evaluations(folder: Path) -> int | None:
    """How often a run's own records asked the test set: rows of outcomes and of the last audit's table; None without a record.

    A row is one attack at one eps on some or all test examples, clean images included.
    """
    paths, rows = RunPaths(folder), 0
    if paths.evaluated.is_file() and paths.outcomes.is_file():
        rows += len(read_verified(paths.outcomes)[0])
    if paths.audit.is_file():
        rows += len(read_json(paths.audit).get("audit", {}).get("attacks", ()))
    return rows or None


def payoffs_of_run(
    folder: Path,
    *,
    eps: float | None = None,
    level: str | Level = "quick",
    seed: int = 0,
    root: str | Path | None = None,
) -> list[PayoffRecord]:
    """A game's past players, each adversary against each defender, on the test examples that an audit of this level takes.

    `eps` None takes the run's. A run that kept fewer than two of its adversaries has none.
    """
    if not has_past(folder):
        return []
    run, past = load(folder).run, history(folder)
    test = load_data(run.data if root is None else replace(run.data, root=str(root)))[1]
    n = min(level_of(level).n or len(test), len(test))
    found = memory.payoffs(
        [(s.epoch, s.adversary) for s in past if s.adversary],
        [(s.epoch, s.defender) for s in past],
        test.take(chosen(test, n, seed)),
        run.judged if eps is None else eps,
    )
    made = []
    for adversary, row in zip(found.adversary_epochs, found.correct.sum(-1).tolist(), strict=True):
        for defender, right in zip(found.defender_epochs, row, strict=True):
            bounds = wilson(right, n)
            cell = (adversary, defender, n, right, right / n, bounds.low, bounds.high)
            made.append(PayoffRecord(run.recipe, run.seed, found.eps, *cell))
    return made


def co_trained_examples(trained: Trained, n: int, alone: int = 0) -> int | None:
    """How many perturbed examples the co-trained adversary stepped on, of a training set of n, repetitions counted.

    `alone` are its epochs before an initialised game. None without an adversary.
    """
    settings, play = trained.run.training, trained.run.play
    if trained.adversary is None:
        return None
    share = 1.0 if settings.mix == "both" else 1 - settings.clean_share
    batch = min(settings.batch_size, n)
    steps = n // batch  # of an epoch
    turns, at_the_end = play.adversary_steps * steps, 0
    if (recurrent := trained.run.recurrent) is not None:
        turns = math.ceil(steps / recurrent.every) if recurrent.every else 0
        last = closing.closing_turns(recurrent.closing, trained.record.epochs, steps, recurrent.every)
        at_the_end = last * min(closing.BATCH, n)
    return round(share * turns * trained.record.epochs * batch) + alone * steps * batch + at_the_end


def epochs_alone(folder: Path) -> int:
    """How many epochs a run's adversary trained by itself before the game."""
    return sum(record.phase == "adversary" for record in read(RunPaths(folder).epochs, EpochRecord))


def best_responses_of(folder: Path, defender: nn.Module) -> list[Fresh]:
    """The best responses to exactly this defender that `sparring exploit` left in a run's folder."""
    found = []
    for path in sorted(RunPaths(folder).best_responses.rglob("*.safetensors")):
        told = read_verified(path)[1]
        if told.get("defender") == fingerprint([defender]):
            trained = (load_adversary(path), told["eps"], told["steps"], told["examples"])
            found.append(Fresh(told["kind"], told["seed"], *trained))
    return found


def neighbours(folder: Path) -> dict[str, str]:
    """The finished runs beside this one that its audit may use, by the digest of their defender: its seed's, its recipe's."""
    here = folder.resolve()
    around = [*here.parent.parent.glob(f"*/{here.name}"), *seed_folders(here.parent)]
    done = {run: RunPaths(run).done for run in sorted(set(around) - {here})}
    found = {run: read_json(path) for run, path in done.items() if path.is_file()}
    return {f"{run.parent.name}/{run.name}": told["defender_sha256"] for run, told in found.items()}


def best_response_stamps(folder: Path) -> dict[str, str]:
    """The best responses in a run's folder, by the digest of all that decided their training."""
    kept = RunPaths(folder).best_responses
    paths = sorted(kept.rglob("*.safetensors"))
    return {path.relative_to(kept).as_posix(): str(read_verified(path)[1].get("training")) for path in paths}


def has_past(folder: Path) -> bool:
    """Whether a run is a game that kept two of its adversaries or more."""
    config = read_json(RunPaths(folder).config)
    plays = any(config.get(name) is not None for name in ("adversary", "recurrent"))
    return plays and len(memory.kept_epochs(folder)) > 1


def spread(n: int, most: int) -> list[int]:
    """At most so many of the numbers 0 to n - 1, evenly, the first and the last among them."""
    return list(range(n)) if n <= most else [round(k * (n - 1) / (most - 1)) for k in range(most)]


def _adversaries(neighbours: dict[str, Trained]) -> dict[str, LearnedAttack]:
    return {name: found.attack() for name, found in neighbours.items() if found.adversary is not None}


def _finished(folder: Path, test: data.Data) -> Trained | None:
    """A neighbouring run for the same inputs; None where there is none that is finished and sound."""
    try:
        found = load(folder)
    except (InputError, RuntimeError, OSError):
        return None
    return found if found.defender.shape == test.shape else None


def _pair(given: Any, root: str | Path | None) -> tuple[data.Data, data.Data]:
    return data.load(given, root=root) if isinstance(given, str) else given
