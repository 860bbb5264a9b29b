"""What closing a recurrent game is worth: its adversary's strength after more and more turns against the defender at rest.

    sparring train gan_recurrent --recurrent.closing 0 --data.name mnist --seeds 5 --out OUT
    python runs/closing.py OUT results/beyond-mnist [--recipe gan_recurrent] [--seeds 0 1 2 3 4] [--turns 0 15 30 60 120]
                           [--eps 0.1 0.2 0.3]

OUT holds runs whose adversaries are as the game's last minibatch left them. Each is closed anew for every number of turns, and
meets all test images, as an attack does: from the example, in all its rounds. Written: closing.jsonl, how many images the
defender gets right and the seconds that the turns took; what it held of other seeds stays. Printed: means over seeds.
"""

import argparse
import copy
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

from sparring.adversaries import RecurrentAdversary
from sparring.attacks import LearnedAttack
from sparring.evaluation.accuracy import attacked
from sparring.evaluation.statistics import mean_interval
from sparring.experiment import load, load_data
from sparring.game.closing import close
from sparring.losses import LOSSES
from sparring.process import on_one_thread
from sparring.records import OutPaths, read, write
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class ClosingRecord:
    """How many of n images the defender gets right under its own adversary, closed in so many turns that took so long."""

    recipe: str
    seed: int
    turns: int
    eps: float
    n: int
    correct: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--recipe", default="gan_recurrent")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--turns", type=int, nargs="+", default=[0, 15, 30, 60, 120])
    parser.add_argument("--eps", type=float, nargs="+", default=[0.1, 0.2, 0.3])
    options = parser.parse_args()
    on_one_thread()
    path = OutPaths(options.results).records("closing")
    for seed in options.seeds:
        rows = closed(options.out, options.recipe, seed, options.turns, options.eps)
        kept = [row for row in read(path, ClosingRecord) if (row.recipe, row.seed) != (options.recipe, seed)]
        write(path, sorted([*kept, *rows], key=lambda row: (row.recipe, row.seed, row.turns, row.eps)))
    tell([row for row in read(path, ClosingRecord) if row.recipe == options.recipe])


def closed(out: Path, recipe: str, seed: int, turns: list[int], grid: list[float]) -> list[ClosingRecord]:
    """One run's adversary, closed in each of these numbers of turns."""
    trained, rows = load(OutPaths(out).run(recipe, seed).folder), list[ClosingRecord]()
    run, played = trained.run, trained.adversary
    if not isinstance(played, RecurrentAdversary) or run.recurrent is None or run.recurrent.closing:
        raise SystemExit(f"{recipe} seed {seed} needs a recurrent adversary that is not closed: --recurrent.closing 0")
    train, test = load_data(run.data)
    for count in turns:
        adversary, started = copy.deepcopy(played), time.perf_counter()
        how = {
            "turns": count,
            "seed": seed,
            "low": run.eps_low,
            "power": run.eps_power,
            "loss": LOSSES[run.recurrent.loss],
        }
        close(adversary, trained.defender, train, ThreatModel(run.eps, train.shape), **how)  # type: ignore[arg-type]
        seconds = time.perf_counter() - started
        for eps in grid:
            threat = ThreatModel(eps, test.shape)
            right = int(attacked(trained.defender, test, LearnedAttack(adversary, threat), threat).correct.sum())
            rows.append(ClosingRecord(recipe, seed, count, eps, len(test), right, round(seconds, 2)))
            print(
                f"{recipe} seed {seed}, {count} turns, {seconds:.1f} s, eps {eps:g}: {right} of {len(test)}", flush=True
            )
    return rows


def tell(rows: list[ClosingRecord]) -> None:
    """Means over seeds, in per cent, with their intervals."""
    cells = sorted({(row.turns, row.eps) for row in rows})
    for turns, cell in itertools.groupby(cells, key=lambda cell: cell[0]):
        told = []
        for _, eps in cell:
            shares = [100 * row.correct / row.n for row in rows if (row.turns, row.eps) == (turns, eps)]
            mean, bounds = mean_interval(shares)
            told.append(f"{mean:.2f} [{bounds.low:.2f}, {bounds.high:.2f}] at {eps:g}")
        print(f"{turns} turns, {len(shares)} seeds: {', '.join(told)}")


if __name__ == "__main__":
    main()
