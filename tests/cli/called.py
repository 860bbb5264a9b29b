"""The command line, called in this process or as another one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sparring import cli

TINY = ["--defender.hidden", "16", "--training.max-epochs", "2"]
GAME = [*TINY, "--adversary.hidden", "16"]

Call = Callable[..., tuple[int, str, str]]


def refused(result: tuple[int, str, str], code: int = 2) -> str:
    """The one line that a refused call prints, once it is one."""
    got, out, err = result
    assert (got, out) == (code, "") and err.count("\n") == 1 and err.startswith("sparring: "), result
    return err


ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(cli.__file__).parents[2]),
    "SPARRING_DEBUG": "",
    "OMP_NUM_THREADS": "1",
}


def python(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def program(*words: object) -> list[str]:
    return ["-m", "sparring", *map(str, words)]
