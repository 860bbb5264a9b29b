"""The recurrent game beside PGD-7 where both train at one radius: the worst case of every run, and paired tests.

    for eps in 0.15 0.2; do
        sparring train gan_recurrent_tenth --eps $eps --data.name mnist --seeds 5 --out OUT/$eps
        sparring train pgd_tenth --eps $eps --data.name mnist --seeds 5 --out OUT/$eps
    done
    python runs/radii.py OUT results/beyond-mnist [--examples 2000]

Both have the batches, rates and epochs of `gan_recurrent`; these two regimes differ from it and from `pgd_drawn` in the radius
alone, which is fixed, at 0.1 unless `--eps` says otherwise. Attacks, radii and images are those of `runs/beyond.py`, for regimes
that it does not attack on all images. Every finished run below OUT is told, whatever it trained at. What is done is kept beside
each run; the same command goes on. Written: radii.jsonl; printed: means over seeds, and the game less PGD-7 at each radius of
training, paired by seed: Student's t over seeds, corrected by Holm over all of them.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from beyond import GRID, suite

from sparring.data.batches import stratified
from sparring.evaluation import worst_case
from sparring.evaluation.statistics import holm, mean_interval, t_test_p, wilson
from sparring.experiment import load, load_data
from sparring.process import on_one_thread
from sparring.records import write

GAME, YARDSTICK = "gan_recurrent_tenth", "pgd_tenth"


@dataclass(frozen=True)
class TrainedAtRecord:
    """What is left at `eps`, clean at 0, of one run that was trained at these radii; Wilson's interval."""

    recipe: str
    seed: int
    trained_low: float
    trained_eps: float
    eps: float
    n: int
    correct: int
    accuracy: float
    low: float
    high: float


def measured(folder: Path, n_examples: int) -> list[TrainedAtRecord]:
    """A run's worst case at every radius, clean accuracy first."""
    trained = load(folder)
    run, test = trained.run, stratified(load_data(trained.run.data)[1], n_examples)
    store = folder / f"worst-{n_examples}"
    found = worst_case(trained.defender, test, GRID, partial(suite, trained=trained), store=store)
    made = []
    for eps in (0.0, *GRID):
        n, correct = len(test), round(len(test) * found.accuracy(eps))
        at = (run.recipe, run.seed, run.eps_low or run.eps, run.eps, eps)
        bounds = wilson(correct, n)
        made.append(TrainedAtRecord(*at, n, correct, correct / n, bounds.low, bounds.high))
    return made


def told(records: list[TrainedAtRecord]) -> str:
    """Means over seeds, and paired tests of the game against PGD-7 at each radius of training and attack."""
    by: dict[tuple[float, float, str], dict[float, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for r in records:
        by[r.trained_low, r.trained_eps, r.recipe][r.eps][r.seed] = 100 * r.accuracy
    lines = []
    for (low, high, recipe), at in sorted(by.items()):
        cells = []
        for eps in sorted(at):
            mean, interval = mean_interval(list(at[eps].values()))
            spread = f" [{interval.low:.1f}, {interval.high:.1f}]" if len(at[eps]) > 1 else ""
            cells.append(f"{eps:g}: {mean:.1f}{spread}")
        radii = f"{high:g}" if low == high else f"{low:g} to {high:g}"
        lines.append(f"{recipe} at {radii}, {len(at[0.0])} seeds: " + "; ".join(cells))
    tests: list[tuple[str, float, float]] = []
    for low, high in sorted({key[:2] for key in by}):
        ours, theirs = by.get((low, high, GAME), {}), by.get((low, high, YARDSTICK), {})
        for eps in sorted(set(ours) & set(theirs)):
            seeds = sorted(set(ours[eps]) & set(theirs[eps]))
            apart = [ours[eps][s] - theirs[eps][s] for s in seeds]
            if len(seeds) > 1:
                what = f"trained at {high:g}, attacked at {eps:g}, {len(seeds)} seeds"
                tests.append((what, sum(apart) / len(apart), t_test_p(apart)))
    corrected = holm([p for _, _, p in tests])
    lines += [f"{what}: {mean:+.2f}, p {p:.2g}" for (what, mean, _), p in zip(tests, corrected, strict=True)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--examples", type=int, default=2000)
    options = parser.parse_args()
    on_one_thread()
    records: list[TrainedAtRecord] = []
    for done in sorted(options.out.glob("*/runs/*/seed*/run.json")):
        records += measured(done.parent, options.examples)
        write(options.results / "radii.jsonl", records)
        print(done.parent, [round(100 * r.accuracy, 1) for r in records[-1 - len(GRID) :]], flush=True)
    print(told(records))


if __name__ == "__main__":
    main()
