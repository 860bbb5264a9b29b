"""How a process of our own is set up: what it asks of the C library, and of PyTorch. Importing sparring sets nothing."""

import ctypes
import os
from typing import Any

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc
MOST, PADDING, LARGE = 2**31 - 1, 64 * 2**20, 32 * 2**20  # LARGE is the highest threshold that glibc takes


def keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next step, instead of giving it back and faulting it in again.

    For a process that trains and does little else. Blocks of 32 MB and more still come from the system and go back to it: in
    the heap the next one may not fit where the last one was, for a few bytes, and the heap would grow. Other C libraries than
    glibc go on as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGE)
    mallopt(M_TRIM_THRESHOLD, MOST)
    mallopt(M_TOP_PAD, PADDING)


def give_back_freed_memory() -> None:
    """Give the system back what was freed and kept, between two tasks that need blocks of other sizes; only with glibc."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)


def keep_few_kernels() -> None:
    """Let oneDNN keep 64 compiled kernels, with their buffers, and not 1,024; call it before the first product.

    A training needs a dozen. An attack that goes on with what is not broken yet has a new batch size at every step, and a kernel
    for each. A capacity that the user has set stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def on_one_thread() -> None:
    """For a worker process: PyTorch computes on the thread that asks, by the faster products."""
    import torch

    torch.set_num_threads(1)
    use_faster_products()


def use_faster_products() -> None:
    """On AMD processors with AVX-512, let oneDNN multiply fp32 matrices instead of MKL, which keeps to AVX2 there.

    PyTorch's one public way to oneDNN is to allow it bf16 inside fp32 products. oneDNN takes that up with tiles (AMX) only; where
    there are tiles nothing is changed here, and elsewhere the products stay fp32 in full.
    """
    import torch

    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if hasattr(matmul, "fp32_precision") and wants_onednn(_told()):
        matmul.fp32_precision = "bf16"


def wants_onednn(told: dict[str, object]) -> bool:
    """Whether a processor that says this of itself multiplies fp32 faster by oneDNN, and in fp32 all the same."""
    tiles = any(told.get(name) for name in ("amx_tile", "amx_bf16", "amx_fp16"))
    return "AMD" in str(told.get("cpu_name", "")) and bool(told.get("avx512_bf16")) and not tiles


def products() -> str:
    """Which library multiplies fp32 matrices on the processor, where it is not PyTorch's own choice: "onednn", else ""."""
    import torch

    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    return "onednn" if getattr(matmul, "fp32_precision", "none") == "bf16" else ""


def has_tiles() -> bool:
    """Whether the processor multiplies bf16 matrices in tiles (AMX)."""
    return bool(_told().get("amx_bf16"))


def rounds_factors() -> bool:
    """Whether bf16 on this processor means fp32 products whose factors are rounded as they are multiplied; else they are cast."""
    import torch

    return has_tiles() and hasattr(torch.backends.mkldnn, "matmul")


def _told() -> dict[str, object]:
    """What PyTorch says of the processor; older releases do not tell."""
    import torch

    told: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return told
