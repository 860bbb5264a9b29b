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
    """Per example the perturbed input, among the attacks' and the clean one, with the largest logit margin."""

    attacks: tuple[Attack, ...]
    threat: ThreatModel

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad(), modes.evaluation(model):
            worst, worst_margin = x, margin(model(x), y)
        for attack in self.attacks:
            x_adv = attack(model, x, y).detach()
            with torch.no_grad(), modes.evaluation(model):
                found = margin(model(x_adv), y)
            worse = found > worst_margin
            worst = torch.where(self.threat.over_pixels(worse), x_adv, worst)
            worst_margin = torch.where(worse, found, worst_margin)
        return worst
