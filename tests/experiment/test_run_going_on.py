"""A run goes on bit for bit wherever it stopped, and past damage.

As a program (`python test_run_going_on.py FOLDER`) it is a run that is killed at every kind of point in turn.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1]))  # the program's; pytest has it there already

import torch

from small_runs import ALONE, MAIN, STEPS, after, came_to, damage, digits, log, note, play, small
from sparring import faults
from sparring.errors import CorruptCheckpoint, Interrupted
from sparring.experiment import load


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("gan_tanh_init", [3]),  # the adversary alone, amid an epoch
        ("gan_tanh_init", [STEPS]),  # after an epoch's last step
        ("gan_tanh_init", [ALONE * STEPS]),  # after the last step of the adversary alone
        ("gan_tanh_init", [ALONE * STEPS + 1]),  # the game's first step
        ("gan_scaled_init", [2, 5, 5, 3]),  # again and again, in both phases
        ("gan_tanh", [6, 1, 2]),
        ("noise", [5, 3]),  # its opponent draws from a stream
        ("pgd", [7]),
        ("vanilla", [MAIN * STEPS]),
    ],
)
def test_interrupted_and_continued_equals_uninterrupted(
    name: str, stops: list[int], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    done = 0
    for steps in stops:
        notices: list[str] = []
        with pytest.raises(Interrupted, match="stopped and saved in") as stopped:
            play(small(name), tmp_path, interrupted=after(steps), notice=notices.append)
        assert stopped.value.signal_number == signal.SIGINT
        assert bool(done) == any(text.startswith("going on from checkpoint-") for text in notices)
        done += steps
        assert (tmp_path / f"checkpoint-{done:09d}.safetensors").is_file()
        assert not (tmp_path / "run.json").exists() and not (tmp_path / "defender.safetensors").exists()
    assert play(small(name), tmp_path).status == "done"
    assert came_to(tmp_path) == came_to(whole(name))


def test_a_log_longer_than_its_checkpoint_is_cut(whole: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(small("gan_tanh"), tmp_path, interrupted=after(6))
    with (tmp_path / "epochs.jsonl").open("a") as file:
        file.write('{"recipe": "gan_ta')
    assert play(small("gan_tanh"), tmp_path).status == "done"
    assert came_to(tmp_path) == came_to(whole("gan_tanh"))


def test_a_log_shorter_than_its_checkpoint_is_damage(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(small("gan_tanh"), tmp_path, interrupted=after(6))
    (tmp_path / "epochs.jsonl").unlink()
    with pytest.raises(CorruptCheckpoint, match="; --restart to train again"):
        play(small("gan_tanh"), tmp_path)


POINTS = [  # where to kill, at which passing of the point, and what the next attempt goes on from
    ("step", 6, ""),  # the adversary alone, second epoch
    ("mid_write", 2, "checkpoint-000000004.safetensors: epoch 2, step 0"),  # its weights, after its last checkpoint
    ("pre_rename", 2, "checkpoint-000000008.safetensors: epoch 3, step 0"),  # the game's first checkpoint
    ("step", 6, ""),  # the game's second epoch, from its start
    ("post_rename", 1, "checkpoint-000000012.safetensors: epoch 2, step 0"),
    ("mid_write", 2, "checkpoint-000000016.safetensors: epoch 3, step 0"),  # the defender's weights
    ("pre_rename", 2, "checkpoint-000000020.safetensors: epoch 4, step 0"),  # the adversary's weights
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_killed_anywhere_and_continued_equals_uninterrupted(whole: Callable[[str], Path], tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SPARRING_FAULT": ""}
    folder = tmp_path / "run"
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=110)
    assert done.returncode == 0, done.stderr
    attempts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [attempt["status"] for attempt in attempts] == [-signal.SIGKILL] * len(POINTS) + [0]
    froms = [[t for t in attempt["notices"] if t.startswith("going on from ")] for attempt in attempts]
    assert froms[: len(POINTS)] == [[f"going on from {text}"] if text else [] for _, _, text in POINTS]
    swept = [text for attempt in attempts for text in attempt["notices"] if text.startswith("removed ")]
    assert len(swept) == 4, "killed four times before a rename"
    assert not list(folder.glob("*.tmp-*"))
    assert came_to(folder) == came_to(whole("gan_tanh_init"))


def kill_and_go_on(folder: Path) -> None:
    """Run the initialised game in forked children, each killed at the next of POINTS, the last one not."""
    torch.set_num_threads(1)
    digits()
    for point, count, _ in [*POINTS, ("", 0, "")]:
        notices = folder.with_name("notices")
        notices.write_text("")
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            try:
                faults.arm(point, count)
                play(small("gan_tanh_init"), folder, notice=lambda text, to=notices: note(to, text))
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "notices": notices.read_text().splitlines()}), flush=True)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A game that stopped in its third epoch, with three checkpoints."""
    with pytest.raises(Interrupted):
        play(small("gan_tanh"), tmp_path, interrupted=after(2 * STEPS + 2))
    assert len(list(tmp_path.glob("checkpoint-*"))) == 3
    return tmp_path


def test_a_damaged_checkpoint_is_passed_over(stopped: Path, whole: Callable[[str], Path]) -> None:
    damage(max(stopped.glob("checkpoint-*")))
    notices: list[str] = []
    assert play(small("gan_tanh"), stopped, notice=notices.append).status == "done"
    assert "going back to an older checkpoint" in notices[0]
    assert notices[1] == "going on from checkpoint-000000008.safetensors: epoch 3, step 0"
    assert came_to(stopped) == came_to(whole("gan_tanh"))


def test_without_a_sound_checkpoint_only_a_restart_helps(stopped: Path, whole: Callable[[str], Path]) -> None:
    for path in stopped.glob("checkpoint-*"):
        damage(path)
    before = {path.name: path.read_bytes() for path in stopped.glob("*.*") if path.name != "run.lock"}
    with pytest.raises(CorruptCheckpoint, match=r"all 3 checkpoints in .* are damaged; --restart to train"):
        play(small("gan_tanh"), stopped)
    with pytest.raises(CorruptCheckpoint, match="are damaged; delete that folder to train from the beginning"):
        play(small("gan_tanh"), stopped, anew="delete that folder")
    assert before == {path.name: path.read_bytes() for path in stopped.glob("*.*") if path.name != "run.lock"}
    (stopped / "results.jsonl").write_text("{}\n")  # of an earlier measurement
    assert play(small("gan_tanh"), stopped, restart=True).status == "done"
    assert came_to(stopped) == came_to(whole("gan_tanh"))
    assert not (stopped / "results.jsonl").exists()


def test_a_restart_takes_another_config(stopped: Path) -> None:
    assert play(small("gan_tanh", max_epochs=1), stopped, restart=True).epochs == 1
    assert len(log(stopped)) == 1


@pytest.mark.parametrize("name", ["defender", "adversary"])
def test_damaged_weights_are_not_loaded(name: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole("gan_tanh"), folder)
    damage(folder / f"{name}.safetensors")
    with pytest.raises(CorruptCheckpoint, match=f"{name}.safetensors is damaged"):
        load(folder)


if __name__ == "__main__":
    kill_and_go_on(Path(sys.argv[1]))
