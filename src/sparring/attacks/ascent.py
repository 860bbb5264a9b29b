"""Losses that an attack raises, with their derivative in the logits in closed form.

Each takes logits (N, C), labels (N,) and targets (N,) or None, and gives the loss (N,) and a direction (N, C): a positive
multiple, another one for each example, of the derivative. Attacks that follow signs need no more, and what would vanish in
rounding need not be computed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Ascent = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def cross_entropy(logits: Tensor, y: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """u = log sum exp of the wrong logits - the right one; cross-entropy is log(1 + exp(u)), so both rise together.

    Its derivative is p_j at the wrong classes and -(1 - p_y) at the right one. Divided by 1 - p_y that is the softmax over the
    wrong classes and -1, which stay exact where p_y rounds to 1 and cross-entropy's own gradient is lost.
    """
    right = y.unsqueeze(-1)
    wrong = logits.scatter(-1, right, -torch.inf)
    loss = wrong.logsumexp(-1) - logits.gather(-1, right).squeeze(-1)
    return loss, wrong.softmax(-1).scatter_(-1, right, -1.0)


def margin(logits: Tensor, y: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """The target's logit minus the right one; without a target, the best wrong one's."""
    if target is None:
        target = logits.scatter(-1, y.unsqueeze(-1), -torch.inf).argmax(-1)
    ahead = torch.zeros_like(logits).scatter_(-1, target.unsqueeze(-1), 1.0).scatter_(-1, y.unsqueeze(-1), -1.0)
    return (logits * ahead).sum(-1), ahead


def dlr(logits: Tensor, y: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """The difference of logits ratio, negated (Croce and Hein 2020, "Reliable evaluation", equations 6 and 7).

    (z_t - z_y) / (z_1 - z_3) with z_1 >= z_2 >= ... and t the best wrong class; with a target, over z_1 - (z_3 + z_4) / 2. The
    direction is the derivative times the denominator. Needs three classes, four with a target.
    """
    ahead, direction = margin(logits, y, target)
    top = logits.topk(3 if target is None else 4, dim=-1)
    low = 1.0 if target is None else 0.5
    spread = top.values[:, 0] - low * top.values[:, 2:].sum(-1) + 1e-12
    loss = ahead / spread
    weight = torch.full_like(top.values, low)
    weight[:, 0], weight[:, 1] = -1.0, 0.0
    return loss, direction.scatter_add_(-1, top.indices, weight * loss.unsqueeze(-1))


ASCENTS: dict[str, Ascent] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
