"""Attacks on models of the attacker's own, shown to another one: what is found without asking it for anything."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.contract import Attack, aimed
from sparring.threat import ThreatModel


@dataclass(frozen=True, eq=False)
class Transferred:
    """An attack on the model `source`, shown to this one, which is asked nothing; at `threat`, or else at the attack's own."""

    source: nn.Module
    attack: Attack
    threat: ThreatModel | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with modes.frozen(self.source):
            return self._attack(self.source, x, y)

    def __repr__(self) -> str:
        return f"Transferred(from={type(self.source).__name__}, {self._attack!r})"

    @property
    def _attack(self) -> Attack:
        return self.attack if self.threat is None else aimed(self.attack, self.threat)


class Together(nn.Module):
    """Several classifiers as one, whose logits (..., C) are the mean of their log probabilities."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not models:
            raise ValueError("classifiers together are at least one; got none")
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([model(x).log_softmax(-1) for model in self.models]).mean(0)
