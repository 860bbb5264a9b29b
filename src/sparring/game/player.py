"""A player: a network, how it steps, and what becomes of its learning rate."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.errors import Diverged
from sparring.game.optimizers import Optimizer, optimizer
from sparring.models import keep_copies


class Player:
    """One side of a game. A defender lowers its objective; an adversary raises it (`optimizer.maximize`).

    A stack of S copies is one player. A copy whose gradient is not finite stays where it is from then on and is
    marked in `diverged`; its neighbours go on.
    """

    def __init__(self, name: str, network: nn.Module, optimizer: Optimizer, rule: "RateRule") -> None:
        self.name = name
        self.network = network
        self.optimizer = optimizer
        self.rule = rule
        self.grad_norm = torch.zeros_like(optimizer.lr)  # () or (S,)
        self.diverged = torch.zeros_like(optimizer.lr, dtype=torch.bool)

    @property
    def maximizes(self) -> bool:
        return self.optimizer.maximize

    def gradients(self, objective: Tensor) -> list[Tensor]:
        """The gradients of an objective of shape () or (S,) for this player's parameters, in their order.

        Where they are not finite a single network raises Diverged; in a stack, that copy's become zero.
        """
        parameters = self.optimizer.parameters
        grads = list(torch.autograd.grad(objective.sum(), parameters, allow_unused=True, materialize_grads=True))
        if self.optimizer.lr.ndim:
            return self._finite_copies(grads, objective.detach())
        self.grad_norm = torch.stack(torch._foreach_norm(grads)).norm()
        if not torch.isfinite(self.grad_norm):
            raise Diverged(f"the {self.name}'s gradient is not finite (its objective is {float(objective.detach()):g})")
        if not torch.isfinite(objective):
            raise Diverged(f"the {self.name}'s loss is not finite")
        return grads

    def apply(self, grads: Sequence[Tensor]) -> None:
        """Step along the gradients."""
        self.optimizer.step(grads)

    def step(self, objective: Tensor) -> None:
        """One gradient step on this objective."""
        self.apply(self.gradients(objective))

    def end_epoch(self, epochs: int, objective: Tensor) -> None:
        """Tell the rate rule how many epochs are over and the last one's mean objective, of shape () or (S,)."""
        self.rule.after_epoch(self.optimizer.lr, epochs, -objective if self.maximizes else objective)

    def keep(self, index: Tensor) -> None:
        """Narrow a stack to the copies at these indices, with their optimizers and rates."""
        keep_copies(self.network, index)
        self.optimizer.keep(index)
        self.rule.previous, self.diverged = self.rule.previous[index], self.diverged[index]
        self.grad_norm = self.grad_norm[index]

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs of this player, as live tensors; in a stack with a leading axis S."""
        network = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        optimizer = {f"optimizer.{k}": v for k, v in self.optimizer.state().items()}
        return network | optimizer | {"lr": self.optimizer.lr, "rule.previous": self.rule.previous}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a saved state; its names, shapes and types must be this player's."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def _finite_copies(self, grads: list[Tensor], objective: Tensor) -> list[Tensor]:
        norms = [torch.linalg.vector_norm(grad.reshape(len(grad), -1), dim=-1) for grad in grads]
        self.grad_norm.copy_(torch.linalg.vector_norm(torch.stack(norms), dim=0))  # in place: graphs share it
        bad = ~(torch.isfinite(self.grad_norm) & torch.isfinite(objective)) | self.diverged
        if not bad.is_cuda and not bad.any():  # asking a GPU would wait for it
            return grads
        self.diverged.copy_(bad)
        self.optimizer.lr.masked_fill_(bad, 0.0)
        return [torch.where(bad.view(-1, *[1] * (grad.ndim - 1)), 0.0, grad) for grad in grads]


class RateRule:
    """What becomes of the learning rate after an epoch. `previous` is the last epoch's loss, of the rate's shape."""

    def __init__(self, kind: Literal["rise", "every", "cosine", "constant"], every: int, like: Tensor) -> None:
        self.kind = kind
        self.every = every
        self.previous = torch.full_like(like, torch.inf)

    def after_epoch(self, lr: Tensor, epochs: int, loss: Tensor) -> None:
        """Halve the rate where the rule says so: where the loss rose, or after every so many epochs."""
        if self.kind == "rise":
            lr.copy_(torch.where(loss > self.previous, lr / 2, lr))
            self.previous.copy_(loss)
        elif self.kind == "every" and epochs % self.every == 0:
            lr.div_(2)
        elif self.kind == "cosine":
            lr.mul_(_cosine(epochs, self.every) / _cosine(epochs - 1, self.every) if epochs < self.every else 0.0)


def _cosine(epochs: int, all_epochs: int) -> float:
    """Half a cosine, from 1 to 0."""
    return (1 + math.cos(math.pi * epochs / all_epochs)) / 2


def player(
    name: str,
    network: nn.Module,
    *,
    maximize: bool,
    kind: Literal["sgd", "adam"] = "sgd",
    lr: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 4e-4,
    rate: Literal["rise", "every", "cosine", "constant"] = "rise",
    every: int = 10,
    n_copies: int | None = None,
) -> Player:
    """A player with the paper's settings as defaults (section 4); `n_copies` for a stack."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    steps = optimizer(
        kind, parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, maximize=maximize, n_copies=n_copies
    )
    return Player(name, network, steps, RateRule(rate, every, steps.lr))
