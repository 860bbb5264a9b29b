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
radii and yardsticks of the game), epochs.jsonl and README.md.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparring import recipes
from sparring.attacks import APGD, Attack, LearnedAttack, fgsm
from sparring.config import Data
from sparring.data.batches import stratified, stratified_mask
from sparring.evaluation.statistics import Comparison, compare, holm, mean_interval, sign_test_holds, t_test_p
from sparring.evaluation.worst_case import worst_case
from sparring.experiment import Trained, load, load_data
from sparring.process import on_one_thread
from sparring.records import ComparisonRecord, EpochRecord, OutPaths, RunPaths, WorstCaseRecord, read, write
from sparring.reproduction.finished import each, finished
from sparring.threat import ThreatModel

GAMES = {  # each against its yardsticks, and the shorter game
    "gan_recurrent": ("pgd_drawn", "fgsm_drawn", "pgd_tenth", "fgsm_tenth"),
    "gan_recurrent_long": ("pgd_long", "fgsm_long", "gan_recurrent"),
}
GRID = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
ALPHA = 0.01
BEGIN, END = "<!-- beyond:begin -->", "<!-- beyond:end -->"
SHOWN = (*recipes.BEYOND, *recipes.ABLATION)
OTHERS = {  # what else lies in the folder, and the script that told it
    "radii.jsonl": "the game and PGD-7, each trained at one radius (`runs/radii.py`)",
    "schedules.jsonl": "which rate a `Game` should have by default, on training images held out (`runs/schedules.py`)",
    "laws.jsonl": "game, PGD-7 and FGSM under several laws of radii, on training images held out (`runs/laws.py`)",
    "leads.jsonl": "other opponents and other things to minimise, on training images held out (`runs/leads.py`)",
    "x-only.jsonl": "the paper's game, whose adversary sees the input only, brought as far as it goes (`runs/x_only.py`)",
    "attack.jsonl": "the learned attack by itself (`runs/learned_attack.py`)",
    "attack-2000/attack.jsonl": "its ten gradients and AutoAttack at 0.2 on 2,000 images (`--queries 10 --alone --official`)",
    "confirmed.jsonl": "the official AutoAttack on several seeds of the game and of PGD-7 (`runs/confirmed.py`)",
    "autoattack.json": "the official AutoAttack on seed 0 (`bench/attack.py`)",
}


def suite(threat: ThreatModel, trained: Trained) -> list[tuple[str, Attack]]:
    """The attacks at one radius, in order of cost."""
    own = [] if trained.adversary is None else [("its own adversary", LearnedAttack(trained.adversary, threat))]
    return [
        ("FGSM", fgsm(threat)),
        *own,
        ("APGD-CE", APGD(threat)),
        ("APGD-margin, 3 targets", APGD(threat, "margin", targets=3)),
    ]


def outcomes_of(results: Path, recipe: str, seed: int) -> Path:
    """Which test images of a run withstood what, a bit each: clean, then every radius."""
    return results / "outcomes" / f"{recipe}-{seed}.npz"


def outcomes(results: Path, recipe: str, seed: int) -> npt.NDArray[np.bool_]:
    """Those that were written, (1 + E, n)."""
    kept = np.load(outcomes_of(results, recipe, seed))
    return np.unpackbits(kept["right"], axis=1, count=int(kept["n"])).astype(bool)


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


def on_fewer(results: Path, rows: Sequence[WorstCaseRecord], name: str, n: int) -> list[list[float]]:
    """What a game keeps of the n images that the others were attacked on: for clean and every radius, over seeds."""
    game = [row for row in rows if row.recipe == name and row.eps == 0]
    if not all(row.n > n and outcomes_of(results, name, row.seed).is_file() for row in game):
        return []
    among = stratified_mask(load_data(Data("mnist"))[1], n, 0).numpy()
    kept = np.stack([outcomes(results, name, row.seed)[:, among].mean(1) for row in game])  # (S, 1 + E)
    return [[float(value) for value in column] for column in kept.T]


def page(
    results: Path,
    rows: Sequence[WorstCaseRecord],
    tests: Sequence[ComparisonRecord],
    grid: Sequence[float],
    call: str,
    convolution: str,
) -> str:
    """The folder's README."""
    head = " | ".join(f"eps {eps:g}" for eps in grid)
    text = [
        "# Beyond the paper",
        "",
        f"`sparring train TRAINING --data.name mnist --seeds SEEDS --out OUT`, then `{call}`. MNIST, the paper's MLP. Images "
        f"that survive every attack, in %: mean over seeds [95 % t interval]. Attacks: {', '.join(rows[-1].attacks)}. Images: n. "
        "Passes: forwards and backwards through the defender for each training example and epoch.",
        "",
        f"| training | clean | {head} | n | seeds | epochs | passes |",
        f"|---|---|{'---|' * (len(grid) + 4)}",
    ]
    few = min(row.n for row in rows)
    for name in [name for name in SHOWN if any(row.recipe == name for row in rows)]:
        own = [row for row in rows if row.recipe == name]
        cells = [_cell([row.accuracy for row in own if row.eps == eps]) for eps in (0.0, *grid)]
        seeds, run = len({row.seed for row in own}), recipes.recipe(name)
        text.append(f"| {name} | {' | '.join(cells)} | {own[0].n:,} | {seeds} | {own[0].epochs} | {run.passes:.2f} |")
        if name in GAMES and (some := on_fewer(results, rows, name, few)):
            cells = [_cell(values) for values in some]
            text.append(f"| {name}, on the images of the others | {' | '.join(cells)} | {few:,} | {seeds} | | |")
    text += ["", *(f"- `{name}`: {recipes.describe(name)}" for name in SHOWN), ""]
    for game in dict.fromkeys(test.better for test in tests):
        text += [
            f"`{game}` against its yardsticks on the same images: difference in points [95 % interval: bootstrap over images "
            "and seeds where outcomes/ has both, else Student's t over seeds]; p: Student's t over seeds, after Holm over the "
            f"table but its clean column. Bold: p < {ALPHA:g}, ahead in every seed.",
            "",
            f"| against | clean | {head} |",
            f"|---|---|{'---|' * len(grid)}",
        ]
        own = [test for test in tests if test.better == game]
        for name in dict.fromkeys(test.worse for test in own):
            cells = []
            for test in (test for test in own if test.worse == name):
                cell = (
                    f"{100 * test.difference:+.1f} [{100 * test.low:.1f}, {100 * test.high:.1f}], p {test.p_value:.2g}"
                )
                cells.append(f"**{cell}**" if test.holds and test.eps else cell)
            text.append(f"| {name} | {' | '.join(cells)} |")
        text.append("")
    others = [f"- `{name}`: {what}." for name, what in OTHERS.items() if (results / name).is_file()]
    return "\n".join([*text, *([] if tests else [""]), convolution, "", *others]).rstrip() + "\n"


def in_short(rows: Sequence[WorstCaseRecord], grid: Sequence[float], convolution: str) -> str:
    """The README's table: the games and what they are measured against."""
    named = dict.fromkeys(name for game, yardsticks in GAMES.items() for name in (game, *yardsticks))
    shown = [name for name in named if any(row.recipe == name for row in rows)]
    counts = {name: len({row.seed for row in rows if row.recipe == name}) for name in shown}
    n = max(row.n for row in rows)
    text = [
        f"MNIST, the paper's MLP, {n:,} test images; images that survive every attack of `runs/beyond.py`, in %: "
        "an upper bound on robust accuracy. [All regimes, paired tests and costs](results/beyond-mnist/README.md).",
        "",
        f"| training | seeds | clean | {' | '.join(f'eps {eps:g}' for eps in grid)} |",
        f"|---|---|---|{'---|' * len(grid)}",
    ]
    for name in shown:
        own = [row for row in rows if row.recipe == name]
        cells = [_cell([row.accuracy for row in own if row.eps == eps]) for eps in (0.0, *grid)]
        text.append(f"| `{name}` | {counts[name]} | {' | '.join(cells)} |")
    return "\n".join(["", *text, "", convolution]).rstrip() + "\n"


def convolutional(results: Path) -> str:
    """What `runs/conv.py` found, in a table; nothing where it has not run."""
    path = results / "conv.jsonl"
    if not path.is_file():
        return ""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in rows:
        if not row["held_out"]:
            groups.setdefault((row["game"], row["epochs"], row["device"]), []).append(row)
    text = [
        f"A small convolutional network at eps {rows[0]['eps']:g}, means over seeds, in %, by `python runs/conv.py OUT "
        "results/beyond-mnist --game GAME --epochs EPOCHS --examples OF --official OF`. Clean and certified accuracy are of "
        "all test images; an attack leaves the last two columns of so many. AutoAttack is the official one.",
        "",
        "| game | seeds | epochs | seconds, on | clean | certified | attack | of | leaves | of one seed, at least |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(line for key, own in groups.items() for line in _convolutional(*key, own)),
    ]
    return "\n".join(text)


def _convolutional(game: str, epochs: int, device: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Seeds that were trained alike: a line for each attack, the first with what holds for all."""
    seconds = sorted({row["seconds"] for row in rows})
    where = f"{rows[0]['threads']} thread{'s' * (rows[0]['threads'] > 1)}" if device == "cpu" else f"one {device}"
    certain = [row["certified"] for row in rows if "certified" in row]
    lines, own = list[str](), [
        f"`{game}`", str(len(rows)), str(epochs), f"{' to '.join(map(str, seconds[:1] + seconds[1:][-1:]))}, {where}",
        _cell([row["clean"] for row in rows], 2), _cell(certain) if len(certain) == len(rows) else "-",
    ]  # fmt: skip
    found = [row["left"] | ({"all of these": row["worst"]} if "worst" in row else {}) for row in rows]
    for name in dict.fromkeys(name for left in found for name in left):
        counts = [left[name] for left in found if name in left]
        shares = [right / n for right, n in counts]
        n = " or ".join(f"{n:,}" for n in sorted({n for _, n in counts}))
        n += f", {len(counts)} of the seeds" if len(counts) < len(rows) else ""
        lines.append(" | ".join([*own, name, n, _cell(shares), f"{100 * min(shares):.1f}"]))
        own = [""] * len(own)
    return [f"| {line} |" for line in lines]


def _cell(values: Sequence[float], digits: int = 1) -> str:
    mean, interval = mean_interval([100 * value for value in values])
    among = f" [{max(0.0, interval.low):.{digits}f}, {min(100.0, interval.high):.{digits}f}]" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{among}"


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
    convolution = convolutional(options.results)
    call = "python runs/beyond.py OUT results/beyond-mnist"
    call += f" --whole {' '.join(options.whole)}" if options.whole else ""
    (options.results / "README.md").write_text(
        page(options.results, rows, tests, options.eps, call, convolution), encoding="utf-8"
    )
    if options.readme:
        readme = Path(__file__).parent.parent / "README.md"
        before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
        table = in_short(rows, options.eps, convolution)
        readme.write_text(before + BEGIN + table + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
