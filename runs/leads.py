"""What else was thought of: other opponents, other things that the defender minimises, on training images held out.

    python runs/leads.py OUT results/beyond-mnist [--games recurrent PGD-7 blind] [--leads "weights averaged" ...] [--seeds 3]

Games, and one thing changed in each at a time. *recurrent* is `gan_recurrent` (30 epochs, radii from 0.01 to 0.3), attacked
at the radii of `runs/beyond.py` by Auto-PGD on cross-entropy and on the margin for three wrong classes. *PGD-7* is its yardstick
`pgd_drawn`, with what gained the game something. *blind* is the paper's tanh game as `runs/x_only.py` has brought it furthest
("log odds"; 30 epochs, every radius 0.1): its adversary sees the input only. It is judged at 0.1 by what it played against, by a
fresh adversary that sees as much (six epochs), by FGSM, and by the worst case over what it played against, FGSM and Auto-PGD as
above.

Trained on the first 55,000 training images, attacked on 2,000 of the other 5,000: the test images are not touched. Every lead is
told, and what it gains over the game as it is, paired by seed; nothing is chosen here. Calls for other games or leads may run
beside one another: each writes what it finds in OUT, and leads.jsonl is written from all of OUT.
The games themselves are in lead_games.py.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from beyond import GRID
from laws import split
from lead_games import LEADS, PGD_7, PLAY, RECURRENT
from torch import nn
from x_only import EPS

from sparring.attacks import APGD, Attack, LearnedAttack, fgsm
from sparring.config import Data as DataConfig
from sparring.data import Data
from sparring.evaluation import attacked, best_responses, worst_case
from sparring.evaluation.statistics import mean_interval
from sparring.experiment import load_data
from sparring.process import keep_freed_memory, on_one_thread
from sparring.records import read, write
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class LeadRecord:
    """What is right under `by` at `eps`, of one game's defender, on images held out."""

    game: str
    lead: str
    seed: int
    by: str  # "clean", "worst case", and in the blind game "its own", "a fresh one", "FGSM"
    eps: float
    n: int
    correct: int
    seconds: float  # of its training


def suite(threat: ThreatModel, own: Sequence[nn.Module] = ()) -> list[tuple[str, Attack]]:
    """The attacks at one radius, in order of cost."""
    learned = [(f"its own, {k}", LearnedAttack(network, threat)) for k, network in enumerate(own)]  # type: ignore[arg-type]
    return [
        ("FGSM", fgsm(threat)),
        *learned,
        ("APGD-CE", APGD(threat)),
        ("APGD-margin, 3 targets", APGD(threat, "margin", targets=3)),
    ]


def measured(game: str, lead: str, seed: int, data: tuple[Data, Data]) -> list[LeadRecord]:
    """Play one game and attack its defender."""
    train_on, held_out = data
    started = time.perf_counter()
    played = PLAY[game](lead, seed, train_on)
    seconds, n, grid = round(time.perf_counter() - started, 1), len(held_out), (EPS,) if game == "blind" else GRID
    found = worst_case(played.defender, held_out, grid, partial(suite, own=played.own))
    right = {("clean", 0.0): found.accuracy(0), **{("worst case", eps): found.accuracy(eps) for eps in grid}}
    if played.own:
        threat = ThreatModel(EPS, held_out.shape)
        standing = torch.ones(n, dtype=torch.bool)
        for network in played.own:
            standing &= attacked(played.defender, held_out, LearnedAttack(network, threat), threat).correct  # type: ignore[arg-type]
        fresh = best_responses(
            played.defender, train_on, held_out, EPS, kinds=("x",), seeds=(0,), epochs=6, double=False
        )
        right["its own", EPS] = int(standing.sum()) / n
        right["a fresh one", EPS] = fresh.accuracy("x")
        right["FGSM", EPS] = attacked(played.defender, held_out, fgsm(threat), threat).accuracy
    return [LeadRecord(game, lead, seed, by, eps, n, round(n * share), seconds) for (by, eps), share in right.items()]


def told(records: Sequence[LeadRecord]) -> str:
    """Means over seeds, a line for every lead."""
    by: dict[tuple[str, str], dict[tuple[str, float], list[float]]] = defaultdict(lambda: defaultdict(list))
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for r in records:
        by[r.game, r.lead][r.by, r.eps].append(100 * r.correct / r.n)
        seconds[r.game, r.lead].append(r.seconds)
    lines = []
    for (game, lead), cells in by.items():
        shown = []
        for (what, eps), values in cells.items():
            mean, interval = mean_interval(values)
            spread = f" [{interval.low:.1f}, {interval.high:.1f}]" if len(values) > 1 else ""
            shown.append(f"{what}{f' at {eps:g}' if eps else ''} {mean:.1f}{spread}")
        n, spent = len(cells["clean", 0.0]), seconds[game, lead]
        lines.append(f"{game}, {lead}, {n} seeds, {sum(spent) / len(spent):.0f} s: {'; '.join(shown)}")
    return "\n".join(lines)


def differences(records: Sequence[LeadRecord]) -> str:
    """What each lead gains over its game as it is, and the recurrent game over its yardstick; paired by seed, in points."""
    values = {((r.game, r.lead), (r.by, r.eps), r.seed): 100 * r.correct / r.n for r in records}
    pairs = [((game, lead), (game, next(iter(leads)))) for game, leads in LEADS.items() for lead in list(leads)[1:]]
    pairs += [(("recurrent", lead), ("PGD-7", lead)) for lead in PGD_7 if lead in RECURRENT]
    lines = []
    for one, other in pairs:
        cells = []
        for cell in dict.fromkeys(cell for who, cell, _ in values if who == one):
            seeds = [s for who, at, s in values if who == one and at == cell and (other, cell, s) in values]
            if len(seeds) > 1:
                mean, interval = mean_interval([values[one, cell, s] - values[other, cell, s] for s in seeds])
                cells.append(f"{cell[0]} at {cell[1]:g} {mean:+.1f} [{interval.low:.1f}, {interval.high:.1f}]")
                n = len(seeds)
        if cells:
            lines.append(f"{', '.join(one)} less {', '.join(other)}, {n} seeds: {'; '.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--games", nargs="+", choices=list(LEADS), default=list(LEADS))
    parser.add_argument("--leads", nargs="+", help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=2000)
    options = parser.parse_args()
    on_one_thread()
    keep_freed_memory()
    data = split(load_data(DataConfig("mnist"))[0], options.examples)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for game in options.games:
            for lead in LEADS[game]:
                file = options.out / f"{game}-{list(LEADS[game]).index(lead)}-{seed}.jsonl"
                if file.is_file() or (options.leads and lead not in options.leads):
                    continue
                write(file, measured(game, lead, seed, data))
                print(told(read(file, LeadRecord)), flush=True)
    records = [r for path in sorted(options.out.glob("*.jsonl")) for r in read(path, LeadRecord)]
    write(options.results / "leads.jsonl", records)
    print(told(records), differences(records), sep="\n\n")


if __name__ == "__main__":
    main()
