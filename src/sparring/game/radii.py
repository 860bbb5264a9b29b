"""Radii of training: the same for all examples, or drawn anew for each at every step, so that one model is trained for all.

Letters: n examples of a minibatch, K queries.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.config import share_below
from sparring.randomness import Stream
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class Radii:
    """Radii low + (high - low) * v ** power, v uniform in [0, 1], from their own stream: with more power more are small.

    With low None all are `high`, and nothing is drawn.

    A minibatch's radii are spread over the whole range and ascend: [0, 1] is cut into n parts, and example i draws its v from
    part i. As the examples come in a random order, each one's v is uniform.
    """

    high: float
    low: float | None
    stream: Stream
    power: float = 1.0

    def aim(self, threat: ThreatModel, y: Tensor) -> ThreatModel:
        """The threat at a radius for each of the labels (...), drawn where radii are."""
        if self.low is None:
            return threat
        within = (self.stream.uniform(torch.empty(y.shape, device=y.device)) + 1) / 2
        share = (torch.arange(y.shape[-1], device=y.device) + within) / y.shape[-1]
        return threat.at(self.low + (self.high - self.low) * (share if self.power == 1 else share**self.power))

    def first(self, n: int, queries: int) -> tuple[int, ...]:
        """For each of K queries the index of the first of n examples that has it; all later ones, whose radii are larger, have it
        too. Query k, counted from 1, is for radii above high * k / (K + 1): the smaller a ball, the less is found in it."""
        if self.low is None or self.low == self.high:
            return (0,) * queries
        least = (self.high * k / (queries + 1) for k in range(1, queries + 1))
        return tuple(min(round(n * share_below(radius, self.low, self.high, self.power)), n - 1) for radius in least)
