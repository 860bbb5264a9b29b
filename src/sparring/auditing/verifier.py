"""The independent verifier: reads saved adversarial images again and trusts nothing that was said about them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.precision import widened


@dataclass(frozen=True)
class Verified:
    """What the images are: N examples, how many lie outside, the largest distance, and who survives."""

    n: int
    out_of_range: int  # examples with a pixel outside [0, 1], or not finite
    out_of_ball: int
    distance: float
    correct: Tensor  # (N,) bool, by the true labels; a non-finite logit is not correct


def verify(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, eps: float, tolerance: float) -> Verified:
    """Measure with the most digits, predict one more time, in other batches than the attack's."""
    saved, clean = widened(x_adv).flatten(1), widened(x).flatten(1)
    distance = (saved - clean).abs().amax(1)
    in_range = ((saved >= 0) & (saved <= 1)).all(1)
    correct = []
    with torch.no_grad(), modes.evaluation(model):
        for part, labels in zip(x_adv.split(97), y.split(97), strict=True):
            out = model(part)
            correct.append((out.argmax(-1) == labels) & torch.isfinite(out).all(-1))
    return Verified(
        n=len(y),
        out_of_range=int((~in_range).sum()),
        out_of_ball=int((~(distance <= eps + tolerance)).sum()),
        distance=float(distance.max()),
        correct=torch.cat(correct).cpu(),
    )
