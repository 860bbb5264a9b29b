"""FABRICATED TEST DATA: an output folder with every kind of record, made up and measured nowhere.

Only the tests of the report use it. To look at one: `python tests/report/fabricated.py OUT [SEEDS]`.
"""

import math
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from fabricated_measurements import (
    GAMES,
    GRID,
    RECIPES,
    N,
    best_responses,
    calibration,
    epochs,
    example,
    exploitability,
    learned_attacks,
    payoffs,
    readings,
    results,
    run,
    sweeps,
    transfer,
)

from sparring.records import (
    AccuracyRecord,
    CalibrationRecord,
    ClaimRecord,
    ComparisonRecord,
    ExploitabilityRecord,
    OutPaths,
    ReadingRecord,
    ReproductionRecord,
    SummaryRecord,
    TransferRecord,
    write,
    write_json,
)
from sparring.reproduction.responses import over_seeds

TITLE = "FABRICATED TEST DATA, no measurement"


def write_folder(out: Path, *, seeds: int = 3, recipes: Sequence[str] = RECIPES, diverge: str | None = None) -> Path:
    """Write a plausible, made-up output folder; the last seed of the recipe `diverge` diverges."""
    rng = random.Random(0)
    paths = OutPaths(out)
    out.mkdir(parents=True, exist_ok=True)
    done = [(recipe, seed) for recipe in recipes for seed in range(seeds) if (recipe, seed) != (diverge, seeds - 1)]
    accuracies = [record for recipe, seed in done for record in results(recipe, seed, rng)]
    fresh = [exploitability(recipe, seed, rng) for recipe, seed in done]
    matrix = [record for recipe, seed in done for record in transfer(recipe, seed, rng)]
    read = [record for seed in range(seeds) for record in readings(seed, rng)]
    reliability = [record for recipe, seed in done for record in calibration(recipe, seed, rng)]
    write_json(paths.reproduction, _head(seeds, recipes))
    write_json(paths.claims, _claims(seeds))
    write(paths.runs_done, [run(recipe, seed, diverge, seeds) for recipe in recipes for seed in range(seeds)])
    write(paths.records("results"), accuracies)
    write(paths.records("epochs"), [e for recipe, seed in done for e in epochs(recipe, seed, rng)])
    write(paths.records("calibration"), reliability)
    write(paths.records("transfer"), matrix)
    write(paths.records("exploitability"), fresh)
    write(paths.records("readings"), read)
    write(paths.records("sweeps"), sweeps(seeds, rng))
    write(paths.records("summary"), _summary(accuracies, fresh, matrix, read, reliability))
    write(paths.records("comparisons"), _comparisons(seeds, rng))
    games = [recipe for recipe in recipes if recipe in GAMES]
    if games:
        write(paths.records("payoffs"), [p for recipe in games[:2] for p in payoffs(recipe, 0, range(5, 30, 5))])
    responses = [r for recipe, seed in done for r in best_responses(recipe, seed, rng)]
    write(paths.records("responses"), responses)
    write(paths.records("gaps"), over_seeds(responses))
    write(paths.records("attack"), [r for recipe in recipes[:2] for r in learned_attacks(recipe)])
    write(paths.records("examples"), [example(k, rng) for k in range(6)])
    return out


def _head(seeds: int, recipes: Sequence[str]) -> ReproductionRecord:
    return ReproductionRecord(
        command="sparring reproduce --data mnist --seeds 0-2 --out OUT",
        title=TITLE,
        data="mnist",
        data_sha256={"train": "a" * 64, "test": "b" * 64},
        n_train=60_000,
        n_test=N,
        n_classes=10,
        majority_rate=0.1135,
        seeds=tuple(range(seeds)),
        recipes=tuple(recipes),
        eps=0.1,
        grid=GRID,
        machine={
            "python": "3.12.3",
            "torch": "2.6.0",
            "numpy": "2.2.1",
            "threads": 2,
            "processor": "made-up CPU",
            "memory_gb": 23.5,
        },
        commit="0" * 40,
        started="2026-01-01T00:00:00Z",
        seconds=4210.0,
        training_seconds=3333.0,
        peak_memory_mb=1234.0,
        recipes_described={
            "vanilla": "Clean images only.",
            "noise": "Uniform random noise of 0.1 on every image.",
            "fgsm": "Half of each batch clean, half under FGSM at 0.1.",
            "gan_tanh": "Against an adversary network with a tanh output.",
            "gan_scaled": "Against an adversary network whose output is centred and scaled.",
            "gan_tanh_init": "As GAN tanh, the adversary first trained alone against vanilla.",
            "gan_scaled_init": "As GAN scaled, the adversary first trained alone against vanilla.",
            "pgd": "Every batch under 7 steps of PGD at 0.1.",
        },
        settings={"optimizer": {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.0004}, "batch_size": 128},
    )


def _summary(
    results: Sequence[AccuracyRecord],
    exploit: Sequence[ExploitabilityRecord],
    transfer: Sequence[TransferRecord],
    readings: Sequence[ReadingRecord],
    calibration: Sequence[CalibrationRecord],
) -> list[SummaryRecord]:
    groups: dict[tuple[str, str, str, float | None, str], list[float]] = {}

    def add(recipe: str, metric: str, attack: str, eps: float | None, protocol: str, value: float | None) -> None:
        if value is not None:
            groups.setdefault((recipe, metric, attack, eps, protocol), []).append(value)

    for r in results:
        add(r.recipe, "accuracy", r.attack, r.eps, r.protocol, r.accuracy)
    for x in exploit:
        add(x.recipe, "in_game", "own", x.eps, "sound", x.in_game)
        add(x.recipe, "fresh", "fresh", x.eps, "sound", x.worst)
        add(x.recipe, "gap", "fresh", x.eps, "sound", x.gap)
    for t in transfer:
        name = t.adversary + (" (alone)" if t.adversary_kind == "trained alone" else "")
        add(t.defender, "transfer", name, t.eps, "sound", t.accuracy)
    for g in readings:
        protocol = "paper" if g.verdict_mode == "training" else "sound"
        add("vanilla", "reading", g.reading, g.eps, protocol, g.accuracy)
    for c in calibration:
        for metric in ("ece", "adaptive_ece", "brier", "nll"):
            add(c.recipe, metric, c.attack, c.eps, c.protocol, getattr(c, metric))
    areas: dict[tuple[str, str, int, str], list[float]] = {}
    for r in results:
        if r.attack != "clean":
            areas.setdefault((r.recipe, r.attack, r.seed, r.protocol), []).append(r.accuracy)
    for (recipe, attack, _, protocol), values in areas.items():
        add(recipe, "area", attack, None, protocol, sum(values) / len(values))
    made = []
    for (recipe, metric, attack, eps, protocol), values in groups.items():
        mean, half = statistics.fmean(values), None
        if len(values) > 1:
            half = {2: 12.71, 3: 4.30}.get(len(values), 2.3) * statistics.stdev(values) / math.sqrt(len(values))
        made.append(
            SummaryRecord(
                recipe=recipe,
                metric=metric,
                attack=attack,
                eps=eps,
                protocol="sound" if protocol == "sound" else "paper",
                mean=mean,
                low=None if half is None else mean - half,
                high=None if half is None else mean + half,
                n_seeds=len(values),
                values=tuple(values),
                n=N,
            )
        )
    return made


def _comparisons(seeds: int, rng: random.Random) -> list[ComparisonRecord]:
    rows = [("F2a", "fgsm", r, "area", None, 0.03) for r in ("vanilla", "gan_tanh", "gan_scaled_init")]
    rows += [("F2b", r, "vanilla", "area", None, 0.05) for r in GAMES]
    rows += [("F2c", "gan_tanh_init", "gan_tanh", "area", None, 0.001)]
    rows += [("F2d", "fgsm", "gan_tanh", "accuracy", eps, 0.4 - 0.4 * eps) for eps in GRID[1:]]
    rows += [("F2e", "gan_scaled_init", "fgsm", "accuracy", 0.1, -0.38)]
    rows += [("F3a", "fgsm", r, "ece", 0.1, 0.2) for r in ("vanilla", "noise", "gan_tanh")]
    rows += [("F3b", "gan_tanh", "vanilla", "ece", 0.1, -0.004)]
    rows += [("D2", "gan_tanh", "sign noise", "transfer", 0.1, 0.002)]
    made = []
    for claim, better, worse, metric, eps, difference in rows:
        value = difference + rng.gauss(0, 0.002)
        made.append(
            ComparisonRecord(
                claim=claim,
                family=claim[:2],
                better=better,
                worse=worse,
                metric=metric,
                eps=eps,
                protocol="sound",
                difference=value,
                low=value - 0.01,
                high=value + 0.01,
                per_seed=tuple(value for _ in range(seeds)),
                p_value=0.0004 if abs(value) > 0.01 else 0.41,
                same_sign=abs(value) > 0.01,
                holds=value > 0.01,
            )
        )
    return made


def _claims(seeds: int) -> list[ClaimRecord]:
    rows = [
        (
            "N1",
            "Clean accuracy, vanilla",
            "98.26",
            "98.49",
            "[98.40, 98.58]",
            "reproduced",
            "Within 0.3 points.",
        ),
        (
            "N2",
            "Clean accuracy, random noise",
            "98.44",
            "98.24",
            "[98.10, 98.38]",
            "reproduced",
            "Within 0.3 points.",
        ),
        (
            "N4",
            "Clean accuracy, game, tanh",
            "98.23",
            "97.90",
            "[97.70, 98.10]",
            "undecided",
            "Reaches the edge.",
        ),
        (
            "N8",
            "Vanilla under FGSM at eps 0.1",
            "85.42",
            "22.8",
            "[21.3, 24.3]",
            "explained",
            "Leaving batch norm in training mode for gradient and verdict covers the paper's number.",
        ),
        (
            "N9",
            "Vanilla under an adversary trained alone, tanh",
            "20.41",
            "20.0",
            "[18.1, 21.9]",
            "reproduced",
            "In.",
        ),
        (
            "N11",
            "Each game-trained adversary leaves different defenders at about 97",
            "97",
            "96.8",
            "[96.2, 97.4]",
            "reproduced",
            "Every entry of the matrix is at least 96.",
        ),
        (
            "F2a",
            "FGSM-trained does best almost throughout",
            "ranking",
            "holds",
            "",
            "reproduced",
            "Six of six.",
        ),
        (
            "F2e",
            "At 0.1 the scaled initialised game beats FGSM-trained",
            "sign",
            "-38",
            "[-39, -37]",
            "refuted",
            "No.",
        ),
        (
            "D1",
            "The adversary does not learn to fool its defender",
            "-",
            "gap 37",
            "[35, 39]",
            "reproduced",
            "It is so.",
        ),
    ]
    return [
        ClaimRecord(
            id=name,
            claim=claim,
            paper=paper,
            measured=measured,
            interval=interval,
            n_seeds=seeds,
            verdict=verdict,  # type: ignore[arg-type]
            sentence=sentence,
            protocol_values={"sound": "22.8", "paper": "85.4"} if name == "N8" else {},
        )
        for name, claim, paper, measured, interval, verdict, sentence in rows
    ]


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]), seeds=int(sys.argv[2]) if len(sys.argv) > 2 else 3)
