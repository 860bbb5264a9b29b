"""The adversary: what it sees -> network -> bound."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.adversaries.bounds import BOUNDS
from sparring.errors import CannotStack
from sparring.models import stack

Seen = Literal["x", "label", "gradient"]
Layout = Literal["flat", "channels"]
SEEN: tuple[Seen, ...] = ("x", "label", "gradient")


class Adversary(nn.Module):
    """A network that sees inputs (..., *shape) and answers with perturbations of that shape in [-1, 1].

    `network` gives one number a pixel, (..., D), or, where `shape` is given, an image (..., *shape) as convolutional
    networks do; `bound` is a name from BOUNDS. It knows no eps: `LearnedAttack` scales its answer, so one adversary
    serves a whole curve over eps.

    `sees` says what it is shown: the input, ("x",), as the paper's is; beside it the true label, or the gradient of the
    defender's margin loss at x, scaled to mean magnitude 1, (..., *shape). The network takes what it sees as one tensor: "flat",
    features (..., `n_features(...)`), or "channels", those of the input, one constant plane a class, and those of the gradient.
    What sees the gradient adds it, times a learned `gain`, to its network's answer, and so starts near FGSM. Raises ValueError
    for an unknown bound, for parts that are unknown or out of order, and where `shape` or `n_classes` is missing for them.
    """

    def __init__(
        self,
        network: nn.Module,
        bound: str = "tanh",
        shape: tuple[int, ...] | None = None,
        *,
        sees: Sequence[Seen] = ("x",),
        n_classes: int | None = None,
        layout: Layout = "flat",
    ) -> None:
        super().__init__()
        if bound not in BOUNDS:
            raise ValueError(f"bound must be one of {', '.join(BOUNDS)}; got {bound!r}")
        check_sees(sees)
        if (tuple(sees) != ("x",) and shape is None) or ("label" in sees and n_classes is None):
            raise ValueError(f"an adversary that sees {', '.join(sees)} needs shape, and with the label n_classes")
        self.network = network
        self.bound = bound
        self.shape = shape
        self.sees: tuple[Seen, ...] = tuple(sees)
        self.n_classes = n_classes
        self.layout: Layout = layout
        if "gradient" in sees:
            self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, y: Tensor | None = None, gradient: Tensor | None = None) -> Tensor:
        """Perturbations (..., *shape); labels y (...) and the gradient (..., *shape) for what sees them."""
        z = self.network(x if self.sees == ("x",) else self._view(x, y, gradient))
        if self.shape is not None and z.shape == x.shape:
            z = z.flatten(-len(self.shape))
        if gradient is not None and "gradient" in self.sees:
            gain = self.gain[..., None, None] if self.gain.ndim else self.gain  # (S,) in a stack
            z = z + gain * gradient.reshape(z.shape)
        return BOUNDS[self.bound](z).view(x.shape)

    def extra_repr(self) -> str:
        return f"bound={self.bound!r}" + ("" if self.sees == ("x",) else f", sees={self.sees!r}")

    def _view(self, x: Tensor, y: Tensor | None, gradient: Tensor | None) -> Tensor:
        """What the network is shown, in one tensor."""
        assert self.shape is not None
        own, parts = len(self.shape), [x]
        if "label" in self.sees:
            if y is None or self.n_classes is None:
                raise ValueError("this adversary sees labels; call it with y, or through LearnedAttack")
            labels = F.one_hot(y, self.n_classes).to(x.dtype)
            if self.layout == "channels":
                labels = labels[(..., *[None] * (own - 1))].expand(*labels.shape, *x.shape[1 - own :])
            parts.append(labels)
        if "gradient" in self.sees:
            if gradient is None:
                raise ValueError("this adversary sees the defender's gradient; call it through LearnedAttack")
            parts.append(gradient)
        if self.layout == "channels":
            return torch.cat(parts, -own)
        return torch.cat([part if part.ndim == x.ndim - own + 1 else part.flatten(-own) for part in parts], -1)


def stack_adversaries(adversaries: Sequence[Adversary], probe: Tensor | None = None) -> Adversary:
    """S adversaries of one kind as one, (S, B, *shape) in and out; with a `probe` (B, ...) of what their networks see, tried out.

    Raises CannotStack where they differ, or where `stack` does.
    """
    first = adversaries[0]
    kinds = {(a.bound, a.shape, a.sees, a.n_classes, a.layout) for a in adversaries}
    if len(kinds) > 1:
        raise CannotStack(f"a stack needs adversaries of one kind, got {len(kinds)} kinds")
    if own := next((type(a).__name__ for a in adversaries if type(a) is not Adversary), ""):
        raise CannotStack(f"a stack needs adversaries of class Adversary itself, got {own}")
    network = stack([a.network for a in adversaries], probe)
    stacked = Adversary(
        network, first.bound, first.shape, sees=first.sees, n_classes=first.n_classes, layout=first.layout
    )
    if "gradient" in first.sees:
        stacked.gain = nn.Parameter(torch.stack([a.gain.detach() for a in adversaries]))
    return stacked


def n_features(sees: Sequence[Seen], shape: Sequence[int], n_classes: int) -> int:
    """How many numbers a "flat" adversary is shown for one input."""
    check_sees(sees)
    return math.prod(shape) * (1 + ("gradient" in sees)) + n_classes * ("label" in sees)


def check_sees(sees: Sequence[str]) -> None:
    """Raises ValueError for what no adversary can see."""
    if tuple(sees) != tuple(part for part in SEEN if part in sees) or "x" not in sees:
        raise ValueError(f"sees must be x, then label and gradient where they are seen; got {', '.join(sees)}")


def n_parameters(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(torch.numel(parameter) for parameter in network.parameters())
