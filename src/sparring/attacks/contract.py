"""The type of an attack, what can be done with any, and the attack that does nothing."""

from collections.abc import Callable
from dataclasses import replace
from types import FunctionType

from torch import Tensor, nn

from sparring.threat import ThreatModel

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def identity(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """No perturbation: with it, `against` is vanilla training."""
    return x


def described(attack: Attack) -> str:
    """An attack's configuration in words that are the same in every process: its repr, or a plain function's name."""
    return attack.__name__ if isinstance(attack, FunctionType) else repr(attack)


def aimed(attack: Attack, threat: ThreatModel) -> Attack:
    """The attack with this threat, where it is a dataclass that has one."""
    return replace(attack, threat=threat) if hasattr(attack, "threat") else attack  # type: ignore[type-var]
