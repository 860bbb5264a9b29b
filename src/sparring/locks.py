"""One writer per run folder: a lock that the system frees when its holder dies."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparring.errors import Busy


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file for the length of a block; raises Busy, naming the holder, where another process does."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # not inherited by children (PEP 446)
    try:
        if not _try_lock(handle):
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise Busy(f"{path.parent} is in use by {holder}; wait for it, or choose another --out")
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}".encode())
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
