"""A training's state to one file and back: both players, and the position in the run.

An ordinary safetensors file with JSON in its header, no code. Its `sha256` field covers the whole file, its own digits
taken as zeros, and is verified before anything else is read. Written aside, flushed, renamed.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from sparring import faults
from sparring.errors import CorruptCheckpoint, InputError
from sparring.game.player import Player
from sparring.game.train import Progress

FORMAT = "1"
LARGEST = 4 * 2**30  # bytes; a larger file is no checkpoint of ours
_ZEROS = "0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


def save_checkpoint(path: Path, players: Sequence[Player], progress: Progress, header: dict[str, Any]) -> None:
    """Write both players and the position; afterwards the file is whole or not there."""
    tensors = {f"{player.name}.{name}": tensor for player in players for name, tensor in player.state().items()}
    tensors |= {f"sums.{name}": tensor for name, tensor in progress.sums.items()}
    position = {k: v for k, v in asdict(_without_sums(progress)).items() if k != "sums"}
    position["best"] = float(progress.best).hex()
    write_verified(path, tensors, header | {"format": FORMAT, "position": position})


def restore_checkpoint(tensors: dict[str, Tensor], header: dict[str, Any], players: Sequence[Player]) -> Progress:
    """Put a read checkpoint's state into the players; raises InputError where it is not theirs."""
    if header.get("format") != FORMAT:
        raise InputError(
            f"the checkpoint has format {header.get('format')!r}, this sparring reads {FORMAT!r}; use the release that wrote it"
        )
    for player in players:
        state = {
            name.removeprefix(player.name + "."): t for name, t in tensors.items() if name.startswith(player.name + ".")
        }
        check_same(player.state(), state, f"the checkpoint's {player.name}")
        player.load(state)
    position = dict(header["position"])
    position["best"] = float.fromhex(position["best"])
    device = players[-1].optimizer.lr.device
    sums = {name.removeprefix("sums."): t.to(device) for name, t in tensors.items() if name.startswith("sums.")}
    return Progress(**position, sums=sums)


def write_verified(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Tensors and a header as a safetensors file that carries its own checksum; refuses non-finite tensors."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    for name, tensor in plain.items():
        if tensor.is_floating_point() and not _finite(name, tensor):
            raise ValueError(f"{name} has non-finite values; {path.name} was not written")
    content = save_tensors(plain, {"sparring": json.dumps(header), "sha256": _ZEROS})
    digest = hashlib.sha256(content).hexdigest()
    content = content.replace(f'"sha256":"{_ZEROS}"'.encode(), f'"sha256":"{digest}"'.encode(), 1)
    _write_aside(path, content)


def read_verified(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and header of a file that `write_verified` wrote; raises CorruptCheckpoint for any other."""
    if path.is_symlink() or not path.is_file():
        raise CorruptCheckpoint(f"{path} is not a regular file")
    if path.stat().st_size > LARGEST:
        raise CorruptCheckpoint(f"{path} is larger than any checkpoint ({path.stat().st_size} bytes)")
    content = path.read_bytes()
    found = _DIGEST.findall(content[: 8 + int.from_bytes(content[:8], "little")] if len(content) > 8 else b"")
    if len(found) != 1:
        raise CorruptCheckpoint(f"{path} is not a sparring file, or is damaged: it carries no checksum")
    zeroed = content.replace(b'"sha256":"' + found[0] + b'"', b'"sha256":"' + _ZEROS.encode() + b'"', 1)
    if hashlib.sha256(zeroed).hexdigest().encode() != found[0]:
        raise CorruptCheckpoint(f"{path} is damaged: its checksum does not match its content")
    size = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["sparring"])
    return load_tensors(content), header


def latest(folder: Path, notice: Callable[[str], None]) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint of a folder that verifies, None where there is none at all.

    Damaged ones are named and passed over; raises CorruptCheckpoint where there are only such.
    """
    paths = sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)
    for path in paths:
        try:
            tensors, header = read_verified(path)
        except CorruptCheckpoint as error:
            notice(f"{error}; going back to an older checkpoint")
            continue
        return path, tensors, header
    if paths:
        raise CorruptCheckpoint(
            f"all {len(paths)} checkpoints in {folder} are damaged; --restart trains from the beginning"
        )
    return None


def prune(folder: Path, keep: int = 3) -> None:
    """Remove all but the newest checkpoints."""
    for path in sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)[keep:]:
        path.unlink(missing_ok=True)


def save_weights(path: Path, network: nn.Module, header: dict[str, Any]) -> str:
    """A trained network's parameters and buffers; returns the file's SHA-256."""
    write_verified(path, dict(network.state_dict()), header)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_weights(path: Path, network: nn.Module) -> dict[str, Any]:
    """Put saved weights into a network and return the file's header; raises InputError where they do not fit it."""
    tensors, header = read_verified(path)
    check_same(dict(network.state_dict()), tensors, str(path))
    network.load_state_dict(tensors)
    return header


def check_same(expected: dict[str, Tensor], got: dict[str, Tensor], what: str) -> None:
    """Raises InputError where names, shapes or types differ."""
    if missing := sorted(set(expected) - set(got)):
        raise InputError(f"{what} lacks {missing[0]!r}: it belongs to another architecture")
    if extra := sorted(set(got) - set(expected)):
        raise InputError(f"{what} has {extra[0]!r}, which this architecture lacks")
    for name, tensor in expected.items():
        if got[name].shape != tensor.shape or got[name].dtype != tensor.dtype:
            raise InputError(
                f"{what} has {name!r} of shape {tuple(got[name].shape)} and type {got[name].dtype}, "
                f"expected {tuple(tensor.shape)} and {tensor.dtype}"
            )


def _write_aside(path: Path, content: bytes) -> None:
    aside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with aside.open("wb") as file:
            half = len(content) // 2
            file.write(content[:half])
            faults.point("mid_write")
            file.write(content[half:])
            file.flush()
            faults.point("pre_fsync")
            os.fsync(file.fileno())
        faults.point("pre_rename")
        os.replace(aside, path)
        faults.point("post_rename")
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _finite(name: str, tensor: Tensor) -> bool:
    """The rate rule's first `previous` loss is infinite by intention; nothing else may be."""
    return name.endswith("rule.previous") or bool(torch.isfinite(tensor).all())


def _without_sums(progress: Progress) -> Progress:
    return Progress(progress.epoch, progress.step, progress.best, progress.stale, progress.stopped, progress.seconds)
