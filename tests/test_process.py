"""What a process of our own asks of the C library and of PyTorch."""

import ctypes
import os
import subprocess
import sys

import pytest

from sparring.environment import changes, environment
from sparring.process import give_back_freed_memory, keep_few_kernels, keep_freed_memory, wants_onednn

STEPS = """
import ctypes, resource
from sparring.process import keep_freed_memory

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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has no malloc_trim")
def test_what_was_kept_can_be_given_back() -> None:
    code = """
import ctypes
from sparring.process import give_back_freed_memory, keep_freed_memory

keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [library.malloc(16 * 2**20) for _ in range(8)]
for block in blocks:
    ctypes.memset(block, 1, 16 * 2**20)
for block in blocks:
    library.free(block)
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
kept = resident()
give_back_freed_memory()
print(kept - resident())
"""
    given = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(given) > 100 * 1024  # KiB, of 128 MiB


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
    give_back_freed_memory()


def test_few_kernels_are_kept_unless_the_user_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, "7")
    keep_few_kernels()
    assert os.environ[name] == "7"
    monkeypatch.delenv(name)
    keep_few_kernels()
    assert os.environ[name] == "64"


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_tile": False}, True),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, False),  # before Zen 4
        ({"cpu_name": "AMD of a day to come", "avx512_bf16": True, "amx_tile": True}, False),  # products would be bf16
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True}, False),
        ({}, False),
    ],
)
def test_onednn_multiplies_where_it_is_faster_and_fp32(told: dict[str, object], wanted: bool) -> None:
    assert wants_onednn(told) is wanted


def test_the_faster_products_are_fp32_in_full() -> None:
    """What the setting allows is not taken up, on whatever processor this runs."""
    code = """
import torch
from sparring.process import on_one_thread, products
before = products()
on_one_thread()
a, b = torch.randn(2, 64, 300), torch.randn(2, 300, 50)
worst = max(float(((f(x, y).double() - f(x.double(), y.double())).abs().max())) for f, x, y in
            [(torch.bmm, a, b), (torch.mm, a[0], b[0]), (torch.nn.functional.linear, a[0], b[0].T.contiguous())])
print(before == "", torch.get_num_threads(), worst < 1e-4)  # bf16 would be off by 0.1
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["True", "1", "True"]


def test_a_run_tells_by_what_it_was_multiplied() -> None:
    before = environment() | {"products": ""}  # another test of this process may have set it
    assert changes(before, before | {"products": "onednn"}) == ["products  -> onednn"]
    assert changes(before | {"bf16": "cast"}, before | {"bf16": "rounded factors"}) == ["bf16 cast -> rounded factors"]
    older = {name: value for name, value in before.items() if name not in ("products", "bf16")}
    assert changes(older, before | {"products": "", "bf16": "cast"}) == []
