"""Ctrl-C and SIGTERM noted instead of obeyed at once, so that the step in hand is finished and saved."""

import os
import signal
import threading
from multiprocessing import parent_process

_received = 0


def listen() -> None:
    """Note SIGINT and SIGTERM instead of dying: the step in hand is finished and saved. A second one ends at once."""

    global _received
    _received = 0  # a stop that an earlier call in this process was asked for is over

    def note(number: int, frame: object) -> None:
        global _received
        if _received:
            os._exit(128 + number)
        _received = number

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)


def obey() -> None:
    """In a worker: Ctrl-C is the parent's to handle, which then asks its workers to stop by SIGTERM."""
    listen()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()


def ignore() -> None:
    """In a worker that keeps its finished pieces: Ctrl-C is the parent's to handle, SIGTERM ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()


def _end_with_parent() -> None:
    """End this worker where its parent was killed: a pool's worker would else wait for tasks for ever, or hold a run's lock."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def received() -> int:
    """The number of the signal that has come, 0 while there is none."""
    return _received
