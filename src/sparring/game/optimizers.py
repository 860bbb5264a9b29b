"""SGD and Adam over given gradients, with a learning rate per copy; for one copy they equal torch.optim.

The rate is a tensor of shape () or (S,), S copies; parameters of a stack have the leading axis S.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


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
            rate = self.lr.view(-1, *[1] * (parameter.ndim - 1)) if self.lr.ndim else self.lr
            parameter.sub_(rate * direction)


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
        if self.lr.ndim == 0:  # one pass over the memory instead of three
            torch._fused_sgd_(
                self.parameters,
                list(grads),
                self.buffers if self.momentum else [],  # what the fused step expects without momentum
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                lr=self.lr,
                dampening=0.0,
                nesterov=False,
                maximize=self.maximize,
                is_first_step=False,
            )
            return
        torch._foreach_mul_(self.buffers, self.momentum)
        torch._foreach_add_(self.buffers, self.descend(grads))
        self.walk(self.buffers)

    def state(self) -> dict[str, Tensor]:
        return {f"buffer.{i}": buffer for i, buffer in enumerate(self.buffers)}


class Adam(Optimizer):
    """Adam with coupled weight decay (Kingma and Ba 2015, algorithm 1); betas 0.9 and 0.999, epsilon 1e-8."""

    def __init__(self, parameters: Sequence[Tensor], lr: Tensor, *, weight_decay: float, maximize: bool) -> None:
        super().__init__(parameters, lr, weight_decay=weight_decay, maximize=maximize)
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.n_steps = torch.zeros((), device=self.parameters[0].device)

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> None:
        g = self.descend(grads)
        self.n_steps.add_(1)
        n_steps = float(self.n_steps)
        torch._foreach_lerp_(self.means, g, 1 - 0.9)
        torch._foreach_mul_(self.squares, 0.999)
        torch._foreach_addcmul_(self.squares, g, g, 1 - 0.999)
        scale = torch._foreach_sqrt(self.squares)
        torch._foreach_div_(scale, (1 - 0.999**n_steps) ** 0.5)
        torch._foreach_add_(scale, 1e-8)
        directions = torch._foreach_div(self.means, scale)
        torch._foreach_div_(directions, 1 - 0.9**n_steps)
        self.walk(directions)

    def state(self) -> dict[str, Tensor]:
        means = {f"mean.{i}": m for i, m in enumerate(self.means)}
        return means | {f"square.{i}": s for i, s in enumerate(self.squares)} | {"n_steps": self.n_steps}


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
