"""Checkpoint files: what is written is read again; what is damaged, foreign or not ours is refused, and nothing half loaded."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import tarfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as plain_safetensors
from torch import Tensor, nn

from sparring.adversaries import Adversary
from sparring.errors import CorruptCheckpoint, Diverged, InputError
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

SOURCE = Path(__file__).resolve().parents[2] / "src" / "sparring"
SHAPE = (1, 8, 8)


def players(seed: int = 0, hidden: int = 4, **settings: Any) -> tuple[Player, Player]:
    """An adversary and a defender with some past: no state is zero."""
    draw = torch.Generator().manual_seed(seed)
    adversary = Adversary(mlp(SHAPE, [4, 64], generator=draw))
    defender = mlp(SHAPE, [hidden, 10], generator=draw)
    both = (
        player("adversary", adversary, maximize=True, **settings),
        player("defender", defender, maximize=False, **settings),
    )
    with torch.no_grad():
        for side in both:
            for tensor in side.optimizer.state().values():
                tensor.uniform_(generator=draw)
            side.grad_norm = torch.rand((), generator=draw)
    return both


def position() -> Progress:
    return Progress(2, 7, -0.1, 1, "", 1.5, {"z_loss": torch.tensor(0.3), "a_loss": torch.tensor(0.7)})


def states(both: tuple[Player, ...]) -> list[dict[str, Tensor]]:
    return [{k: v.detach().clone() for k, v in side.state().items()} | {"norm": side.grad_norm} for side in both]


def same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(one, other, strict=True)
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint-000000027.safetensors"
    save_checkpoint(path, players(), position(), {"log_length": 12, "config": "é"})
    return path


def forge(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """A file whose checksum is right and whose content may be anything."""
    content = plain_safetensors(tensors, metadata | {"sha256": "0" * 64})
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + digest.encode(), 1))


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


# Foreign files


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


# Files whose checksum is right


POSITION = {"epoch": 1, "step": 2, "best": "inf", "stale": 0, "stopped": "", "seconds": 0.5, "sums": []}


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "{", "", "[" * 100_000, "NaN", '{"format": }'])
def test_a_header_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    forge(tmp_path / "c", {"a": torch.zeros(2)}, {"sparring": text})
    with pytest.raises(CorruptCheckpoint):
        read_verified(tmp_path / "c")


def test_a_file_without_our_header_is_refused(tmp_path: Path) -> None:
    forge(tmp_path / "c", {"a": torch.zeros(2)}, {})
    with pytest.raises(CorruptCheckpoint):
        read_verified(tmp_path / "c")


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        "text",
        7,
        {},
        {"epoch": 1},
        POSITION | {"more": 1},
        *(POSITION | {name: None} for name in POSITION),
        *(POSITION | {name: {}} for name in POSITION),
        *(POSITION | {name: "?"} for name in POSITION if name != "stopped"),
        *(POSITION | {name: True} for name in POSITION),
        *(POSITION | {name: -1} for name in ("epoch", "step", "stale")),
        POSITION | {"epoch": 1.5},
        POSITION | {"best": "nan"},
        POSITION | {"best": "0x1p99999"},
        POSITION | {"seconds": float("nan")},
        POSITION | {"seconds": float("inf")},
        POSITION | {"sums": ["a"]},
        POSITION | {"sums": [[]]},
    ],
    ids=str,
)
def test_a_position_of_the_wrong_types_is_refused(wrong: Any, saved: Path) -> None:
    tensors, header = read_verified(saved)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("sums.")}
    both = players(seed=1)
    forge(saved, tensors, {"sparring": json.dumps(header | {"position": wrong})})
    with pytest.raises(CorruptCheckpoint, match="the checkpoint"):
        restore_checkpoint(*read_verified(saved), both)
    assert same(states(both), states(players(seed=1)))
    forge(saved, tensors, {"sparring": json.dumps(header | {"position": POSITION})})
    assert restore_checkpoint(*read_verified(saved), both).step == 2


@pytest.mark.parametrize("version", [None, "0", "2", 1, [], {"a": 1}])
def test_an_unknown_format_is_refused(version: Any, saved: Path) -> None:
    tensors, header = read_verified(saved)
    both = players(seed=1)
    with pytest.raises(InputError, match="format"):
        restore_checkpoint(tensors, header | {"format": version}, both)
    assert same(states(both), states(players(seed=1)))


def changed(tensors: dict[str, Tensor], how: str, name: str) -> dict[str, Tensor]:
    others = {key: tensor for key, tensor in tensors.items() if key != name}
    return {
        "missing": others,
        "extra": tensors | {f"{name}.more": torch.zeros(2)},
        "renamed": others | {f"{name}_": tensors[name]},
        "other type": others | {name: tensors[name].to(torch.int32)},
        "other shape": others | {name: torch.zeros(2, 3)},
    }[how]


@pytest.mark.parametrize("how", ["missing", "extra", "renamed", "other type", "other shape"])
@pytest.mark.parametrize(
    "name",
    [
        "adversary.network.network.linears.0.weight",
        "defender.network.linears.1.weight",
        "defender.network.norms.0.num_batches_tracked",
        "defender.optimizer.buffer.0",
        "defender.rule.previous",
        "defender.lr",
        "defender.grad_norm",
    ],
)
def test_a_state_that_does_not_fit_is_named_and_nothing_is_loaded(name: str, how: str, saved: Path) -> None:
    tensors, header = read_verified(saved)
    both = players(seed=1)
    owner, _, key = name.partition(".")
    with pytest.raises(InputError, match=re.escape(key)) as error:
        restore_checkpoint(changed(tensors, how, name), header, both)
    assert owner in str(error.value)
    assert same(states(both), states(players(seed=1))), "a refused checkpoint was loaded in part"


def test_another_architecture_is_refused_whole(saved: Path) -> None:
    tensors, header = read_verified(saved)
    both = players(seed=1, hidden=5)
    with pytest.raises(InputError, match=r"defender has 'network.*shape"):
        restore_checkpoint(tensors, header, both)
    assert same(states(both), states(players(seed=1, hidden=5)))


def test_a_player_too_many_or_too_few_is_refused(saved: Path, tmp_path: Path) -> None:
    both = players(seed=1)
    with pytest.raises(InputError, match="adversary"):
        restore_checkpoint(*read_verified(saved), both[1:])
    save_checkpoint(tmp_path / "alone", both[1:], position(), {})
    with pytest.raises(InputError, match="adversary"):
        restore_checkpoint(*read_verified(tmp_path / "alone"), both)
    assert same(states(both), states(players(seed=1)))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", nn.Linear(3, 2), {"recipe": "x"})
    other = nn.Linear(3, 4)
    before = other.weight.detach().clone()
    with pytest.raises(InputError, match="shape"):
        load_weights(tmp_path / "w", other)
    assert torch.equal(other.weight, before)
    assert load_weights(tmp_path / "w", nn.Linear(3, 2)) == {"recipe": "x"}


# Values


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["network.linears.0.weight", "network.norms.0.running_var", "optimizer.buffer.1", "lr", "rule.previous"]
)
def test_what_is_not_finite_is_neither_saved_nor_loaded(name: str, value: float, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "new"
    both = players()
    if name == "rule.previous" and value == float("inf"):
        pytest.skip("the rule starts there")
    with torch.no_grad():
        both[1].state()[name].view(-1)[-1] = value
    with pytest.raises(Diverged, match=re.escape(name)):
        save_checkpoint(path, both, position(), {})
    assert sorted(tmp_path.iterdir()) == [saved]
    tensors, header = read_verified(saved)
    tensors[f"defender.{name}"].view(-1)[-1] = value
    forge(path, tensors, {"sparring": json.dumps(header)})
    with pytest.raises(CorruptCheckpoint, match=re.escape(name)):
        read_verified(path)


def test_sums_and_complex_numbers_must_be_finite(tmp_path: Path) -> None:
    sums = Progress(sums={"loss": torch.tensor(float("nan"))})
    with pytest.raises(Diverged, match=r"sums\.loss"):
        save_checkpoint(tmp_path / "c", players(), sums, {})
    with pytest.raises(Diverged, match="z has"):
        write_verified(tmp_path / "c", {"z": torch.tensor(complex("nan"))}, {})
    with pytest.raises(Diverged, match="previous"):
        write_verified(tmp_path / "c", {"defender.network.rule.previous": torch.tensor(torch.inf)}, {})
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_that_could_not_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("LARGEST", "LARGEST_HEADER"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, limit, 100)
            with pytest.raises(InputError, match="more than can be read"):
                save_checkpoint(tmp_path / "c", players(), position(), {})
    assert not list(tmp_path.iterdir())


def test_a_file_larger_than_any_checkpoint_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "c").open("wb") as file:
        file.truncate(checkpoint.LARGEST + 1)  # sparse
    with pytest.raises(CorruptCheckpoint, match="larger than any"):
        read_verified(tmp_path / "c")


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


@pytest.mark.parametrize(
    "pattern", [r"\bpickle\b", r"weights_only\s*=\s*False", r"\btorch\.load\((?!.*weights_only=True)"]
)
def test_the_source_can_load_no_code(pattern: str) -> None:
    found = [str(path) for path in SOURCE.rglob("*.py") if re.search(pattern, path.read_text(encoding="utf-8"))]
    assert not found
