"""In which number format a training multiplies matrices; an attack that evaluates a model takes its gradients in fp32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def multiplying_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products of the block in fp32 as they are, or in bf16 with parameters and their gradients in fp32.

    No cast is kept for a second use: within a block a weight may change.
    """
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def fast_precision(device: torch.device) -> Precision:
    """bf16 where the hardware multiplies in it many times as fast: CUDA from Ampere on, processors with AMX; else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    told: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases do not tell
    return "bf16" if device.type == "cpu" and told.get("amx_bf16") else "fp32"
