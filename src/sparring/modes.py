"""Modes for the length of a block, undone exactly, module by module, also when the block raises."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Every submodule in evaluation mode."""
    changed = [module for module in model.modules() if module.training]
    for module in changed:
        module.training = False
    try:
        yield
    finally:
        for module in changed:
            module.training = True


@contextmanager
def training(model: nn.Module, *, keep_statistics: bool = False) -> Iterator[None]:
    """Every submodule in training mode; with `keep_statistics`, buffers (batch norm's) are as before afterwards."""
    changed = [module for module in model.modules() if not module.training]
    buffers = (
        [(m, n, b) for m in model.modules() for n, b in m._buffers.items() if b is not None] if keep_statistics else []
    )
    for (
        module,
        name,
        buffer,
    ) in buffers:  # the block moves a copy: a gradient taken later still finds the original unchanged
        module._buffers[name] = buffer.clone()
    for module in changed:
        module.training = True
    try:
        yield
    finally:
        for module in changed:
            module.training = False
        for module, name, buffer in buffers:
            module._buffers[name] = buffer


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Numbers too small for full precision become zero in this thread, where the processor can do so.

    An adversary whose gradient vanishes decays towards zero, and arithmetic on what is left of it (below 1e-38) is up to ten
    times slower. For training; an attack that evaluates a model keeps every gradient, however small.
    """
    tiny = torch.tensor(1e-39)
    already = not bool(tiny * 1.0 != 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


Precision = Literal["fp32", "bf16"]


def precision(name: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products of the block in fp32 as they are, or in bf16 with parameters and their gradients in fp32.

    For training. An attack that evaluates a model takes its gradients in fp32.
    """
    return nullcontext() if name == "fp32" else torch.autocast(device.type, torch.bfloat16)


def fast_precision(device: torch.device) -> Precision:
    """bf16 where the hardware multiplies in it many times as fast: CUDA from Ampere on, processors with AMX; else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    return "bf16" if device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16")) else "fp32"


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradient to the parameters: neither they nor the statistics can change."""
    needing = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in needing:
        parameter.requires_grad_(False)
    try:
        with evaluation(model):
            yield
    finally:
        for parameter in needing:
            parameter.requires_grad_(True)
