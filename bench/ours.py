"""sparring's side of the benchmark: stacks of seeds, which products they need, and what the machine can do at best."""

import time
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch

from sparring import fgsm
from sparring.adversaries import Adversary, stack_adversaries
from sparring.attacks import Noise, identity
from sparring.config import Training
from sparring.data import Data
from sparring.game import Player, against, alternating, duel, player, train
from sparring.game.moves import Move, in_precision
from sparring.models import mlp, stack, stack_sizes
from sparring.precision import fast_precision
from sparring.randomness import Stream
from sparring.threat import ThreatModel

EPS, SHAPE = 0.1, (1, 28, 28)
REGIMES = ("vanilla", "noise", "fgsm", "game")


def in_bf16() -> list[str]:
    """The regimes that are measured in bf16 too: all where the processor is good at it, else the game."""
    good = fast_precision(torch.device("cpu")) == "bf16"
    return [f"{name}, bf16" for name in (REGIMES if good else REGIMES[-1:])]


def layers(width: int = 1) -> tuple[list[int], list[int]]:
    """The sizes of the paper's defender and adversary, hidden layers `width` times as wide."""
    return [784, 128 * width, 64 * width, 10], [784, 512 * width, 512 * width, 784]


def random_data(n_examples: int) -> Data:
    """Random pixels and labels in MNIST's shapes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n_examples, *SHAPE), dtype=torch.uint8, generator=generator)
    return Data(images, torch.randint(0, 10, (n_examples,), generator=generator), 10, "random")


def epoch_of(
    regime: str, data: Data, seeds: list[int], batch: int = 128, width: int = 1, *, split: bool = False
) -> Callable[[], None]:
    """One epoch of this regime, in bf16 where its name ends so, for these seeds as one stack, or `split` as `train_runs` does."""
    name, _, precision = regime.partition(", ")
    ends = list(accumulate(stack_sizes(len(seeds), parameters(name, width), torch.device("cpu"))))
    parts = [seeds[start:end] for start, end in pairwise([0, *ends])] if split else [seeds]
    games = [_game(name, part, width) for part in parts]
    settings = Training(max_epochs=1, batch_size=batch)

    def epoch() -> None:
        for part, (players, move, stream) in zip(parts, games, strict=True):
            at = in_precision(move, "bf16" if precision else "fp32")
            train(at, data, players, settings, seed=part, streams=[stream])

    return epoch


def _game(regime: str, seeds: list[int], width: int) -> tuple[list[Player], Move, Stream]:
    threat, stream = ThreatModel(EPS, SHAPE), Stream(seeds, "attack")
    sizes, adversarys = layers(width)
    networks = stack([mlp(SHAPE, sizes[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    defender = player("defender", networks, maximize=False, lr=0.1, n_copies=len(seeds))
    if regime == "vanilla":
        return [defender], against(defender, identity, clean_share=1.0), stream
    if regime == "noise":
        return [defender], against(defender, Noise(threat, stream=stream), clean_share=0.0), stream
    if regime == "fgsm":
        return [defender], against(defender, fgsm(threat)), stream
    learners = stack_adversaries([Adversary(mlp(SHAPE, adversarys[1:])) for _ in seeds])
    adversary = player("adversary", learners, maximize=True, lr=0.1, n_copies=len(seeds))
    return [adversary, defender], duel(defender, adversary, threat, alternating()), stream


def needed(regime: str, batch: int = 128, width: int = 1) -> float:
    """Floating-point operations of one seed's step in products that cannot be left out.

    The first layer has no input gradient, except for FGSM, which asks for just that one; an attack needs no parameter gradients.
    """
    regime = regime.partition(", ")[0]
    defender, adversary = layers(width)
    d, a, half = products(defender), products(adversary), batch // 2
    trains = batch * (
        3 * d - products(defender[:2])
    )  # forward, parameter gradients, input gradients but the first layer's
    if regime in ("vanilla", "noise"):
        return trains
    if regime == "fgsm":
        return trains + half * 2 * d  # forward, and input gradients down to the pixels
    turn = half * (3 * a - products(adversary[:2]) + 2 * d)
    return trains + turn + half * a  # the adversary's turn, and its answer on the defender's


def parameters(regime: str, width: int = 1) -> int:
    """Weights and more that one seed of a regime trains."""
    defender, adversary = layers(width)
    sizes = [defender, adversary] if regime.startswith("game") else [defender]
    return sum(sum(a * b + 3 * b for a, b in pairwise(one)) - 2 * one[-1] for one in sizes)


def traffic(regime: str, width: int = 1) -> float:
    """Bytes of one seed's step that its parameters move at least, were nothing of them in a cache from one use to the next.

    Nine times each: read forwards and backwards, a gradient written and measured, and a step that reads parameter, gradient and
    momentum and writes two of them. A player who only answers is read once more; the defender in an attack or turn, twice.
    """
    defender, adversary = (sum(a * b for a, b in pairwise(sizes)) for sizes in layers(width))
    if regime in ("vanilla", "noise"):
        return 4 * 9 * defender
    return 4 * 11 * defender + (4 * 10 * adversary if regime.startswith("game") else 0)


def products(sizes: list[int]) -> int:
    """Floating-point operations of one forward pass of one example."""
    return sum(2 * a * b for a, b in pairwise(sizes))


def matmul_rate() -> float:
    """The machine's own fp32 matrix-product rate with the present threads, in GFLOP/s: the best of several square sizes."""
    best = 0.0
    for n in (512, 1024, 1536):
        a, b, out = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
        for _ in range(5):
            started = time.perf_counter()
            torch.mm(a, b, out=out)
            best = max(best, 2 * n**3 / (time.perf_counter() - started) / 1e9)
    return best


def bandwidth() -> float:
    """GB a second that a copy much larger than the caches reads and writes, with the present threads."""
    a, best = torch.ones(64 * 2**20), 0.0
    b = torch.empty_like(a)
    for _ in range(5):
        started = time.perf_counter()
        b.copy_(a)
        best = max(best, 2 * a.nbytes / (time.perf_counter() - started) / 1e9)
    return best


def processor() -> str:
    """The processor's own name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    names = [line for line in path.read_text().splitlines() if line.startswith("model name")] if path.exists() else []
    return names[0].partition(": ")[2] if names else "unknown"


def described() -> dict[str, Any]:
    """The machine and the versions, for the head of a results file."""
    return {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": torch.get_num_threads(),
        "torch": torch.__version__,
    }
