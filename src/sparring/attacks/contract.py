"""The type of an attack, what can be done with any, and the attack that does nothing."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from sparring.threat import ThreatModel

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def identity(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """No perturbation: with it, `against` is vanilla training."""
    return x


def described(attack: Attack) -> str:
    """An attack's configuration in words that are the same in every process: its repr, or a plain function's name."""
    return attack.__name__ if isinstance(attack, FunctionType) else repr(attack)


def has_threat(attack: object) -> bool:
    """Whether it is a dataclass with a `threat`, which `aimed` can set; any other attack keeps its own radius."""
    return is_dataclass(attack) and not isinstance(attack, type) and hasattr(attack, "threat")


def aimed(attack: Attack, threat: ThreatModel) -> Attack:
    """The attack with this threat, and so all attacks within it; as it is where it has none."""
    if not has_threat(attack):
        return attack
    inside = {f.name: _aimed_within(getattr(attack, f.name), threat) for f in fields(attack) if f.init}  # type: ignore[arg-type]
    found: Attack = replace(attack, **(inside | {"threat": threat}))  # type: ignore[type-var]
    return found


def _aimed_within(value: Any, threat: ThreatModel) -> Any:
    if type(value) in (tuple, list):
        return type(value)(_aimed_within(part, threat) for part in value)
    return aimed(value, threat) if has_threat(value) else value
