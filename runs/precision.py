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

from paired import Accuracies, Difference, accuracies, differences, table

from sparring.attacks import LearnedAttack, fgsm, identity
from sparring.evaluation import attacked
from sparring.evaluation.accuracy import pgd_curve
from sparring.experiment import load, load_data
from sparring.measure import Measurement
from sparring.process import on_one_thread
from sparring.randomness import derive
from sparring.records import OutPaths, ReproductionRecord, SummaryRecord, read, read_json, restore, write
from sparring.reproduction.finished import each, finished
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class Measured:
    """Accuracies of one run, by the names of ATTACKS, and the seconds of its training."""

    recipe: str
    seed: int
    eps: float
    left: dict[str, float]
    seconds: float


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


def by_regime(runs: Sequence[Measured]) -> Accuracies:
    """Their accuracies as `differences` takes them."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for run in runs:
        for attack, left in run.left.items():
            found.setdefault((run.recipe, attack), {})[run.seed] = left
    return found


def text(rows: Sequence[Difference], runs: Sequence[Measured], call: str) -> Iterator[str]:
    """The page."""
    yield "# Trainings in bf16 beside the same in fp32"
    yield ""
    yield (
        f"`{call}`. MNIST, all test images, {rows[0].n_seeds} seeds of every regime, paired by seed, attacks at eps "
        f"{runs[0].eps:g}; accuracies in %, differences in points, bf16 less fp32 [95 % t interval over seeds]; p of Student's "
        "t, alone and corrected by Holm over all rows. `runs/precision.py` says what is compared."
    )
    yield ""
    yield from table(rows, "fp32", "bf16")
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
    fp32 = OutPaths(options.fp32)
    summary = read(fp32.records("summary"), SummaryRecord)
    head = restore(ReproductionRecord, read_json(fp32.reproduction))
    regimes = {r.recipe for r in summary}
    wanted = [folder for folder in finished(options.out) if folder.parent.name in regimes]
    runs: list[Measured] = []

    def told(run: Measured) -> None:
        runs.append(run)
        print(f"{run.recipe} seed {run.seed}: {run.left}", flush=True)

    each(measured, wanted, options.workers, told)
    order = list(dict.fromkeys(r.recipe for r in summary))
    runs.sort(key=lambda run: (order.index(run.recipe), run.seed))
    rows = differences(accuracies(summary, head.eps, head.seeds), by_regime(runs))
    options.results.mkdir(parents=True, exist_ok=True)
    write(options.results / "accuracies.jsonl", rows)
    call = f"python runs/precision.py {options.fp32} OUT {options.results}"
    page = "\n".join(text(rows, runs, call)) + "\n"
    (options.results / "README.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
