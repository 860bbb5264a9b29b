"""The recurrent game on a small convolutional network: in fp32, with factors rounded or cast to bf16, and beside PGD-7.

    python bench/convolutions.py [--rounds 9] [--steps 16] [--json FILE]

On one thread, all four in turn in every round, an epoch of so many steps each, on random images. Told are milliseconds a step,
and how many times as fast as fp32 of the same round: the median, from the lowest to the highest; of PGD-7, its factors cast
too, how much of its time the game so cast takes. `sparring.precision` rounds factors where a processor has tiles (AMX) and a
network no convolutions, and casts them elsewhere.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ours
import torch
from torch import nn

from sparring.adversaries import ROUNDS, RecurrentAdversary
from sparring.attacks import PGD
from sparring.config import Training
from sparring.data import Data
from sparring.game import against, player, pursuit, train
from sparring.game.radii import Radii
from sparring.game.warm import WarmStart
from sparring.precision import multiplying_in
from sparring.process import keep_freed_memory, rounds_factors, use_faster_products
from sparring.randomness import Stream
from sparring.threat import ThreatModel

CPU = torch.device("cpu")
WAYS = {
    "fp32": lambda: multiplying_in("fp32", CPU),
    "rounded": lambda: multiplying_in("bf16", CPU),
    "cast": lambda: multiplying_in("bf16", CPU, convolutions=True),
}
PGD_7 = "PGD-7"
WAYS[PGD_7] = WAYS["cast"]
SETTINGS = Training(batch_size=128, max_epochs=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    use_faster_products()
    keep_freed_memory()
    if not rounds_factors():
        print("this processor does not round factors: both ways cast them")
    data = ours.random_data(options.steps * SETTINGS.batch_size)
    epochs, taken = {way: epoch_of(way, data) for way in WAYS}, {way: list[float]() for way in WAYS}
    for number in range(options.rounds + 1):
        for way, epoch in epochs.items():
            started = time.perf_counter()
            with WAYS[way]():
                epoch()
            if number:  # the first one warms up
                taken[way].append(1000 * (time.perf_counter() - started) / options.steps)
    rows = []
    for way, each in taken.items():
        beside = "cast" if way == PGD_7 else "fp32"
        ratios = [a / b for a, b in zip(taken[beside], each, strict=True)]
        row = {"training": way, "ms": statistics.median(each), "ratio": statistics.median(ratios)}
        row |= {"lowest": min(ratios), "highest": max(ratios)}
        rows.append(row)
        told = f"{row['ratio']:.2f} [{row['lowest']:.2f}, {row['highest']:.2f}]"
        told += " of it is the game's, cast" if way == PGD_7 else " times as fast as fp32"
        print(f"{way:>8}: {row['ms']:.1f} ms a step, {told}")
    if options.json:
        options.json.write_text(json.dumps({"settings": vars(options) | {"json": None}, "rows": rows}, indent=1) + "\n")


def epoch_of(way: str, data: Data) -> Callable[[], Any]:
    """An epoch with a network of its own, every example perturbed at a radius drawn from 0.2 to 0.36."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 5, 2, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 49, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, 10),
    ).train()  # fmt: skip
    threat, streams = ThreatModel(0.36, data.shape), [Stream(0, "attack"), Stream(0, "radii")]
    defender, radii = player("defender", network, maximize=False, lr=0.1), Radii(0.36, 0.2, streams[1])
    players, warm = [defender], list[WarmStart]()  # the adversary plays, and a warm start is read, in a game only
    if way == PGD_7:
        attack = PGD(threat, steps=7, keep="last", stream=streams[0])
        move = against(defender, attack, clean_share=0.0, radii=radii)
    else:
        cell, warm = RecurrentAdversary(data.shape, rounds=ROUNDS), [WarmStart(len(data), data.shape, 0)]
        adversary = player("adversary", cell, maximize=True, kind="adam", lr=0.01)
        players.append(adversary)
        move = pursuit(defender, adversary, threat, radii, streams[0], warm=warm[0], clean_share=0.0)
    return lambda: train(move, data, players, SETTINGS, seed=0, streams=streams, warm=warm)


if __name__ == "__main__":
    main()
