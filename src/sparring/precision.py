"""In which number format a training multiplies matrices; an attack that evaluates a model takes its gradients in fp32.

And how many digits a device knows.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from sparring.process import has_tiles, rounds_factors

Precision = Literal["fp32", "bf16"]


def multiplying_in(
    precision: Precision, device: torch.device, *, convolutions: bool = False
) -> AbstractContextManager[object]:
    """Matrix products of the block in fp32 as they are, or in bf16 with parameters and their gradients in fp32.

    A processor with tiles (AMX) rounds factors as it multiplies, so that every tensor stays fp32: no pass over memory to cast a
    weight or its gradient. Elsewhere, and for `convolutions`, which are no faster by that, PyTorch casts what is multiplied, and
    the product is bf16. No cast is kept for a second use: within a block a weight may change.
    """
    if precision == "fp32":
        return nullcontext()
    if device.type == "cpu" and rounds_factors() and not convolutions:
        return _rounding_factors()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def full_fp32() -> AbstractContextManager[object]:
    """Products and convolutions of the block in all digits of fp32 on a CUDA device too: for evaluations, and their attacks.

    PyTorch lets cuDNN round the factors of a convolution to TF32, ten bits, unless it is told otherwise.
    """
    backends: Any = torch.backends
    return _all_in([backends.cuda.matmul, backends.cudnn.conv], "ieee")


def widest(device: torch.device) -> torch.dtype:
    """The floating type with the most digits that tensors can have there: float64, but float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


def widened(x: Tensor) -> Tensor:
    """x with as many digits as its device knows."""
    return x.to(widest(x.device))


def fast_precision(device: torch.device) -> Precision:
    """bf16 where the hardware multiplies in it many times as fast: CUDA from Ampere on, processors with AMX; else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    return "bf16" if device.type == "cpu" and has_tiles() else "fp32"


def _rounding_factors() -> AbstractContextManager[object]:
    """Let oneDNN, which then has the products, round the factors of fp32 products to bf16; sums are kept in fp32."""
    onednn: Any = torch.backends.mkldnn
    return _all_in([onednn.matmul, onednn.conv], "bf16")


@contextmanager
def _all_in(kinds: Sequence[Any], precision: str) -> Iterator[None]:
    """What PyTorch lets become of the factors of fp32 products of these kinds, for the length of the block."""
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = precision
    try:
        yield
    finally:
        for kind, was in zip(kinds, before, strict=True):
            kind.fp32_precision = was
