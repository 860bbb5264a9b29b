"""The errors that end in one line: what came, what was expected, what to do.

The command line turns each into its exit code; in a library they are ordinary ValueErrors, RuntimeErrors and so on.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class InputError(ValueError):
    """A setting, file or argument that cannot be used (exit code 2)."""


class MissingExtra(ImportError):
    """An optional package is absent; the message names the exact pip command (exit code 2)."""


class CannotStack(ValueError):
    """Networks that cannot be trained as one stack; the message says why (train them one by one)."""


class NotStacked(UserWarning):
    """Games that were to be trained together are trained one after another; the message says why."""


class Diverged(RuntimeError):
    """Training met a non-finite loss or gradient and stopped before the step (exit code 3)."""


class NotFinite(RuntimeError):
    """A model gave non-finite logits: an evaluation failure, never a robust example (exit code 4)."""


class CorruptCheckpoint(RuntimeError):
    """No checkpoint of the run verifies (exit code 5)."""


class Busy(RuntimeError):
    """Another process holds the run's folder (exit code 75)."""


class Interrupted(Exception):
    """A signal asked the run to stop; its state has been saved (exit code 128 + signal)."""

    def __init__(self, signal_number: int, where: str) -> None:
        super().__init__(signal_number, where)
        self.signal_number = signal_number

    def __str__(self) -> str:
        return str(self.args[1])


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: a suggestion where one is near, and all the known names."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{suggestion} known: {', '.join(names)}"


def one_of(name: str, value: Any, known: Sequence[Any]) -> Any:
    """The value of the setting `name`, if it is a known one; raises InputError with those that are where it is not."""
    if value not in known:
        raise InputError(f"{name} cannot be {value!r}{nearest(str(value), map(str, known))}")
    return value


def line_of(error: Exception) -> str:
    """What an error of somebody else's code says, in one line that is not too long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:2])[:200] or type(error).__name__


def need(package: str, extra: str | None = None) -> MissingExtra:
    """The error for an absent optional package, with the command that installs it."""
    wanted = f'"sparring[{extra}]"' if extra else package
    return MissingExtra(f"this needs the package {package!r}, which is not installed: pip install {wanted}")
