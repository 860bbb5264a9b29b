"""Records to JSON lines and back, each file whole or not at all."""

import dataclasses
import json
import math
import os
import tempfile
import types
import typing
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sparring.errors import InputError

R = TypeVar("R")


def write(path: Path, records: Iterable[Any]) -> None:
    """Replace a file of records, whole or not at all."""
    atomically(path, "".join(line(record) + "\n" for record in records).encode())


def append(path: Path, record: Any) -> None:
    """Add one record to a file, in one write; a cut last line (a killed writer's) goes first."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write((line(record) + "\n").encode())


def read(path: Path, kind: type[R]) -> list[R]:
    """All records of a file, none if there is no file. A cut last line (a killed writer's) is dropped.

    Raises InputError for a line that is not such a record.
    """
    return list(_records(path, kind)) if path.exists() else []


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file, whole or not at all; dataclasses become objects, non-finite numbers null."""
    atomically(path, (json.dumps(plain(value), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value of a JSON file; raises InputError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}); remove it and run again") from error


def line(record: Any) -> str:
    """A record as one line of JSON."""
    return json.dumps(plain(record), allow_nan=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as what JSON knows; NaN and infinities as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def restore(kind: type[R], value: Any) -> R:
    """The record of this kind that `plain` made `value` from; raises KeyError or TypeError where it is none."""
    return typing.cast(R, _restored(kind, value))


def atomically(path: Path, content: bytes) -> None:
    """Write a file aside, flush it to the disk, and rename it: afterwards it is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _records(path: Path, kind: type[R]) -> Iterator[R]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a file of sparring records ({error})") from error
    for number, text in enumerate(lines[:-1], start=1):  # what follows the last newline is empty or cut
        try:
            yield restore(kind, json.loads(text))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}:{number} is not a sparring {kind.__name__} ({error})") from error


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _restored(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        known = {f.name for f in dataclasses.fields(kind)}
        if unknown := set(value) - known:
            raise TypeError(f"unknown field {sorted(unknown)[0]!r}")
        return kind(**{name: _restored(hints[name], item) for name, item in value.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        return tuple(_restored(k, item) for k, item in zip(kinds, value, strict=True))
    if origin in (typing.Union, types.UnionType) and value is not None:
        return _restored(next(k for k in arguments if k is not type(None)), value)
    if kind is float and value is None:
        return math.nan
    return value
