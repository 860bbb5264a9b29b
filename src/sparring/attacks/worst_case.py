"""Several attacks as one: what survives all of them is robust, example by example."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks.contract import Attack
from sparring.losses import margin
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class WorstCase:
    """Per example the perturbed input, among the attacks' and the clean one, with the largest logit margin.

    Where a logit is not finite it is as large as can be: nothing was decided.
    """

    attacks: tuple[Attack, ...]
    threat: ThreatModel

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        worst, most = x, _badness(model, x, y)
        for attack in self.attacks:
            x_adv = attack(model, x, y).detach()
            found = _badness(model, x_adv, y)
            worse = found > most
            worst = torch.where(self.threat.over_pixels(worse), x_adv, worst)
            most = torch.where(worse, found, most)
        return worst


@torch.no_grad()
def _badness(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The margin, (...); infinite where a logit is not finite."""
    with modes.evaluation(model):
        logits: Tensor = model(x)
    return torch.where(torch.isfinite(logits).all(-1), margin(logits, y), torch.inf)
