"""A trained adversary as an attack like any other."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from sparring import modes
from sparring.adversaries import Adversary
from sparring.threat import ThreatModel

Clip = Literal["plain", "straight_through", "none"]


@dataclass(frozen=True, eq=False)
class LearnedAttack:
    """x_adv = clip(x + eps * A(x)), the adversary A in evaluation mode (paper, section 3.1).

    Differentiable in A's parameters; evaluation detaches. It asks the model nothing: one forward pass of A, none of the model.
    `mode` "training" leaves A's batch norm in training mode (its statistics are put back): part of the *paper* protocol.
    """

    adversary: Adversary
    threat: ThreatModel
    mode: Literal["evaluation", "training"] = "evaluation"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        training = self.mode == "training"
        with modes.training(self.adversary, keep_statistics=True) if training else modes.evaluation(self.adversary):
            return self.threat.project(perturb(self.adversary, self.threat, x), x)

    def __repr__(self) -> str:
        return f"LearnedAttack(bound={self.adversary.bound!r}, threat={self.threat}, mode={self.mode!r})"


def perturb(adversary: Adversary, threat: ThreatModel, x: Tensor, clip: Clip = "plain") -> Tensor:
    """x + eps * A(x) in A's present mode, clipped to the pixel range (ambiguity s).

    "plain": a clipped pixel passes no gradient. "straight_through": clipped forwards, not backwards. "none": not clipped,
    so outside the threat model; for training only.
    """
    free: Tensor = x + threat.radius(x) * adversary(x)
    if clip == "none":
        return free
    clipped = free.clamp(threat.low, threat.high)
    return free + (clipped - free).detach() if clip == "straight_through" else clipped
