"""Runs of a few small epochs and what they came to, for the tests of runs alone and in stacks."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparring
from sparring import recipes
from sparring.config import Run
from sparring.data import Data
from sparring.experiment import new_defender
from sparring.game.checkpoint import read_verified
from sparring.records import RunPaths, RunRecord, read_json
from sparring.session import train_run

STEPS = 4  # an epoch's
ALONE = 2  # epochs of the adversary alone, in the initialised games
MAIN = 3  # epochs of the training proper


@cache
def digits() -> Data:
    """The first 256 training digits: four steps an epoch."""
    return sparring.data.load("digits")[0].take(torch.arange(64 * STEPS))


def small(name: str, seed: int = 0, **training: Any) -> Run:
    """A recipe with small networks and few epochs, saved after every epoch."""
    run = recipes.recipe(name)
    settings = {"batch_size": 64, "max_epochs": MAIN, "checkpoint_seconds": 0.0} | training
    return replace(
        run,
        seed=seed,
        defender=replace(run.defender, hidden=(16,)),
        adversary=run.adversary and replace(run.adversary, hidden=(16,)),
        training=replace(run.training, **settings),
        alone=run.alone and replace(run.alone, **(settings | {"max_epochs": ALONE})),
    )


def frozen_vanilla() -> nn.Module:
    """What the initialised games' adversary first trains against; here any classifier will do."""
    return new_defender(small("vanilla", 99), digits().shape, digits().n_classes).eval()


def play(run: Run, folder: Path, **options: Any) -> RunRecord:
    return train_run(run, RunPaths(folder), digits(), vanilla=frozen_vanilla, **options)


def after(steps: int, number: int = signal.SIGINT) -> Callable[[], int]:
    """Says that a signal has come, once so many steps are done."""
    done = [0]

    def interrupted() -> int:
        done[0] += 1
        return number if done[0] >= steps else 0

    return interrupted


def log(folder: Path) -> list[dict[str, Any]]:
    """The lines of epochs.jsonl without their times, which alone may differ."""
    lines = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return lines


def came_to(folder: Path) -> dict[str, Any]:
    """All that a run has become, its times apart."""
    paths = RunPaths(folder)
    end: dict[str, Any] = {"log": log(folder), "record": read_json(paths.done) | {"seconds": 0, "defender_sha256": ""}}
    for path in (paths.defender, paths.adversary, paths.trained_alone):
        if path.exists():
            tensors, header = read_verified(path)
            end[path.name] = {name: (t.dtype, t.shape, t.numpy().tobytes()) for name, t in tensors.items()}
            end[path.name]["header"] = header | {"seconds": 0, "log_bytes": 0}  # the log holds seconds
    return end


def note(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text + "\n")


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
