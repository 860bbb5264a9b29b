"""The type of an attack, and the attack that does nothing."""

from collections.abc import Callable

from torch import Tensor, nn

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def identity(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """No perturbation: with it, `against` is vanilla training."""
    return x
