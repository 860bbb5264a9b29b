"""What a model must give: logits, one row an example and one column a class. What gives something else is named."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparring import modes
from sparring.errors import InputError, line_of

TRIED = 8  # examples are enough to see what a model gives


def checked_logits(out: Any, x: Tensor, n_classes: int, n_own_axes: int, name: str = "the model") -> Tensor:
    """A model's output where it can be logits (..., C); raises InputError, naming the likely mistake, where it cannot."""
    if not isinstance(out, Tensor):
        raise InputError(f"{name} returned a {type(out).__name__}; return logits (N, classes)")
    leading = x.shape[: x.ndim - n_own_axes]
    if out.shape[:-1] != leading or out.shape[-1] != n_classes:
        raise InputError(
            f"{name} returned {tuple(out.shape)} for inputs {tuple(x.shape)}; expected logits {(*leading, n_classes)}"
        )
    return out


def tried(model: nn.Module, x: Tensor, least: int, name: str = "the model") -> int:
    """How many classes the model knows, from its logits on a few inputs x (N, *shape); it and the generators stay as they are.

    Raises InputError where it is no module, fails on them, writes to them, or returns anything but logits of `least` classes or
    more.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} is a {type(model).__name__}; expected a torch.nn.Module")
    shown = x.clone()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), unchanged(model):
            out = model(shown)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # it raises whatever its parts raise
        words = f"{name} fails on inputs {tuple(x.shape)}: {line_of(error)}{_likely_mistake(model, x)}"
        raise InputError(words) from error
    if _written_to(shown, x):
        raise InputError(
            f"{name} changes its input in place, as x.sub_(m) and inplace=True do, where no gradient can be taken; use x.sub(m)"
        )
    several = isinstance(out, Tensor) and out.ndim == 2
    return checked_logits(out, x, max(least, out.shape[-1]) if several else least, x.ndim - 1, name).shape[-1]


def check_differentiable(model: nn.Module, x: Tensor, name: str = "the model") -> None:
    """Raises InputError where the logits of a model that `tried` accepts, on a few inputs x, do not differentiate."""
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), unchanged(model):
        with torch.enable_grad():
            differentiable = model(x.clone()).requires_grad
        with torch.no_grad():
            model(
                x.clone()
            )  # weights that a hook makes of others, as in pruning, keep no graph then, and can be copied
    if not differentiable:
        raise InputError(f"{name} returns logits without a gradient, detached or made under no_grad; training needs it")


def _written_to(shown: Tensor, x: Tensor) -> bool:
    """Whether a model has written to what it was shown, a clone of x, if only what stood there."""
    return not torch.equal(shown, x) or (not shown.is_inference() and shown._version > 0)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards buffers hold what they held, also those that the model's own code counts in."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if not is_lazy(buffer)}
    try:
        with modes.evaluation(model):
            yield
    finally:
        for name, buffer in model.named_buffers():
            if name in before and not torch.equal(buffer, before[name]):
                buffer.copy_(before[name])


def _likely_mistake(model: nn.Module, x: Tensor) -> str:
    if odd := {p.dtype for p in model.parameters() if p.is_floating_point()} - {x.dtype}:
        return f"; its weights are {str(odd.pop()).removeprefix('torch.')}, so give it as .float()"
    last = x.ndim == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3)
    return "; channels come first, use x.permute(0, 3, 1, 2)" if last else "; is that the shape that it was made for?"
