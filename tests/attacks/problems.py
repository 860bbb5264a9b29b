"""Models and examples that the tests of the strong attacks share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparring.attacks import APGD, FAB, Attack, RayS, Square
from sparring.data.batches import Data
from sparring.models import mlp
from sparring.threat import ThreatModel

SHAPE = (1, 5, 5)


class Linear(nn.Module):
    """Logits x @ weight.T + bias in float64, whatever x is."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.double()), nn.Parameter(bias.double())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).double() @ self.weight.T + self.bias


class Of(nn.Module):
    """A function as a model that counts its forward passes."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.function(x)


def trained_model() -> nn.Module:
    """A network whose batch norm has seen data, in evaluation mode, float64."""
    generator = torch.Generator().manual_seed(0)
    model = mlp(SHAPE, [32, 16, 6], generator=generator).double().train()
    for _ in range(20):
        model(torch.rand(64, *SHAPE, generator=generator, dtype=torch.float64))
    return model.eval()


def own_batch(model: nn.Module, n: int = 40) -> tuple[Tensor, Tensor]:
    """Images with the model's own answers for labels, the first two replaced by wrong ones."""
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = model(x).argmax(-1)
    y[:2] = (y[:2] + 1) % 6
    return x, y


def four_classes() -> tuple[nn.Module, Data, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    bias = -weight.sum(-1) / 2
    x = torch.rand(200, 8, generator=generator)
    model = Linear(weight, bias)
    return model, Data(x, model(x).argmax(-1), 4, "four"), weight, bias


def strong(threat: ThreatModel) -> dict[str, Attack]:
    """One of each, cheap."""
    return {
        "cross-entropy": APGD(threat, steps=8),
        "dlr": APGD(threat, "dlr", steps=8),
        "dlr targets": APGD(threat, "dlr", targets=3, steps=8),
        "margin targets": APGD(threat, "margin", targets=9, steps=8, restarts=2),
        "square": Square(threat, queries=40),
        "fab": FAB(threat, steps=8),
        "rays": RayS(threat, queries=60),
    }


def broken(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x_adv).argmax(-1) != y
