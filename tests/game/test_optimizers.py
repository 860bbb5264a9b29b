"""Own SGD and Adam against torch.optim; learning rates per copy against separate optimizers; rate rules."""

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from sparring.game.optimizers import optimizer
from sparring.game.player import RateRule

Name = Literal["sgd", "adam"]
SHAPES: list[tuple[int, ...]] = [(4, 3), (4,), (2, 4), ()]


def tensors(seed: int, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 4e-4, 0.1])
@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("adam", 0.9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thirty_steps_equal_torch_optims(
    name: Name, momentum: float, weight_decay: float, maximize: bool, dtype: torch.dtype
) -> None:
    mine = tensors(0, SHAPES, dtype)
    theirs = [p.clone().requires_grad_() for p in mine]
    own = optimizer(name, mine, lr=0.05, momentum=momentum, weight_decay=weight_decay, maximize=maximize)
    common: dict[str, Any] = {"lr": 0.05, "weight_decay": weight_decay, "maximize": maximize}
    reference: torch.optim.Optimizer = (
        torch.optim.SGD(theirs, momentum=momentum, **common) if name == "sgd" else torch.optim.Adam(theirs, **common)
    )
    start = [p.clone() for p in mine]
    for step in range(30):
        grads = tensors(100 + step, SHAPES, dtype)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g.clone()
        reference.step()
        own.step(grads)
        assert all(torch.equal(g, h) for g, h in zip(grads, tensors(100 + step, SHAPES, dtype), strict=True))
    atol = 1e-12 if dtype == torch.float64 else 1e-5
    for p, q, before in zip(mine, theirs, start, strict=True):
        assert torch.allclose(p, q.detach(), atol=atol, rtol=0)
        assert not torch.allclose(p, before, atol=1e-3)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("adam", 0.9)])
def test_a_rate_per_copy_equals_separate_optimizers(name: Name, momentum: float, maximize: bool) -> None:
    n_copies = 3
    shapes: list[tuple[int, ...]] = [(n_copies, 4, 3), (n_copies, 4)]
    stacked = tensors(1, shapes, torch.float64)
    single = [[p[s].clone() for p in stacked] for s in range(n_copies)]
    settings: dict[str, Any] = {"momentum": momentum, "weight_decay": 0.01, "maximize": maximize}
    rates = torch.tensor([0.3, 0.05, 0.0], dtype=torch.float64)
    together = optimizer(name, stacked, lr=1.0, n_copies=n_copies, **settings)
    together.lr.copy_(rates)
    apart = [optimizer(name, single[s], lr=float(rates[s]), **settings) for s in range(n_copies)]
    frozen = [p[2].clone() for p in stacked]
    for step in range(30):
        grads = tensors(200 + step, shapes, torch.float64)
        together.step(grads)
        for s, alone in enumerate(apart):
            alone.step([g[s] for g in grads])
    for s in range(n_copies):
        assert all(torch.allclose(p[s], q, atol=1e-12, rtol=0) for p, q in zip(stacked, single[s], strict=True))
    assert all(torch.equal(p[2], before) for p, before in zip(stacked, frozen, strict=True))
    assert not torch.allclose(stacked[0][0], stacked[0][1])


@pytest.mark.parametrize("n_copies", [None, 2])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_an_optimizer_that_takes_over_a_saved_state_goes_on_bit_for_bit(name: Name, n_copies: int | None) -> None:
    shapes: list[tuple[int, ...]] = [(2, 3), (2, 5)]
    settings: dict[str, Any] = {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "maximize": True,
        "n_copies": n_copies,
    }
    first = tensors(0, shapes, torch.float32)
    own = optimizer(name, first, **settings)
    for step in range(5):
        own.step(tensors(10 + step, shapes, torch.float32))
    second = [p.clone() for p in first]
    other = optimizer(name, second, **settings)
    other.load({key: value.clone() for key, value in own.state().items()})
    for step in range(5):
        own.step(tensors(20 + step, shapes, torch.float32))
        other.step(tensors(20 + step, shapes, torch.float32))
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_rate_may_change_between_steps(name: Name) -> None:
    mine = tensors(0, SHAPES, torch.float64)
    theirs = [p.clone().requires_grad_() for p in mine]
    own = optimizer(name, mine, lr=1.0, momentum=0.9, weight_decay=0.0, maximize=False)
    reference: torch.optim.Optimizer = (
        torch.optim.SGD(theirs, lr=1.0, momentum=0.9) if name == "sgd" else torch.optim.Adam(theirs, lr=1.0)
    )
    for step in range(10):
        grads = tensors(step, SHAPES, torch.float64)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g.clone()
        reference.step()
        own.step(grads)
        own.lr.div_(2)
        reference.param_groups[0]["lr"] /= 2
    assert all(torch.allclose(p, q.detach(), atol=1e-12) for p, q in zip(mine, theirs, strict=True))


def course(kind: Literal["rise", "every", "constant"], losses: list[float], every: int = 10) -> list[float]:
    lr = torch.tensor(1.0, dtype=torch.float64)
    rule = RateRule(kind, every, lr)
    rates = []
    for epoch, loss in enumerate(losses, start=1):
        rule.after_epoch(lr, epoch, torch.tensor(loss))
        rates.append(float(lr))
    return rates


def test_the_rate_is_halved_after_an_epoch_in_which_the_loss_rose() -> None:
    assert course("rise", [3.0, 2.0, 2.5, 2.5, 2.4, 9.0, -1.0]) == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_the_rate_is_halved_every_so_many_epochs_whatever_the_loss() -> None:
    assert course("every", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], every=3) == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_a_constant_rate_is_left() -> None:
    assert course("constant", [1.0, 2.0, 3.0]) == [1, 1, 1]


def test_each_copys_rate_follows_its_own_loss() -> None:
    lr = torch.ones(3, dtype=torch.float64)
    rule = RateRule("rise", 10, lr)
    rule.after_epoch(lr, 1, torch.tensor([1.0, 1.0, 1.0]))
    rule.after_epoch(lr, 2, torch.tensor([2.0, 0.5, 1.0]))
    rule.after_epoch(lr, 3, torch.tensor([2.5, 0.6, 1.0]))
    assert lr.tolist() == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("n_copies", [None, 2])
def test_a_gradient_in_another_memory_order_moves_the_weights_it_belongs_to(n_copies: int | None) -> None:
    shape = (3, 4) if n_copies is None else (n_copies, 3, 4)
    values = torch.arange(float(math.prod(shape))).view(shape)
    for grad in (values, values.mT.contiguous().mT):
        weight = torch.zeros(shape)
        step = optimizer("sgd", [weight], lr=1.0, momentum=0.9, weight_decay=0.0, maximize=False, n_copies=n_copies)
        step.step([grad])
        assert torch.equal(weight, -values)
