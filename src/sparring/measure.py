"""One finished run measured: every attack over the grid, calibration, exploitability, as records in its folder."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring.adversaries import AnyAdversary, RecurrentAdversary
from sparring.attacks import LearnedAttack, Noise, fgsm, identity
from sparring.config import GRID, Run
from sparring.data import Data
from sparring.environment import commit
from sparring.errors import InputError, Interrupted, NotFinite
from sparring.evaluation.accuracy import Outcome, attacked, averaged_over_passes, curve, inside, pgd_curve
from sparring.evaluation.calibration import calibrate
from sparring.evaluation.exploitability import FRESH, exploitability
from sparring.evaluation.one_step import Mode, OneStep, fgsm_curve, one_step, one_step_curve, one_step_over_passes
from sparring.evaluation.statistics import paired_bootstrap, wilson
from sparring.experiment import Trained
from sparring.game.checkpoint import read_verified, write_verified
from sparring.randomness import Stream, check_seeds, derive
from sparring.records import (
    AccuracyRecord,
    BinRecord,
    CalibrationRecord,
    ExploitabilityRecord,
    Protocol,
    ReadingRecord,
    RunPaths,
    plain,
    read_json,
    write,
    write_json,
)
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class Measurement:
    """How hard to measure. The defaults are the full protocol. Raises InputError for numbers that measure nothing."""

    grid: tuple[float, ...] = GRID
    pgd_steps: int = 40
    pgd_restarts: int = 2
    passes: int = 2  # of the paper protocol
    fresh_seeds: tuple[int, ...] = (0, 1, 2)
    fresh_epochs: int = 1
    n_resamples: int = 200

    def __post_init__(self) -> None:
        for name in ("pgd_steps", "pgd_restarts", "passes", "fresh_epochs", "n_resamples"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"{name} must be >= 1; got {value}")
        if not self.fresh_seeds or len(set(self.fresh_seeds)) < len(self.fresh_seeds):
            raise InputError(f"fresh_seeds must be different numbers, at least one; got {tuple(self.fresh_seeds)}")
        check_seeds(self.fresh_seeds)


def measure_run(
    trained: Trained,
    paths: RunPaths,
    train_on: Data,
    test: Data,
    settings: Measurement,
    *,
    device: torch.device | str = "cpu",
    notice: Callable[[str], None] = lambda text: None,
    interrupted: Callable[[], int] = lambda: 0,
) -> None:
    """Write the run's results, calibration, exploitability and outcomes; does nothing where they are there already.

    `interrupted` is asked now and then for the number of a signal that has come; then Interrupted is raised.
    """

    def pause(*_: object) -> None:
        if number := interrupted():
            raise Interrupted(number, f"stopped while measuring {paths.folder}; the same command measures it again")

    stamp = {"settings": settings, "data": test.fingerprint, "defender": trained.record.defender_sha256}
    if measured(paths, stamp):
        return
    defender, test, train_on = trained.defender.to(device), test.to(device), train_on.to(device)
    adversary = trained.adversary.to(device) if trained.adversary else None
    sound = _sound(trained.run, defender, adversary, test, settings)
    pause()
    paper = _paper(trained.run, defender, adversary, test, settings)
    _all_finite(sound, paths)
    notice("attacked")
    results = [_accuracy(trained.run, name, eps, "sound", o, o.accuracy) for (name, eps), o in sound.items()]
    results += [_accuracy(trained.run, name, eps, "paper", o, mean) for (name, eps), (mean, o) in paper.items()]
    calibration = [_calibration(trained.run, test, settings, "sound", eps, [o]) for eps, o in _fgsm(sound)]
    calibration += [_calibration(trained.run, test, settings, "sound", None, [o for _, o in _fgsm(sound)])]
    first = {key: outcome for key, (_, outcome) in paper.items()}
    calibration += [_calibration(trained.run, test, settings, "paper", eps, [o]) for eps, o in _fgsm(first)]
    calibration += [_calibration(trained.run, test, settings, "paper", None, [o for _, o in _fgsm(first)])]
    exploited, survived = _exploitability(trained.run, defender, sound, train_on, test, settings, pause)
    notice("exploitability measured")
    outcomes = {outcome_key(name, eps, "sound"): o.correct for (name, eps), o in sound.items()}
    outcomes |= {outcome_key(name, eps, "paper"): o.correct for (name, eps), o in first.items()}
    outcomes[outcome_key("fresh", trained.run.judged, "sound")] = survived
    write(paths.results, results)
    write(paths.calibration, calibration)
    write(paths.exploitability, [exploited])
    if trained.run.recipe == "vanilla":
        write(paths.readings, readings(trained.run, defender, test))
    write_verified(paths.outcomes, outcomes, {"n": len(test)})
    trained.defender.cpu()
    files = [paths.results, paths.calibration, paths.exploitability, paths.outcomes]
    files += [paths.readings] if trained.run.recipe == "vanilla" else []
    write_json(paths.evaluated, stamp | {"files": {path.name: _digest(path) for path in files}})


def measured(paths: RunPaths, stamp: dict[str, Any]) -> bool:
    """Whether a run was measured so, by settings, data and defender, and every file of it is as it was written."""
    if not paths.evaluated.is_file():
        return False
    told = read_json(paths.evaluated)
    files = told.pop("files", {})
    return bool(told == plain(stamp)) and all(
        (paths.folder / name).is_file() and _digest(paths.folder / name) == digest for name, digest in files.items()
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def outcome_key(attack: str, eps: float, protocol: Protocol) -> str:
    """The name under which a run's outcomes.safetensors keeps which examples survived."""
    return f"{attack}@{eps:g}/{protocol}"


def read_outcomes(paths: RunPaths) -> dict[str, np.ndarray]:
    """Which test examples survived which attack, (N,) bool each."""
    return {name: tensor.numpy() for name, tensor in read_verified(paths.outcomes)[0].items()}


def _sound(
    run: Run, model: nn.Module, adversary: AnyAdversary | None, test: Data, settings: Measurement
) -> dict[tuple[str, float], Outcome]:
    """Batch norm in evaluation mode: every attack at every eps."""
    stream = Stream(run.seed, "eval.noise")
    grid, threat = settings.grid, ThreatModel(run.judged, test.shape)
    curves: dict[str, dict[float, Outcome]] = {
        "fgsm": fgsm_curve(model, test, grid),
        "pgd": pgd_curve(
            model, test, grid, steps=settings.pgd_steps, restarts=settings.pgd_restarts, seed=derive(run.seed, "eval")
        ),
        "noise": one_step_curve(model, test, Noise(threat, "uniform", stream), grid, streams=[stream]),
        "sign_noise": one_step_curve(model, test, Noise(threat, "sign", stream), grid, streams=[stream]),
    }
    if adversary is not None:
        own, radii = LearnedAttack(adversary, threat), {*grid, run.judged}
        recurrent = isinstance(adversary, RecurrentAdversary)  # its direction is another at every eps
        curves["own"] = (
            curve(model, test, partial(inside, own), radii) if recurrent else one_step_curve(model, test, own, radii)
        )
    outcomes = {("clean", 0.0): attacked(model, test, identity, ThreatModel(0.0, test.shape))}
    return outcomes | {(name, eps): o for name, found in curves.items() for eps, o in found.items()}


def _all_finite(outcomes: dict[tuple[str, float], Outcome], paths: RunPaths) -> None:
    for (name, eps), outcome in outcomes.items():
        if n_invalid := int(outcome.invalid.sum()):
            raise NotFinite(
                f"logits are not finite for {n_invalid} of {outcome.invalid.numel()} examples under {name} at eps {eps:g} "
                f"({paths.folder}); no accuracy is reported"
            )


def _paper(
    run: Run, model: nn.Module, adversary: AnyAdversary | None, test: Data, settings: Measurement
) -> dict[tuple[str, float], tuple[float, Outcome]]:
    """Batch norm in training mode, for the attack and for the verdict, averaged over passes (ambiguity t)."""
    threat = ThreatModel(run.judged, test.shape)
    attacks: list[tuple[str, OneStep, tuple[float, ...]]] = [("fgsm", fgsm(threat, mode="training"), settings.grid)]
    if adversary is not None:
        attacks.append(("own", LearnedAttack(adversary, threat, "training"), (run.judged,)))
    plain = averaged_over_passes(model, test, identity, threat.at(0.0), passes=settings.passes, seed=run.seed)
    measured = {("clean", 0.0): plain}
    for name, attack, grid in attacks:
        found = one_step_over_passes(model, test, attack, grid, passes=settings.passes, seed=run.seed)
        measured |= {(name, eps): both for eps, both in found.items()}
    return measured


def _exploitability(
    run: Run,
    model: nn.Module,
    sound: dict[tuple[str, float], Outcome],
    train_on: Data,
    test: Data,
    settings: Measurement,
    pause: Callable[[object, object], None],
) -> tuple[ExploitabilityRecord, Tensor]:
    found = exploitability(
        model, train_on, test, run.judged, seeds=settings.fresh_seeds, epochs=settings.fresh_epochs, on_epoch=pause
    )
    survived = found.survived
    n, correct = survived.numel(), int(survived.sum())
    interval = wilson(correct, n)
    own = sound.get(("own", run.judged))
    gap = None
    if own is not None:
        a, b = own.correct.cpu().double().numpy()[None], survived.cpu().double().numpy()[None]
        gap = paired_bootstrap(a, b, seed=run.seed)
    record = ExploitabilityRecord(
        recipe=run.recipe,
        seed=run.seed,
        eps=run.judged,
        n=n,
        clean=sound["clean", 0.0].accuracy,
        in_game=own.accuracy if own else None,
        fresh=tuple(outcome.accuracy for outcome in found.fresh),
        worst=correct / n,
        low=interval.low,
        high=interval.high,
        gap=own.accuracy - correct / n if own else None,
        gap_low=gap.low if gap else None,
        gap_high=gap.high if gap else None,
        epochs=found.epochs,
        adversary=f"{FRESH.bound}, {FRESH.loss}, hidden {FRESH.hidden}, {FRESH.optimizer.name} lr {FRESH.optimizer.lr}",
    )
    return record, survived


def readings(run: Run, model: nn.Module, test: Data, prefix: str = "") -> list[ReadingRecord]:
    """FGSM at 0.1 on the vanilla model in every reading of the paper's protocol (claim N8; ambiguities a, b, c).

    `prefix` opens each reading's name, for a model that was itself trained in another reading.
    """
    modes: Sequence[tuple[Mode, Mode]] = (
        ("evaluation", "evaluation"),
        ("training", "evaluation"),
        ("training", "training"),
    )
    cases = [
        (g, v, loss, b) for g, v in modes for loss in ("cross_entropy", "softmax_twice") for b in (64, 128, 512, 2000)
    ]
    cases = [case for case in cases if case[1] == "training" or case[0] == "training" or case[3] == 128]
    wanted = [(0.1, *case) for case in cases]
    wanted.append((0.0308, *cases[0]))  # lambda 0.1 in units of standardised MNIST pixels, 0.1 * 0.3081
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(run.seed))
    outcomes: dict[tuple[float, Mode, Mode, str, int], Outcome] = {}
    for gradient, loss, batch in dict.fromkeys((g, loss, b) for _, g, _, loss, b in wanted):
        attack = fgsm(ThreatModel(0.1, test.shape), loss=loss, mode=gradient)
        alike = [case for case in wanted if (case[1], *case[3:]) == (gradient, loss, batch)]
        verdicts = [(eps, verdict) for eps, _, verdict, _, _ in alike]
        found = one_step(model, test, attack, verdicts, batch_size=batch, order=order)
        outcomes |= zip(alike, found, strict=True)
    return [_reading_record(prefix, run.seed, case, outcomes[case]) for case in wanted]


def _reading_record(
    prefix: str, seed: int, case: tuple[float, Mode, Mode, str, int], outcome: Outcome
) -> ReadingRecord:
    eps, gradient, verdict, loss, batch = case
    n = outcome.correct.numel()
    interval = wilson(int(outcome.correct.sum()), n)
    return ReadingRecord(
        reading=prefix + _reading(gradient, verdict, loss, batch, eps),
        seed=seed,
        gradient_mode=gradient,
        verdict_mode=verdict,
        loss="logits" if loss == "cross_entropy" else "softmax twice",
        batch_size=batch,
        eps=eps,
        n=n,
        accuracy=outcome.accuracy,
        low=interval.low,
        high=interval.high,
    )


def _reading(gradient: str, verdict: str, loss: str, batch: int, eps: float) -> str:
    parts = [f"gradient in {gradient} mode", f"verdict in {verdict} mode"]
    if loss == "softmax_twice":
        parts.append("softmax twice")
    if "training" in (gradient, verdict):
        parts.append(f"batches of {batch}")
    if eps != 0.1:
        parts.append("λ = 0.1 in standardised pixels (0.031)")
    return ", ".join(parts)


def _accuracy(run: Run, attack: str, eps: float, protocol: Protocol, outcome: Outcome, mean: float) -> AccuracyRecord:
    n = outcome.correct.numel()
    correct = round(mean * n)
    interval = wilson(correct, n)
    return AccuracyRecord(
        recipe=run.recipe,
        seed=run.seed,
        attack=attack,
        eps=eps,
        protocol=protocol,
        n=n,
        correct=correct,
        accuracy=mean,
        low=interval.low,
        high=interval.high,
        invalid=int(outcome.invalid.sum()),
        max_distance=round(outcome.max_distance, 8),
        forwards=outcome.cost.forwards,
        backwards=outcome.cost.backwards,
        seconds=round(outcome.cost.seconds, 3),
        attack_repr=outcome.attack,
        commit=commit(),
    )


def _fgsm(outcomes: dict[tuple[str, float], Outcome]) -> list[tuple[float, Outcome]]:
    return [(eps, outcome) for (name, eps), outcome in outcomes.items() if name == "fgsm"]


def _calibration(
    run: Run, test: Data, settings: Measurement, protocol: Protocol, eps: float | None, outcomes: list[Outcome]
) -> CalibrationRecord:
    """Calibration under FGSM at one eps, or (eps None) pooled over the grid."""
    logits = torch.cat([outcome.logits for outcome in outcomes]).cpu()
    labels = test.labels.cpu().repeat(len(outcomes))
    found = calibrate(logits, labels, n_resamples=settings.n_resamples, seed=run.seed)
    bins = tuple(
        BinRecord(
            b.low, b.high, b.count, b.confidence, b.accuracy, band.low if band else None, band.high if band else None
        )
        for b, band in zip(found.bins, found.bands, strict=True)
    )
    return CalibrationRecord(
        recipe=run.recipe,
        seed=run.seed,
        attack="fgsm",
        eps=eps,
        protocol=protocol,
        n=found.n,
        accuracy=found.accuracy,
        confidence=found.mean_confidence,
        bins=bins,
        ece=found.ece,
        ece_low=found.ece_interval.low,
        ece_high=found.ece_interval.high,
        adaptive_ece=found.adaptive_ece,
        adaptive_ece_low=found.adaptive_ece_interval.low,
        adaptive_ece_high=found.adaptive_ece_interval.high,
        brier=found.brier,
        brier_low=found.brier_interval.low,
        brier_high=found.brier_interval.high,
        nll=found.nll,
        nll_low=found.nll_interval.low,
        nll_high=found.nll_interval.high,
    )
