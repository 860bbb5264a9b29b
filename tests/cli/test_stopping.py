"""A command can be stopped, by any signal, and goes on where it was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from called import ENVIRONMENT, GAME, TINY, Call, program, python, refused

from sparring import faults
from sparring.game.checkpoint import read_verified
from sparring.records import read_json


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_and_saves_and_the_same_command_goes_on(
    number: signal.Signals, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0]

    def point(name: str) -> None:
        passed[0] += name == "step"
        if name == "step" and passed[0] == 15:
            signal.raise_signal(number)

    words = ["train", "gan_tanh", *GAME]
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(faults, "point", point)
        line = refused(call(*words), 128 + number)
    assert "stopped and saved in out/runs/gan_tanh/seed0" in line and signal.getsignal(number) is before
    assert (Path("out/runs/gan_tanh/seed0") / "checkpoint-000000015.safetensors").is_file()
    code, out, err = call(*words)
    assert code == 0 and "gan_tanh seed 0: done, 2 epochs" in out
    assert "going on from checkpoint-000000015.safetensors: epoch 2, step 4" in err
    assert call(*words, "--out", "whole")[0] == 0
    for name in ("defender.safetensors", "adversary.safetensors"):
        here, there = (read_verified(Path(out) / "runs/gan_tanh/seed0" / name)[0] for out in ("out", "whole"))
        assert all(here[key].numpy().tobytes() == there[key].numpy().tobytes() for key in there)


def test_ctrl_c_in_earnest(tmp_path: Path) -> None:
    epochs, folder = 15, tmp_path / "out" / "runs" / "gan_tanh" / "seed0"
    command = program("train", "gan_tanh", "--training.max-epochs", epochs, "--training.patience", 99, "--seed", 0)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    pipes["env"] = ENVIRONMENT
    deadline = time.monotonic() + 60
    with subprocess.Popen([sys.executable, *command], **pipes) as process:
        log = folder / "epochs.jsonl"
        while not (log.exists() and log.stat().st_size):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == "" and err.count("\n") == 1 and err.startswith("sparring: stopped and saved in out/runs/gan_tanh")
    (saved,) = folder.glob("checkpoint-*.safetensors")
    assert not (folder / "run.json").exists() and len(log.read_text().splitlines()) < epochs
    done = python(*command, cwd=tmp_path)
    assert done.returncode == 0 and f"going on from {saved.name}" in done.stderr
    lines = [json.loads(line)["epoch"] for line in log.read_text().splitlines()]
    assert lines == [*range(1, epochs + 1)] and read_json(folder / "run.json")["status"] == "done"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    command = program("train", "vanilla", *TINY, "--training.checkpoint-seconds", 0)
    killed = python(*command, cwd=tmp_path, SPARRING_FAULT="step:15")
    assert killed.returncode == -signal.SIGKILL
    done = python(*command, cwd=tmp_path)
    assert done.returncode == 0 and "going on from checkpoint-000000011.safetensors: epoch 2, step 0" in done.stderr
