"""What a model must give: logits, one row an example and one column a class. What gives something else is named."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparring import modes
from sparring.errors import InputError

TRIED = 8  # examples are enough to see what a model gives


def checked_logits(out: Any, x: Tensor, n_classes: int, n_own_axes: int) -> Tensor:
    """A model's output where it can be logits (..., C); raises InputError, naming the likely mistake, where it cannot."""
    if not isinstance(out, Tensor):
        raise InputError(f"the model returned a {type(out).__name__}; return logits (N, classes)")
    leading = x.shape[: x.ndim - n_own_axes]
    if out.shape[:-1] != leading or out.shape[-1] != n_classes:
        raise InputError(
            f"the model returned {tuple(out.shape)} for inputs {tuple(x.shape)}; expected logits {(*leading, n_classes)}"
        )
    return out


def tried(model: nn.Module, x: Tensor, least: int) -> int:
    """How many classes the model knows, from its logits on a few inputs x (N, *shape); it and the generators stay as they are.

    Raises InputError where it fails on them, or returns anything but logits of `least` classes or more.
    """
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), _as_it_was(model):
            out = model(x)
    except InputError:
        raise
    except (RuntimeError, ValueError) as error:
        words = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"the model fails on inputs {tuple(x.shape)}: {words}{_likely_mistake(x)}") from error
    several = isinstance(out, Tensor) and out.ndim == 2
    return checked_logits(out, x, max(least, out.shape[-1]) if several else least, x.ndim - 1).shape[-1]


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards buffers hold what they held, also those that the model's own code counts in."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if not is_lazy(buffer)}
    try:
        with modes.evaluation(model):
            yield
    finally:
        for name, buffer in model.named_buffers():
            if name in before and not torch.equal(buffer, before[name]):
                buffer.copy_(before[name])


def _likely_mistake(x: Tensor) -> str:
    last = x.ndim == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3)
    return "; channels come first, use x.permute(0, 3, 1, 2)" if last else ""
