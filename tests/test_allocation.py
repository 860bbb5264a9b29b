"""What a process of our own asks of the C library."""

import ctypes
import subprocess
import sys

import pytest

STEPS = """
import ctypes, resource
from sparring.allocation import keep_freed_memory
{call}
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def faults(n, size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        blocks = [library.malloc(size) for _ in range(4)]
        for block in blocks:
            ctypes.memset(block, 1, size)
        for block in reversed(blocks):
            library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(3, 24 * 2**20)
print(faults(10, 24 * 2**20))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_what_a_step_frees_is_not_faulted_in_again() -> None:
    def faults(call: str) -> int:
        code = STEPS.format(call=call)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert 10 * faults("keep_freed_memory()") < faults("")


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.allocation import keep_freed_memory

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
