"""Files that are no checkpoints: refused at once, and nothing in them is run."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import struct
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as plain_safetensors

from sparring.errors import CorruptCheckpoint
from sparring.game.checkpoint import latest, prune, read_verified

SOURCE = Path(__file__).resolve().parents[2] / "src" / "sparring"


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def legacy(canary: Canary) -> bytes:
    file = io.BytesIO()
    torch.save(canary, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def zipped(canary: Canary) -> bytes:
    file = io.BytesIO()
    torch.save({"weights": torch.zeros(3), "payload": canary}, file)
    return file.getvalue()


def tarred(canary: Canary) -> bytes:
    file, payload = io.BytesIO(), pickle.dumps(canary)
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("pickle")
        info.size = len(payload)
        tar.addfile(info, io.BytesIO(payload))
    return file.getvalue()


def many_tensors(canary: Canary) -> bytes:
    entry = '"t%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = ("{" + ",".join(entry % i for i in range(1_000_000)) + "}").encode()
    return struct.pack("<Q", len(header)) + header


FOREIGN = {
    "pickle": pickle.dumps,
    "zip": zipped,
    "legacy": legacy,
    "tar": tarred,
    "empty": lambda canary: b"",
    "seven bytes": lambda canary: b"1234567",
    "zeros": lambda canary: bytes(50_000_000),
    "ones": lambda canary: b"\xff" * 1_000_000,
    "random": lambda canary: random.Random(0).randbytes(1_000_000),
    "json": lambda canary: b'{"sparring": 1}',
    "plain safetensors": lambda canary: plain_safetensors({"a": torch.zeros(3)}),
    "a million tensors": many_tensors,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused_at_once_and_runs_nothing(kind: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "checkpoint-000000001.safetensors"
    path.write_bytes(FOREIGN[kind](Canary(canary)))
    started = time.perf_counter()
    with pytest.raises(CorruptCheckpoint, match=re.escape(str(path))):
        read_verified(path)
    with pytest.raises(CorruptCheckpoint):
        latest(tmp_path, lambda line: None)
    assert time.perf_counter() - started < 2
    assert not canary.exists()


def test_the_canary_would_sing(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
@pytest.mark.parametrize("kind", ["directory", "symlink", "dangling symlink", "fifo", "device", "absent"])
def test_what_is_no_regular_file_is_refused(kind: str, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-000000099.safetensors"
    make = {
        "directory": lambda: path.mkdir(),
        "symlink": lambda: path.symlink_to(saved),
        "dangling symlink": lambda: path.symlink_to(tmp_path / "nothing"),
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "absent": lambda: None,
    }
    make[kind]()
    with pytest.raises(CorruptCheckpoint, match="not a regular file"):
        read_verified(path)
    prune(tmp_path)
    found = latest(tmp_path, lambda line: None)
    assert found is not None and found[0] == saved


@pytest.mark.parametrize(
    "pattern", [r"\bpickle\b", r"weights_only\s*=\s*False", r"\btorch\.load\((?!.*weights_only=True)"]
)
def test_the_source_can_load_no_code(pattern: str) -> None:
    found = [str(path) for path in SOURCE.rglob("*.py") if re.search(pattern, path.read_text(encoding="utf-8"))]
    assert not found
