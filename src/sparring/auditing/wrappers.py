"""Models as an attack sees them: averaged over draws where they are random, attached where no gradient reaches the input."""

import torch
from torch import Tensor, nn


class Averaged(nn.Module):
    """The expected classifier of a random model: log of the mean softmax over `draws` passes, all in one batch."""

    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x.repeat(self.draws, *[1] * (x.ndim - 1)))
        log_p = logits.log_softmax(-1).view(self.draws, len(x), -1)
        mean: Tensor = log_p.logsumexp(0)  # up to a constant
        return mean


class Attached(nn.Module):
    """A model with a zero times the input added, so that autograd runs through; what is not differentiable has gradient zero."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + (0 * x).flatten(1).sum(1, keepdim=True)


def attached(model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    """The model itself where a gradient reaches its input, else `Attached`."""
    with torch.enable_grad():
        probe = x[:2].detach().clone().requires_grad_()
        try:
            out = model(probe)
            torch.autograd.grad(out.sum(), probe)
        except RuntimeError:
            return Attached(model)
    return model
