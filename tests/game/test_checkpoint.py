"""Checkpoint files: what is written is read again, what is damaged is refused, and a failed write leaves the old file."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import SHAPE, players, position, same, states
from torch import nn

from sparring.errors import CorruptCheckpoint
from sparring.game import Player, Progress, checkpoint, player
from sparring.game.checkpoint import (
    latest,
    load_weights,
    prune,
    read_verified,
    restore_checkpoint,
    save_checkpoint,
    save_weights,
    write_verified,
)
from sparring.models import mlp


def test_what_is_saved_is_restored(saved: Path) -> None:
    tensors, header = read_verified(saved)
    assert header["log_length"] == 12 and header["config"] == "é"
    other = players(seed=1)
    assert not same(states(other), states(players()))
    progress = restore_checkpoint(tensors, header, other)
    assert same(states(other), states(players()))
    assert progress == position()
    assert list(progress.sums) == ["z_loss", "a_loss"], "the order of the metrics is the order of the log"


def test_the_position_has_all_fields_of_a_progress() -> None:
    assert set(checkpoint._POSITION) == {field.name for field in fields(Progress)} - {"copies"}  # each has its own file


def test_infinities_that_are_meant_are_kept(tmp_path: Path) -> None:
    both = players()
    save_checkpoint(tmp_path / "c", both, Progress(), {})
    assert torch.isinf(both[0].rule.previous)
    assert restore_checkpoint(*read_verified(tmp_path / "c"), players(1)) == Progress()


@pytest.mark.parametrize("settings", [{"kind": "adam"}, {"rate": "every"}, {"momentum": 0.0}])
def test_other_optimizers_and_rules_are_restored(settings: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", players(0, **settings), Progress(), {})
    other = players(1, **settings)
    restore_checkpoint(*read_verified(tmp_path / "c"), other)
    assert same(states(other), states(players(0, **settings)))


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        network[1].weight = network[0].weight
        return network

    one, other = tied(), tied()
    save_weights(tmp_path / "w", one, {})
    load_weights(tmp_path / "w", other)
    assert torch.equal(one[0].weight, other[1].weight)


def test_double_precision_is_restored(tmp_path: Path) -> None:
    def double(seed: int) -> tuple[Player, ...]:
        network = mlp(SHAPE, [4, 10], generator=torch.Generator().manual_seed(seed)).double()
        side = player("defender", network, maximize=False)
        side.grad_norm = torch.tensor(1 / 3, dtype=torch.float64)
        return (side,)

    one, other = double(0), double(1)
    save_checkpoint(tmp_path / "c", one, Progress(), {})
    restore_checkpoint(*read_verified(tmp_path / "c"), other)
    assert same(states(one), states(other))


# Damage


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(saved: Path, share: float) -> None:
    os.truncate(saved, int(share * saved.stat().st_size))
    with pytest.raises(CorruptCheckpoint, match=re.escape(saved.name)):
        read_verified(saved)


def test_one_flipped_bit_is_always_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    draw = random.Random(0)
    flips = [(byte, draw.randrange(8)) for byte in range(header)]
    flips += [(draw.randrange(header, len(content)), draw.randrange(8)) for _ in range(200)]
    passed = []
    for byte, bit in flips:
        damaged = bytearray(content)
        damaged[byte] ^= 1 << bit
        saved.write_bytes(damaged)
        try:
            read_verified(saved)
            passed.append((byte, bit))
        except CorruptCheckpoint:
            pass
    assert not passed, f"{len(passed)} of {len(flips)} flipped bits were not noticed: {passed[:5]}"


def test_appended_bytes_and_spliced_files_are_refused(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    save_checkpoint(tmp_path / "other", players(seed=1), position(), {"log_length": 12, "config": "é"})
    other = (tmp_path / "other").read_bytes()
    for damaged in (content + b"\0", content + content, content[:-64] + other[-64:], b"\0" + content):
        saved.write_bytes(damaged)
        with pytest.raises(CorruptCheckpoint):
            read_verified(saved)


def test_the_newest_sound_checkpoint_is_found_by_its_number(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        save_checkpoint(tmp_path / f"checkpoint-{step}.safetensors", players(), position(), {"step": step})
    notices: list[str] = []
    for step in (100, 10, 9):
        found = latest(tmp_path, notices.append)
        assert found is not None and found[2]["step"] == step
        found[0].write_bytes(b"damaged")
    assert [name in line for name, line in zip(("-100.", "-100.", "-10."), notices, strict=True)] == [True] * 3
    with pytest.raises(CorruptCheckpoint, match="all 3 checkpoints"):
        latest(tmp_path, notices.append)


def test_an_empty_or_absent_folder_has_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-notes.txt").write_text("mine")
    assert latest(tmp_path, pytest.fail) is None
    assert latest(tmp_path / "absent", pytest.fail) is None


def test_pruning_keeps_the_newest_that_verify(tmp_path: Path) -> None:
    paths = [tmp_path / f"checkpoint-{step:09d}.safetensors" for step in range(7)]
    for path in paths:
        save_checkpoint(path, players(), position(), {})
    for path in paths[-2:]:
        path.write_bytes(b"damaged")
    (tmp_path / "epochs.jsonl").write_text("a log")
    prune(tmp_path)
    assert sorted(tmp_path.iterdir()) == [*paths[2:5], tmp_path / "epochs.jsonl"]
    prune(tmp_path, keep=0)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "epochs.jsonl"]


# Writing


DISK_FULL = """
import resource, sys
from pathlib import Path
import torch
from sparring.game.checkpoint import write_verified
path = Path(sys.argv[1])
write_verified(path, {"a": torch.ones(1000)}, {"version": "old"})
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    write_verified(path, {"a": torch.zeros(100_000)}, {"version": "new"})
except OSError as error:
    print("OSError", error.errno, sorted(p.name for p in path.parent.iterdir()))
"""


@pytest.mark.skipif(os.name != "posix", reason="limits on file sizes")
def test_a_full_disk_leaves_the_old_checkpoint_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-000000001.safetensors"
    command = [sys.executable, "-c", DISK_FULL, str(path), "50000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"OSError 27 ['{path.name}']"  # EFBIG
    tensors, header = read_verified(path)
    assert header == {"version": "old"} and torch.equal(tensors["a"], torch.ones(1000))


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_checkpoint_and_no_litter(
    failing: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(OSError, match="No space"):
            save_checkpoint(saved, players(seed=1), position(), {})
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_a_header_that_is_no_json_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_verified(tmp_path / "c", {"a": torch.zeros(1)}, {"path": tmp_path})
    assert not list(tmp_path.iterdir())
