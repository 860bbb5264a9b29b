"""Certificates: which examples no point of their ball can have misclassified, by interval bounds, then by linear ones.

Linear bounds are CROWN's (Zhang et al. 2018, "Efficient neural network robustness certification with general activation
functions", section 3): a margin is bounded by one linear function of the input, found from the last layer backwards, with a
line above and one below each ReLU. Between which values a unit lies is found in the same way, layer after layer; where layers are
wide it is asked of interval bounds, as in CROWN-IBP (Zhang et al. 2020, "Towards stable and efficient training of verifiably
robust neural networks"). Letters: B batch, C classes, R rows, each a linear function.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.errors import InputError
from sparring.ibp import AFFINE, ball, check_bounded, differences, layers_of, through, worst_margins
from sparring.threat import ThreatModel

SLACK = 1e-3  # logits: a model answers in single precision, certificates are of exact arithmetic
ROUNDING = 1e-6  # on the pixel scale: what an attack's last step may be beyond its radius
AT_ONCE = 20  # examples, each of them ten times or, for bounds of units,
ROWS = 128  # times
NARROW = 1024  # inputs of an activation at most, for linear bounds of each: their time grows with the square

Box = tuple[Tensor, Tensor]  # middles, and how far it reaches to either side


@torch.no_grad()
def certified(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, batch_size: int = 500) -> Tensor:
    """Which examples x (B, *shape) with labels y (B,) no point of their ball can have misclassified: (B,) bool.

    Computed in double precision on the processor, in a ball larger by `ROUNDING`, and every margin must be below -`SLACK`.
    Linear bounds, which take hundreds of times as long, are asked where the model is right and interval bounds do not suffice.
    Raises InputError for a model that `check_bounded` refuses, has batch norm without running statistics, or whose logits are
    not those of its layers one after another.
    """
    check_bounded(model)
    exact = copy.deepcopy(model).cpu().double().eval()
    eps = threat.eps.cpu().double() if isinstance(threat.eps, Tensor) else threat.eps
    eps = torch.as_tensor(eps, dtype=torch.float64).expand(len(y)) + ROUNDING
    certain = torch.zeros(len(y), dtype=torch.bool)
    for at in torch.arange(len(y)).split(batch_size):
        inputs, labels = x[at.to(x.device)].cpu().double(), y[at.to(y.device)].cpu()
        right = _answers(exact, inputs, labels, threat)
        certain[at] = _negative(worst_margins(exact, inputs, labels, threat.at(eps[at])), labels)
        for some in (right & ~certain[at]).nonzero().flatten().split(AT_ONCE):
            bound = linear_margins(exact, inputs[some], labels[some], threat.at(eps[at[some]]))
            certain[at[some]] = _negative(bound, labels[some])
    return certain.to(y.device)


def linear_margins(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """What `sparring.ibp.worst_margins` is, for a model in evaluation mode, by linear bounds: (B, C); not differentiable."""
    check_bounded(model)
    *layers, last = layers_of(model)
    assert isinstance(last, nn.Linear)
    with torch.no_grad(), modes.evaluation(model):
        return _highest(layers, _boxes(layers, ball(x, threat)), *differences(last, y))


def _boxes(layers: Sequence[nn.Module], box: Box) -> list[Box]:
    """Between which values the inputs of each layer lie, where the first one's lie in a box.

    The inputs of an activation are bounded linearly too, unless they or an earlier one's are more than `NARROW`. Those of the
    first are not: an affine function's interval is as tight.
    """
    boxes, narrow, bent = list[Box](), True, False
    for i, layer in enumerate(layers):
        if not isinstance(layer, AFFINE):
            narrow = narrow and box[0].shape[1:].numel() <= NARROW
            if narrow and bent:
                box = _narrowed(box, layers[:i], boxes)
            bent = True
        boxes.append(box)
        box = through(layer, *box, batch_statistics=False)
    return boxes


def _narrowed(box: Box, layers: Sequence[nn.Module], boxes: Sequence[Box]) -> Box:
    """The part of the box (B, *outputs) of the layers' outputs that linear bounds of each output leave."""
    middle, reach = box
    units = torch.eye(middle.shape[1:].numel(), dtype=middle.dtype, device=middle.device).view(-1, *middle.shape[1:])
    ends = []
    for sign in (1, -1):
        rows = [sign * some.expand(len(middle), *some.shape) for some in units.split(ROWS)]
        ends.append(torch.cat([_highest(layers, boxes, row, row.new_zeros(row.shape[:2])) for row in rows], 1))
    high = torch.minimum(ends[0].view_as(middle), middle + reach)
    low = torch.maximum(-ends[1].view_as(middle), middle - reach)
    return (low + high) / 2, (high - low).clamp(min=0) / 2


def _highest(layers: Sequence[nn.Module], boxes: Sequence[Box], weight: Tensor, bound: Tensor) -> Tensor:
    """No less than weight (B, R, *outputs) times the layers' outputs, plus bound (B, R), where inputs lie in their boxes."""
    for layer, box in zip(reversed(layers), reversed(boxes), strict=True):
        weight, more = (_before_affine if isinstance(layer, AFFINE) else _before_rising)(layer, weight, box)
        bound = bound + more
    middle, reach = boxes[0]
    return bound + _summed(weight * middle.unsqueeze(1)) + _summed(weight.abs() * reach.unsqueeze(1))


def _before_affine(layer: nn.Module, weight: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Linear functions (B, C, *outputs) of a layer's outputs as such of its inputs, and what is constant in them, (B, C)."""
    middle, _ = box
    inputs = weight.new_zeros(weight.shape[0] * weight.shape[1], *middle.shape[1:]).requires_grad_()
    with torch.enable_grad():
        constant = (weight.flatten(0, 1) * layer(inputs)).flatten(1).sum(-1)
        (before,) = torch.autograd.grad(constant.sum(), inputs)
    return before.view(*weight.shape[:2], *middle.shape[1:]), constant.detach().view(weight.shape[:2])


def _before_rising(layer: nn.Module, weight: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Linear functions of a rising layer's outputs, bounded from above by such of its inputs and what is constant in them.

    A ReLU, leaky or not, lies below the chord over its box and above one of its two lines, the steeper where more of the box is
    positive. Of any other the box of its outputs is all that is used.
    """
    middle, reach = box
    rises, falls = weight.clamp(min=0), weight.clamp(max=0)
    low, high = middle - reach, middle + reach
    slope = 0.0 if isinstance(layer, nn.ReLU) else getattr(layer, "negative_slope", 2.0)
    if slope > 1:  # not convex
        least, most = layer(low.clone()), layer(high.clone())  # it may work in place
        shape = (*weight.shape[:2], *middle.shape[1:])
        return weight.new_zeros(shape), _summed(rises * most.unsqueeze(1)) + _summed(falls * least.unsqueeze(1))
    least, most = torch.where(low < 0, slope * low, low), torch.where(high < 0, slope * high, high)
    bent, flat, steep = (low < 0) & (high > 0), torch.full_like(low, slope), torch.ones_like(low)
    straight = torch.where(high <= 0, flat, steep)
    above = torch.where(bent, (most - least) / (high - low).clamp(min=torch.finfo(low.dtype).tiny), straight)
    over = torch.where(bent, least - above * low, 0.0)
    below = torch.where(bent, torch.where(high >= -low, steep, flat), straight)
    return rises * above.unsqueeze(1) + falls * below.unsqueeze(1), _summed(rises * over.unsqueeze(1))


def _summed(values: Tensor) -> Tensor:
    """Over all axes of an example: (B, C, ...) to (B, C)."""
    return values.flatten(2).sum(-1)


def _answers(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """Where the model is right; raises InputError where it does otherwise than its layers, as a hook may have it."""
    logits = model(x)
    margins = worst_margins(model, x, y, threat.at(0.0))
    if not torch.allclose(margins, logits - logits.gather(-1, y.unsqueeze(-1)), atol=SLACK / 10, rtol=1e-6):
        raise InputError("the model's logits are not those of its layers one after another: nothing can be certified")
    right: Tensor = logits.argmax(-1) == y
    return right


def _negative(margins: Tensor, y: Tensor) -> Tensor:
    """Where every margin but that of the label with itself is below zero, with something to spare."""
    return margins.scatter(-1, y.unsqueeze(-1), -torch.inf).amax(-1) < -SLACK
