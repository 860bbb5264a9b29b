"""What a collapsed adversary costs: the game's step with and without flushing denormal numbers to zero.

    python bench/denormals.py [--rounds 5] [--steps 20]

In the paper's recipe an adversary that finds no gradient decays (rate 1.0, weight decay 4e-4, momentum 0.9), until what
its hidden units vary by is below 1e-38. Here its weights are scaled down to that at once. Both settings alternate in one run; the
ratio of their medians is what counts. One thread.
"""

import argparse
import statistics
import time

import torch
from torch import nn

from sparring.adversaries import Adversary
from sparring.game import alternating, duel, player
from sparring.models import mlp
from sparring.threat import ThreatModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = (1, 28, 28)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(128, *shape, generator=generator), torch.randint(0, 10, (128,), generator=generator)
    network = mlp(shape, [512, 512, 784])
    with torch.no_grad():
        for norm in (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm1d)):
            norm.weight.mul_(1e-20)
            norm.bias.mul_(1e-20)
    adversary = player("adversary", Adversary(network), maximize=True, lr=1e-30)
    defender = player("defender", mlp(shape, [128, 64, 10]), maximize=False, lr=1e-30)
    move = duel(defender, adversary, ThreatModel(0.1, shape), alternating())
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(options.rounds + 1):
        for flush in (True, False):
            torch.set_flush_denormal(flush)
            started = time.perf_counter()
            for _ in range(options.steps):
                move(x, y)
            if number:  # the first round warms up
                seconds[flush].append((time.perf_counter() - started) / options.steps)
    kept, flushed = statistics.median(seconds[False]), statistics.median(seconds[True])
    print(f"denormals kept {1e3 * kept:.1f} ms a step, flushed {1e3 * flushed:.1f} ms, ratio {kept / flushed:.1f}")


if __name__ == "__main__":
    main()
