"""Radii of training: the same for all examples, or drawn anew for each at every step, so that one model is trained for all.

Letters: n examples of a minibatch, K queries.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.randomness import Stream
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class Radii:
    """Radii uniform from `low` to `high`, from their own stream; low None: all are `high`, and nothing is drawn.

    A minibatch's radii are spread over the whole range and ascend: [low, high] is cut into n parts, and example i draws from part
    i. As the examples come in a random order, each one's radius is uniform.
    """

    high: float
    low: float | None
    stream: Stream

    def aim(self, threat: ThreatModel, y: Tensor) -> ThreatModel:
        """The threat at a radius for each of the labels (...), drawn where radii are."""
        if self.low is None:
            return threat
        within = (self.stream.uniform(torch.empty(y.shape, device=y.device)) + 1) / 2
        share = (torch.arange(y.shape[-1], device=y.device) + within) / y.shape[-1]
        return threat.at(self.low + (self.high - self.low) * share)

    def first(self, n: int, queries: int) -> tuple[int, ...]:
        """For each of K queries the first of n examples that it is worth, which ascend as radii do: query k, counted from 1,
        above the radius high * k / (K + 1). The smaller a ball, the less there is to search for in it."""
        if self.low is None or self.low == self.high:
            return (0,) * queries
        shares = ((self.high * k / (queries + 1) - self.low) / (self.high - self.low) for k in range(1, queries + 1))
        return tuple(min(max(0, round(n * share)), n - 1) for share in shares)
