"""Which radii to train for: the game and PGD-7, or others, under one law of radii after another, on training images held out.

    python runs/laws.py OUT results/beyond-mnist [--recipes gan_recurrent pgd_drawn] [--seeds 3] [--laws 0.01-0.3 0.2 ...]

Every variant trains on the first 55,000 training images and is attacked on 2,000 of the other 5,000, at the radii and with the
attacks of `runs/beyond.py`; the test images are not touched. A law is a range that each example's radius is drawn from at every
step, or one radius for all. All else is the recipe's. Trained runs are kept in OUT; calls for other recipes or laws may run
beside one another, as each call writes what it finds in OUT, and laws.jsonl from all of OUT. Printed: means over seeds, for
each recipe the law that keeps most in the mean over the radii first, with a mark where clean accuracy is not within 0.3 points of
that of the game's default.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from beyond import GRID, suite

from sparring import recipes
from sparring.config import Data as DataConfig
from sparring.config import Run
from sparring.data import Data
from sparring.data.batches import stratified
from sparring.evaluation import worst_case
from sparring.evaluation.statistics import mean_interval
from sparring.experiment import load, load_data
from sparring.process import keep_freed_memory, on_one_thread
from sparring.records import RunPaths, read, write
from sparring.session import train_runs

TRAINED_ON = 55_000
LAWS = ("0.01-0.3", "0.05-0.3", "0.1-0.3", "0.05-0.25", "0.1-0.25", "0.15-0.25", "0.15", "0.18", "0.2")
CLEAN_WITHIN = 0.003  # of the game's default


@dataclass(frozen=True)
class LawRecord:
    """What is left at `eps`, clean at 0, of one run that drew its radii from [low, high], on images held out."""

    recipe: str
    low: float
    high: float
    seed: int
    eps: float
    n: int
    correct: int
    seconds: float  # of its training


def of_law(recipe: str, law: str, seed: int) -> Run:
    """The recipe's run with its radii drawn so."""
    low, _, high = law.partition("-")
    run = replace(recipes.recipe(recipe), seed=seed, data=DataConfig("mnist"))
    power = run.eps_power if high else 1.0
    return replace(run, eps=float(high or low), eps_low=float(low) if high else None, eps_power=power)


def measured(recipe: str, law: str, parts: tuple[Data, Data], options: argparse.Namespace) -> list[LawRecord]:
    """Train the seeds of a variant as one stack where that is not done, and attack each."""
    train_on, held_out = parts
    runs = [of_law(recipe, law, seed) for seed in range(options.seeds)]
    paths = [RunPaths(options.out / law / recipe / f"seed{run.seed}") for run in runs]
    records = train_runs(runs, paths, train_on)
    made = []
    for run, path, record in zip(runs, paths, records, strict=True):
        trained = load(path.folder)
        found = worst_case(
            trained.defender, held_out, GRID, partial(suite, trained=trained), store=path.folder / "worst"
        )
        for eps in (0.0, *GRID):
            at = (recipe, run.eps if run.eps_low is None else run.eps_low, run.eps, run.seed, eps)
            n = len(held_out)
            made.append(LawRecord(*at, n, round(n * found.accuracy(eps)), round(record.seconds, 1)))
    return made


def split(train_on: Data, n: int) -> tuple[Data, Data]:
    """What is trained on, and what is held out of it, n of each."""
    index = torch.arange(len(train_on))
    return train_on.take(index[:TRAINED_ON]), stratified(train_on.take(index[TRAINED_ON:]), n)


def told(records: list[LawRecord]) -> str:
    """Means over seeds, best law first, and which is the best."""
    by: dict[tuple[str, float, float], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in records:
        by[r.recipe, r.low, r.high][r.eps].append(r.correct / r.n)
    means = {key: {eps: sum(v) / len(v) for eps, v in at.items()} for key, at in by.items()}
    default = recipes.gan_recurrent()
    clean = means.get((default.recipe, default.eps_low or 0.0, default.eps), {}).get(0.0)
    lines = []
    for key in sorted(means, key=lambda key: (key[0], -_mean(means[key]))):
        recipe, low, high = key
        near = clean is None or abs(means[key][0.0] - clean) <= CLEAN_WITHIN + 1e-9
        cells = "; ".join(f"{eps:g}: {_cell(by[key][eps])}" for eps in (0.0, *GRID))
        radii = f"{high:g}" if low == high else f"{low:g} to {high:g}"
        mark = "" if near else "  (clean accuracy too far off)"
        lines.append(f"{recipe} {radii}, {len(by[key][0.0])} seeds: mean {100 * _mean(means[key]):.2f}; {cells}{mark}")
    return "\n".join(lines)


def _mean(at: dict[float, float]) -> float:
    return sum(at[eps] for eps in GRID) / len(GRID)


def _cell(values: list[float]) -> str:
    mean, interval = mean_interval([100 * value for value in values])
    return f"{mean:.1f}" + (f" [{interval.low:.1f}, {interval.high:.1f}]" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--recipes", nargs="+", default=["gan_recurrent", "pgd_drawn"])
    parser.add_argument("--laws", nargs="+", default=LAWS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=2000)
    options = parser.parse_args()
    on_one_thread()
    keep_freed_memory()
    parts = split(load_data(DataConfig("mnist"))[0], options.examples)
    for law in options.laws:
        for recipe in options.recipes:
            write(options.out / law / f"{recipe}.jsonl", measured(recipe, law, parts, options))
            records = [r for path in sorted(options.out.glob("*/*.jsonl")) for r in read(path, LawRecord)]
            write(options.results / "laws.jsonl", records)
            print(told(records), "\n", flush=True)


if __name__ == "__main__":
    main()
