"""A game and its yardstick under the official AutoAttack and the library's standard suite, over several seeds, paired.

    python runs/confirmed.py OUT results/beyond-mnist [--recipes gan_recurrent pgd_drawn] [--seeds 0 1 2 3 4] [--eps 0.1 0.2 0.3]
                             [--examples 1000] [--read]

OUT holds the runs of `runs/beyond.py`, which attacks every seed on all test images, but by Auto-PGD alone; AutoAttack needs the
package pyautoattack and two minutes for a thousand images of one run at one radius. Which images each attack leaves is kept
beside the run, attack by attack and radius by radius; the same command goes on, and `--read` tells what is there. Written:
confirmed.jsonl, the worst case of both for each image beside them, of every run that both attacks have met at every radius.
Printed: means over seeds, and the first recipe less each other one, paired by seed: Student's t over seeds, corrected by Holm
over all of them.
"""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import official
import torch

from sparring.attacks import Attack, Cascade, standard_suite
from sparring.data import Data
from sparring.data.batches import stratified
from sparring.evaluation.accuracy import attacked
from sparring.evaluation.statistics import holm, mean_interval, t_test_p
from sparring.experiment import Trained, load, load_data
from sparring.process import on_one_thread
from sparring.records import OutPaths, read_json, write, write_json
from sparring.threat import ThreatModel

SUITE = "standard suite"


@dataclass(frozen=True)
class ConfirmedRecord:
    """How many of n images are right after the suite, after AutoAttack, and after whichever of both is worse for each image."""

    recipe: str
    seed: int
    eps: float
    n: int
    suite: int
    autoattack: int
    worst: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--recipes", nargs="+", default=["gan_recurrent", "pgd_drawn"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--eps", type=float, nargs="+", default=[0.1, 0.2, 0.3])
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--read", action="store_true", help="attack nothing")
    options = parser.parse_args()
    on_one_thread()
    rows = list[ConfirmedRecord]()
    for seed, recipe in itertools.product(options.seeds, options.recipes):
        rows += confirmed(OutPaths(options.out).run(recipe, seed).folder, options)
    rows.sort(key=lambda row: (options.recipes.index(row.recipe), row.eps, row.seed))
    write(OutPaths(options.results).records("confirmed"), rows)
    tell(rows, options.recipes)


def confirmed(folder: Path, options: argparse.Namespace) -> list[ConfirmedRecord]:
    """One run's rows; none while an attack at one of the radii is missing."""
    trained = load(folder)
    test = stratified(load_data(trained.run.data)[1], options.examples)
    file, n = folder / f"confirmed-{len(test)}.json", len(test)
    kept: dict[str, str] = read_json(file) if file.is_file() else {}
    made = []
    for eps in options.eps:
        for name, attack in attacks(test, eps).items():
            if (key := f"{name} {eps:g}") not in kept and not options.read:
                kept[key] = marks(trained, test, attack, eps)
                write_json(file, kept)
                print(f"{trained.run.recipe} seed {trained.run.seed}, {key}: {kept[key].count('1')} of {n}", flush=True)
        found = [kept.get(f"{name} {eps:g}") for name in (SUITE, official.NAME)]
        if None in found:
            return []
        suite, peer = (torch.tensor([mark == "1" for mark in marks or ""]) for marks in found)
        counts = (int(suite.sum()), int(peer.sum()), int((suite & peer).sum()))
        made.append(ConfirmedRecord(trained.run.recipe, trained.run.seed, eps, n, *counts))
    return made


def attacks(test: Data, eps: float) -> dict[str, Attack]:
    """Both, at one radius."""
    threat = ThreatModel(eps, test.shape)
    suite = Cascade(standard_suite(threat, test.n_classes, test.shape), threat)
    return {SUITE: suite, official.NAME: partial(official.autoattack, eps=eps)}


def marks(trained: Trained, test: Data, attack: Attack, eps: float) -> str:
    """1 for every image that is right after the attack, else 0."""
    correct = attacked(trained.defender, test, attack, ThreatModel(eps, test.shape)).correct
    return "".join(str(int(mark)) for mark in correct)


def tell(rows: Sequence[ConfirmedRecord], recipes: Sequence[str]) -> None:
    """Means, and the first recipe less each other one."""
    for (recipe, eps), cell in itertools.groupby(rows, key=lambda row: (row.recipe, row.eps)):
        some = list(cell)
        left = [percent([getattr(row, name) / row.n for row in some]) for name in ("suite", "autoattack", "worst")]
        print(f"{recipe}, eps {eps:g}, {len(some)} seeds: suite {left[0]}, AutoAttack {left[1]}, both {left[2]}")
    worst = {(row.recipe, row.eps, row.seed): row.worst / row.n for row in rows}
    tests = list[tuple[str, float, list[float]]]()
    for other, eps in itertools.product(recipes[1:], dict.fromkeys(row.eps for row in rows)):
        pairs = [
            (value, worst.get((other, eps, seed)))
            for (name, at, seed), value in worst.items()
            if (name, at) == (recipes[0], eps)
        ]
        tests.append((other, eps, [game - beside for game, beside in pairs if beside is not None]))
    tests = [test for test in tests if test[2]]
    for (other, eps, by_seed), p in zip(tests, holm([t_test_p(by_seed) for _, _, by_seed in tests]), strict=True):
        print(f"{recipes[0]} less {other}, eps {eps:g}: {percent(by_seed)}, corrected p {p:.2g}")


def percent(values: Sequence[float]) -> str:
    """Their mean with its interval, in per cent."""
    mean, bounds = mean_interval(values)
    return f"{100 * mean:.2f} [{100 * bounds.low:.2f}, {100 * bounds.high:.2f}]"


if __name__ == "__main__":
    main()
