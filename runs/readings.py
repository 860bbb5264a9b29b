"""A reproduction under other readings of the paper beside the first one: accuracies paired by seed, verdicts side by side.

    sparring reproduce --data mnist --seeds 10 --batch-size 512 --precision bf16 --max-epochs 40 --out OUT
    python runs/readings.py results/paper-mnist OUT results/paper-mnist-512

Accuracies are those of the summaries: clean, under FGSM and PGD-40 at the training's eps, against the game's own adversary and
against all fresh ones, in evaluation mode. A seed has the same initial weights on both sides. Student's t over seeds, corrected
by Holm over all rows. Written: differences.jsonl (a row for every regime and accuracy), README.md, and of OUT claims.json,
reproduction.json, runs.jsonl and summary.jsonl, as they are.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from paired import Difference, accuracies, differences, table

from sparring.config import Run
from sparring.records import (
    ClaimRecord,
    OutPaths,
    ReproductionRecord,
    RunRecord,
    SummaryRecord,
    read,
    read_json,
    restore,
    write,
)
from sparring.settings import differences as changes
from sparring.settings import from_dict

KEPT = ("claims.json", "reproduction.json", "runs.jsonl", "summary.jsonl")


def changed(first: ReproductionRecord, other: ReproductionRecord) -> Iterator[str]:
    """What was set otherwise, `training.batch_size: 128 -> 512`, and the regimes that it holds for unless it is all of them."""
    found: dict[str, list[str]] = {}
    for name in other.recipes:
        before, after = (from_dict(Run, side.settings[name]) for side in (first, other))
        for change in changes(before, after):
            found.setdefault(change, []).append(name)
    for change, names in found.items():
        yield f"`{change}`" + ("" if len(names) == len(other.recipes) else f" ({', '.join(names)})")


def text(
    heads: Sequence[ReproductionRecord],
    rows: Sequence[Difference],
    claims: Sequence[Sequence[ClaimRecord]],
    runs: Sequence[RunRecord],
    call: str,
) -> Iterator[str]:
    """The page."""
    first, other = heads
    on = [head.machine["device"] for head in heads]
    devices = [f"trained on {on[0]} -> {on[1]}"] if on[0] != on[1] else []
    yield "# The paper under other readings"
    yield ""
    yield (
        f"`{call}`, where OUT is what `{other.command}` wrote, commit {other.commit}, {other.started[:10]}. What differs from "
        f"`{first.command}`: {'; '.join((*changed(first, other), *devices))}."
    )
    yield ""
    yield from cost(other, runs)
    yield ""
    yield "## Accuracies"
    yield ""
    yield (
        f"{other.data.upper()}, {other.n_test:,} test images, {rows[0].n_seeds} seeds of every regime, paired by seed, attacks "
        f"at eps {other.eps:g}; accuracies in %, differences in points [95 % t interval over seeds]; p of Student's t, alone and "
        f"corrected by Holm over all {len(rows)} rows."
    )
    yield ""
    yield from table(rows, "first", "here")
    yield ""
    yield "## Verdicts"
    yield ""
    yield "| id | claim | first | | here | | |"
    yield "|---|---|---|---|---|---|---|"
    before = {claim.id: claim for claim in claims[0]}
    for claim in claims[1]:
        was = before[claim.id]
        mark = "" if claim.verdict == was.verdict else "**other verdict**"
        yield f"| {claim.id} | {claim.claim} | {was.measured} | {was.verdict} | {claim.measured} | {claim.verdict} | {mark} |"
    alike = sum(claim.verdict == before[claim.id].verdict for claim in claims[1])
    yield ""
    yield f"{alike} of {len(claims[1])} verdicts are those of the first."


def cost(head: ReproductionRecord, runs: Sequence[RunRecord]) -> Iterator[str]:
    """What it took."""
    taken: dict[str, float] = {}
    for run in runs:
        taken[run.recipe] = taken.get(run.recipe, 0.0) + run.seconds
    minutes = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in taken.items())
    memory = "" if head.peak_memory_mb is None else f", at most {head.peak_memory_mb:.0f} MB in all its processes"
    yield (
        f"It took {head.seconds / 60:.0f} minutes on {head.machine['cores']} cores before the report{memory}. The regimes' "
        f"trainings, all seeds, in minutes of one core: {minutes}; together {sum(taken.values()) / 60:.0f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="a folder with the records of a reproduction")
    parser.add_argument("out", type=Path, help="the output folder of another")
    parser.add_argument("results", type=Path)
    options = parser.parse_args()
    sides = [OutPaths(options.first), OutPaths(options.out)]
    heads = [restore(ReproductionRecord, read_json(side.reproduction)) for side in sides]
    left = [
        accuracies(read(side.records("summary"), SummaryRecord), head.eps, head.seeds)
        for side, head in zip(sides, heads, strict=True)
    ]
    claims = [[restore(ClaimRecord, claim) for claim in read_json(side.claims)] for side in sides]
    rows = differences(*left)
    options.results.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(options.out / name, options.results / name)
    write(options.results / "differences.jsonl", rows)
    call = f"python runs/readings.py {options.first} OUT {options.results}"
    runs = read(sides[1].runs_done, RunRecord)
    page = "\n".join(text(heads, rows, claims, runs, call)) + "\n"
    (options.results / "README.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
