"""One epoch of FGSM training and of the tanh game: sparring's loop beside a plain PyTorch loop with a DataLoader.

    python bench/train.py [--examples 12800] [--rounds 5] [--threads 1] [--json FILE]

MNIST shapes, random pixels, batch 128, the paper's networks. Both loops take the same steps: the same half of every batch is
perturbed, the same optimizer settings. The plain loop reads its data in three
ways: a TensorDataset; a data set that converts each sample; one that takes each sample through PIL, as torchvision's MNIST with
ToTensor does, which is what a tutorial's loop runs. The loops alternate within one run, and what counts is the ratio of their
medians.
The last rows compare whole machines: two seeds of ours at a time, one thread each, as `sparring reproduce` runs them, with the
plain loop on all cores; the ratio is of seeds per second.
Products are counted that are needed and no others: the first layer has no input gradient (except for FGSM, which asks for
just that one), and an attack needs no parameter gradients.
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing import Queue, get_context
from multiprocessing.synchronize import Barrier

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sparring import fgsm
from sparring.adversaries import Adversary
from sparring.config import Training
from sparring.data import Data
from sparring.game import against, alternating, duel, player, train
from sparring.models import mlp
from sparring.threat import ThreatModel

BATCH, HALF, EPS, SHAPE = 128, 64, 0.1, (1, 28, 28)
DEFENDER, ADVERSARY = (784, 128, 64, 10), (784, 512, 512, 784)


class PerSample(Dataset[tuple[torch.Tensor, int]]):
    """A data set as torchvision's are: uint8 images, converted one sample at a time."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.images[i].float().div(255), self.labels[i]


class ThroughPIL(Dataset[tuple[torch.Tensor, int]]):
    """What torchvision.datasets.MNIST with transforms.ToTensor does for each sample: array, PIL image, array, float tensor."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        from PIL import Image

        self.images, self.labels, self.image = images, labels, Image.fromarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        picture = self.image(self.images[i, 0].numpy())
        pixels = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(picture.height, picture.width, 1)
        return pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255), int(self.labels[i])


def plain_network(sizes: tuple[int, ...]) -> nn.Sequential:
    """A network as a user would write it."""
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(n_in, n_out))
        if i < len(sizes) - 2:
            layers += [nn.BatchNorm1d(n_out), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers)


def plain_fgsm(loader: DataLoader) -> Callable[[], None]:
    """FGSM training as tutorials write it: loss.backward() for the input gradient, then zero_grad."""
    model = plain_network(DEFENDER)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=4e-4)

    def epoch() -> None:
        for x, y in loader:
            x_game = x[HALF:].clone().requires_grad_()
            model.eval()
            F.cross_entropy(model(x_game), y[HALF:]).backward()
            x_adv = (x_game + EPS * x_game.grad.sign()).clamp(0, 1).detach()
            model.train()
            optimizer.zero_grad()
            loss = F.cross_entropy(model(torch.cat((x[:HALF], x_adv))), y)
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


def plain_game(loader: DataLoader) -> Callable[[], None]:
    """The game as two GAN-style optimizer steps a batch."""
    defender, adversary = plain_network(DEFENDER), plain_network(ADVERSARY)
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 4e-4}
    defends = torch.optim.SGD(defender.parameters(), **settings)
    attacks = torch.optim.SGD(adversary.parameters(), maximize=True, **settings)

    def perturbed(x: torch.Tensor) -> torch.Tensor:
        return (x + EPS * torch.tanh(adversary(x)).view_as(x)).clamp(0, 1)

    def epoch() -> None:
        for x, y in loader:
            defender.eval(), adversary.train()
            attacks.zero_grad()
            F.cross_entropy(defender(perturbed(x[HALF:])), y[HALF:]).backward()
            attacks.step()
            defender.train(), adversary.eval()
            defends.zero_grad()
            with torch.no_grad():
                x_adv = perturbed(x[HALF:])
            loss = F.cross_entropy(defender(torch.cat((x[:HALF], x_adv))), y)
            loss.backward()
            defends.step()
            loss.item()

    return epoch


def our_epoch(kind: str, data: Data) -> Callable[[], None]:
    """The same through sparring's loop."""
    threat = ThreatModel(EPS, SHAPE)
    defender = player("defender", mlp(SHAPE, DEFENDER[1:]), maximize=False, lr=0.1)
    if kind == "fgsm":
        players, move = [defender], against(defender, fgsm(threat))
    else:
        adversary = player("adversary", Adversary(mlp(SHAPE, ADVERSARY[1:])), maximize=True, lr=0.1)
        players, move = [adversary, defender], duel(defender, adversary, threat, alternating())
    settings = Training(max_epochs=1)
    return lambda: void(train(move, data, players, settings, seed=0))


def void(_: object) -> None:
    """Nothing: makes a statement of a value."""


def products(sizes: tuple[int, ...]) -> int:
    """Floating-point operations of one forward pass of one example."""
    return sum(2 * a * b for a, b in pairwise(sizes))


def needed(kind: str) -> float:
    """Floating-point operations of one step that cannot be left out."""
    d, a = products(DEFENDER), products(ADVERSARY)
    d_first, a_first = 2 * DEFENDER[0] * DEFENDER[1], 2 * ADVERSARY[0] * ADVERSARY[1]
    trains = BATCH * (3 * d - d_first)  # forward, parameter gradients, input gradients but the first layer's
    if kind == "fgsm":
        return trains + HALF * 2 * d  # forward, and input gradients down to the pixels
    return trains + HALF * (3 * a - a_first + 2 * d) + HALF * a  # its turn, and its answer on the defender's turn


def matmul_rate() -> float:
    """The machine's own fp32 matrix-product rate with the present threads, in GFLOP/s: the best of several sizes."""
    best = 0.0
    for n in (512, 1024, 1536):
        a, b = torch.randn(n, n), torch.randn(n, n)
        for _ in range(3):
            a @ b
        started = time.perf_counter()
        for _ in range(8):
            a @ b
        best = max(best, 8 * 2 * n**3 / (time.perf_counter() - started) / 1e9)
    return best


def pair_worker(kind: str, n_examples: int, rounds: int, start: Barrier, queue: "Queue[float]") -> None:
    """One of two seeds at a time: its epochs on one thread, between two barriers."""
    torch.set_num_threads(1)
    epoch = our_epoch(kind, random_data(n_examples))
    epoch()
    start.wait()
    started = time.perf_counter()
    for _ in range(rounds):
        epoch()
    queue.put(time.perf_counter() - started)


def two_at_a_time(kind: str, n_examples: int, rounds: int) -> float:
    """Seconds per seed and epoch when two processes train one seed each."""
    context = get_context("spawn")
    start, queue = context.Barrier(2), context.Queue()
    arguments = (kind, n_examples, rounds, start, queue)
    processes = [context.Process(target=pair_worker, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    slowest = max(queue.get() for _ in processes)
    for process in processes:
        process.join()
    return slowest / rounds / 2


def random_data(n_examples: int) -> Data:
    """Random pixels and labels in MNIST's shapes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n_examples, *SHAPE), dtype=torch.uint8, generator=generator)
    return Data(images, torch.randint(0, 10, (n_examples,), generator=generator), 10, "random")


def timed(epoch: Callable[[], None]) -> float:
    started = time.perf_counter()
    epoch()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=12_800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: one, then two")
    parser.add_argument("--json")
    options = parser.parse_args()
    data = random_data(options.examples)
    images, labels = data.images, data.labels
    loaders = {
        "TensorDataset": DataLoader(TensorDataset(data.floats(), labels), BATCH, shuffle=True, drop_last=True),
        "per-sample": DataLoader(PerSample(images, labels), BATCH, shuffle=True, drop_last=True),
    }
    try:
        loaders["torchvision's way"] = DataLoader(ThroughPIL(images, labels), BATCH, shuffle=True, drop_last=True)
    except ImportError:
        print("not measured: a data set as torchvision reads it (pip install pillow)")
    steps, rows = options.examples // BATCH, []
    for threads in [options.threads] if options.threads else [1, 2]:
        torch.set_num_threads(threads)
        for kind, plain in (("fgsm", plain_fgsm), ("game", plain_game)):
            runs = {"sparring": our_epoch(kind, data)} | {name: plain(loader) for name, loader in loaders.items()}
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            rates = []
            for number in range(options.rounds + 1):
                rates.append(matmul_rate())
                for name, epoch in runs.items():
                    taken = timed(epoch)
                    if number:  # the first round warms up
                        seconds[name].append(taken)
            ours = statistics.median(seconds["sparring"])
            rate = statistics.median(rates)
            gflops = needed(kind) * steps / ours / 1e9
            for name in loaders:
                ratios = [theirs / mine for theirs, mine in zip(seconds[name], seconds["sparring"], strict=True)]
                rows.append(
                    {
                        "threads": threads,
                        "training": kind,
                        "plain loop with": name,
                        "ms_per_step": round(1e3 * ours / steps, 3),
                        "plain_ms_per_step": round(1e3 * statistics.median(seconds[name]) / steps, 3),
                        "ratio": round(statistics.median(ratios), 2),
                        "lowest": round(min(ratios), 2),
                        "highest": round(max(ratios), 2),
                        "gflops": round(gflops, 1),
                        "matmul_gflops": round(rate, 1),
                    }
                )
            if threads == 2:
                pair = two_at_a_time(kind, options.examples, options.rounds)
                for name in loaders:
                    ratios = [theirs / pair for theirs in seconds[name]]
                    rows.append(
                        rows[-1]
                        | {
                            "threads": "2 x 1",
                            "plain loop with": name,
                            "ms_per_step": round(1e3 * pair / steps, 3),
                            "plain_ms_per_step": round(1e3 * statistics.median(seconds[name]) / steps, 3),
                            "ratio": round(statistics.median(ratios), 2),
                            "lowest": round(min(ratios), 2),
                            "highest": round(max(ratios), 2),
                            "gflops": round(needed(kind) * steps / pair / 1e9, 1),
                        }
                    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, {options.rounds} rounds"
    )
    print(
        f"{'threads':>7} {'training':>8} {'plain loop with':>17} {'ours ms':>8} {'plain ms':>9}  ratio [lowest, highest]"
        f"  needed GFLOP/s of the machine's"
    )
    for r in rows:
        print(
            f"{r['threads']:>7} {r['training']:>8} {r['plain loop with']:>17} {r['ms_per_step']:>8} "
            f"{r['plain_ms_per_step']:>9}  {r['ratio']:>5} [{r['lowest']}, {r['highest']}]  "
            f"{r['gflops']} of {r['matmul_gflops']}"
        )
    print(f"peak memory {peak:.0f} MB")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"torch": torch.__version__, "peak_mb": round(peak), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
