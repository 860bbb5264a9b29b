"""What a process of our own asks of the C library."""

import ctypes
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from sparring.allocation import keep_freed_memory
{call}
def step():
    for _ in range(4):
        torch.ones(2 * 2**20).add_(1)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_what_a_step_frees_is_not_faulted_in_again() -> None:
    def faults(call: str) -> int:
        code = STEPS.format(call=call)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert faults("keep_freed_memory()") < 100 < faults("")


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.allocation import keep_freed_memory

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
