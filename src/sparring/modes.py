"""Modes for the length of a block, undone exactly, module by module, also when the block raises.

A frozen TorchScript module has no mode, and is left as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Every submodule in evaluation mode."""
    changed = [module for module in model.modules() if in_training(module)]
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
    changed = [module for module in model.modules() if not in_training(module, frozen=True)]
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
def kept(*models: nn.Module) -> Iterator[None]:
    """Whatever the block does to modes, they are as before afterwards."""
    before = [(module, in_training(module)) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in before:
            if in_training(module) != mode:
                module.training = mode


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


def in_training(module: nn.Module, *, frozen: bool = False) -> bool:
    """Whether a module itself is in training mode; `frozen` is the answer for one that has none (`torch.jit.freeze`)."""
    return getattr(module, "training", frozen)
