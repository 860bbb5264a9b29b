"""A game and its yardstick under the library's standard suite and the official AutoAttack, over several seeds, paired.

    python runs/confirmed.py OUT results/beyond-mnist [--recipes gan_recurrent pgd_drawn] [--seeds 0 1 2 3 4] [--eps 0.1 0.2 0.3]
                             [--official EPS ...] [--after-suite] [--certified] [--examples 1000] [--looks 1] [--read]

OUT holds the runs of `runs/beyond.py`, which attacks every seed on all test images, but by Auto-PGD alone. The suite meets every
image at the radii `--eps`, AutoAttack at those of them that `--official` names, unless told otherwise at all; it needs the
package pyautoattack and two minutes for a thousand images of one run at one radius. With `--after-suite` it meets only what the
suite leaves: the worst case of both for each image is the same, in less time, and what it leaves by itself is not known. With
`--certified` images are certified first (`sparring.evaluation.certify`), and AutoAttack after the suite does not meet those that
nothing in the ball can break. An attack that met and broke one would end the program: one of the two would be wrong.

Which images each attack leaves is kept beside the run, attack by attack and radius by radius; the same command goes on, and
`--read` attacks nothing. Written: confirmed.jsonl, of every run that the suite has met at the radius; what it held of other runs
and radii stays, so that seeds can come from several machines. Printed, of all that it holds: means over seeds, and the first
recipe less each other one, paired by seed, of what both attacks leave where both recipes have met both, else of what the suite
leaves: Student's t over seeds, corrected by Holm over all of them, and by Bonferroni for as many looks as were taken at growing
numbers of seeds (`--looks`).
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
from sparring.evaluation import certify
from sparring.evaluation.accuracy import attacked
from sparring.evaluation.statistics import holm, mean_interval, t_test_p
from sparring.experiment import load, load_data
from sparring.process import keep_freed_memory, on_one_thread
from sparring.records import OutPaths, read, read_json, write, write_json
from sparring.threat import ThreatModel

CERTIFIED = "certified {eps:g}"
SUITE, ALONE = "standard suite {eps:g}", f"{official.NAME} {{eps:g}}"
AFTER_SUITE = f"{ALONE}, after the suite"


@dataclass(frozen=True)
class ConfirmedRecord:
    """How many of n images are right after the suite, after AutoAttack, and after whichever of both is worse for each image.

    Without `autoattack` and with `worst` AutoAttack met what the suite left, less what was certified, where that was asked;
    without `worst` it met nothing.
    """

    recipe: str
    seed: int
    eps: float
    n: int
    suite: int
    autoattack: int | None
    worst: int | None
    certified: int | None = None


class Marks:
    """Which images a run gets right after each attack, and which are certified, kept beside it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._kept: dict[str, str] = read_json(file) if file.is_file() else {}

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.tensor([mark == "1" for mark in self._kept[name]])

    def put(self, name: str, correct: torch.Tensor) -> None:
        """Keep what an attack leaves, or what is certified."""
        self._kept[name] = "".join(str(int(mark)) for mark in correct)
        write_json(self._file, self._kept)

    def settled(self, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Which images the suite has broken at a radius, and which of the others are certified."""
        left, name = self[SUITE.format(eps=eps)], CERTIFIED.format(eps=eps)
        return ~left, left & self[name] if name in self else torch.zeros_like(left)

    def row(self, recipe: str, seed: int, eps: float) -> ConfirmedRecord | None:
        """What is known at a radius; None before the suite is. Raises RuntimeError where an attack broke what is certified."""
        if SUITE.format(eps=eps) not in self:
            return None
        suite = self[SUITE.format(eps=eps)]
        met = [self[name] for form in (ALONE, AFTER_SUITE) if (name := form.format(eps=eps)) in self]
        alone = int(met[0].sum()) if ALONE.format(eps=eps) in self else None
        worst = int(torch.stack([suite, *met]).all(0).sum()) if met else None
        certain = self[name] if (name := CERTIFIED.format(eps=eps)) in self else None
        if certain is not None and (certain & ~torch.stack([suite, *met]).all(0)).any():
            raise RuntimeError(f"{self._file}: an attack broke what is certified at {eps:g}; one of the two is wrong")
        count = None if certain is None else int(certain.sum())
        return ConfirmedRecord(recipe, seed, eps, len(suite), int(suite.sum()), alone, worst, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--recipes", nargs="+", default=["gan_recurrent", "pgd_drawn"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--eps", type=float, nargs="+", default=[0.1, 0.2, 0.3])
    parser.add_argument("--official", type=float, nargs="*", help="radii at which AutoAttack is asked; all unless told")
    parser.add_argument("--after-suite", action="store_true", help="AutoAttack meets what the suite leaves")
    parser.add_argument(
        "--certified", action="store_true", help="certify first; after the suite, AutoAttack meets the rest"
    )
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--looks", type=int, default=1, help="how many times leads were tested while seeds were added")
    parser.add_argument("--read", action="store_true", help="attack nothing")
    options = parser.parse_args()
    on_one_thread()
    keep_freed_memory()
    rows = list[ConfirmedRecord]()
    for seed, recipe in itertools.product(options.seeds, options.recipes):
        rows += confirmed(OutPaths(options.out).run(recipe, seed).folder, options)
    path = OutPaths(options.results).records("confirmed")
    rows = joined(read(path, ConfirmedRecord) if path.is_file() else (), rows, options.recipes)
    write(path, rows)
    tell(rows, options.looks)


def confirmed(folder: Path, options: argparse.Namespace) -> list[ConfirmedRecord]:
    """One run's rows, one for each radius at which the suite has met it."""
    trained = load(folder)
    test = stratified(load_data(trained.run.data)[1], options.examples)
    marks, run = Marks(folder / f"confirmed-{len(test)}.json"), trained.run
    none = torch.zeros(len(test), dtype=torch.bool)
    for eps in () if options.read else options.eps:
        if options.certified and CERTIFIED.format(eps=eps) not in marks:
            marks.put(CERTIFIED.format(eps=eps), certify(trained.defender, test, eps).certain[0])
        for name, attack in turns(test, eps, options):
            if name not in marks:
                broken, safe = marks.settled(eps) if name == AFTER_SUITE.format(eps=eps) else (none, none)
                found = attacked(trained.defender, test, attack, ThreatModel(eps, test.shape), skip=broken | safe)
                marks.put(name, left := found.correct | safe)
                print(f"{run.recipe} seed {run.seed}, {name}: {left.sum()} of {len(test)}", flush=True)
    return [row for eps in options.eps if (row := marks.row(run.recipe, run.seed, eps))]


def joined(
    held: Sequence[ConfirmedRecord], made: Sequence[ConfirmedRecord], recipes: Sequence[str]
) -> list[ConfirmedRecord]:
    """The rows of before, those made anew in place of theirs; by recipe (the given ones first), radius and seed.

    Ends the program when they are of different numbers of images: `--read` makes the new ones again.
    """
    if len(sizes := sorted({row.n for row in (*held, *made)})) > 1:
        raise SystemExit(f"confirmed.jsonl is of one number of images, not of {sizes}; name another folder for results")
    order = list(dict.fromkeys((*recipes, *(row.recipe for row in held))))
    rows = {(order.index(row.recipe), row.eps, row.seed): row for row in (*held, *made)}
    return [rows[key] for key in sorted(rows)]


def turns(test: Data, eps: float, options: argparse.Namespace) -> list[tuple[str, Attack]]:
    """The attacks that are asked for at one radius, the suite first."""
    threat = ThreatModel(eps, test.shape)
    suite = Cascade(standard_suite(threat, test.n_classes, test.shape), threat)
    made: list[tuple[str, Attack]] = [(SUITE.format(eps=eps), suite)]
    if options.official is None or eps in options.official:
        name = AFTER_SUITE if options.after_suite else ALONE
        made.append((name.format(eps=eps), partial(official.autoattack, eps=eps)))
    return made


@dataclass(frozen=True)
class Lead:
    """By how much the first recipe is ahead of another at a radius, seed by seed, and p after all corrections."""

    other: str
    eps: float
    attacks: str  # "worst" where both recipes have met both, else "suite"
    by_seed: tuple[float, ...]
    p: float


def leads(rows: Sequence[ConfirmedRecord], looks: int = 1) -> list[Lead]:
    """The first recipe's, over the seeds that it shares with each other one; p times the looks that were taken."""
    recipes, found = list(dict.fromkeys(row.recipe for row in rows)), list[tuple[str, float, str, tuple[float, ...]]]()
    for other, eps in itertools.product(recipes[1:], dict.fromkeys(row.eps for row in rows)):
        game, beside = (
            {row.seed: row for row in rows if (row.recipe, row.eps) == (r, eps)} for r in (recipes[0], other)
        )
        pairs = [(game[seed], beside[seed]) for seed in sorted(game.keys() & beside.keys())]
        name = "suite" if any(row.worst is None for pair in pairs for row in pair) else "worst"
        if len(pairs) > 1:
            by_seed = tuple((getattr(one, name) - getattr(two, name)) / one.n for one, two in pairs)
            found.append((other, eps, name, by_seed))
    p_values = [min(1.0, looks * p) for p in holm([t_test_p(by_seed) for *_, by_seed in found])]
    return [Lead(*lead, p) for lead, p in zip(found, p_values, strict=True)]


def tell(rows: Sequence[ConfirmedRecord], looks: int) -> None:
    """Means, and leads."""
    for (recipe, eps), cell in itertools.groupby(rows, key=lambda row: (row.recipe, row.eps)):
        some, told = list(cell), list[str]()
        titles = {"suite": "suite", "AutoAttack": "autoattack", "both": "worst", "certified": "certified"}
        for title, name in titles.items():
            if left := [count / row.n for row in some if (count := getattr(row, name)) is not None]:
                told.append(f"{title} {percent(left)}" + (f" of {len(left)}" if len(left) < len(some) else ""))
        print(f"{recipe}, eps {eps:g}, {len(some)} seeds: {', '.join(told)}")
    for lead in leads(rows, looks):
        ahead = f"{lead.attacks}: {percent(lead.by_seed)} of {len(lead.by_seed)}"
        print(f"ahead of {lead.other}, eps {lead.eps:g}, {ahead}, corrected p {lead.p:.2g}")


def percent(values: Sequence[float]) -> str:
    """Their mean with its interval, in per cent."""
    mean, bounds = mean_interval(values)
    return f"{100 * mean:.2f} [{100 * bounds.low:.2f}, {100 * bounds.high:.2f}]"


if __name__ == "__main__":
    main()
