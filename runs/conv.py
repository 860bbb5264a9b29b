"""A small convolutional network against the recurrent adversary at eps 0.3 on MNIST: trained by `Game`, then attacked.

    python runs/conv.py OUT results/beyond-mnist [--epochs 20] [--examples 1000] [--data-root FOLDER]

OUT/conv.pt keeps the trained network, which the same command then only attacks. It is attacked on stratified test images by
Auto-PGD on cross-entropy and on the margin for three targets, then, where the package pyautoattack is installed, by the official
AutoAttack's standard version; clean accuracy is over all test images. Written: conv.json.
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
from sparring.data.batches import stratified
from sparring.evaluation.statistics import wilson
from sparring.process import keep_freed_memory, use_faster_products
from sparring.threat import ThreatModel

EPS, LOW, HIGH, SEED = 0.3, 0.1, 0.33, 0


def network() -> nn.Module:
    """Two strided convolutions and two linear layers, 0.46 million parameters."""
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, stride=2, padding=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 5, stride=2, padding=2), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 49, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    use_faster_products()
    keep_freed_memory()
    train, test = sparring.data.load("mnist", root=options.data_root)
    model, kept = network(), options.out / "conv.pt"
    if kept.is_file():
        saved = torch.load(kept)
        model.load_state_dict(saved["model"])
        model.eval()
        seconds, epochs = saved["seconds"], saved["epochs"]
    else:
        seconds, epochs = trained(model, train, options.epochs), options.epochs
        options.out.mkdir(parents=True, exist_ok=True)
        torch.save({"model": model.state_dict(), "seconds": seconds, "epochs": epochs}, kept)
    clean = sparring.evaluation.clean(model, test).accuracy
    some, threat = stratified(test, options.examples), ThreatModel(EPS, test.shape)
    x, y = some.floats(), some.labels
    suite = Cascade((APGD(threat), APGD(threat, "margin", targets=3)), threat)
    found: dict[str, int] = {"Auto-PGD": right(model, suite(model, x, y), y)}
    if importlib.util.find_spec("pyautoattack"):
        from pyautoattack import AutoAttack

        official = AutoAttack(model, device="cpu", eps=EPS, seed=0, version="standard")
        x_adv = threat.project(official.run_standard_evaluation(x, y, batch_size=250)[0], x)
        found["AutoAttack, standard"] = right(model, x_adv, y)
    row = {"eps": EPS, "epochs": epochs, "seconds": round(seconds), "threads": options.threads, "clean": clean}
    row |= {"n": len(some), "left": found, "low": {k: wilson(v, len(some)).low for k, v in found.items()}}
    (options.results / "conv.json").write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row))


def trained(model: nn.Module, data: Any, epochs: int) -> float:
    """Play the game; returns its seconds."""
    started = time.perf_counter()

    def told(epoch: Any, progress: Any) -> None:
        share = epoch.means["perturbed_accuracy"]
        print(f"epoch {epoch.epoch}: {100 * share:.1f} %, {time.perf_counter() - started:.0f} s", flush=True)

    game = sparring.Game(model, eps=HIGH, eps_low=LOW, lr=0.1, seed=SEED)
    game.fit(data, epochs=epochs, rate="cosine", every=epochs, on_epoch=told)
    return time.perf_counter() - started


def right(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    """How many are classified rightly."""
    with torch.no_grad():
        return int((model(x).argmax(-1) == y).sum())


if __name__ == "__main__":
    main()
