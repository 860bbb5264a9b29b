"""Radii of training: the same for all examples, or drawn anew for each at every step, so that one model is trained for all."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.randomness import Stream
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class Radii:
    """Radii uniform from `low` to `high`, from their own stream; low None: all are `high`, and nothing is drawn."""

    high: float
    low: float | None
    stream: Stream

    def aim(self, threat: ThreatModel, y: Tensor) -> ThreatModel:
        """The threat at a radius for each of the labels (...), drawn where radii are."""
        if self.low is None:
            return threat
        share = (self.stream.uniform(torch.empty(y.shape, device=y.device)) + 1) / 2
        return threat.at(self.low + (self.high - self.low) * share)
