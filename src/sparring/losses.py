"""Losses per example: logits (..., C) and labels (...) give losses (...). C counts classes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y of the softmax, in nats."""
    if logits.ndim == 3 and not logits.is_cuda:
        # a stack's logits lie class after class in memory; taken so, four times as fast and the same to the bit
        return F.cross_entropy(logits.mT, y, reduction="none")
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1), reduction="none")
    return loss.view(y.shape)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The best wrong logit minus the right one: positive exactly when the example is misclassified.

    Keeps its gradient where cross-entropy saturates (Carlini and Wagner 2017, section V, f_6).
    """
    right = logits.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    wrong = logits.scatter(-1, y.unsqueeze(-1), -torch.inf).amax(-1)
    return wrong - right


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """log((1 - p_y) / p_y), the log odds that the model is wrong: cross-entropy before its last log, so it never saturates.

    Cross-entropy is log(1 + exp(log odds)): both rise together, and the gradient for one example has the same direction.
    """
    right = logits.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    wrong = logits.scatter(-1, y.unsqueeze(-1), -torch.inf).logsumexp(-1)
    return wrong - right


def non_saturating(logits: Tensor, y: Tensor) -> Tensor:
    """-log(1 - p_y) negated: what an adversary raises instead of cross-entropy, as a GAN's generator does.

    Goodfellow et al. 2014, section 3: equal fixed point, stronger gradient where p_y is near 1.
    """
    wrong = logits.scatter(-1, y.unsqueeze(-1), -torch.inf)
    return wrong.logsumexp(-1) - logits.logsumexp(-1)  # log(1 - p_y), exact where p_y rounds to 1


def softmax_twice(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of probabilities taken for logits: a reading of the paper's "softmax output" (ambiguity b)."""
    return cross_entropy(F.softmax(logits, -1), y)


def objective(loss: Tensor) -> Tensor:
    """Losses (..., B) as what a player steps on: the mean over each copy's own batch, of shape () or (S,).

    A player differentiates its sum; copies share no parameter, so each gets exactly the gradient it would have alone.
    """
    return loss.mean(-1)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "log_odds": log_odds,
    "non_saturating": non_saturating,
    "softmax_twice": softmax_twice,
}
