"""The recurrent game's step on a small convolutional network: in fp32, with factors rounded, and with factors cast to bf16.

    python bench/convolutions.py [--rounds 9] [--steps 10] [--batch 128]

On one thread, the three in turn in every round. Told are milliseconds a step, and how many times as fast as fp32 of the same
round: the median, from the lowest to the highest. `sparring.precision` rounds factors where a processor has tiles (AMX) and a
network no convolutions, and casts them elsewhere.
"""

import argparse
import statistics
import time

import torch
from torch import nn

from sparring.adversaries import ROUNDS, RecurrentAdversary
from sparring.game import player
from sparring.game.moves import Move
from sparring.game.radii import Radii
from sparring.game.unrolled import pursuit
from sparring.precision import multiplying_in
from sparring.process import keep_freed_memory, rounds_factors, use_faster_products
from sparring.randomness import Stream
from sparring.threat import ThreatModel

SHAPE, CPU = (1, 28, 28), torch.device("cpu")
WAYS = {
    "fp32": lambda: multiplying_in("fp32", CPU),
    "rounded": lambda: multiplying_in("bf16", CPU),
    "cast": lambda: multiplying_in("bf16", CPU, convolutions=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    use_faster_products()
    keep_freed_memory()
    if not rounds_factors():
        print("this processor does not round factors: both ways cast them")
    x, y = torch.rand(options.batch, *SHAPE), torch.arange(options.batch) % 10
    moves, taken = {way: step() for way in WAYS}, {way: list[float]() for way in WAYS}
    for number in range(options.rounds + 1):
        for way, move in moves.items():
            started = time.perf_counter()
            for _ in range(options.steps):
                with WAYS[way]():
                    move(x, y)
            if number:  # the first one warms up
                taken[way].append(1000 * (time.perf_counter() - started) / options.steps)
    for way, each in taken.items():
        ratios = [a / b for a, b in zip(taken["fp32"], each, strict=True)]
        told = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] times as fast as fp32"
        print(f"{way:>8}: {statistics.median(each):.1f} ms a step, {told}")


def step() -> Move:
    """A step against a network of its own, at radii drawn from 0.2 to 0.36, on which the adversary does not learn."""
    torch.manual_seed(0)
    defender = nn.Sequential(
        nn.Conv2d(1, 32, 5, 2, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 49, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, 10),
    )  # fmt: skip
    streams = Stream(0, "attack"), Stream(0, "radii")
    for stream in streams:
        stream.seek(0, 1)
    return pursuit(
        player("defender", defender, maximize=False, lr=0.1),
        player("adversary", RecurrentAdversary(SHAPE, rounds=ROUNDS), maximize=True, kind="adam", lr=0.01),
        ThreatModel(0.36, SHAPE),
        Radii(0.36, 0.2, streams[1]),
        streams[0],
        every=0,
        clean_share=0.0,
    )


if __name__ == "__main__":
    main()
