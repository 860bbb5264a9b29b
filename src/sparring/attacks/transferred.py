"""Attacks on models of the attacker's own, shown to another one: what is found without a gradient of that one's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.contract import Attack, aimed
from sparring.losses import margin
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


@dataclass(frozen=True, eq=False)
class BestOf:
    """Of the ends of several attacks, for each example the one with the largest margin: most wrong, or nearest to it.

    It asks the model about every end, once forwards. At `threat`, or else at the attacks' own.
    """

    attacks: Sequence[Attack]
    threat: ThreatModel | None = None

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ValueError("the best of several attacks needs at least one; got none")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        best, most = x.detach(), torch.full(y.shape, -torch.inf, dtype=x.dtype, device=x.device)
        for attack in self.attacks:
            end = (attack if self.threat is None else aimed(attack, self.threat))(model, x, y).detach()
            with torch.no_grad(), modes.evaluation(model):
                ahead = margin(model(end), y)
            better = (ahead > most)[(..., *[None] * (x.ndim - y.ndim))]
            best, most = torch.where(better, end, best), torch.maximum(ahead, most)
        return best

    def __repr__(self) -> str:
        return f"BestOf({', '.join(map(repr, self.attacks))})"


class Together(nn.Module):
    """Several classifiers as one, whose logits (..., C) are the mean of their log probabilities."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not models:
            raise ValueError("classifiers together are at least one; got none")
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([model(x).log_softmax(-1) for model in self.models]).mean(0)
