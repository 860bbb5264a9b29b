"""What a user's arrays must be, and the likely mistake when they are not: an InputError of one line each.

Letters: N examples, C classes. `x` are inputs (N, ...), floating point in [0, 1]; `y` are class indices (N,).
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.errors import InputError


def check_inputs(x: Tensor) -> None:
    """Raises unless x holds finite floating-point values in [0, 1]; warns when they are all the same."""
    if x.dtype == torch.uint8:
        raise InputError("x is uint8 (0..255); use sparring.data.to_unit(x)")
    if not x.is_floating_point():
        raise InputError(f"x is {_dtype(x)}; expected floating-point values in [0, 1]")
    if x.ndim < 2:
        raise InputError(f"x has shape {tuple(x.shape)}; expected a batch axis and the axes of one input: (N, ...)")
    if x.numel() == 0:
        raise InputError(f"the data set is empty: x has shape {tuple(x.shape)}")
    low, high = check_range(x)
    if low == high:
        warnings.warn(f"x is constant: every value is {low:.4g}", stacklevel=3)


def check_range(x: Tensor) -> tuple[float, float]:
    """The least and the largest of the values of x, floating point and not empty; raises unless all are finite and in [0, 1]."""
    low, high = (float(end) for end in x.detach().aminmax())  # a NaN anywhere comes out here
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise InputError(_non_finite(x))
    if low < 0 or high > 1:
        raise InputError(f"x has values {low:.4g}..{high:.4g}, outside [0, 1]: {_likely_mistake(low, high)}")
    return low, high


def check_shape(x: Tensor, shape: Sequence[int]) -> None:
    """Raises unless x is (N, *shape); a flat, channels-last, unbatched or channel-less x is named as such."""
    shape, got = tuple(shape), tuple(x.shape)
    if got[1:] == shape:
        return
    fix = ""
    if got == shape:
        fix = ": the batch axis is missing, use x.unsqueeze(0)"
    elif len(shape) == 3 and got[1:] == (*shape[1:], shape[0]):
        fix = ": channels come first, use x.permute(0, 3, 1, 2)"
    elif len(shape) == 3 and shape[0] == 1 and got[1:] == shape[1:]:
        fix = ": the channel axis is missing, use x.unsqueeze(1)"
    elif x.ndim == 2 and got[1:] == (torch.Size(shape).numel(),):
        fix = f": x is flat, use x.reshape({', '.join(map(str, (-1, *shape)))})"
    elif len(shape) == 3 and len(got) == 4 and got[2:] == shape[1:]:
        fix = f": {got[1]} channels instead of {shape[0]}"
    raise InputError(f"x is {_batch_of(got[1:])}; expected {_batch_of(shape)}{fix}")


def check_labels(y: Tensor, n: int, n_classes: int | None) -> None:
    """Raises unless y holds n class indices in 0..n_classes-1 (any from 0 up when n_classes is None)."""
    if y.ndim == 2 and y.shape[1] > 1 and _is_one_hot(y):
        raise InputError(f"y is one-hot (N, {y.shape[1]}); pass class indices: y.argmax(1)")
    if y.ndim == 2 and y.shape[1] == 1:
        raise InputError("y has shape (N, 1); expected (N,): use y.squeeze(1)")
    if y.ndim != 1:
        raise InputError(f"y has shape {tuple(y.shape)}; expected one class index per example: (N,)")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError(f"y is {_dtype(y)}; expected integer class indices: use y.long()")
    if len(y) != n:
        raise InputError(f"y has {len(y)} labels, but x has {n} examples")
    if n == 0:
        raise InputError("the data set is empty")
    if n_classes is not None and n_classes < 1:
        raise InputError(f"n_classes must be at least 1, got {n_classes}")
    if int(y.min()) < 0:
        first = int((y < 0).int().argmax())
        raise InputError(f"y[{first}] = {int(y[first])} is negative; class indices start at 0")
    if n_classes is not None and int(y.max()) >= n_classes:
        first = int((y >= n_classes).int().argmax())
        raise InputError(f"y[{first}] = {int(y[first])}, but there are {n_classes} classes (0..{n_classes - 1})")


def signed(y: Tensor) -> Tensor:
    """y, but as int64 where it is of one of the unsigned types of which PyTorch knows neither order nor extremes."""
    return y.to(torch.int64) if y.dtype in (torch.uint16, torch.uint32, torch.uint64) else y


def _non_finite(x: Tensor) -> str:
    counts = (~x.isfinite()).flatten(1).sum(1)
    first, affected = int((counts > 0).int().argmax()), int((counts > 0).sum())
    return (
        f"x[{first}] has {int(counts[first])} non-finite values (NaN or Inf); "
        f"in all {int(counts.sum())} values in {affected} of {len(x)} examples"
    )


def _likely_mistake(low: float, high: float) -> str:
    if low < 0 and low >= -1 and high <= 1:
        return "they look scaled to [-1, 1]; use (x + 1) / 2"
    if low < 0 and max(-low, high) <= 20:  # standardised pixels stay within a few deviations
        return "they look mean/std-normalised; put the normalisation inside the model"
    if low >= 0 and 16 < high <= 255:
        return "they look unscaled; divide by 255"
    if low >= 0 and 1 < high <= 1.01:
        return "they look like rounding; use x.clamp(0, 1)"
    return "rescale them, and put any other normalisation inside the model"


def _is_one_hot(y: Tensor) -> bool:
    return bool(((y == 0) | (y == 1)).all()) and bool((y.sum(1) == 1).all())


def _batch_of(shape: Sequence[int]) -> str:
    return f"({', '.join(['N', *map(str, shape)])})"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
