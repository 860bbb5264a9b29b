"""Problems whose robust accuracy is known exactly, for tests that need no trust in any attack.

Letters: N examples, C classes, D pixels. Every x lies in the box [0, 1]^D, and so does every perturbed x.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.data.batches import Data


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """`data`, labelled without error by logits `x @ weight.T + bias`: weight (2, D), bias (2,), float64."""

    data: Data
    weight: Tensor
    bias: Tensor

    def robust_accuracy(self, eps: float) -> float:
        """The exact robust accuracy of the labelling classifier itself at eps."""
        return linear_robust_accuracy(self.data, self.weight, self.bias, eps)


def linear_problem(n: int, dims: int, seed: int) -> LinearProblem:
    """n uniform points in [0, 1]^dims, labelled by their side of a random hyperplane through the centre."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, dims, generator=generator)
    w = torch.randn(dims, generator=generator, dtype=torch.float64)
    weight = torch.stack((-w / 2, w / 2))
    bias = -weight.sum(-1) / 2
    labels = (x.double() @ weight.T + bias).argmax(-1)
    return LinearProblem(Data(x, labels, 2, f"linear-{dims}"), weight, bias)


def linear_margins(data: Data, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Each example's smallest margin, logit of y minus the best other, within eps and the box: (N,), float64.

    Identity: for a linear classifier, weight (C, D) and bias (C,), the margin against class j is v.x + c,
    with v = weight[y] - weight[j] and c = bias[y] - bias[j]. Pixel i of x' runs over [max(0, x_i - eps),
    min(1, x_i + eps)], each by itself, so the least v.x' takes the lower end where v_i > 0 and the upper
    end elsewhere. Where the box clips nothing, that is v.x + c - eps * ||v||_1.
    """
    x, y = data.floats().flatten(1).double(), data.labels
    weight, bias = weight.double(), bias.double()
    v = weight[y].unsqueeze(1) - weight  # (N, C, D)
    c = bias[y].unsqueeze(1) - bias  # (N, C)
    lowest, highest = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    worst = torch.where(v > 0, lowest.unsqueeze(1), highest.unsqueeze(1))
    margins = (v * worst).sum(-1) + c
    return margins.scatter(1, y.unsqueeze(1), torch.inf).amin(1)  # not against itself


def linear_robust_accuracy(data: Data, weight: Tensor, bias: Tensor, eps: float) -> float:
    """The exact share of examples that no perturbation within eps and the box makes a linear classifier get
    wrong.

    A tie counts as wrong. See `linear_margins` for the identity.
    """
    return float((linear_margins(data, weight, bias, eps) > 0).double().mean())


def threshold_problem(n: int, threshold: float = 0.5) -> Data:
    """The n midpoints of n equal parts of [0, 1], of shape (1,); label 1 above the threshold, 0 below."""
    x = (torch.arange(n, dtype=torch.float64) + 0.5).div(n).to(torch.float32).unsqueeze(1)
    return Data(x, (x[:, 0].double() > threshold).long(), 2, "threshold")


def threshold_robust_accuracy(data: Data, threshold: float, eps: float) -> float:
    """The exact robust accuracy at eps of "1 above `threshold`, a number in [0, 1]" on a `threshold_problem`.

    Identity: x can be moved across exactly when it lies within eps of the threshold, which is inside the
    box. With the problem's own threshold this tends to 1 - 2 * eps as n grows, for eps <= threshold <= 1 -
    eps.
    """
    x, y = data.floats()[:, 0].double(), data.labels
    distance = torch.where(y == 1, x - threshold, threshold - x)
    return float((distance > eps).double().mean())
