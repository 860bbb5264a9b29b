"""Finished pieces of a long evaluation on disk, so that a killed one goes on; and what makes two evaluations the same."""

import dataclasses
import functools
import hashlib
import json
import re
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring import locks
from sparring.environment import changes, environment
from sparring.errors import CorruptCheckpoint, InputError
from sparring.game.checkpoint import read_verified, sweep, write_verified
from sparring.randomness import Stream
from sparring.records import plain, read_json, write_json

Notice = Callable[[str], None]
_MODULE = frozenset(vars(nn.Module())) - {"_parameters", "_buffers", "_modules"}  # what every module has: hooks, mode
_DECIDING = ("adversaries", "attacks", "models", "losses", "modes", "randomness", "threat")  # packages and modules
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Pieces:
    """A folder of finished pieces, all of one evaluation: the one that `stamp` names."""

    def __init__(self, folder: Path | None, stamp: dict[str, Any], notice: Notice) -> None:
        self.folder, self.notice = folder, notice
        self.stamp = plain(stamp)
        self.name = hashlib.sha256(json.dumps(self.stamp, sort_keys=True).encode()).hexdigest()
        if folder is not None:
            self._claim(folder)

    def read(self, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """A piece's tensors and header; None where it is not there, or damaged (with a notice)."""
        if self.folder is None or not (path := self.folder / f"piece-{key}.safetensors").exists():
            return None
        try:
            tensors, header = read_verified(path)
        except CorruptCheckpoint as error:
            self.notice(f"{error}; this piece is computed again")
            return None
        return (tensors, header) if header.get("evaluation") == self.name else None

    def write(self, key: str, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Keep a piece: afterwards its file is whole or not there."""
        if self.folder is not None:
            write_verified(self.folder / f"piece-{key}.safetensors", tensors, header | {"evaluation": self.name})

    def _claim(self, folder: Path) -> None:
        """Say what the folder is for; what another evaluation left in it is removed, with a notice."""
        sweep(folder)
        path, here = folder / "evaluation.json", environment()
        try:
            before = read_json(path) if path.exists() else {}
        except InputError:
            before = {}
        if not isinstance(before, dict):
            before = {}
        old = sorted(folder.glob("piece-*.safetensors"))
        if before.get("stamp") != self.stamp:
            if old:
                self.notice(f"{folder} holds another evaluation ({self._differences(before)}); starting afresh")
            for piece in old:
                piece.unlink(missing_ok=True)
        elif old and (different := changes(before.get("environment", {}), here)):
            self.notice(f"going on is valid but not bit-exact: {', '.join(different)}")
        write_json(path, {"stamp": self.stamp, "environment": here})

    def _differences(self, before: dict[str, Any]) -> str:
        stamp = before.get("stamp")
        if not isinstance(stamp, dict):
            return "its evaluation.json is missing or unreadable"
        return "other " + ", ".join(k for k in sorted({*stamp, *self.stamp}) if stamp.get(k) != self.stamp.get(k))


@contextmanager
def pieces(folder: Path | None, stamp: dict[str, Any], notice: Notice) -> Iterator[Pieces]:
    """The pieces in `folder`, locked for the length of the block; None keeps nothing. Raises Busy where it is in use."""
    if folder is None:
        yield Pieces(None, stamp, notice)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locks.held(folder / "evaluation.lock"):
        yield Pieces(folder, stamp, notice)


def fingerprint(value: Any) -> str:
    """SHA-256, in hex, over all that decides what a model or an attack computes: its code's name, settings, and weights.

    Equal in every process. Modules count with their parameters, buffers and plain attributes, functions with their code and
    what they close over, streams with their seed and name.
    """
    digest = hashlib.sha256()
    for label in _labels(value):
        digest.update(label + b";")
    return digest.hexdigest()


@functools.cache
def code() -> str:
    """SHA-256, in hex, over the source that decides what an attack does: another release may give other bits."""
    package = Path(__file__).parents[1]
    files = [*package.glob("*.py"), *(f for part in _DECIDING for f in (package / part).glob("*.py"))]
    digest = hashlib.sha256()
    for path in sorted(f for f in files if f.stem in _DECIDING or f.parent != package):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def streams(value: Any) -> list[Stream]:
    """The random streams that an attack draws from, its own and those of attacks within it."""
    return list(_streams(value))


def _labels(value: Any, above: tuple[int, ...] = ()) -> Iterator[bytes]:
    label, parts = _taken_apart(value)
    yield label
    if parts and id(value) in above:  # it contains itself
        return
    for part in parts:
        yield from _labels(part, (*above, id(value)))
    yield b"."


def _streams(value: Any, above: tuple[int, ...] = ()) -> Iterator[Stream]:
    if isinstance(value, Stream):
        yield value
    if isinstance(value, Stream | Tensor | nn.Module) or id(value) in above:
        return
    for part in _taken_apart(value)[1]:
        yield from _streams(part, (*above, id(value)))


def _taken_apart(value: Any) -> tuple[bytes, list[Any]]:
    """What a value is by itself, and what it is made of."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(content).hexdigest()}".encode(), []
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}".encode(), []
    if isinstance(value, types.MethodType):
        return b"method", [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]  # not empty
        return f"{value.__module__}.{value.__qualname__}".encode(), [value.__code__, value.__defaults__, cells]
    if isinstance(value, types.CodeType):
        return value.co_code, [value.co_consts, value.co_names]
    if isinstance(value, functools.partial):
        return b"partial", [value.func, value.args, value.keywords]
    if isinstance(value, dict):
        return b"dict", [part for item in value.items() for part in item]
    if isinstance(value, list | tuple):
        return kind.encode(), list(value)
    if isinstance(value, set | frozenset):
        return kind.encode(), sorted(value, key=repr)
    if isinstance(value, nn.Module):
        return kind.encode(), [{k: v for k, v in vars(value).items() if k not in _MODULE}]
    if isinstance(value, type | types.ModuleType | Stream):
        return repr(value).encode(), []
    if dataclasses.is_dataclass(value):
        return kind.encode(), [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    if not hasattr(value, "__dict__"):
        return _ADDRESS.sub("", repr(value)).encode(), []
    return kind.encode(), [vars(value)]
