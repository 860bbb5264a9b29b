"""What a defender may be asked beside the game: that interval arithmetic, too, find little wrong in the ball."""

from dataclasses import dataclass

from torch import Tensor, nn

from sparring.ibp import worst_margins
from sparring.losses import cross_entropy, objective
from sparring.randomness import Stream
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class Assurance:
    """A share of the defender's objective: the cross-entropy of the worst logits that interval bounds allow (`sparring.ibp`).

    The rest is the game's (De Palma et al. 2024, "Expressive losses for verified robustness via convex combinations", MTL-IBP).
    At first bounds are wide, and would push all weights to zero: so they are asked for in balls that grow from nothing to
    their radii over the first half of the training's `steps`. `stream` says where the training stands, in epochs of `every`
    steps; nothing is drawn from it.
    """

    share: float
    steps: int
    every: int
    stream: Stream

    def part_of(self, played: Tensor, network: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
        """The whole objective, (), for the game's part of it and the examples that were perturbed."""
        margins = worst_margins(network, x, y, threat.at(threat.eps * self.grown()), batch_statistics=True)
        return (1 - self.share) * played + self.share * objective(cross_entropy(margins, y))

    def grown(self) -> float:
        """The share of their radii that the balls have now."""
        epoch, step = self.stream.position
        return min(1.0, 2 * (epoch * self.every + step) / self.steps)
