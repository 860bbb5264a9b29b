"""A small convolutional network at eps 0.3 on MNIST: `Game` trains five seeds of it, which are then attacked.

    python runs/conv.py OUT results/beyond-mnist [--seeds 0 1 2 3 4] [--epochs 20] [--examples 1000] [--data-root FOLDER]

OUT/conv-SEED.pt keeps a trained network, OUT/conv-SEED.json what was found of it; the same command then goes on, and calls for
other seeds may run beside it. A network is attacked on stratified test images, the same for all seeds, by Auto-PGD on
cross-entropy and on the margin for three targets, then, where the package pyautoattack is installed, by the official AutoAttack's
standard version; clean accuracy is over all test images. Written: conv.jsonl, a row for every seed in OUT.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparring
from sparring.attacks import APGD, Cascade
from sparring.data import Data
from sparring.data.batches import stratified
from sparring.process import keep_freed_memory, use_faster_products
from sparring.threat import ThreatModel

EPS, LOW, HIGH = 0.3, 0.1, 0.33


def network(seed: int) -> nn.Module:
    """Two strided convolutions and two linear layers, 0.46 million parameters."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, stride=2, padding=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 5, stride=2, padding=2), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 49, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    use_faster_products()
    keep_freed_memory()
    options.out.mkdir(parents=True, exist_ok=True)
    train, test = sparring.data.load("mnist", root=options.data_root)
    for seed in options.seeds:
        found = options.out / f"conv-{seed}.json"
        if not found.is_file():
            found.write_text(json.dumps(one(seed, train, test, options)) + "\n")
        print(found.read_text(), end="", flush=True)
    rows = [json.loads(path.read_text()) for path in options.out.glob("conv-*.json")]
    lines = [json.dumps(row) + "\n" for row in sorted(rows, key=lambda row: int(row["seed"]))]
    (options.results / "conv.jsonl").write_text("".join(lines))


def one(seed: int, train: Data, test: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Train the network of a seed, unless it is kept, and attack it."""
    model, kept = network(seed), options.out / f"conv-{seed}.pt"
    if kept.is_file():
        saved = torch.load(kept)
        model.load_state_dict(saved["model"])
        model.eval()
        seconds, epochs = saved["seconds"], saved["epochs"]
    else:
        seconds, epochs = trained(model, train, options.epochs, seed), options.epochs
        torch.save({"model": model.state_dict(), "seconds": seconds, "epochs": epochs}, kept)
    clean = sparring.evaluation.clean(model, test).accuracy
    some, threat = stratified(test, options.examples), ThreatModel(EPS, test.shape)
    x, y = some.floats(), some.labels
    suite = Cascade((APGD(threat), APGD(threat, "margin", targets=3)), threat)
    left: dict[str, int] = {"Auto-PGD": right(model, suite(model, x, y), y)}
    if importlib.util.find_spec("pyautoattack"):
        from pyautoattack import AutoAttack

        official = AutoAttack(model, device="cpu", eps=EPS, seed=0, version="standard")
        x_adv = threat.project(official.run_standard_evaluation(x, y, batch_size=250)[0], x)
        left["AutoAttack, standard"] = right(model, x_adv, y)
    told = {"seed": seed, "eps": EPS, "epochs": epochs, "seconds": round(seconds), "threads": options.threads}
    return told | {"clean": clean, "n": len(some), "left": left}


def trained(model: nn.Module, data: Data, epochs: int, seed: int) -> float:
    """Play the game; returns its seconds."""
    started = time.perf_counter()

    def told(epoch: Any, progress: Any) -> None:
        share = epoch.means["perturbed_accuracy"]
        print(
            f"seed {seed}, epoch {epoch.epoch}: {100 * share:.1f} %, {time.perf_counter() - started:.0f} s", flush=True
        )

    game = sparring.Game(model, eps=HIGH, eps_low=LOW, lr=0.1, seed=seed)
    game.fit(data, epochs=epochs, rate="cosine", every=epochs, on_epoch=told)
    return time.perf_counter() - started


def right(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    """How many are classified rightly."""
    with torch.no_grad():
        return int((model(x).argmax(-1) == y).sum())


if __name__ == "__main__":
    main()
