"""Dataclasses of settings from and to plain dictionaries; TOML in; unknown keys refused, with the nearest known one."""

import dataclasses
import json
import math
import tomllib
import types
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from sparring.errors import InputError, nearest, one_of

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON and TOML know it; raises InputError for a number that is not finite, which JSON has no word for."""
    values = dataclasses.asdict(config)
    for key, value in _flat(values).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{key} must be finite to be written down; got {value}")
    return typing.cast(dict[str, Any], json.loads(json.dumps(values)))


def from_dict(kind: type[T], values: dict[str, Any], where: str = "") -> T:
    """The config that `to_dict` made these values from.

    Raises InputError for unknown keys (naming the nearest known one) and for values of another type.
    """
    return kind(**_fields(kind, values, where))


def updated(config: T, values: dict[str, Any], where: str = "") -> T:
    """The config with some values replaced, as a TOML file gives them: nested, only the keys that change."""
    changes: dict[str, Any] = {}
    known = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(type(config))
    for key, value in values.items():
        if key not in known:
            place = f" in [{where}]" if where else ""
            raise InputError(f"unknown key {key!r}{place}{nearest(key, known)}")
        present = getattr(config, key)
        inner = f"{where}.{key}" if where else key
        if dataclasses.is_dataclass(present) and isinstance(value, dict):
            changes[key] = updated(present, value, inner)
        else:
            changes[key] = _value(hints[key], value, inner)
    return replace(config, **changes)  # type: ignore[type-var]


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file; raises InputError where it is missing or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no config file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None


def differences(a: Any, b: Any) -> list[str]:
    """The keys in which two configs of one kind differ, as `training.batch_size: 128 -> 64`."""
    flat_a, flat_b = _flat(to_dict(a)), _flat(to_dict(b))
    keys = sorted(set(flat_a) | set(flat_b))
    return [f"{k}: {flat_a.get(k)} -> {flat_b.get(k)}" for k in keys if flat_a.get(k) != flat_b.get(k)]


def _fields(kind: Any, values: dict[str, Any], where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            place = f" in [{where}]" if where else ""
            raise InputError(f"unknown key {key!r}{place}{nearest(key, known)}")
    needed = [f for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [f.name for f in needed if f.name not in values]:
        raise InputError(f"the settings{f' in [{where}]' if where else ''} lack {missing[0]!r}")
    return {k: _value(hints[k], v, f"{where}.{k}" if where else k) for k, v in values.items()}


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise InputError(f"{where} must be a table of settings, got {value!r}")
        return from_dict(typing.cast(type[Any], hint), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} must be a list, got {value!r}")
        return tuple(_value(arguments[0], item, where) for item in value)
    if origin is Literal:
        return one_of(where, value, arguments)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
