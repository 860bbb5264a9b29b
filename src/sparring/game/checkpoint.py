"""A training's state to one file and back: both players, and the position in the run.

An ordinary safetensors file with JSON in its header, no code. Its `sha256` field covers the whole file, its own digits
taken as zeros, and is verified before anything else is read. Written aside, flushed, renamed.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from sparring import faults
from sparring.errors import CorruptCheckpoint, Diverged, InputError
from sparring.game.player import Player
from sparring.game.train import Progress, together
from sparring.game.warm import NAME, WarmStart
from sparring.precision import widest

FORMAT = "1"
LARGEST = 4 * 2**30  # bytes; a larger file is no checkpoint of ours
LARGEST_HEADER = 2**24  # bytes: some 100,000 tensors
_POSITION = {"epoch": int, "step": int, "best": float, "stale": int, "stopped": str, "seconds": float, "sums": list}
_ZEROS = "0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_MAY_BE_INFINITE = re.compile(r"[^.]+\.rule\.previous")  # a rate rule's first previous loss, by intention


def save_checkpoint(
    path: Path,
    players: Sequence[Player],
    progress: Progress,
    header: dict[str, Any],
    *,
    copy: int | None = None,
    warm: WarmStart | None = None,
) -> None:
    """Write players, warm start and position, of a stack those of one copy; afterwards the file is whole or not there.

    A copy's file is what it would have written alone. Raises Diverged, with no file written, where a tensor is not finite.
    """
    progress = progress if copy is None else progress.of(copy)
    states = _states(players, warm, copy)
    tensors = {f"{owner}.{name}": tensor for owner, state in states.items() for name, tensor in state.items()}
    tensors |= {f"sums.{name}": tensor for name, tensor in progress.sums.items()}
    position = {name: getattr(progress, name) for name in _POSITION}
    position |= {"best": float(progress.best).hex(), "seconds": float(progress.seconds)}  # JSON has no infinity
    position["sums"] = list(progress.sums)  # a safetensors file forgets their order, which is that of the log
    write_verified(path, tensors, header | {"format": FORMAT, "position": position})


def restore_checkpoint(
    tensors: dict[str, Tensor], header: dict[str, Any], players: Sequence[Player], warm: WarmStart | None = None
) -> Progress:
    """Put a read checkpoint's state into the players and the warm start, into all of them or, where it raises, into none.

    Raises InputError where the state is not theirs, CorruptCheckpoint where the position makes no sense.
    """
    parts, position = _read(tensors, header, _states(players, warm, None))
    if warm is not None:
        warm.load(parts[NAME])
    for player in players:
        player.load(parts[player.name])
        device = player.optimizer.lr.device
        player.grad_norm = parts[player.name]["grad_norm"].to(device, widest(device))
    device = players[-1].optimizer.lr.device
    return Progress(**position | {"sums": {name: parts["sums"][name].to(device) for name in position["sums"]}})


def restore_copies(
    saved: Sequence[tuple[dict[str, Tensor], dict[str, Any]]], players: Sequence[Player], warm: WarmStart | None = None
) -> Progress:
    """Put the checkpoints of copies that stand at the same step, each with its header, into the players of a stack.

    Raises as `restore_checkpoint` does, and then changes nothing.
    """
    read = [_read(tensors, header, _states(players, warm, copy)) for copy, (tensors, header) in enumerate(saved)]
    if warm is not None:
        warm.load({"table": torch.stack([parts[NAME]["table"] for parts, _ in read])})
    for player in players:
        parts = [one[0][player.name] for one in read]
        whole = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        player.load(whole)
        player.grad_norm = whole["grad_norm"].to(player.optimizer.lr)
    device = players[-1].optimizer.lr.device
    alone = [Progress(**position | {"sums": parts["sums"]}) for parts, position in read]
    progress = together(alone)
    progress.sums = {name: progress.sums[name].to(device) for name in read[0][1]["sums"]}
    return progress


def write_verified(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Tensors and a header as a safetensors file that carries its own checksum; raises Diverged for non-finite tensors."""
    # copies, since tied weights share memory
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    for name, tensor in plain.items():
        if not _finite(name, tensor):
            raise Diverged(f"{name} has non-finite values; {path.name} was not written")
    content = _ordered(save_tensors(plain, {"sparring": json.dumps(header), "sha256": _ZEROS}))
    if len(content) > LARGEST or _header_size(content) > LARGEST_HEADER:
        raise InputError(f"{path.name} would have {len(content)} bytes, more than can be read again ({LARGEST})")
    digest = hashlib.sha256(content).hexdigest()
    content = content.replace(f'"sha256":"{_ZEROS}"'.encode(), f'"sha256":"{digest}"'.encode(), 1)
    _write_aside(path, content)


def read_verified(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and header of a file that `write_verified` wrote; raises CorruptCheckpoint for any other."""
    content = _verified(path)
    try:
        metadata = json.loads(content[8 : 8 + _header_size(content)])["__metadata__"]
        header = json.loads(metadata["sparring"])
        tensors = load_tensors(content)
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"{path} is not a sparring file: {type(error).__name__}: {error}") from None
    if not isinstance(header, dict):
        raise CorruptCheckpoint(f"{path} is not a sparring file: its header is no table")
    for name, tensor in tensors.items():
        if not _finite(name, tensor):
            raise CorruptCheckpoint(f"{path} is unusable: {name} has non-finite values")
    return tensors, header


Saved = tuple[Path, dict[str, Tensor], dict[str, Any]]


def latest(folder: Path, notice: Callable[[str], None], anew: str = "--restart") -> Saved | None:
    """The newest checkpoint of a folder that verifies, None where there is none at all.

    Damaged ones are named and passed over; raises CorruptCheckpoint where there are only such.
    """
    paths = newest_first(folder)
    for path in paths:
        try:
            tensors, header = read_verified(path)
        except CorruptCheckpoint as error:
            notice(f"{error}; going back to an older checkpoint")
            continue
        return path, tensors, header
    if paths:
        raise CorruptCheckpoint(
            f"all {len(paths)} checkpoints in {folder} are damaged; {anew} to train from the beginning"
        )
    return None


def latest_common(folders: Sequence[Path], notice: Callable[[str], None], *, beyond: int = 0) -> list[Saved] | None:
    """One checkpoint a folder, all at the newest position beyond a step that every folder has and that verifies; or None."""
    steps = [{_step(path) for path in newest_first(folder, beyond=beyond)} for folder in folders]
    for step in sorted(set.intersection(*steps), key=int, reverse=True):
        paths = [folder / f"checkpoint-{step}.safetensors" for folder in folders]
        try:
            found = [(path, *read_verified(path)) for path in paths]
        except CorruptCheckpoint as error:
            notice(f"{error}; going back to an older checkpoint")
            continue
        if len({place_of(header) for _, _, header in found}) == 1:
            return found
    return None


def place_of(header: dict[str, Any]) -> tuple[Any, Any]:
    """(epoch, step): an epoch's last step and the next one's start have the same number and are not the same."""
    found = header.get("position")
    return (found.get("epoch"), found.get("step")) if isinstance(found, dict) else (None, None)


KEPT = 3  # checkpoints in a folder


def prune(folder: Path, keep: int = KEPT) -> None:
    """Remove all but the newest checkpoints that verify; where none does, remove nothing.

    A damaged file counts for nothing: a run that went back to an older one writes its next checkpoints below it.
    """
    kept: list[Path] = []
    paths = newest_first(folder)
    for path in paths:
        if len(kept) < keep and verifies(path):
            kept.append(path)
    if keep and not kept:
        return
    for path in paths:
        if path not in kept and not path.is_dir():
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> list[str]:
    """Remove what writers that died left behind, and return the names; for whoever holds the folder's lock."""
    left = sorted(path for path in folder.glob("*.tmp-*") if path.is_symlink() or path.is_file())
    for path in left:
        path.unlink(missing_ok=True)
    return [path.name for path in left]


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


def newest_first(folder: Path, *, beyond: int = -1) -> list[Path]:
    """A folder's checkpoints of steps beyond one, by their step, whatever its number of digits."""
    paths = [path for path in folder.glob("checkpoint-*.safetensors") if _step(path).isdecimal()]
    paths = [path for path in paths if int(_step(path)) > beyond]
    return sorted(paths, key=lambda path: int(_step(path)), reverse=True)


def _step(path: Path) -> str:
    return path.name.removeprefix("checkpoint-").removesuffix(".safetensors")


def _verified(path: Path) -> bytes:
    """A file's content once its checksum is found right; raises CorruptCheckpoint, before much is read, for any other."""
    if path.is_symlink() or not path.is_file():
        raise CorruptCheckpoint(f"{path} is not a regular file")
    with path.open("rb") as file:
        if (length := os.fstat(file.fileno()).st_size) > LARGEST:
            raise CorruptCheckpoint(f"{path} is larger than any checkpoint ({length} bytes)")
        start = file.read(8)
        size = _header_size(start)
        start += file.read(size) if size <= min(length - 8, LARGEST_HEADER) else b""
        found = _DIGEST.findall(start)
        if len(found) != 1:
            raise CorruptCheckpoint(f"{path} is not a sparring file, or is damaged: it carries no checksum")
        content = start + file.read()
    zeroed = content.replace(b'"sha256":"' + found[0] + b'"', b'"sha256":"' + _ZEROS.encode() + b'"', 1)
    if hashlib.sha256(zeroed).hexdigest().encode() != found[0]:
        raise CorruptCheckpoint(f"{path} is damaged: its checksum does not match its content")
    return content


def verifies(path: Path) -> bool:
    """Whether a file is as `write_verified` left it."""
    try:
        _verified(path)
    except CorruptCheckpoint:
        return False
    return True


def _header_size(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def _ordered(content: bytes) -> bytes:
    """A safetensors file with its header's keys sorted, so that equal weights give equal bytes."""
    size = _header_size(content)
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


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
    if _MAY_BE_INFINITE.fullmatch(name):
        return bool(torch.isfinite(tensor).logical_or(tensor == torch.inf).all())
    return bool(torch.isfinite(tensor).all())


def _read(
    tensors: dict[str, Tensor], header: dict[str, Any], expected: dict[str, dict[str, Tensor]]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """A read checkpoint's tensors by owner, and its position; both checked."""
    if header.get("format") != FORMAT:
        raise InputError(
            f"the checkpoint has format {header.get('format')!r}, this sparring reads {FORMAT!r}; use the release that wrote it"
        )
    owners = [*expected, "sums"]
    parts = {owner: _part(tensors, owner) for owner in owners}
    if strangers := sorted(name for name in tensors if not name.startswith(tuple(f"{owner}." for owner in owners))):
        raise InputError(f"the checkpoint has {strangers[0]!r}, which is no part of this training ({owners})")
    position = _position(header, list(parts["sums"]))
    for owner, state in expected.items():
        check_same(state, parts[owner], f"the checkpoint's {owner}")
    return parts, position


def _states(players: Sequence[Player], warm: WarmStart | None, copy: int | None) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds, by owner."""
    states = {player.name: _state(player, copy) for player in players}
    if warm is not None:
        states[NAME] = {name: tensor if copy is None else tensor[copy] for name, tensor in warm.state().items()}
    return states


def _state(player: Player, copy: int | None) -> dict[str, Tensor]:
    """A player's state, and its last gradient norm: a run cut after an epoch's last step has yet to record it."""
    state = player.state() | {"grad_norm": player.grad_norm.detach().cpu().to(torch.float64)}
    return state if copy is None else {name: tensor[copy] for name, tensor in state.items()}


def _part(tensors: dict[str, Tensor], owner: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{owner}."): t for name, t in tensors.items() if name.startswith(f"{owner}.")}


def _position(header: dict[str, Any], sums: list[str]) -> dict[str, Any]:
    """The stored fields of a Progress; raises CorruptCheckpoint for any that no training can have had."""
    position = header.get("position")
    if not isinstance(position, dict) or set(position) != set(_POSITION):
        raise CorruptCheckpoint(f"the checkpoint's position is {position!r}; expected {', '.join(_POSITION)}")
    position = dict(position)
    try:
        position["best"] = float.fromhex(position["best"])
    except (TypeError, ValueError, OverflowError):
        raise CorruptCheckpoint(f"the checkpoint's best is {position['best']!r}, no hexadecimal number") from None
    for name, kind in _POSITION.items():
        value = position[name]
        sound = type(value) is kind and value == value  # not NaN
        if not sound or (name in ("epoch", "step", "stale", "seconds") and not 0 <= value < math.inf):
            raise CorruptCheckpoint(f"the checkpoint's {name} is {value!r}")
    if len(position["sums"]) != len(sums) or any(name not in position["sums"] for name in sums):
        raise CorruptCheckpoint(f"the checkpoint names the sums {position['sums']} and has {sums}")
    return position
