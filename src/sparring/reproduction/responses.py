"""Best responses to finished runs: adversaries with the co-trained one's size and training, against the frozen defender."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sparring.adversaries import RecurrentAdversary
from sparring.claims.summary import Key, Value, averaged
from sparring.config import Data as DataConfig
from sparring.config import Run
from sparring.data import Data
from sparring.environment import choose_device
from sparring.errors import InputError
from sparring.evaluation.accuracy import attacked
from sparring.evaluation.exploitability import FRESH
from sparring.evaluation.responses import BestResponses, best_responses_to_each, check_kinds
from sparring.evaluation.statistics import paired_bootstrap, wilson
from sparring.experiment import Trained, load, load_data
from sparring.precision import Precision, fast_precision
from sparring.records import BestResponseRecord, OutPaths, RunPaths, SummaryRecord, read, read_json, write
from sparring.reproduction.finished import each, finished
from sparring.settings import from_dict
from sparring.targets import co_trained_examples, epochs_alone
from sparring.threat import ThreatModel, check_eps

BATCH, LR = 512, 0.3
RECURRENT_BATCH = 128  # of a few numbers, which need steps
WITHOUT_A_GAME = 6  # epochs against a defender that played none
HALVINGS = 6  # of the rate, over a training


@dataclass(frozen=True)
class ResponsePlan:
    """Which best responses to train: kinds, how many seeds of each, and how long."""

    kinds: tuple[str, ...] | None = None  # None: x, xy and xg, and recurrent where the game's own adversary is
    eps: float | None = None  # None: the radius at which the run is judged
    fresh_seeds: int = 3
    epochs: int = 0  # rounded up to an even number; 0: as many perturbed examples as the co-trained adversary saw
    precision: Precision | Literal["auto"] = (
        "auto"  # of their training: fp32, bf16, or bf16 where the hardware is good at it
    )
    data_root: str | None = None
    device: str = "cpu"

    def kinds_for(self, run: Run) -> tuple[str, ...]:
        """The kinds of adversary that meet the defender of a run."""
        if self.kinds is not None:
            return self.kinds
        return ("x", "xy", "xg") if run.recurrent is None else ("x", "xy", "xg", "recurrent")

    def radius_for(self, run: Run) -> float:
        """The radius at which they play against the defender of a run."""
        return run.judged if self.eps is None else self.eps


def exploit_runs(
    folder: Path,
    plan: ResponsePlan,
    *,
    workers: int = 1,
    notice: Callable[[str], None] = lambda text: None,
) -> list[BestResponseRecord]:
    """Train best responses to the run in `folder`, or to every run of an output folder; what is trained already is kept.

    Each run gets best-responses/ with the adversaries, where its audit finds them, and responses.jsonl; an output folder all
    records in its own responses.jsonl. Raises InputError where there is no finished run.
    """
    if plan.kinds is not None:
        check_kinds(plan.kinds)
    if plan.precision not in ("auto", "fp32", "bf16"):
        raise InputError(f"precision is auto, fp32 or bf16; got {plan.precision!r}")
    if plan.eps is not None and not check_eps(plan.eps) > 0:
        raise InputError("eps must be above 0: at 0 no adversary does anything")
    if plan.fresh_seeds < 1 or plan.epochs < 0:
        raise InputError(f"fresh seeds must be >= 1 and epochs >= 0; got {plan.fresh_seeds} and {plan.epochs}")
    runs = finished(folder)
    for run in runs:
        if plan.radius_for(from_dict(Run, read_json(RunPaths(run).config))) == 0:
            raise InputError(f"{run} was trained at eps 0, where no adversary does anything; name another by --eps")
    made: dict[Path, list[BestResponseRecord]] = {}

    def told(of: dict[Path, list[BestResponseRecord]]) -> None:
        made.update(of)
        for records in of.values():
            notice(_said(records))

    try:
        groups = _groups(sorted(runs, key=lambda run: run.name), choose_device(plan.device))  # seed after seed
        each(partial(exploit_group, plan=plan), groups, workers, told)
    finally:
        found = [record for run in runs for record in read(RunPaths(run).responses, BestResponseRecord)]
        if found and not RunPaths(folder).config.is_file():
            write(OutPaths(folder).records("responses"), found)
            write(OutPaths(folder).records("gaps"), over_seeds(found))
    return [record for run in runs for record in made[run]]


def _groups(runs: Sequence[Path], device: torch.device) -> list[tuple[Path, ...]]:
    """What is trained as one stack: on a GPU all seeds of a regime; on a processor one run's, whose caches hold no more."""
    if device.type != "cuda":
        return [(run,) for run in runs]
    recipes = dict.fromkeys(run.parent for run in runs)
    return [tuple(run for run in runs if run.parent == recipe) for recipe in recipes]


def over_seeds(records: Sequence[BestResponseRecord]) -> list[SummaryRecord]:
    """What each kind leaves of each recipe at each radius, and its gap to the game, over the runs' seeds.

    Runs whose best responses trained for different lengths, or in different numbers, are not averaged.
    """
    trainings: dict[tuple[str, str, float], set[tuple[int, int]]] = {}
    for r in records:
        trainings.setdefault((r.recipe, r.kind, r.eps), set()).add((r.epochs, len(r.left)))
    return averaged(
        Value(Key(r.recipe, metric, r.kind, r.eps, "sound"), r.seed, value, r.n)
        for r in records
        if len(trainings[r.recipe, r.kind, r.eps]) == 1
        for metric, value in (("best_response", r.worst), ("best_response_gap", r.gap))
        if value is not None
    )


def exploit_group(folders: Sequence[Path], plan: ResponsePlan) -> dict[Path, list[BestResponseRecord]]:
    """The best responses to some runs of one regime, kind by kind; each run's records are written after each."""
    device = choose_device(plan.device)
    targets = [_Target.of(folder, plan, device) for folder in folders]
    made: dict[Path, list[BestResponseRecord]] = {folder: [] for folder in folders}
    precision = fast_precision(device) if plan.precision == "auto" else plan.precision
    for alike in _alike(targets):
        run, half = alike[0].trained.run, alike[0].half
        train_on, test = (part.to(device) for part in load_data(_data_of(run, plan)))
        hidden = run.adversary.hidden if run.adversary else FRESH.hidden
        every = max(1, round(half / HALVINGS))
        settings = replace(FRESH, hidden=hidden, optimizer=replace(FRESH.optimizer, lr=LR, every=every))
        like = alike[0].trained.adversary
        own = [target.in_game(test, device) for target in alike]
        for kind in plan.kinds_for(run):
            batch = min(RECURRENT_BATCH if kind == "recurrent" else BATCH, len(train_on))
            found = best_responses_to_each(
                [target.trained.defender for target in alike],
                train_on,
                test,
                alike[0].eps,
                kinds=[kind],
                seeds=range(plan.fresh_seeds),
                epochs=half,
                settings=settings,
                like=like if isinstance(like, RecurrentAdversary) else None,
                batch_size=batch,
                precision=precision,
                in_games=own,
                folders=[target.folder for target in alike],
            )
            for target, responses in zip(alike, found, strict=True):
                steps, folder = len(train_on) // batch, target.paths.folder
                made[folder].append(_record(target, kind, responses, precision, steps, batch))
                write(target.paths.responses, [*target.others, *made[folder]])
    return made


def _alike(targets: "Sequence[_Target]") -> "list[list[_Target]]":
    """Those that one stack can be trained against: they differ in their seeds only, and are attacked at one radius."""
    groups = dict[tuple[int, float, Run], list[_Target]]()
    for target in targets:
        groups.setdefault((target.half, target.eps, replace(target.trained.run, seed=0)), []).append(target)
    return list(groups.values())


@dataclass(frozen=True)
class _Target:
    """A finished run, the radius, how long its own adversary trained, and records that stay: of other kinds and radii."""

    trained: Trained
    paths: RunPaths
    eps: float
    seen: int | None  # examples that the co-trained adversary saw
    half: int  # epochs before training is doubled
    others: tuple[BestResponseRecord, ...]

    @classmethod
    def of(cls, folder: Path, plan: ResponsePlan, device: torch.device) -> "_Target":
        trained, paths = load(folder), RunPaths(folder)
        trained.defender.to(device)
        n = len(load_data(_data_of(trained.run, plan))[0])
        seen, batch = co_trained_examples(trained, n, epochs_alone(folder)), min(BATCH, n)
        per_epoch = n // batch * batch
        half = math.ceil((plan.epochs or (WITHOUT_A_GAME if seen is None else math.ceil(seen / per_epoch))) / 2)
        known = read(paths.responses, BestResponseRecord)
        digest, eps, kinds = trained.record.defender_sha256, plan.radius_for(trained.run), plan.kinds_for(trained.run)
        others = tuple(
            r for r in known if r.defender_sha256 == digest and not (r.kind in kinds and math.isclose(r.eps, eps))
        )
        return cls(trained, paths, eps, seen, half, others)

    @property
    def folder(self) -> Path:
        """Where its best responses are kept: those at another radius than the run is judged at in a folder of that name."""
        kept = self.paths.best_responses
        return kept if math.isclose(self.eps, self.trained.run.judged) else kept / f"eps{self.eps:g}"

    def in_game(self, test: Data, device: torch.device) -> Tensor | None:
        """Which examples are right under the co-trained adversary, (N,) bool; None without one."""
        if self.trained.adversary is None:
            return None
        attack = replace(self.trained.attack(), threat=(threat := ThreatModel(self.eps, test.shape)))
        attack.adversary.to(device)
        return attacked(self.trained.defender, test, attack, threat).correct


def _data_of(run: Run, plan: ResponsePlan) -> DataConfig:
    return run.data if plan.data_root is None else replace(run.data, root=plan.data_root)


def _record(
    target: _Target, kind: str, found: BestResponses, precision: str, steps: int, batch: int
) -> BestResponseRecord:
    """What best responses of one kind left; an epoch of theirs has so many steps of so many examples."""
    run = target.trained.run
    epochs = max(response.epochs for response in found.responses)
    longest = [response for response in found.responses if response.epochs == epochs]
    survived = torch.stack([response.outcome.correct for response in longest]).all(0).cpu()
    n, correct = survived.numel(), int(survived.sum())
    interval, gain = wilson(correct, n), found.gains[0]
    in_game = gap = low = high = None
    if found.in_game is not None:
        a, b = (t.cpu().double().numpy()[None] for t in (found.in_game, survived))
        bounds = paired_bootstrap(a, b, seed=run.seed)
        in_game, gap, low, high = float(a.mean()), float((a - b).mean()), bounds.low, bounds.high
    return BestResponseRecord(
        recipe=run.recipe,
        seed=run.seed,
        defender_sha256=target.trained.record.defender_sha256,
        kind=kind,
        eps=target.eps,
        n=n,
        epochs=epochs,
        steps=epochs * steps,
        examples=epochs * steps * batch,
        co_trained_examples=target.seen,
        parameters=longest[0].parameters,
        left=tuple(response.outcome.accuracy for response in longest),
        worst=correct / n,
        low=interval.low,
        high=interval.high,
        in_game=in_game,
        gap=gap,
        gap_low=low,
        gap_high=high,
        gain=gain.gain,
        gain_low=gain.interval.low,
        gain_high=gain.interval.high,
        precision=precision,
        seconds=sum(response.training.seconds for response in found.responses),
    )


def _said(records: Sequence[BestResponseRecord]) -> str:
    """Of one run, what each kind leaves."""
    left = ", ".join(f"{100 * record.worst:.1f} % ({record.kind})" for record in records)
    return f"{records[0].recipe} seed {records[0].seed}: best responses at {records[0].eps:g} leave {left}"
