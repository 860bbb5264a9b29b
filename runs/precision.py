"""Trainings in bf16 beside those of a reproduction in fp32, paired by seed: does the precision of products change an accuracy?

    sparring reproduce --data mnist --seeds 10 --precision bf16 --out OUT     (its trainings are enough)
    python runs/precision.py results/paper-mnist OUT results/precision [--workers 2]

Of every run of OUT: accuracy on clean test images, under FGSM and PGD-40 at the training's eps, and against the game's own
adversary, measured as `sparring evaluate` does; of the fp32 runs the same, from the first folder's records. Evaluations are in
fp32 on both sides. A seed has the same initial weights and batches on both, but two trainings that differ in one rounding drift
apart, and so differ by about as much as two seeds do: an interval says how large a change these seeds would not have shown.
Student's t over seeds, corrected by Holm over all rows. Written: accuracies.jsonl (a row for every regime and attack), README.md.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparring.attacks import LearnedAttack, fgsm, identity
from sparring.evaluation import attacked
from sparring.evaluation.accuracy import pgd_curve
from sparring.evaluation.statistics import holm, mean_interval, t_test_p
from sparring.experiment import load, load_data
from sparring.measure import Measurement
from sparring.process import on_one_thread
from sparring.randomness import derive
from sparring.records import OutPaths, SummaryRecord, read, write
from sparring.reproduction.finished import each, finished
from sparring.threat import ThreatModel

ATTACKS = {"clean": "clean", "fgsm": "FGSM", "pgd": "PGD-40", "own": "in-game"}


@dataclass(frozen=True)
class Measured:
    """Accuracies of one run, by the names of ATTACKS, and the seconds of its training."""

    recipe: str
    seed: int
    eps: float
    left: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Difference:
    """One accuracy of one regime over seeds: in fp32, in bf16, and bf16 less fp32."""

    recipe: str
    attack: str
    eps: float
    n_seeds: int
    fp32: float
    bf16: float
    difference: float
    low: float
    high: float
    p_value: float  # of Student's t, not corrected
    corrected: float


def measured(folder: Path) -> Measured:
    """One run, as `sparring.measure` measures it."""
    trained = load(folder)
    run, model, test = trained.run, trained.defender, load_data(trained.run.data)[1]
    threat, full = ThreatModel(run.judged, test.shape), Measurement()
    seed = derive(run.seed, "eval")
    pgd = pgd_curve(model, test, (0.0, run.judged), steps=full.pgd_steps, restarts=full.pgd_restarts, seed=seed)
    left = {
        "clean": attacked(model, test, identity, threat).accuracy,
        "fgsm": attacked(model, test, fgsm(threat), threat).accuracy,
        "pgd": pgd[run.judged].accuracy,
    }
    if trained.adversary is not None:
        left["own"] = attacked(model, test, LearnedAttack(trained.adversary, threat), threat).accuracy
    return Measured(run.recipe, run.seed, run.judged, left, trained.record.seconds)


def differences(summary: Sequence[SummaryRecord], runs: Sequence[Measured]) -> list[Difference]:
    """A row for every regime and attack that both sides have, p-values corrected over all of them."""
    known = {(r.recipe, r.attack, r.eps): r for r in summary if (r.metric, r.protocol) == ("accuracy", "sound")}
    paired = []
    for recipe in dict.fromkeys(run.recipe for run in runs):
        own = sorted((run for run in runs if run.recipe == recipe), key=lambda run: run.seed)
        for attack in own[0].left:
            fp32 = known.get((recipe, attack, 0.0 if attack == "clean" else own[0].eps))
            if fp32 is None:
                continue
            before = [fp32.values[run.seed] for run in own]  # seeds count from 0
            after = [run.left[attack] for run in own]
            each_seed = [b - a for a, b in zip(before, after, strict=True)]
            mean, bounds = mean_interval(each_seed)
            means = sum(before) / len(own), sum(after) / len(own)
            row = (recipe, attack, own[0].eps, len(own), *means, mean, bounds.low, bounds.high, t_test_p(each_seed))
            paired.append(row)
    corrected = holm([row[-1] for row in paired])
    return [Difference(*row, p) for row, p in zip(paired, corrected, strict=True)]


def text(rows: Sequence[Difference], runs: Sequence[Measured], call: str) -> Iterator[str]:
    """The page."""
    yield "# Trainings in bf16 beside the same in fp32"
    yield ""
    yield (
        f"`{call}`. MNIST, all test images, {rows[0].n_seeds} seeds of every regime, paired by seed, attacks at eps "
        f"{rows[0].eps:g}; accuracies in %, differences in points, bf16 less fp32 [95 % t interval over seeds]; p of Student's "
        "t, alone and corrected by Holm over all rows. `runs/precision.py` says what is compared."
    )
    yield ""
    yield "| training | accuracy | fp32 | bf16 | difference | p | corrected |"
    yield "|---|---|---|---|---|---|---|"
    for r in rows:
        change = f"{100 * r.difference:+.2f} [{100 * r.low:+.2f}, {100 * r.high:+.2f}]"
        values = f"{100 * r.fp32:.2f} | {100 * r.bf16:.2f} | {change} | {r.p_value:.2g} | {r.corrected:.2g}"
        yield f"| {r.recipe} | {ATTACKS[r.attack]} | {values} |"
    yield ""
    taken: dict[str, float] = {}
    for run in runs:
        taken[run.recipe] = taken.get(run.recipe, 0.0) + run.seconds
    minutes = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in taken.items())
    yield f"The bf16 trainings of all seeds, in minutes of one core: {minutes}; together {sum(taken.values()) / 60:.0f}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fp32", type=Path, help="a folder with the records of a reproduction in fp32")
    parser.add_argument("out", type=Path, help="out folder of the bf16 trainings")
    parser.add_argument("results", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    on_one_thread()
    summary = read(OutPaths(options.fp32).records("summary"), SummaryRecord)
    regimes = {r.recipe for r in summary}
    wanted = [folder for folder in finished(options.out) if folder.parent.name in regimes]
    runs: list[Measured] = []

    def told(run: Measured) -> None:
        runs.append(run)
        print(f"{run.recipe} seed {run.seed}: {run.left}", flush=True)

    each(measured, wanted, options.workers, told)
    order = list(dict.fromkeys(r.recipe for r in summary))
    runs.sort(key=lambda run: (order.index(run.recipe), run.seed))
    rows = differences(summary, runs)
    options.results.mkdir(parents=True, exist_ok=True)
    write(options.results / "accuracies.jsonl", rows)
    call = f"python runs/precision.py {options.fp32} OUT {options.results}"
    page = "\n".join(text(rows, runs, call)) + "\n"
    (options.results / "README.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
