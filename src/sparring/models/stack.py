"""S independent copies as one network: inputs (S, B, *shape) to outputs (S, B, C), by batched matrix products.

Copies share nothing: copy s computes, and is trained to, exactly what it would alone. Shared inputs are shown to all
copies by `x.expand(S, *x.shape)`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.models.mlp import MLP


class StackedMLP(nn.Module):
    """S multilayer perceptrons of one architecture; each parameter has a leading axis S."""

    def __init__(self, networks: Sequence[MLP]) -> None:
        super().__init__()
        first = networks[0]
        if any((n.shape, n.sizes, n.slope) != (first.shape, first.sizes, first.slope) for n in networks):
            raise ValueError(f"a stack needs networks of one architecture, got sizes {[n.sizes for n in networks]}")
        self.shape, self.sizes, self.slope = first.shape, first.sizes, first.slope
        states = [network.state_dict() for network in networks]
        layers = range(len(first.linears))
        self.weights = nn.ParameterList(_stacked(states, f"linears.{i}.weight") for i in layers)
        self.biases = nn.ParameterList(_stacked(states, f"linears.{i}.bias") for i in layers)
        self.norms = nn.ModuleList(_StackedBatchNorm(states, i, norm) for i, norm in enumerate(first.norms))

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(-len(self.shape)) if len(self.shape) > 1 else x
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias.unsqueeze(-2), h, weight.mT)
            if i < last:
                h = F.leaky_relu(self.norms[i](h), self.slope)
        return h

    def copy_to(self, networks: Sequence[MLP]) -> None:
        """Write copy s into networks[s], parameters and statistics: the way back to plain models."""
        with torch.no_grad():
            for s, network in enumerate(networks):
                for i, linear in enumerate(network.linears):
                    assert isinstance(linear, nn.Linear)
                    linear.weight.copy_(self.weights[i][s])
                    linear.bias.copy_(self.biases[i][s])
                for mine, norm in zip(self.norms, network.norms, strict=True):
                    assert isinstance(mine, _StackedBatchNorm) and isinstance(norm, nn.BatchNorm1d)
                    mine.copy_to(norm, s)


def stack(networks: Sequence[MLP]) -> StackedMLP:
    """The networks as one, with leading axis S = len(networks)."""
    return StackedMLP(networks)


class _StackedBatchNorm(nn.Module):
    """Batch norm over B within each copy: statistics of shape (S, C), for inputs (S, B, C)."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, states: Sequence[dict[str, Tensor]], layer: int, norm: nn.Module) -> None:
        super().__init__()
        assert isinstance(norm, nn.BatchNorm1d)
        self.eps, self.momentum = norm.eps, norm.momentum or 0.0
        self.weight = _stacked(states, f"norms.{layer}.weight")
        self.bias = _stacked(states, f"norms.{layer}.bias")
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.stack([state[f"norms.{layer}.{name}"] for state in states]))

    def forward(self, h: Tensor) -> Tensor:
        n_copies, n_batch, n_channels = h.shape
        across = h.transpose(-3, -2).reshape(
            n_batch, n_copies * n_channels
        )  # every (copy, channel) is a channel of its own
        if self.training:
            self.num_batches_tracked.add_(1)
        normalised = F.batch_norm(
            across,
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            self.training,
            self.momentum,
            self.eps,
        )
        return normalised.view(n_batch, n_copies, n_channels).transpose(-3, -2)

    def copy_to(self, norm: nn.BatchNorm1d, s: int) -> None:
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            getattr(norm, name).copy_(getattr(self, name)[s])


def _stacked(states: Sequence[dict[str, Tensor]], name: str) -> nn.Parameter:
    return nn.Parameter(torch.stack([state[name].detach() for state in states]))
