"""A stack that is killed at any kind of point and goes on ends as one that never stopped.

As a program (`python test_killed_stack.py FOLDER`) it is a stack that is killed at every kind of point in turn.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1]))  # the program's; pytest has it there already

import torch
from stacked_runs import SEEDS, came_all, play, seeds_of

from small_runs import STEPS, digits, note, small
from sparring import faults

POINTS = [  # where to kill, at which passing of the point, and what the attempt goes on from, with two seeds
    ("mid_write", 2, ""),  # the second's first checkpoint
    ("step", STEPS + 2, ""),  # from the start, since only the first has a checkpoint
    ("post_rename", 3, "checkpoint-000000004.safetensors of 2 seeds: epoch 2, step 0"),  # the first is done alone
    ("pre_rename", 2, "checkpoint-000000008.safetensors of 1 seed: epoch 3, step 0"),  # of the game, the second's first
    ("step", STEPS + 1, ""),  # from the game's start
    ("pre_fsync", 6, "checkpoint-000000012.safetensors of 2 seeds: epoch 2, step 0"),  # the first's adversary
    ("mid_write", 3, "checkpoint-000000020.safetensors of 2 seeds: epoch 4, step 0"),  # the second's defender
    ("", 0, "checkpoint-000000020.safetensors of 1 seed: epoch 4, step 0"),
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_killed_anywhere_and_continued_equals_uninterrupted(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SPARRING_FAULT": ""}
    command = [sys.executable, __file__, str(tmp_path / "killed")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=110)
    assert done.returncode == 0, done.stderr
    attempts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [attempt["status"] for attempt in attempts] == [-signal.SIGKILL] * (len(POINTS) - 1) + [0]
    froms = [[t for t in attempt["notices"] if t.startswith("going on from ")] for attempt in attempts]
    assert froms == [[f"going on from {text}"] if text else [] for _, _, text in POINTS]
    assert not list(tmp_path.rglob("*.tmp-*"))
    play(seeds_of(small("gan_tanh_init"), SEEDS[:2]), tmp_path / "whole")
    assert came_all(tmp_path / "killed", SEEDS[:2]) == came_all(tmp_path / "whole", SEEDS[:2])


def kill_and_go_on(out: Path) -> None:
    """Train two seeds of an initialised game in forked children, each killed at the next of POINTS, the last one not."""
    torch.set_num_threads(1)
    digits()
    out.mkdir()
    for point, count, _ in POINTS:
        notices = out / "notices"
        notices.write_text("")
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            try:
                faults.arm(point, count)
                play(seeds_of(small("gan_tanh_init"), SEEDS[:2]), out, notice=lambda text, to=notices: note(to, text))
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "notices": notices.read_text().splitlines()}), flush=True)


if __name__ == "__main__":
    kill_and_go_on(Path(sys.argv[1]))
