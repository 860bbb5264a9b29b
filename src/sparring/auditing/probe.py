"""Watching a model from outside: its state, the modes its forward passes run in, and what an attack's path met on the way."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparring.losses import cross_entropy
from sparring.threat import ThreatModel


def state_digest(model: nn.Module) -> str:
    """SHA-256 over every parameter and buffer."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def flags(model: nn.Module) -> dict[str, bool]:
    """Every module's mode and every parameter's requires_grad."""
    modes = {f"{name} mode": module.training for name, module in model.named_modules()}
    return modes | {f"{name} requires_grad": p.requires_grad for name, p in model.named_parameters()}


def by_the_batch(model: nn.Module) -> list[str]:
    """Modules that normalise by the batch even in evaluation mode: batch norm without running statistics."""
    kinds = nn.modules.batchnorm._NormBase
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        and not isinstance(module, nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d)
        and module.running_mean is None
    ]


class Watched:
    """What happened to a model during a block: passes, modules that ran in training mode, changes of its state."""

    def __init__(self) -> None:
        self.forwards = 0
        self.backwards = 0
        self.in_training: set[str] = set()
        self.changed = False


@contextmanager
def watching(model: nn.Module) -> Iterator[Watched]:
    """Count example passes, note modules whose forward runs in training mode, and compare the state before and after."""
    seen, before = Watched(), state_digest(model)

    def backward(grad: Tensor) -> None:
        seen.backwards += grad.shape[:-1].numel()

    def passed(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen.forwards += output.shape[:-1].numel()
            if output.requires_grad:
                output.register_hook(backward)

    def note(name: str) -> Any:
        def entered(module: nn.Module, inputs: Any) -> None:
            if module.training:
                seen.in_training.add(name or type(module).__name__)

        return entered

    hooks = [model.register_forward_hook(passed)]
    hooks += [module.register_forward_pre_hook(note(name)) for name, module in model.named_modules()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        seen.changed = state_digest(model) != before


class Path:
    """The iterates of an attack on one batch: which examples were broken on the way, and the mean loss so far."""

    def __init__(self, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
        self.x, self.y, self.threat = x, y, threat
        self.broken = torch.zeros_like(y, dtype=torch.bool)
        self.best = torch.full(y.shape, -torch.inf, device=x.device)
        self.losses: list[float] = []

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Look at every forward pass over the whole batch."""
        hook = model.register_forward_hook(self._look)
        try:
            yield
        finally:
            hook.remove()

    @torch.no_grad()
    def _look(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not inputs or not isinstance(output, Tensor) or inputs[0].shape != self.x.shape:
            return
        x_adv, logits = inputs[0].detach(), output.detach()
        inside = self.threat.distance(x_adv, self.x) <= float(self.threat.eps) + 1e-6
        inside &= self.threat.flat((x_adv >= self.threat.low - 1e-6) & (x_adv <= self.threat.high + 1e-6)).all(-1)
        self.broken |= inside & (logits.argmax(-1) != self.y) & torch.isfinite(logits).all(-1)
        loss = cross_entropy(logits.float(), self.y)
        self.best = torch.where(loss > self.best, loss, self.best)
        self.losses.append(float(self.best.mean()))


class Stop(Exception):
    """Raised on purpose, to see what an attack leaves behind when it is interrupted."""


@contextmanager
def failing(model: nn.Module, after: int = 1) -> Iterator[None]:
    """Make the forward pass number `after` + 1 raise Stop."""
    calls = 0

    def entered(module: nn.Module, inputs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Stop

    hook = model.register_forward_pre_hook(entered)
    try:
        yield
    finally:
        hook.remove()
