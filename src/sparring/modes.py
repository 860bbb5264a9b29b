"""Modes for the length of a block, undone exactly, module by module, also when the block raises."""

from collections.abc import Iterator
from contextlib import contextmanager

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
