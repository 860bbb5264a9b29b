"""How long training takes a seed and step: stacks of sparring beside the loops that users would otherwise run.

    python bench/train.py [--examples 6400] [--rounds 5] [--seeds 10] [--json FILE]
    python bench/train.py --scaling [--rounds 3] [--json FILE]

MNIST shapes, random pixels, batch 128, the paper's networks, the same steps and optimizer settings on all sides. Each side runs
in processes of its own, one side at a time, alternating within every round; a ratio is theirs over ours of the same round, in
seconds of the whole machine per seed and step: its median [range], and that of both sides' best rounds. Other load on the machine
slows a loop on all cores most, so that there the ratio of the best is the fair one. All sides multiply in fp32; ours also in
bf16, for the game, and for every regime where the processor is good at it, beside the others' fp32.

  plain         one seed, a PyTorch loop over a DataLoader of a TensorDataset, on all cores
  plain a core  as plain, but a process for each core on one thread, each with a seed of its own
  one stack     all seeds as one stack, in one process on all cores
  workers       a process for each core on one thread, each with stacks of its share, as `sparring train --seeds 10 --workers 2`
  returning     the same, with the C library's own habit of giving freed memory back (sparring.process is what this costs)
  torchattacks, art   FGSM training by these libraries, one seed on all cores; skipped where they are not installed

    pip install --target FOLDER --no-deps torchattacks adversarial-robustness-toolbox
    PYTHONPATH=src:FOLDER python bench/train.py

(--no-deps keeps the PyTorch that is there; what else a library then misses, its import error names.)

`--scaling` changes the seeds in a stack, the batch and the width of the hidden layers, one at a time, on one thread. There as
here, "needed" counts the products that cannot be left out, no others, and its share is of the machine's own matmul rate, taken
in the same round by as many processes and threads. Beside the time stand two bounds from below: the needed products at that
rate; and the least traffic of the parameters at the rate of a long copy, which holds once they no longer stay in the cache.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import resource
import statistics
import sys
from typing import Any

import machine
import ours
import plain

CORES = os.cpu_count() or 1
PEERS = {"torchattacks": "torchattacks", "art": "adversarial-robustness-toolbox"}
WAYS = ("one stack", "workers", "returning")
Row = dict[str, Any]


def their_epoch(name: str, n_examples: int) -> plain.Epoch:
    return plain.epoch_of(name, ours.random_data(n_examples))


def our_epoch(
    regime: str, n_examples: int, seeds: list[int], batch: int = 128, width: int = 1, split: bool = False
) -> plain.Epoch:
    return ours.epoch_of(regime, ours.random_data(n_examples), seeds, batch, width, split=split)


def compared(n_examples: int, rounds: int, n_seeds: int, peers: list[str]) -> list[Row]:
    """A row for every regime, side and configuration of ours."""
    steps = n_examples // plain.BATCH
    shares = [list(range(n_seeds))[i::CORES] for i in range(CORES)]
    theirs = machine.Group(1, CORES, keep_memory=False)
    one = machine.Group(1, CORES, keep_memory=True)
    workers = machine.Group(CORES, 1, keep_memory=True)
    returning = machine.Group(CORES, 1, keep_memory=False)
    groups, rows = (theirs, one, workers, returning), []
    for regime in [*ours.REGIMES, *ours.in_bf16()]:
        loop = regime.partition(",")[0]  # their loops are in fp32
        loops = {"plain": loop} | ({peer: peer for peer in peers} if loop == "fgsm" else {})
        sides = [*loops, "plain a core"]
        taken: dict[str, list[float]] = {side: [] for side in [*sides, *WAYS, "rate"]}
        for _ in range(rounds):
            taken["rate"].append(sum(workers.measured(ours.matmul_rate)))
            for side, name in loops.items():
                taken[side].append(theirs.seconds(their_epoch, [(name, n_examples)]) / steps)
            each = returning.seconds(their_epoch, [(loop, n_examples)] * CORES)
            taken["plain a core"].append(each / steps / CORES)
            whole = one.seconds(our_epoch, [(regime, n_examples, list(range(n_seeds)))])
            taken["one stack"].append(whole / steps / n_seeds)
            for way, group in (("workers", workers), ("returning", returning)):
                parts = group.seconds(our_epoch, [(regime, n_examples, share, 128, 1, True) for share in shares])
                taken[way].append(parts / steps / n_seeds)
        for group in groups:
            group.forget()
        for side in sides:
            for way in WAYS:
                rows.append({"training": regime} | _row(side, way, taken[side], taken))
                rows[-1] |= _products(taken[way], taken["rate"], ours.needed(regime))
                print(_told(rows[-1]), flush=True)
    for group in groups:
        group.close()
    return rows


def scaled(rounds: int) -> list[Row]:
    """A row for every regime and size, one size at a time away from 10 seeds, batch 128, width 1; on one thread."""
    regimes = [*ours.REGIMES, *(name for name in ours.in_bf16() if name == "game, bf16")]
    sizes = [(n, 128, 1) for n in (1, 2, 5, 10, 20)] + [
        (10, 64, 1),
        (2, 512, 1),
        (10, 512, 1),
        (10, 128, 2),
        (10, 128, 4),
    ]
    group, rows = machine.Group(1, 1, keep_memory=True), []
    (copying,) = group.measured(ours.bandwidth)
    for regime in regimes:
        for n_seeds, batch, width in sizes:
            steps = max(2, round(2e11 / ours.needed(regime, batch, width) / n_seeds / 10))
            job = (regime, steps * batch, list(range(n_seeds)), batch, width)
            rates, taken = [], []
            for _ in range(rounds):
                rates += group.measured(ours.matmul_rate)
                taken.append(group.seconds(our_epoch, [job]) / steps / n_seeds)
            group.forget()
            products, least = ours.needed(regime, batch, width), ours.traffic(regime, width) / copying
            row: Row = {"training": regime, "seeds": n_seeds, "batch": batch, "width": width, "ms": _ms(taken)}
            row |= {
                "products_ms": round(products / statistics.median(rates) / 1e6, 4),
                "memory_ms": round(least / 1e6, 4),
            }
            rows.append(row | _products(taken, rates, products))
            print(rows[-1], flush=True)
    group.close()
    return rows


def _row(side: str, way: str, theirs: list[float], taken: dict[str, list[float]]) -> Row:
    ratios = [a / b for a, b in zip(theirs, taken[way], strict=True)]
    low, middle, high = (round(f(ratios), 2) for f in (min, statistics.median, max))
    row = {"beside": side, "ours": way, "ms": _ms(taken[way]), "their_ms": _ms(theirs)}
    best = round(min(theirs) / min(taken[way]), 2)
    return row | {"ratio": middle, "lowest": low, "highest": high, "best": best}


def _products(taken: list[float], rates: list[float], needed: float) -> Row:
    rate, gflops = statistics.median(rates), needed / statistics.median(taken) / 1e9
    return {"gflops": round(gflops, 1), "matmul_gflops": round(rate, 1), "share": round(gflops / rate, 3)}


def _ms(seconds: list[float]) -> float:
    return round(1e3 * statistics.median(seconds), 4)


def _told(r: Row) -> str:
    return (
        f"{r['training']:<13} {r['ours']:<10} {r['ms']:7.3f} ms   {r['beside']:<12} {r['their_ms']:7.3f} ms   "
        f"ratio {r['ratio']:5} [{r['lowest']}, {r['highest']}], of the best {r['best']:5}   "
        f"needed {r['gflops']} of {r['matmul_gflops']} GFLOP/s"
    )


def _installed() -> list[str]:
    """The libraries that are there; a note about the others."""
    found = []
    for name in PEERS:
        try:
            importlib.import_module({"art": "art.defences.trainer"}.get(name, name))
            found.append(name)
        except ImportError as error:
            print(f"not measured: {name} ({error})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=6_400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--json")
    options = parser.parse_args()
    head = ours.described() | {"rounds": options.rounds, "copy_gb_per_s": round(ours.bandwidth(), 1)}
    print("  ".join(f"{name}: {value}" for name, value in head.items()))
    if options.scaling:
        rows = scaled(options.rounds)
    else:
        peers = _installed()
        head |= {name: importlib.metadata.version(PEERS[name]) for name in peers}
        rows = compared(options.examples, options.rounds, options.seeds, peers)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"peak memory of the largest process {peak:.0f} MB")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(head | {"peak_mb": round(peak), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
