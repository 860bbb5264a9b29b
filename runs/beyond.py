"""The regimes beyond the paper side by side: the worst case of every run over radii, on all test images, and paired tests.

    sparring train gan_recurrent --data.name mnist --seeds 5 --out OUT       (and so for every regime of RECIPES)
    python runs/beyond.py OUT results/beyond-mnist [--eps 0.05 0.1 ...] [--whole RECIPE ...] [--examples 2000] [--workers 2]

Attacks, in order of cost: FGSM, the run's own adversary, Auto-PGD on cross-entropy (100 steps), Auto-PGD on the margin for the
three strongest wrong classes; each on what still stands, each example with what smaller radii broke. The regimes of `--whole` are
attacked on all test images, the others on `--examples` of them. `bench/attack.py --models gan_recurrent --runs OUT/runs` sets the
library's standard suite and the official AutoAttack beside this. What is done is kept beside each run; the same command goes on,
and seeds come in turn, so that it can be stopped at any time. Written are worst.jsonl (every run at every radius), outcomes/ (of
every run, image by image, from which `--read` makes tests and pages again without OUT),
comparisons.jsonl (each game against its yardsticks, paired by seed and image: Student's t over seeds, corrected by Holm over all
radii and yardsticks of the game), epochs.jsonl and README.md (`beyond_pages.py`).
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from beyond_pages import ALPHA, GAMES, SHOWN, convolutional, outcomes, outcomes_of, page, under_more
from beyond_readme import in_short

from sparring.attacks import APGD, Attack, LearnedAttack, fgsm
from sparring.data.batches import stratified
from sparring.evaluation.statistics import Comparison, compare, holm, mean_interval, sign_test_holds, t_test_p
from sparring.evaluation.worst_case import worst_case
from sparring.experiment import Trained, load, load_data
from sparring.process import on_one_thread
from sparring.records import ComparisonRecord, EpochRecord, OutPaths, RunPaths, WorstCaseRecord, read, write
from sparring.reproduction.finished import each, finished
from sparring.threat import ThreatModel

GRID = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
BEGIN, END = "<!-- beyond:begin -->", "<!-- beyond:end -->"


def suite(threat: ThreatModel, trained: Trained) -> list[tuple[str, Attack]]:
    """The attacks at one radius, in order of cost."""
    own = [] if trained.adversary is None else [("its own adversary", LearnedAttack(trained.adversary, threat))]
    return [
        ("FGSM", fgsm(threat)),
        *own,
        ("APGD-CE", APGD(threat)),
        ("APGD-margin, 3 targets", APGD(threat, "margin", targets=3)),
    ]


def attack_run(folder: Path, options: argparse.Namespace) -> list[WorstCaseRecord]:
    """One run's worst case; a call that was stopped goes on."""
    trained = load(folder)
    test = load_data(trained.run.data)[1]
    if trained.run.recipe not in options.whole:
        test = stratified(test, options.examples)
    n = len(test)
    found = worst_case(
        trained.defender, test, options.eps, partial(suite, trained=trained), store=folder / f"worst-{n}"
    )
    right = found.broken_by[:1] != found.names.index("clean")
    path = outcomes_of(options.results, trained.run.recipe, trained.run.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, n=n, right=np.packbits(np.concatenate((right.numpy(), found.robust.numpy())), axis=1))
    made = []
    for eps in (0.0, *options.eps):
        interval, accuracy = found.interval(eps), found.accuracy(eps)
        made.append(
            WorstCaseRecord(
                recipe=trained.run.recipe,
                seed=trained.run.seed,
                eps=eps,
                n=n,
                correct=round(accuracy * n),
                accuracy=accuracy,
                low=interval.low,
                high=interval.high,
                attacks=tuple(dict.fromkeys(stage.attack for stage in found.stages if eps and stage.eps == eps)),
                epochs=trained.record.epochs,
                seconds=trained.record.seconds,
            )
        )
    return made


def compared(results: Path, rows: Sequence[WorstCaseRecord], grid: Sequence[float]) -> list[ComparisonRecord]:
    """Every game against each of its yardsticks that was attacked on as many images, seed by seed."""
    sizes = {row.recipe: row.n for row in rows}
    made = []
    for game, yardsticks in GAMES.items():
        found = [
            (name, eps, _against(results, rows, game, name, eps, i))
            for name in yardsticks
            if game in sizes and sizes.get(name) == sizes[game]
            for i, eps in enumerate((0.0, *grid))
        ]
        p_values = iter(holm([t_test_p(c.seed_differences) for _, eps, c in found if eps]))
        for name, eps, c in found:
            p = next(p_values) if eps else t_test_p(c.seed_differences)  # clean accuracy is no claim of the family
            made.append(
                ComparisonRecord(
                    claim="beyond",
                    family="worst case",
                    better=game,
                    worse=name,
                    metric="accuracy",
                    eps=eps,
                    protocol="sound",
                    difference=c.difference,
                    low=c.interval.low,
                    high=c.interval.high,
                    per_seed=c.seed_differences,
                    p_value=p,
                    same_sign=c.same_sign,
                    holds=c.same_sign and c.interval.low > 0 and p < ALPHA,
                )
            )
    return made


def _against(results: Path, rows: Sequence[WorstCaseRecord], better: str, worse: str, eps: float, i: int) -> Comparison:
    """A game against a yardstick at the i-th radius: image by image where both are kept, else by accuracies."""
    game, theirs = (
        {row.seed: row.accuracy for row in rows if (row.recipe, row.eps) == (one, eps)} for one in (better, worse)
    )
    seeds = sorted(set(game) & set(theirs))
    if all(outcomes_of(results, one, seed).is_file() for one in (better, worse) for seed in seeds):
        a, b = (np.stack([outcomes(results, one, seed)[i] for seed in seeds]) for one in (better, worse))
        return compare(a, b, seed=0)
    differences = [game[seed] - theirs[seed] for seed in seeds]
    mean, interval = mean_interval(differences)
    return Comparison(mean, interval, tuple(differences), (), sign_test_holds(differences))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--eps", type=float, nargs="+", default=GRID)
    parser.add_argument(
        "--recipes", nargs="+", default=SHOWN, help="what is attacked; what is known of other runs stays"
    )
    parser.add_argument("--whole", nargs="*", default=[])
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--read", action="store_true", help="attack nothing: tests and pages again, from worst.jsonl")
    parser.add_argument("--only", type=int, nargs="+", help="print the tests over these seeds, and write nothing")
    parser.add_argument("--readme", action="store_true", help="also fill the table in README.md")
    options = parser.parse_args()
    on_one_thread()
    runs = (
        []
        if options.read or options.only
        else [run for run in finished(options.out) if run.parent.name in options.recipes]
    )
    runs.sort(key=lambda run: (run.name, SHOWN.index(run.parent.name)))  # seed after seed
    out = OutPaths(options.results)
    rows: list[WorstCaseRecord] = []

    def told(made: list[WorstCaseRecord]) -> None:
        rows.extend(made)
        shares = " ".join(f"{100 * row.accuracy:.1f}" for row in made)
        print(f"{made[0].recipe} seed {made[0].seed}: {shares}  (n = {made[0].n})", flush=True)

    if runs:
        each(partial(attack_run, options=options), runs, options.workers, told)
    fresh = {(row.recipe, row.seed) for row in rows}
    options.results.mkdir(parents=True, exist_ok=True)
    if out.records("worst").is_file():
        rows += [row for row in read(out.records("worst"), WorstCaseRecord) if (row.recipe, row.seed) not in fresh]
        epochs = [row for row in read(out.records("epochs"), EpochRecord) if (row.recipe, row.seed) not in fresh]
    else:
        epochs = []
    if fresh:
        epochs += [r for run in runs for r in read(RunPaths(run).epochs, EpochRecord)]
    rows.sort(key=lambda row: (SHOWN.index(row.recipe), row.seed, row.eps))
    epochs.sort(key=lambda row: (SHOWN.index(row.recipe), row.seed, row.epoch))
    if options.only:
        for test in compared(options.results, [row for row in rows if row.seed in options.only], options.eps):
            print(
                f"{test.worse} {test.eps:g}: {100 * test.difference:+.2f}, p {test.p_value:.2g}, n {len(test.per_seed)}"
            )
        return
    tests = compared(options.results, rows, options.eps)
    write(out.records("worst"), rows)
    write(out.records("comparisons"), tests)
    write(out.records("epochs"), epochs)
    more = [table for table in (under_more(options.results), convolutional(options.results)) if table]
    call = "python runs/beyond.py OUT results/beyond-mnist"
    call += f" --whole {' '.join(options.whole)}" if options.whole else ""
    (options.results / "README.md").write_text(
        page(options.results, rows, tests, options.eps, call, more), encoding="utf-8"
    )
    if options.readme:
        readme = Path(__file__).parent.parent / "README.md"
        before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
        table = in_short(options.results)
        readme.write_text(before + BEGIN + table + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
