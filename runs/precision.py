"""Two reproductions side by side, paired by seed: does the precision of the trainings' products change an accuracy?

    sparring reproduce --data mnist --seeds 10 --out FP32
    sparring reproduce --data mnist --seeds 10 --precision bf16 --out BF16
    python runs/precision.py FP32 BF16 results/precision

Of every regime: clean accuracy, that under FGSM and PGD at the training's eps, that against the game's own adversary, and what
the fresh adversaries of `measure` leave. Evaluations are in fp32 on both sides. A seed has the same initial weights and batches
on both sides, but two trainings that differ in one rounding drift apart, and so differ by about as much as two seeds do: an
interval says how large a change these seeds would not have shown. Student's t over seeds, corrected by Holm over all rows.
Written: RESULTS/accuracies.jsonl and README.md; the BF16 folder's reproduction.json, runs.jsonl and summary.jsonl beside them.
"""

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparring.evaluation.statistics import holm, mean_interval, t_test_p
from sparring.records import OutPaths, RunRecord, SummaryRecord, read, read_json, write

ROWS = {  # (metric, attack) -> what the table calls it
    ("accuracy", "clean"): "clean",
    ("accuracy", "fgsm"): "FGSM",
    ("accuracy", "pgd"): "PGD-40",
    ("in_game", "own"): "in-game",
    ("fresh", "fresh"): "fresh adversaries",
}


@dataclass(frozen=True)
class Difference:
    """One accuracy of one regime, second folder less first, over seeds."""

    recipe: str
    metric: str
    attack: str
    eps: float
    n_seeds: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float  # of Student's t, not corrected
    corrected: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="out folder of the fp32 trainings")
    parser.add_argument("second", type=Path, help="out folder of the bf16 trainings")
    parser.add_argument("results", type=Path)
    options = parser.parse_args()
    first, second, results = OutPaths(options.first), OutPaths(options.second), OutPaths(options.results)
    rows = differences(first, second)
    results.folder.mkdir(parents=True, exist_ok=True)
    write(results.folder / "accuracies.jsonl", rows)
    for path in (second.reproduction, second.runs_done, second.records("summary")):
        shutil.copyfile(path, results.folder / path.name)
    page = "\n".join(text(rows, first, second)) + "\n"
    (results.folder / "README.md").write_text(page)
    print(page)


def differences(first: OutPaths, second: OutPaths) -> list[Difference]:
    """Every row that both folders have, p-values corrected over all of them."""
    ours, theirs = (
        {
            (r.recipe, r.metric, r.attack, r.eps): r
            for r in read(paths.records("summary"), SummaryRecord)
            if r.protocol == "sound"
        }
        for paths in (first, second)
    )
    eps = float(read_json(second.reproduction)["eps"])
    paired = []
    for key, a in ours.items():
        recipe, metric, attack, at = key
        if (metric, attack) not in ROWS or at != (0.0 if attack == "clean" else eps) or key not in theirs:
            continue
        b = theirs[key]
        each = [y - x for x, y in zip(a.values, b.values, strict=True)]
        mean, bounds = mean_interval(each)
        paired.append(
            (recipe, metric, attack, at, len(each), a.mean, b.mean, mean, bounds.low, bounds.high, t_test_p(each))
        )
    corrected = holm([row[-1] for row in paired])
    return [Difference(*row, p) for row, p in zip(paired, corrected, strict=True)]


def text(rows: list[Difference], first: OutPaths, second: OutPaths) -> Iterator[str]:
    """The page."""
    one, two = (read_json(paths.reproduction) for paths in (first, second))
    yield "# Trainings in bf16 beside the same in fp32"
    yield ""
    yield (
        f"MNIST, all test images, {rows[0].n_seeds} seeds of every regime, paired by seed; accuracies in %, differences in "
        "points, bf16 less fp32 [95 % t interval over seeds]; p of Student's t, alone and corrected by Holm over all rows. "
        "`runs/precision.py` says what is compared."
    )
    yield ""
    for name, what in (("fp32", one), ("bf16", two)):
        command, machine = what["command"].partition(" --out")[0], what["machine"]
        yield f"- {name}: `{command}`, {machine['device']}, {machine['cores']} cores, PyTorch {machine['torch']}"
    yield ""
    yield "| training | accuracy | fp32 | bf16 | difference | p | corrected |"
    yield "|---|---|---|---|---|---|---|"
    for r in rows:
        name, values = ROWS[r.metric, r.attack], f"{100 * r.first:.2f} | {100 * r.second:.2f}"
        change = f"{100 * r.difference:+.2f} [{100 * r.low:+.2f}, {100 * r.high:+.2f}]"
        yield f"| {r.recipe} | {name} | {values} | {change} | {r.p_value:.2g} | {r.corrected:.2g} |"
    yield ""
    seconds: dict[str, float] = {}
    for run in read(second.runs_done, RunRecord):
        seconds[run.recipe] = seconds.get(run.recipe, 0.0) + run.seconds
    yield "## What the bf16 reproduction took"
    yield ""
    yield (
        f"{two['seconds'] / 60:.0f} minutes in all, with measurements, sweeps and report, on {two['machine']['cores']} cores; "
        f"its trainings {two['training_seconds'] / 60:.0f} minutes of one core, of which the regimes: "
        + ", ".join(f"{name} {taken / 60:.1f}" for name, taken in seconds.items())
        + f". At most {two['peak_memory_mb']:.0f} MB in all processes."
    )


if __name__ == "__main__":
    main()
