"""What a step of the recurrent game costs beside PGD training with the same batches and radii.

    python bench/recurrent.py [--examples 12800] [--rounds 5] [--seeds 5] [--only NAME ...] [--json FILE]

MNIST shapes, random pixels, the networks and settings of the recipes, a stack of seeds in one process on one thread. Regimes
alternate within every round, an epoch each; ratios are to the yardstick of the same round, PGD-7 with the same batches and radii:
median [range]. Passes are counted, not timed: forwards and backwards of one example through the defender, over a step's batch.
What closes a game, seed by seed, is timed once a round, and counted, as its share of a step of a whole training on MNIST.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ours

from sparring import recipes
from sparring.adversaries import ROUNDS, RecurrentAdversary, stack_recurrent
from sparring.data import Data
from sparring.experiment import Streams, move_of, new_adversary, new_defender, new_player
from sparring.game import train
from sparring.game.closing import BATCH, close, closing_turns
from sparring.game.warm import WarmStart
from sparring.models import stack
from sparring.process import keep_freed_memory, on_one_thread
from sparring.threat import ThreatModel

REGIMES = {  # of each yardstick
    "pgd_drawn": ("pgd_drawn", "pgd2_drawn", "fgsm_drawn", "gan_recurrent", "gan_recurrent_all", "gan_recurrent_fixed"),
    "pgd_long": ("pgd_long", "fgsm_long", "gan_recurrent_long"),
}
N_TRAIN = 60000
BESIDE = {name: yardstick for yardstick, names in REGIMES.items() for name in names}


def epoch_of(name: str, data: Data, seeds: list[int]) -> Callable[[], Any]:
    """One epoch of a regime for a stack of these seeds."""
    run = recipes.recipe(name)
    runs = [replace(run, seed=seed) for seed in seeds]
    defenders = stack([new_defender(one, data.shape, data.n_classes) for one in runs])
    defender = new_player("defender", defenders, run.defender.optimizer, maximize=False, n_copies=len(seeds))
    players, adversary, warm = [defender], None, None
    if run.recurrent is not None:
        cells = stack_recurrent([new_adversary(one, data.shape) for one in runs])  # type: ignore[misc]
        adversary = new_player("adversary", cells, run.recurrent.optimizer, maximize=True, n_copies=len(seeds))
        players = [adversary, defender]
        warm = WarmStart(len(data), data.shape, seeds) if run.recurrent.warm else None
    streams = Streams.of(seeds)
    move = move_of(run, defender, adversary, ThreatModel(run.eps, data.shape), streams, warm)
    settings = replace(run.training, max_epochs=1)
    tables = [warm] if warm else []
    return lambda: train(move, data, players, settings, seed=seeds, streams=list(streams), warm=tables)


def closing_of(name: str, data: Data) -> Callable[[], None]:
    """What closes one seed's training of a regime; nothing where nothing does."""
    run = recipes.recipe(name)
    turns, threat = turns_of(name), ThreatModel(run.eps, data.shape)
    if not turns:
        return lambda: None
    adversary, defender = new_adversary(run, data.shape), new_defender(run, data.shape, data.n_classes)
    assert isinstance(adversary, RecurrentAdversary)
    return lambda: close(adversary, defender, data, threat, turns=turns, seed=0, low=run.eps_low, power=run.eps_power)


def turns_of(name: str) -> int:
    """How many turns close a whole training of a regime."""
    run = recipes.recipe(name)
    epochs, steps = run.training.max_epochs, N_TRAIN // run.training.batch_size
    return closing_turns(run.recurrent.closing, epochs, steps, run.recurrent.every) if run.recurrent else 0


def steps_of(name: str) -> int:
    """Steps of a whole training of a regime."""
    settings = recipes.recipe(name).training
    return settings.max_epochs * (N_TRAIN // settings.batch_size)


def passes_of(name: str) -> float:
    """Of a regime's whole training, for each training example and epoch."""
    run = recipes.recipe(name)
    asked = run.recurrent.queries * (1 + ROUNDS) / 2 + 1 if run.recurrent else 0.0  # of a turn: its rounds, and the end
    return run.passes + turns_of(name) * BATCH * asked / (N_TRAIN * run.training.max_epochs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=12800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=BESIDE, default=list(BESIDE), help="with their yardsticks")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    on_one_thread()
    keep_freed_memory()
    data, seeds = ours.random_data(options.examples), list(range(options.seeds))
    steps = options.examples // recipes.gan_recurrent().training.batch_size
    shown = {*options.only, *(BESIDE[name] for name in options.only)}
    beside = {name: yardstick for name, yardstick in BESIDE.items() if name in shown}
    epochs = {name: epoch_of(name, data, seeds) for name in beside}
    ends = {name: closing_of(name, data) for name in beside}
    times: dict[str, list[float]] = {name: [] for name in beside}
    for number in range(options.rounds + 1):
        for name, epoch in epochs.items():
            started = time.perf_counter()
            epoch()
            ended = time.perf_counter()
            ends[name]()
            if number:  # the first round warms up
                step, end = (ended - started) / steps / options.seeds, (time.perf_counter() - ended) / steps_of(name)
                times[name].append(1e3 * (step + end))
    rows = []
    for name, yardstick in beside.items():
        ratios = [own / pgd for own, pgd in zip(times[name], times[yardstick], strict=True)]
        counted = passes_of(name)
        share = counted / passes_of(yardstick)
        row: dict[str, Any] = {
            "training": name,
            "ms": statistics.median(times[name]),
            "ratio": statistics.median(ratios),
        }
        row |= {"lowest": min(ratios), "highest": max(ratios), "passes": counted}
        rows.append(row)
        spread = f"{row['ratio']:.2f} [{row['lowest']:.2f}, {row['highest']:.2f}]"
        passes = f"{counted:.2f}, {share:.2f} of its"
        print(f"{name:<20} {row['ms']:6.2f} ms a seed and step, {spread} of {yardstick}'s; passes {passes}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"settings": vars(options) | {"json": None}, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
