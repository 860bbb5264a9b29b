"""SGD and Adam over given gradients, with a learning rate per copy; for one copy they equal torch.optim.

The rate is a tensor of shape () or (S,), S copies; parameters of a stack have the leading axis S.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sparring.precision import widened


class Optimizer(ABC):
    """Steps parameters along gradients handed in; `maximize` walks up instead of down."""

    def __init__(self, parameters: Sequence[Tensor], lr: Tensor, *, weight_decay: float, maximize: bool) -> None:
        self.parameters = list(parameters)
        self.lr = lr
        self.weight_decay = weight_decay
        self.maximize = maximize

    @abstractmethod
    def step(self, grads: Sequence[Tensor]) -> None:
        """Move every parameter; gradients come in the parameters' order."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the parameters; live tensors, to be copied into by `load`."""

    @abstractmethod
    def keep(self, index: Tensor) -> None:
        """Narrow a stack's state to the copies at these indices; its parameters have been narrowed already."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a saved state."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def descend(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of what is to be lowered, weight decay added."""
        signed = torch._foreach_neg(list(grads)) if self.maximize else list(grads)
        if self.weight_decay:
            return list(torch._foreach_add(signed, self.parameters, alpha=self.weight_decay))
        return list(signed)

    def walk(self, directions: Sequence[Tensor]) -> None:
        """parameters -= lr * directions, with each copy's own rate."""
        for parameter, direction in zip(self.parameters, directions, strict=True):
            parameter.sub_(_beside(self.lr, parameter) * direction)


class SGD(Optimizer):
    """Momentum SGD: b <- m b + g + w p; p <- p - lr b (torch.optim.SGD's form: the rate multiplies the buffer)."""

    def __init__(
        self, parameters: Sequence[Tensor], lr: Tensor, *, momentum: float, weight_decay: float, maximize: bool
    ) -> None:
        super().__init__(parameters, lr, weight_decay=weight_decay, maximize=maximize)
        self.momentum = momentum
        self.buffers = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> None:
        if self.lr.ndim and self.lr.is_cuda:  # a few kernels for all copies
            torch._foreach_mul_(self.buffers, self.momentum)
            torch._foreach_add_(self.buffers, self.descend(grads))
            self.walk(self.buffers)
            return
        grads = [_as_laid_out(grad, parameter) for grad, parameter in zip(grads, self.parameters, strict=True)]
        each = [self.parameters], [grads], [self.buffers], [self.lr]
        if self.lr.ndim:
            each = _by_copy(self.parameters), _by_copy(grads), _by_copy(self.buffers), list(self.lr)
        for parameters, grads_here, buffers, lr in zip(*each, strict=True):
            torch._fused_sgd_(  # one pass over the memory instead of three
                parameters,
                grads_here,
                buffers if self.momentum else [],  # what the fused step expects without momentum
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                lr=lr,
                dampening=0.0,
                nesterov=False,
                maximize=self.maximize,
                is_first_step=False,
            )

    def keep(self, index: Tensor) -> None:
        self.lr = self.lr[index]
        self.buffers = [buffer[index] for buffer in self.buffers]

    def state(self) -> dict[str, Tensor]:
        return {f"buffer.{i}": buffer for i, buffer in enumerate(self.buffers)}


class Adam(Optimizer):
    """Adam with coupled weight decay (Kingma and Ba 2015, algorithm 1); betas 0.9 and 0.999, epsilon 1e-8."""

    def __init__(self, parameters: Sequence[Tensor], lr: Tensor, *, weight_decay: float, maximize: bool) -> None:
        super().__init__(parameters, lr, weight_decay=weight_decay, maximize=maximize)
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.n_steps = torch.zeros_like(lr)

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> None:
        g = self.descend(grads)
        self.n_steps.add_(1)
        steps = widened(self.n_steps)  # a tensor throughout: nothing waits for the device
        torch._foreach_lerp_(self.means, g, 1 - 0.9)
        torch._foreach_mul_(self.squares, 0.999)
        torch._foreach_addcmul_(self.squares, g, g, 1 - 0.999)
        scale = torch._foreach_sqrt(self.squares)
        _divide_(scale, (1 - 0.999**steps).sqrt())
        torch._foreach_add_(scale, 1e-8)
        directions = torch._foreach_div(self.means, scale)
        _divide_(directions, 1 - 0.9**steps)
        self.walk(directions)

    def keep(self, index: Tensor) -> None:
        self.lr = self.lr[index]
        self.means = [mean[index] for mean in self.means]
        self.squares = [square[index] for square in self.squares]
        self.n_steps = self.n_steps[index]

    def state(self) -> dict[str, Tensor]:
        means = {f"mean.{i}": m for i, m in enumerate(self.means)}
        return means | {f"square.{i}": s for i, s in enumerate(self.squares)} | {"n_steps": self.n_steps}


def _beside(value: Tensor, parameter: Tensor) -> Tensor:
    """A number of shape (), or one a copy, (S,), in a form that broadcasts against a parameter (S, ...)."""
    return value.view(-1, *[1] * (parameter.ndim - 1)) if value.ndim else value


def _divide_(tensors: Sequence[Tensor], by: Tensor) -> None:
    for tensor in tensors:
        tensor.div_(_beside(by.to(tensor.dtype), tensor))


def _as_laid_out(grad: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in its parameter's memory order, which the fused step takes for granted."""
    return grad if grad.stride() == parameter.stride() else torch.empty_like(parameter).copy_(grad)


def _by_copy(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors (S, ...) as one list for each copy."""
    return [list(parts) for parts in zip(*(tensor.unbind() for tensor in tensors), strict=True)]


def optimizer(
    name: Literal["sgd", "adam"],
    parameters: Sequence[Tensor],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    maximize: bool,
    n_copies: int | None = None,
) -> Optimizer:
    """The optimizer of this name; with `n_copies` S the rate has shape (S,)."""
    device = parameters[0].device
    rate = torch.full(() if n_copies is None else (n_copies,), lr, device=device, dtype=parameters[0].dtype)
    if name == "sgd":
        return SGD(parameters, rate, momentum=momentum, weight_decay=weight_decay, maximize=maximize)
    return Adam(parameters, rate, weight_decay=weight_decay, maximize=maximize)
