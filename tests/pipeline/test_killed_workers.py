"""Worker processes do not outlive a parent that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PARENT = """
import os, sys, time
from pathlib import Path
from sparring.reproduction.finished import each
from sparring.reproduction.workers import Workers

def wait(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(100)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if sys.argv[2] == "each":
        each(wait, [folder, folder], 2)
    else:
        with Workers(2) as workers:
            for _ in range(2):
                waiting = workers._pool.submit(wait, folder)
            waiting.result()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("pool", ["each", "tasks"])
def test_workers_end_with_a_parent_that_was_killed(pool: str, tmp_path: Path) -> None:
    script, folder = tmp_path / "parent.py", tmp_path / "pids"
    script.write_text(PARENT, encoding="utf-8")
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(folder), pool])
    try:
        eventually(lambda: len(list(folder.iterdir())) == 2)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    eventually(lambda: not any(alive(path.name) for path in folder.iterdir()))


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until it holds; fails where that takes long."""
    until = time.monotonic() + 50
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def alive(pid: str) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
