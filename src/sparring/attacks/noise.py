"""Random perturbations: the weakest opponent, and the yardstick beside every other (paper, section 4.2)."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor, nn

from sparring.errors import one_of
from sparring.randomness import Stream
from sparring.threat import ThreatModel

Law = Literal["uniform", "sign"]


@dataclass(frozen=True)
class Noise:
    """Uniform in [-eps, eps] per pixel, or +-eps with random signs; clipped to the pixel range.

    Raises InputError for another law.
    """

    threat: ThreatModel
    law: Law = "uniform"
    stream: Stream = field(default_factory=lambda: Stream(0, "noise"))

    def __post_init__(self) -> None:
        one_of("law", self.law, get_args(Law))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        delta = self.direction(model, x, y)
        # threat.moved(x, delta), to the bit, in fewer passes over memory
        return delta.mul_(self.threat.radius(x)).add_(x).clamp_(self.threat.low, self.threat.high)

    def direction(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """A draw d in [-1, 1]; x + eps * d, clipped, is the perturbed input at every eps."""
        noise = self.stream.uniform(x)
        return noise.sign_() if self.law == "sign" else noise
