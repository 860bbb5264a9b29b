"""A small run that can be killed anywhere: digits, tiny networks, `train`, checkpoints, a log that is cut back on resume.

As a program it is a server: a line of JSON in, a scenario; a line of JSON out, what came of it. Each attempt is a fork, so
that no attempt imports torch again.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring import faults
from sparring.adversaries import Adversary
from sparring.attacks.noise import Noise
from sparring.config import Training
from sparring.data import Data, load
from sparring.game import Epoch, Move, Player, Progress, Turn, against, checkpoint, duel, player, train
from sparring.models import mlp
from sparring.randomness import Stream, generator
from sparring.threat import ThreatModel

SEED = 3
BATCH = 24
STEPS = 10  # an epoch's
EVERY = 3  # steps between checkpoints: not a divisor of an epoch's
POINTS = ("step", "between_players", "mid_write", "pre_fsync", "pre_rename", "post_rename")
SHAPE = (1, 8, 8)
KINDS = ("vanilla", "noise", "duel", "adam")


class Stop(Exception):
    """The run is to end here, its state saved."""


def digits() -> Data:
    """The first 240 training digits: ten steps an epoch."""
    return load("digits")[0].take(torch.arange(BATCH * STEPS))


def build(kind: str) -> tuple[Move, tuple[Player, ...], tuple[Stream, ...]]:
    """Fresh players of a kind of run, their move, and the streams it draws from."""
    threat = ThreatModel(0.5, SHAPE)
    defender_net = mlp(SHAPE, [16, 10], generator=generator(SEED, "init.defender"))
    steps: dict[str, Any] = {"kind": "adam" if kind == "adam" else "sgd", "lr": 0.02 if kind == "adam" else 1.0}
    defender = player("defender", defender_net, maximize=False, rate="rise", **steps)
    if kind == "vanilla":
        return against(defender, Noise(threat), clean_share=1.0), (defender,), ()
    if kind == "noise":
        stream = Stream(SEED, "noise")
        every = player("defender", defender_net, maximize=False, rate="every", every=4, **steps)
        return against(every, Noise(threat, "uniform", stream), clean_share=0.0), (every,), (stream,)
    network = Adversary(mlp(SHAPE, [16, 64], generator=generator(SEED, "init.adversary")))
    adversary = player("adversary", network, maximize=True, rate="every", every=2, **steps)
    return duel(defender, adversary, threat, alternating_with_a_point), (adversary, defender), ()


def alternating_with_a_point(adversary: Turn, defender: Turn) -> None:
    """The alternating dynamic, with a place to die between the two players."""
    adversary.player.step(adversary.objective())
    faults.point("between_players")
    defender.player.step(defender.objective())


def run(
    kind: str,
    folder: Path,
    *,
    epochs: int,
    data: Data,
    stop_at: int | None = None,
    patience: int = 1000,
    mutation: str = "",
    report: Callable[[dict[str, Any]], None] = lambda start: None,
) -> str:
    """Train, or go on, to the end (or save and raise Stop after so many steps); returns the fingerprint of what it has become.

    `report` is told where it started. `mutation` breaks the trainer in one way, which the tests must notice.
    """
    move, players, streams = build(kind)
    log = folder / "epochs.jsonl"
    swept = checkpoint.sweep(folder)
    damaged: list[str] = []
    found = checkpoint.latest(folder, damaged.append)
    progress = Progress()
    if found:
        _, tensors, header = found
        progress = checkpoint.restore_checkpoint(tensors, header, players)
        if mutation != "log":
            os.truncate(log, header["log_length"])
        forget(mutation, players, progress)
    else:
        log.write_bytes(b"")
    report({"from": STEPS * progress.epoch + progress.step, "damaged": damaged, "swept": swept})

    def save(progress: Progress) -> None:
        step = STEPS * progress.epoch + progress.step
        path = folder / f"checkpoint-{step:09d}.safetensors"
        checkpoint.save_checkpoint(path, players, progress, {"log_length": log.stat().st_size})
        checkpoint.prune(folder)

    def on_step(progress: Progress) -> None:
        step = STEPS * progress.epoch + progress.step
        if step == stop_at:
            save(progress)
            raise Stop
        if step % EVERY == 0:
            save(progress)

    def on_epoch(epoch: Epoch, progress: Progress) -> None:
        record: dict[str, Any] = {
            "epoch": epoch.epoch,
            "means": epoch.means,
            "rates": epoch.rates,
            "grad_norms": epoch.grad_norms,
        }
        record |= {"best": progress.best, "stale": progress.stale}
        with log.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if epoch.epoch % 4 == 0 or progress.stopped:
            save(progress)

    settings = Training(batch_size=BATCH, max_epochs=epochs, patience=patience, flat=0.5, min_lr=0.0)
    with broken_writing(mutation):
        progress = train(
            move,
            data,
            players,
            settings,
            seed=SEED,
            progress=progress,
            streams=streams,
            on_step=on_step,
            on_epoch=on_epoch,
        )
    return fingerprint(players, progress, log)


def fingerprint(players: Sequence[Player], progress: Progress, log: Path) -> str:
    """SHA-256 over names, types, shapes and bytes of everything that a run has become, and over its log."""
    digest = hashlib.sha256()
    for side in players:
        for name, tensor in sorted((side.state() | {"grad_norm": side.grad_norm}).items()):
            value = tensor.detach().to(torch.float64) if name == "grad_norm" else tensor.detach()
            digest.update(f"{side.name}.{name} {value.dtype} {tuple(value.shape)};".encode())
            digest.update(value.contiguous().numpy().tobytes())
    where = (progress.epoch, progress.step, float(progress.best).hex(), progress.stale, progress.stopped)
    digest.update(repr(where).encode())
    digest.update(log.read_bytes())
    return digest.hexdigest()


# Broken trainers


@torch.no_grad()
def forget(mutation: str, players: Sequence[Player], progress: Progress) -> None:
    """What a careless trainer might not have restored."""
    defender, adversary = players[-1], players[0]
    if mutation == "momentum":
        zero(defender.optimizer.state().values())
    elif mutation == "adversary_optimizer":
        zero(adversary.optimizer.state().values())
    elif mutation == "batch_norm":
        for module in defender.network.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.reset_running_stats()
    elif mutation == "progress":
        progress.best, progress.stale = Progress().best, Progress().stale
    elif mutation == "previous_loss":
        defender.rule.previous.fill_(torch.inf)
    elif mutation == "rate":
        adversary.optimizer.lr.fill_(1.0)
    elif mutation == "sums":
        zero(progress.sums.values())
    elif mutation == "position" and progress.step:
        progress.step -= 1


def zero(tensors: Any) -> None:
    for tensor in tensors:
        assert isinstance(tensor, Tensor)
        tensor.zero_()


class broken_writing:
    """For "in_place": checkpoints written straight to their own names, for the length of a block."""

    def __init__(self, mutation: str) -> None:
        self.active = mutation == "in_place"
        self.sound = checkpoint._write_aside

    def __enter__(self) -> None:
        if self.active:
            checkpoint._write_aside = in_place

    def __exit__(self, *raised: object) -> None:
        checkpoint._write_aside = self.sound


def in_place(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content[: len(content) // 2])
        faults.point("mid_write")
        file.write(content[len(content) // 2 :])
        file.flush()
        for name in ("pre_fsync", "pre_rename", "post_rename"):
            faults.point(name)


# Killing


def torture(
    kind: str, folder: str, *, epochs: int, kills: int, seed: int, mutation: str = "", outside: int = 4
) -> dict[str, Any]:
    """Kill a run so many times, every `outside`-th time from outside, else at the named points in turn; then let it end."""
    draw = random.Random(seed)
    where, data = Path(folder), digits()
    points = [point for point in POINTS if kind in ("duel", "adam") or point != "between_players"]
    hits = dict.fromkeys([*points, "outside"], 0)
    named = 0
    for n in range(kills):
        if outside and n % outside == outside - 1:
            status = attempt(kind, where, epochs, data, mutation, delay=draw.uniform(0.0, 0.15))
            hits["outside"] += status == -signal.SIGKILL
        else:
            point = points[named % len(points)]
            count = draw.randint(EVERY + 1, 3 * EVERY) if point in ("step", "between_players") else draw.randint(2, 3)
            status = attempt(kind, where, epochs, data, mutation, fault=(point, count))
            hits[point] += status == -signal.SIGKILL
            named += 1
        if status not in (-signal.SIGKILL, 0):
            break
    else:
        status = attempt(kind, where, epochs, data, mutation)
    starts = [json.loads(line) for line in (where / "starts.txt").read_text().splitlines()]
    end = where / "end.txt"
    return {
        "status": status,
        "kills": sum(hits.values()),
        "hits": hits,
        "starts": [start["from"] for start in starts],
        "damaged": [line for start in starts for line in start["damaged"]],
        "swept": [name for start in starts for name in start["swept"]],
        "left": sorted(path.name for path in where.glob("*.tmp-*")),
        "end": end.read_text() if end.exists() else "",
    }


def attempt(
    kind: str,
    folder: Path,
    epochs: int,
    data: Data,
    mutation: str,
    *,
    fault: tuple[str, int] | None = None,
    delay: float | None = None,
) -> int:
    """One life of the run in a forked child: its exit status, negative where a signal ended it."""
    started, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(started)
        signal.alarm(60)  # a child that hangs dies of SIGALRM, which no scenario expects
        code = 1

        def report(start: dict[str, Any]) -> None:
            with (folder / "starts.txt").open("a") as file:
                file.write(json.dumps(start) + "\n")
            os.close(tell)

        try:
            if fault:
                faults.arm(*fault)
            end = run(kind, folder, epochs=epochs, data=data, mutation=mutation, report=report)
            (folder / "end.txt").write_text(end)
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    os.close(tell)
    os.read(started, 1)  # until the child has noted its start, or has died
    os.close(started)
    if delay is not None:
        watch = os.pidfd_open(child)
        select.select([watch], [], [], delay)
        os.close(watch)
        os.kill(child, signal.SIGKILL)  # not reaped yet, so the number is still the child's
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve() -> None:
    """Scenarios in, results out, until the input ends."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        started = time.perf_counter()
        result = torture(**json.loads(line))
        print(json.dumps(result | {"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    serve()
