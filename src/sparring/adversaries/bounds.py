"""From a network's output z to a perturbation in [-1, 1] (paper, section 3.1). D counts pixels; z is (..., D)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Bound = Callable[[Tensor], Tensor]
ScaledVariant = Literal["image", "minmax", "batch", "detached"]


def tanh_bound(z: Tensor) -> Tensor:
    """tanh of every pixel on its own."""
    return torch.tanh(z)


def scaled_bound(z: Tensor, variant: ScaledVariant = "image") -> Tensor:
    """Centred around 0, then scaled to [-1, 1]; a constant output gives no perturbation.

    The paper leaves the details open (docs/claims.md, ambiguity q). "image": subtract each image's mean, divide by its largest
    magnitude. "minmax": each image's smallest value to -1, its largest to 1. "batch": mean and largest magnitude
    over the whole batch of a copy. "detached": as "image", with no gradient through the divisor.
    """
    if variant == "image":
        image: Tensor = _OverLargest.apply(z)[0]  # type: ignore[no-untyped-call]
        return image
    if variant == "minmax":
        low, high = z.amin(-1, keepdim=True), z.amax(-1, keepdim=True)
        return _over(2 * z - (low + high), high - low)
    over = (-2, -1) if variant == "batch" else (-1,)
    centred = z - z.mean(over, keepdim=True)
    largest = centred.abs().amax(over, keepdim=True)
    return _over(centred, largest.detach() if variant == "detached" else largest)


BOUNDS: dict[str, Bound] = {
    "tanh": tanh_bound,
    "scaled": scaled_bound,
    "scaled-minmax": partial(scaled_bound, variant="minmax"),
    "scaled-batch": partial(scaled_bound, variant="batch"),
    "scaled-detached": partial(scaled_bound, variant="detached"),
}


class _OverLargest(torch.autograd.Function):
    """Each image's values less their mean, over the largest magnitude of these, in few passes over the pixels.

    Written out, the same takes some twenty there and back, a quarter of a scaled game's step.
    """

    @staticmethod
    def forward(z: Tensor) -> tuple[Tensor, Tensor]:
        centred = z - z.mean(-1, keepdim=True)
        largest = torch.maximum(centred.amax(-1, keepdim=True), -centred.amin(-1, keepdim=True))
        divisor = torch.where(largest > torch.finfo(z.dtype).tiny, largest, torch.inf)
        return centred.div_(divisor), divisor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        out, divisor = ctx.saved_tensors
        ends = out.trunc()  # 1 or -1 where the magnitude is the largest, else 0
        product = grad * out
        along = product.sum(-1, keepdim=True)
        n_ends = torch.mul(ends, out, out=product).sum(-1, keepdim=True).clamp(min=1)
        through: Tensor = ends.mul_(-along / n_ends).add_(grad).div_(divisor)
        through -= through.mean(-1, keepdim=True)
        return through


def _over(numerator: Tensor, divisor: Tensor) -> Tensor:
    """numerator / divisor, and 0 where the divisor vanishes; clamped, since rounding may pass 1."""
    tiny = torch.finfo(divisor.dtype).tiny
    return (numerator / divisor.clamp(min=tiny) * (divisor > tiny)).clamp(-1, 1)
