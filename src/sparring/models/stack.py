"""S independent copies as one network: inputs (S, B, *shape) to outputs (S, B, C), by batched matrix products.

Copies share nothing: copy s computes, and is trained to, exactly what it would alone. Shared inputs are shown to all
copies by `x.expand(S, *x.shape)`. A stack's state_dict has the names of one network's, each tensor with a leading axis S.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparring.errors import CannotStack, InputError
from sparring.models.functional import FunctionalStack, n_hooks
from sparring.models.mlp import MLP


class StackedMLP(nn.Module):
    """S multilayer perceptrons of one architecture."""

    def __init__(self, networks: Sequence[MLP]) -> None:
        super().__init__()
        first = networks[0]
        for s, network in enumerate(networks[1:], start=1):
            if _architecture(network) != _architecture(first):
                raise CannotStack(
                    f"a stack needs networks of one architecture: network {s} has {_architecture(network)}, "
                    f"network 0 {_architecture(first)}"
                )
        self.shape, self.sizes, self.slope = first.shape, first.sizes, first.slope
        linears = zip(*(network.linears for network in networks), strict=True)
        norms = zip(*(network.norms for network in networks), strict=True)
        self.linears = nn.ModuleList(_StackedLinear(layers) for layers in linears)
        self.norms = nn.ModuleList(_StackedBatchNorm(layers) for layers in norms)

    def forward(self, x: Tensor) -> Tensor:
        h = (x.flatten(-len(self.shape)) if len(self.shape) > 1 else x).mT  # (S, D, B) from here on
        for linear, norm in zip(self.linears, self.norms, strict=False):
            h = norm(linear(h), self.slope)
        logits: Tensor = self.linears[-1](h).mT
        return logits


class Shared(nn.Module):
    """One network shown to all copies: inputs (S, B, *shape) go through it as one batch, (S * B, *shape)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x.flatten(0, 1))
        return out.view(*x.shape[:2], *out.shape[1:])


def stack(networks: Sequence[nn.Module], probe: Tensor | None = None) -> nn.Module:
    """The networks as one, with leading axis S = len(networks): our perceptrons natively, any others by mapping their code.

    With a `probe` batch (B, *shape) others are tried out first. Raises CannotStack where they cannot be one.
    """
    if networks and all(_is_plain(network) for network in networks):
        return StackedMLP(networks)  # type: ignore[arg-type]
    return FunctionalStack(networks, probe)


LARGE = 2_500_000  # parameters of a stack that a processor's caches still serve well


def stack_sizes(n: int, parameters: int, device: torch.device) -> list[int]:
    """In stacks of how many n copies of so many parameters each train fastest: all in one, but where large on a processor.

    A step passes over all of a stack's weights, gradients and momenta many times. Two copies of the paper's adversary take a
    tenth to a fifth less time each than ten do (docs/performance.md); one alone pays every call's overhead by itself.
    """
    if device.type != "cpu":
        return [n]
    parts = max(1, n // max(2, LARGE // parameters))
    return [n // parts + (part < n % parts) for part in range(parts)]


def check_single(model: nn.Module, what: str) -> None:
    """Raises InputError for a stack, where `what` takes one network."""
    if isinstance(model, StackedMLP | FunctionalStack):
        n = len(next(model.parameters()))
        raise InputError(
            f"{what} takes one network, got a stack of {n}; take its copies out with sparring.models.copy_to, one by one"
        )


@torch.no_grad()
def copy_to(stacked: nn.Module, s: int, network: nn.Module) -> None:
    """Write copy s into a plain network, parameters and buffers: the way back from a stack."""
    network.load_state_dict({name: tensor[s] for name, tensor in stacked.state_dict().items()})
    buffers = dict(stacked.named_buffers())
    for name, buffer in network.named_buffers():  # a state_dict holds only those that are saved
        buffer.copy_(buffers[name][s])


@torch.no_grad()
def keep_copies(stacked: nn.Module, index: Tensor) -> None:
    """Narrow a stack, in place, to the copies at these indices; whoever holds one of its parameters still does."""
    for parameter in stacked.parameters():
        parameter.data = parameter.data[index]
    for module in stacked.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer[index]


class _StackedLinear(nn.Module):
    """S linear layers: features (S, K, B) to (S, N, B), weights (S, N, K).

    With the batch last, every gradient comes out of its matrix product in the layout of what it belongs to.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = _stacked([layer.weight for layer in layers])
        self.bias = _stacked([layer.bias for layer in layers])

    def forward(self, h: Tensor) -> Tensor:
        if h.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            out: Tensor = _Product.apply(self.bias, self.weight, h)  # type: ignore[no-untyped-call]
            return out
        return torch.baddbmm(self.bias.unsqueeze(-1), self.weight, h)


class _Product(torch.autograd.Function):
    """baddbmm whose gradient for h lies in memory as h does.

    Pixels come example after example. A gradient that came feature after feature, as baddbmm's does, would make every later
    pass over pixels, an attack's step or a join of two half-batches, stride through memory.
    """

    @staticmethod
    def forward(ctx: Any, bias: Tensor, weight: Tensor, h: Tensor) -> Tensor:
        ctx.save_for_backward(weight, h)
        return torch.baddbmm(bias.unsqueeze(-1), weight, h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, h = ctx.saved_tensors
        for_bias, for_weight, for_h = ctx.needs_input_grad
        by_example = h.stride(-2) == 1
        return (
            grad.sum(-1) if for_bias else None,
            torch.bmm(grad, h.mT) if for_weight else None,
            (torch.bmm(grad.mT, weight).mT if by_example else torch.bmm(weight.mT, grad)) if for_h else None,
        )


class _StackedBatchNorm(nn.Module):
    """Batch norm over B within each copy, and leaky ReLU: statistics of shape (S, C), for features (S, C, B)."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norms: Sequence[nn.BatchNorm1d]) -> None:
        super().__init__()
        self.eps, self.momentum = norms[0].eps, norms[0].momentum or 0.0
        self.weight = _stacked([norm.weight for norm in norms])
        self.bias = _stacked([norm.bias for norm in norms])
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.stack([getattr(norm, name) for norm in norms]))

    def forward(self, h: Tensor, slope: float) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        normalised = F.batch_norm(
            h.reshape(1, -1, h.shape[-1]),  # every (copy, channel) is a channel of its own
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            self.training,
            self.momentum,
            self.eps,
        )
        return F.leaky_relu(normalised, slope, inplace=slope >= 0).view(h.shape)  # of a view it would be a copy


def _is_plain(network: nn.Module) -> bool:
    """An MLP as `mlp` makes it: no part of it exchanged, frozen, tied, pruned or hooked."""
    if type(network) is not MLP or any(
        type(module) not in _PARTS or n_hooks(module) or "forward" in vars(module) for module in network.modules()
    ):
        return False
    layers = [(f"linears.{i}", _PARTS[nn.Linear]) for i in range(len(network.sizes))]
    layers += [(f"norms.{i}", _PARTS[nn.BatchNorm1d]) for i in range(len(network.sizes) - 1)]
    expected = {f"{layer}.{name}" for layer, names in layers for name in names}
    held = dict(network.named_parameters()) | dict(network.named_buffers())
    return set(held) == expected and all(parameter.requires_grad for parameter in network.parameters())


_PARTS: dict[type[nn.Module], tuple[str, ...]] = {
    MLP: (),
    nn.ModuleList: (),
    nn.Linear: ("weight", "bias"),
    nn.BatchNorm1d: ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
}  # what an MLP consists of, and the tensors that each holds by itself


def _architecture(network: MLP) -> dict[str, object]:
    """All of an MLP but values."""
    norms = [(norm.eps, norm.momentum) for norm in network.norms]
    return {"shape": network.shape, "sizes": network.sizes, "slope": network.slope, "norms": norms}


def _stacked(parameters: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.stack([parameter.detach() for parameter in parameters]))
