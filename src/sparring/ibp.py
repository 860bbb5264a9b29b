"""Interval bound propagation: how wrong a network can be anywhere in a ball, by interval arithmetic layer after layer (Gowal et
al. 2018, "On the effectiveness of interval bound propagation for training verifiably robust models", sections 3 and 4).

The bound is sound and loose: what it rules out no attack finds, and what it does not rule out may be safe too. A network that
was not trained for it has hardly an example for which it says anything; `crown.py` is tighter. Letters: B batch, C classes, H
last hidden units.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.errors import InputError
from sparring.models import MLP, Normalize
from sparring.threat import ThreatModel

RISING = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ReLU6,
    nn.Hardtanh,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.ELU,
    nn.CELU,
    nn.Softsign,
    nn.LogSigmoid,
)
AVERAGING = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
LARGEST = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
SHAPING = (nn.Flatten, nn.Unflatten, nn.Identity)
RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)  # of no effect in evaluation mode, which is what is bounded
AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, Normalize, *AVERAGING, *SHAPING, *RANDOM)
KNOWN = (*AFFINE, *RISING, *LARGEST)


def worst_margins(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, batch_statistics: bool = False
) -> Tensor:
    """No less than logit k minus logit y at any point of the threat model's balls around x: (B, C), 0 at y; differentiable.

    x (B, *shape) with labels y (B,); the radius may be a number or (B,). The model is bounded as it is in evaluation mode, or
    with the batch norm statistics of this batch's interval midpoints; running statistics stay as they are. Raises InputError
    for a model that is not a `models.mlp` or a Sequential of layers known here.
    """
    check_bounded(model)
    *layers, last = layers_of(model)
    assert isinstance(last, nn.Linear)
    middle, reach = ball(x, threat)
    for layer in layers:
        middle, reach = through(layer, middle, reach, batch_statistics)
    weight, bias = differences(last, y)
    return torch.einsum("bch,bh->bc", weight, middle) + torch.einsum("bch,bh->bc", weight.abs(), reach) + bias


def check_bounded(model: nn.Module) -> None:
    """Raises InputError where `worst_margins` has no rule for a part of the model, before anything is trained."""
    layers = list(layers_of(model))
    if not layers or not isinstance(layers[-1], nn.Linear):
        came = type(layers[-1]).__name__ if layers else "no layer"
        raise InputError(f"interval bounds need a model that ends in a Linear layer; got {came} at its end")
    for layer in layers:
        falls = getattr(layer, "negative_slope", 0.0) < 0 or (isinstance(layer, nn.ELU) and layer.alpha < 0)
        if type(layer) not in KNOWN or falls:  # a subclass may compute anything
            raise InputError(
                f"interval bounds have no rule for {layer}: they know models.mlp and a Sequential of linear, convolution, "
                "batch norm, pooling and rising activation layers"
            )


def ball(x: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """The threat model's balls around x as boxes: their middles, and how far they reach to either side."""
    radius = threat.radius(x)
    low, high = (x - radius).clamp(threat.low, threat.high), (x + radius).clamp(threat.low, threat.high)
    return (low + high) / 2, (high - low) / 2


def differences(last: nn.Linear, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits minus the right one as linear functions of the last hidden units: weights (B, C, H) and biases (B, C)."""
    weight = last.weight - last.weight[y].unsqueeze(1)
    bias = weight.new_zeros(()) if last.bias is None else last.bias - last.bias[y].unsqueeze(1)
    return weight, bias.expand(weight.shape[:-1])


def layers_of(model: nn.Module) -> Iterator[nn.Module]:
    """The model's layers in the order in which an input meets them."""
    if type(model) is MLP:
        yield nn.Flatten(-len(model.shape)) if len(model.shape) > 1 else nn.Identity()
        for linear, norm in zip(model.linears[:-1], model.norms, strict=True):
            yield from (linear, norm, nn.LeakyReLU(model.slope))
        yield model.linears[-1]
    elif type(model) is nn.Sequential:
        for part in model:
            yield from layers_of(part)
    else:
        yield model


def through(layer: nn.Module, middle: Tensor, reach: Tensor, batch_statistics: bool) -> tuple[Tensor, Tensor]:
    """The box of a layer's answers to a box of inputs, each as its middle and how far it reaches to either side."""
    if isinstance(layer, nn.Linear):
        return layer(middle), F.linear(reach, layer.weight.abs())
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return layer(middle), layer._conv_forward(reach, layer.weight.abs(), None)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return _normalised(layer, middle, reach, batch_statistics)
    if isinstance(layer, Normalize):
        return layer(middle), (reach / layer.std).abs()
    if isinstance(layer, RANDOM):
        return middle, reach
    if isinstance(layer, SHAPING + AVERAGING):
        return layer(middle), layer(reach).abs()
    low, high = layer(middle - reach), layer(middle + reach)
    return (low + high) / 2, (high - low) / 2


def _normalised(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, middle: Tensor, reach: Tensor, batch_statistics: bool
) -> tuple[Tensor, Tensor]:
    over = (1, -1, *[1] * (middle.ndim - 2))
    mean, variance = norm.running_mean, norm.running_var
    if not batch_statistics and (mean is None or variance is None):
        raise InputError("interval bounds need batch norm with running statistics: without them an answer has no bound")
    if batch_statistics or mean is None or variance is None:
        variance, mean = torch.var_mean(middle, [0, *range(2, middle.ndim)], correction=0)
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    return middle * scale.view(over) + shift.view(over), reach * scale.abs().view(over)
