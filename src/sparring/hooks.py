"""Hooks on a forward pass, by the base class's methods: TorchScript's own refuse what works.

Inside a scripted module none fires: it is one call, seen at its own beginning and end.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


def before_forward(module: nn.Module, hook: Callable[[nn.Module, Any], Any]) -> RemovableHandle:
    """Have `hook(module, inputs)` called at the beginning of every pass, until the handle's `remove()`."""
    return nn.Module.register_forward_pre_hook(module, hook)


def after_forward(module: nn.Module, hook: Callable[[nn.Module, Any, Any], Any]) -> RemovableHandle:
    """Have `hook(module, inputs, output)` called at the end of every pass, until the handle's `remove()`."""
    return nn.Module.register_forward_hook(module, hook)
