"""The thresholds of the audit: one versioned file, read once, and the rule by which counts are compared."""

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from sparring.errors import InputError


@dataclass(frozen=True)
class Thresholds:
    """`version`, and one table of numbers a check."""

    version: str
    tables: dict[str, dict[str, float]]

    def of(self, check: str, name: str) -> float:
        """One threshold."""
        return float(self.tables[check][name])


def images(points: float, n: int) -> int:
    """A threshold in percentage points as a number of images out of n, rounded down."""
    return math.floor(points / 100 * n + 1e-9)


@cache
def shipped() -> Thresholds:
    """The thresholds that come with the package."""
    text = files("sparring.auditing").joinpath("thresholds.toml").read_text(encoding="utf-8")
    return _parsed(tomllib.loads(text))


def read(path: str | Path) -> Thresholds:
    """Thresholds from a file of the same form; raises InputError where one is missing."""
    try:
        found = _parsed(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValueError) as error:
        raise InputError(f"{path} is no file of thresholds: {error}") from None
    for check, table in shipped().tables.items():
        if missing := table.keys() - found.tables.get(check, {}).keys():
            raise InputError(f"{path} lacks [{check}] {', '.join(sorted(missing))}; copy the shipped file and edit it")
    return found


def _parsed(content: dict[str, Any]) -> Thresholds:
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    return Thresholds(str(content.get("version", "unversioned")), tables)
