"""What a stack of seeds costs on a CUDA device, eager and captured, and whether an epoch ever waits for the device.

    python bench/gpu.py [--seeds 1 10 100] [--steps 210] [--regimes vanilla fgsm gan_tanh] [--json FILE]

MNIST shapes, random pixels, batch 128, the paper's networks, through the same loop, moves and regimes as any training. For
each regime, number of seeds, precision and way (every kernel launched, or the whole step replayed as a CUDA graph): milliseconds
a step of the stack and of each seed, by CUDA events over all but the first steps of an epoch, and the largest memory. During the
timed steps PyTorch is told to raise where the host would wait for the device, so a figure without an error is one without a
synchronisation.
"""

import argparse
import json
import platform
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from sparring import recipes
from sparring.adversaries import stack_any
from sparring.config import Run
from sparring.data import Data
from sparring.experiment import Streams, move_of, new_adversary, new_defender, new_player
from sparring.game.train import Progress, train
from sparring.game.unrolled import learns_at
from sparring.game.warm import WarmStart
from sparring.models import stack
from sparring.threat import ThreatModel

SHAPE, BATCH, SKIP = (1, 28, 28), 128, 50  # by then every course of a step has been captured


def random_data(n_examples: int) -> Data:
    """Random pixels and labels in MNIST's shapes, on the device."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n_examples, *SHAPE), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (n_examples,), generator=generator)
    return Data(images.cuda(), labels.cuda(), 10, "random")


def measured(run: Run, n_seeds: int, steps: int, *, capture: bool) -> dict[str, Any]:
    """One epoch of a stack, timed without its first steps."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seeds = list(range(n_seeds))
    data = random_data(BATCH * steps)
    runs = [replace(run, seed=seed) for seed in seeds]
    optimizer = replace(run.defender.optimizer, lr=0.01)  # random labels diverge at the paper's rate
    network = stack([new_defender(one, SHAPE, 10) for one in runs]).cuda()
    defender = new_player("defender", network, optimizer, maximize=False, n_copies=n_seeds)
    players, warm = [defender], None
    if run.learner is not None:
        own = run.recurrent.optimizer if run.recurrent else optimizer
        adversaries = stack_any([new_adversary(one, SHAPE) for one in runs]).cuda()
        players.insert(0, new_player("adversary", adversaries, own, maximize=True, n_copies=n_seeds))
    if run.recurrent is not None and run.recurrent.warm:
        warm = WarmStart(len(data), SHAPE, seeds, "cuda")
    streams = Streams.of(seeds)
    adversary = players[0] if len(players) > 1 else None
    move = move_of(run, defender, adversary, ThreatModel(run.eps, SHAPE), streams, warm)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def on_step(progress: Progress) -> None:
        if progress.step == SKIP:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            first.record()
        elif progress.step == steps:
            last.record()
            torch.cuda.set_sync_debug_mode("default")

    train(
        move,
        data,
        players,
        replace(run.training, max_epochs=1),
        seed=seeds,
        streams=list(streams),
        warm=[warm] if warm else [],
        capture=capture,
        course=partial(learns_at, every=run.recurrent.every if run.recurrent else 0),
        on_step=on_step,
    )
    torch.cuda.synchronize()
    milliseconds = first.elapsed_time(last) / (steps - SKIP)
    return {
        "regime": run.recipe,
        "seeds": n_seeds,
        "precision": run.precision,
        "captured": capture,
        "ms_per_step": round(milliseconds, 4),
        "ms_per_seed_step": round(milliseconds / n_seeds, 5),
        "peak_mb": round(torch.cuda.max_memory_allocated() / 2**20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--steps", type=int, default=210)
    parser.add_argument(
        "--regimes", nargs="+", default=["vanilla", "noise", "fgsm", "pgd", "gan_tanh", "gan_recurrent", "pgd_drawn"]
    )
    parser.add_argument("--json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench/gpu.py needs a CUDA device, and this machine or this torch has none")
    where = {"torch": torch.__version__, "python": platform.python_version(), "gpu": torch.cuda.get_device_name()}
    print(where)
    print(
        f"{'regime':>13} {'seeds':>6} {'precision':>9} {'captured':>8} {'ms/step':>9} {'ms/seed-step':>13} {'peak MB':>8}"
    )
    rows = []
    for name in options.regimes:
        for n_seeds in options.seeds:
            for precision in ("fp32", "bf16"):
                for capture in (False, True):
                    run = replace(recipes.recipe(name), precision=precision)
                    row = measured(run, n_seeds, options.steps, capture=capture)
                    rows.append(row)
                    print(
                        f"{row['regime']:>13} {n_seeds:>6} {precision:>9} {capture!s:>8} {row['ms_per_step']:>9} "
                        f"{row['ms_per_seed_step']:>13} {row['peak_mb']:>8}",
                        flush=True,
                    )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(where | {"rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
