"""A small convolutional network against the recurrent adversary at the field's eps 0.3 on MNIST: trained by `Game`, then attacked.

    python runs/conv.py OUT results/beyond-mnist [--epochs 30] [--examples 1000] [--data-root FOLDER]

OUT/conv.pt keeps the network, after every epoch. It is attacked on stratified test images by Auto-PGD on cross-entropy and on the
margin for three targets, then, where the package pyautoattack is installed, by the official AutoAttack's standard version;
clean accuracy is over all test images. Written: conv.json.
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
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    use_faster_products()
    keep_freed_memory()
    train, test = sparring.data.load("mnist", root=options.data_root)
    model, started = network(), time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)

    def told(epoch: Any, progress: Any) -> None:
        torch.save(model.state_dict(), options.out / "conv.pt")
        share = epoch.means["perturbed_accuracy"]
        print(
            f"epoch {epoch.epoch}: {share:.3f} of perturbed training images, {time.perf_counter() - started:.0f} s",
            flush=True,
        )

    game = sparring.Game(model, eps=HIGH, eps_low=LOW, lr=0.1, seed=SEED)
    game.fit(train, epochs=options.epochs, rate="cosine", every=options.epochs, on_epoch=told)
    seconds = time.perf_counter() - started
    clean = sparring.evaluation.clean(model, test).accuracy
    some, threat = stratified(test, options.examples), ThreatModel(EPS, test.shape)
    x, y = some.floats(), some.labels
    suite = Cascade((APGD(threat), APGD(threat, "margin", targets=3)), threat)
    found: dict[str, int] = {"Auto-PGD": right(model, suite(model, x, y), y)}
    if importlib.util.find_spec("pyautoattack"):
        from pyautoattack import AutoAttack

        official = AutoAttack(model, norm="Linf", eps=EPS, version="standard", device="cpu", verbose=False)
        x_adv = threat.project(official.run_standard_evaluation(x, y, bs=500), x)
        found["AutoAttack, standard"] = right(model, x_adv, y)
    row = {"eps": EPS, "epochs": options.epochs, "seconds": round(seconds), "threads": options.threads, "clean": clean}
    row |= {"n": len(some), "left": found, "low": {k: wilson(v, len(some)).low for k, v in found.items()}}
    (options.results / "conv.json").write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row))


def right(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    """How many are classified rightly."""
    with torch.no_grad():
        return int((model(x).argmax(-1) == y).sum())


if __name__ == "__main__":
    main()
