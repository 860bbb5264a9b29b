"""Named points where a test can kill the process, as a power cut would: SPARRING_FAULT=point:count.

Unarmed, a point costs one comparison.
"""

import os
import signal

_armed, _, _count = os.environ.get("SPARRING_FAULT", "").partition(":")
_left = int(_count or 1)


def arm(point: str, count: int) -> None:
    """Kill this process when `point` is passed for the count-th time."""
    global _armed, _left
    _armed, _left = point, count


def point(name: str) -> None:
    """Pass a named point; kills the process where it is armed and its count is reached."""
    if _armed and name == _armed:
        _fire()


def _fire() -> None:
    global _left
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
