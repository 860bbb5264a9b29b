"""The paper's game at its best: how far it gets with an adversary that sees the input only, and what still breaks the defender.

    python runs/x_only.py OUT results/beyond-mnist [--seeds 2] [--examples 2000] [--variants "log odds" ...]

The tanh game at eps 0.1, 30 epochs, each of CHANGES with everything that those before it have. A defender is judged at 0.1 by
its co-trained adversary, by a fresh one that sees the input only too (six epochs), by FGSM, and by the worst case over FGSM, the
co-trained adversary, Auto-PGD on cross-entropy and on the margin for three wrong classes. All on the same stratified test
images; what the fresh one takes is a lower bound on what an adversary that sees the input only can do. Nothing is chosen: every
variant is told. Trained runs are kept in OUT, seeds come in turn, so that it can be stopped at any time. Written: x-only.jsonl.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from beyond import suite

from sparring import recipes
from sparring.attacks import LearnedAttack, fgsm
from sparring.config import Data, Network, Optimizer, Run
from sparring.data.batches import stratified
from sparring.evaluation import attacked, best_responses, worst_case
from sparring.experiment import load, load_data
from sparring.process import keep_freed_memory, on_one_thread
from sparring.records import RunPaths, read, write
from sparring.session import train_run
from sparring.threat import ThreatModel

EPS, EPOCHS = 0.1, 30
ADAM = Optimizer("adam", lr=0.001, weight_decay=0.0, rate="cosine", every=EPOCHS)


def with_adversary(run: Run, **changes: Any) -> Run:
    """The run with other settings of its adversary."""
    assert run.adversary is not None
    return replace(run, adversary=replace(run.adversary, **changes))


CHANGES: dict[str, Callable[[Run], Run]] = {
    "the paper's": lambda run: replace(run, training=replace(run.training, max_epochs=EPOCHS)),
    "every example twice": lambda run: replace(
        run, defender=Network(optimizer=recipes.ANNEALED), training=recipes.BOTH
    ),
    "log odds": lambda run: with_adversary(run, loss="log_odds"),
    "Adam": lambda run: with_adversary(run, optimizer=ADAM),
    "five steps": lambda run: replace(run, play=replace(run.play, adversary_steps=5)),
}


@dataclass(frozen=True)
class XOnlyRecord:
    """One variant of the tanh game: what is left of its defender at EPS."""

    variant: str
    seed: int
    n: int
    clean: float
    in_game: float
    fresh: float  # a new adversary that sees the input only
    fgsm: float
    worst: float
    seconds: float  # of the training


def variant(name: str, seed: int) -> Run:
    """The run of this name: its change, and all before it."""
    run = replace(recipes.gan_tanh(), recipe="x_only", eps=EPS, seed=seed, data=Data("mnist"))
    for each, change in CHANGES.items():
        run = change(run)
        if each == name:
            return run
    raise KeyError(name)


def measured(name: str, seed: int, options: argparse.Namespace) -> XOnlyRecord:
    """Train where that is not done, and attack."""
    run = variant(name, seed)
    train_on, test = load_data(run.data)
    paths = RunPaths(options.out / name.replace(" ", "-").replace("'", "") / f"seed{seed}")
    record = train_run(run, paths, train_on)
    trained, test = load(paths.folder), stratified(test, options.examples)
    model, threat = trained.defender, ThreatModel(EPS, test.shape)
    assert trained.adversary is not None
    own = attacked(model, test, LearnedAttack(trained.adversary, threat), threat)
    fresh = best_responses(model, train_on, test, EPS, kinds=("x",), seeds=(0,), epochs=6, double=False)
    found = worst_case(model, test, [EPS], partial(suite, trained=trained), store=paths.folder / "worst")
    left = (found.accuracy(0), own.accuracy, fresh.accuracy("x"), attacked(model, test, fgsm(threat), threat).accuracy)
    return XOnlyRecord(name, seed, len(test), *left, found.accuracy(EPS), round(record.seconds, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--variants", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    options = parser.parse_args()
    on_one_thread()
    keep_freed_memory()
    file = options.results / "x-only.jsonl"
    records = read(file, XOnlyRecord) if file.is_file() else []
    for seed in range(options.seeds):
        for name in options.variants:
            if any((r.variant, r.seed) == (name, seed) for r in records):
                continue
            records.append(measured(name, seed, options))
            write(file, records)
            told = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(records[-1]).items()}
            print(told, flush=True)


if __name__ == "__main__":
    main()
