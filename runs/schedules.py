"""Which rate a `Game` should have by default: several networks, radii and schedules, on training images held out.

    python runs/schedules.py OUT results/beyond-mnist [--networks perceptron ...] [--settings one ...] [--schedules cosine ...]
                             [--rates 0.1 ...] [--seeds 1]

Each variant is `Game(network, ...).fit(train, epochs=20)`, all else at its default, on the first 55,000 training images;
clean accuracy and what Auto-PGD leaves (on cross-entropy, and on the margin for three targets) are of 2,000 of the other 5,000.
The test images are not touched. The networks: the paper's perceptron; the same without batch norm; the same as a finished
classifier that is hardened (five epochs of clean training before the game); a small convolutional network without batch norm.
Every variant is told, nothing is chosen here. Calls for other networks or settings may run beside one another: each writes what
it finds in OUT, and schedules.jsonl is written from all of OUT.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from laws import split
from torch import nn

import sparring
from sparring.attacks import APGD, Cascade, identity
from sparring.config import Training
from sparring.data import Data
from sparring.errors import Diverged
from sparring.evaluation import attacked
from sparring.evaluation.statistics import mean_interval
from sparring.game import against, player, train
from sparring.process import keep_freed_memory, on_one_thread
from sparring.randomness import generator
from sparring.records import read, write
from sparring.threat import ThreatModel

EPOCHS = 20
SCHEDULES: dict[str, dict[str, Any]] = {
    "halved every 10": {"rate": "every", "every": 10},
    "cosine": {"rate": "cosine", "every": EPOCHS},
}
RATES = (0.03, 0.1, 0.3)
SETTINGS: dict[str, dict[str, float]] = {
    "one": {"eps": 0.1},
    "one, none clean": {"eps": 0.1, "clean_share": 0.0},
    "drawn": {"eps": 0.3, "eps_low": 0.01},
    "drawn, none clean": {"eps": 0.3, "eps_low": 0.01, "clean_share": 0.0},
}
JUDGED_AT = {name: (0.1,) if settings["eps"] == 0.1 else (0.1, 0.2, 0.3) for name, settings in SETTINGS.items()}


@dataclass(frozen=True)
class ScheduleRecord:
    """What is left at `eps`, clean at 0, of one game's defender, on images held out; -1 if it diverged."""

    network: str
    setting: str
    schedule: str
    lr: float
    seed: int
    eps: float
    n: int
    correct: int
    seconds: float  # of its training


def perceptron(seed: int, train_on: Data) -> nn.Module:
    return sparring.models.mlp(train_on.shape, [128, 64, 10], generator=generator(seed, "defender"))


def hardened(seed: int, train_on: Data) -> nn.Module:
    """The same, first trained on clean images as anyone would."""
    model = perceptron(seed, train_on)
    defender = player("defender", model, maximize=False, lr=0.1, rate="cosine", every=5)
    move = against(defender, identity, clean_share=1.0)
    train(move, train_on, [defender], Training(max_epochs=5, patience=6, min_lr=0.0), seed=seed)
    return model


def without_norm(seed: int, train_on: Data) -> nn.Module:
    """As PyTorch initialises it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        )


def convolutional(seed: int, train_on: Data) -> nn.Module:
    """Two strided convolutions and two linear layers, 0.1 million parameters, no batch norm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip


NETWORKS: dict[str, Callable[[int, Data], nn.Module]] = {
    "perceptron": perceptron,
    "hardened": hardened,
    "without norm": without_norm,
    "convolutional": convolutional,
}


def measured(
    network: str, setting: str, schedule: str, lr: float, seed: int, data: tuple[Data, Data]
) -> list[ScheduleRecord]:
    """Play one game and attack its defender."""
    train_on, held_out = data
    model = NETWORKS[network](seed, train_on)
    game = sparring.Game(model, lr=lr, seed=seed, **SETTINGS[setting])  # type: ignore[arg-type]
    started, n = time.perf_counter(), len(held_out)
    at = (network, setting, schedule, lr, seed)
    try:
        game.fit(train_on, epochs=EPOCHS, **SCHEDULES[schedule])
    except Diverged:
        return [ScheduleRecord(*at, eps, n, -1, 0.0) for eps in (0.0, *JUDGED_AT[setting])]
    seconds = round(time.perf_counter() - started, 1)
    made = [ScheduleRecord(*at, 0.0, n, round(n * sparring.evaluation.clean(model, held_out).accuracy), seconds)]
    for eps in JUDGED_AT[setting]:
        threat = ThreatModel(eps, held_out.shape)
        suite = Cascade((APGD(threat), APGD(threat, "margin", targets=3)), threat)
        made.append(ScheduleRecord(*at, eps, n, round(n * attacked(model, held_out, suite, threat).accuracy), seconds))
    return made


def told(records: list[ScheduleRecord]) -> str:
    """Means over seeds, a line for every variant."""
    by: dict[tuple[str, str, str, float], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in records:
        by[r.network, r.setting, r.schedule, r.lr][r.eps].append(
            100 * r.correct / r.n if r.correct >= 0 else float("nan")
        )
    lines = []
    for key in sorted(by):
        cells = []
        for eps, values in sorted(by[key].items()):
            sound = [v for v in values if v == v]
            mean, low_high = mean_interval(sound) if sound else (float("nan"), None)
            spread = f" [{low_high.low:.1f}, {low_high.high:.1f}]" if low_high and len(sound) > 1 else ""
            gone = f" ({len(values) - len(sound)} diverged)" if len(sound) < len(values) else ""
            cells.append(f"{eps:g}: {mean:.1f}{spread}{gone}")
        lines.append(f"{key[0]}, {key[1]}, {key[2]} at {key[3]:g}, {len(values)} seeds: {'; '.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--schedules", nargs="+", choices=list(SCHEDULES), default=list(SCHEDULES))
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--examples", type=int, default=2000)
    options = parser.parse_args()
    on_one_thread()
    keep_freed_memory()
    data = split(sparring.data.load("mnist")[0], options.examples)
    options.out.mkdir(parents=True, exist_ok=True)
    for network in options.networks:
        for setting in options.settings:
            for seed in range(options.seeds):
                for schedule in options.schedules:
                    for lr in options.rates:
                        name = f"{network} {setting} {schedule} {lr:g} {seed}".replace(",", "").replace(" ", "-")
                        file = options.out / f"{name}.jsonl"
                        if file.is_file():
                            continue
                        write(file, measured(network, setting, schedule, lr, seed, data))
                        print(told(read(file, ScheduleRecord)), flush=True)
    records = [r for path in sorted(options.out.glob("*.jsonl")) for r in read(path, ScheduleRecord)]
    write(options.results / "schedules.jsonl", records)
    print(told(records))


if __name__ == "__main__":
    main()
