"""bf16 for a block: what is multiplied in it, and where it is chosen. And devices without float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sparring import Game
from sparring.attacks import FAB, RayS, Smoothed, fgsm, quick_suite
from sparring.data import Data, load
from sparring.errors import InputError
from sparring.evaluation import clean, evaluate, named, pgd_curve, transfer, worst_case
from sparring.evaluation.accuracy import attacked
from sparring.game.moves import in_precision
from sparring.models import mlp
from sparring.precision import Precision, fast_precision, multiplying_in
from sparring.threat import ThreatModel

CPU = torch.device("cpu")
TILES, NO_TILES = {"amx_bf16": True}, {"amx_bf16": False}


def told_by(processor: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor, raising=False)


def test_without_tiles_products_are_in_bf16_and_gradients_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    told_by(NO_TILES, monkeypatch)
    weight = torch.randn(3, 4, requires_grad=True)
    with multiplying_in("bf16", CPU):
        product = torch.ones(2, 4) @ weight.T
    (grad,) = torch.autograd.grad(product.sum(), weight)
    assert product.dtype == torch.bfloat16 and grad.dtype == torch.float32
    with multiplying_in("fp32", CPU):
        assert (torch.ones(2, 4) @ weight.T).dtype == torch.float32


@pytest.mark.skipif(fast_precision(CPU) != "bf16", reason="a processor without tiles")
@pytest.mark.parametrize("kind", ["product", "stack of products", "convolution"])
def test_with_tiles_factors_are_rounded_and_nothing_else(kind: str) -> None:
    """Each product is that of rounded factors to fp32 accuracy, forwards and backwards."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"product": ((64, 300), (300, 50)), "stack of products": ((3, 64, 300), (3, 300, 50))}
    one, two = shapes.get(kind, ((8, 16, 9, 9), (16, 16, 3, 3)))

    def multiplied(a: Tensor, b: Tensor) -> Tensor:
        return F.conv2d(a, b) if kind == "convolution" else a @ b

    a, b = (torch.randn(shape, generator=generator) for shape in (one, two))
    b.requires_grad_()
    exact = multiplied(a.bfloat16().double(), b.bfloat16().double())
    back = torch.randn(exact.shape, generator=generator)
    with multiplying_in("bf16", CPU):
        product = multiplied(a, b)
        (grad,) = torch.autograd.grad(product, b, back)
    (exact_grad,) = torch.autograd.grad(exact, b, back.bfloat16().double())
    assert product.dtype == grad.dtype == torch.float32
    assert torch.allclose(product.double(), exact, rtol=1e-5, atol=1e-4)
    assert torch.allclose(
        grad.double(), exact_grad.double(), rtol=1e-2, atol=0.5
    )  # the exact one went back through a cast
    assert not torch.allclose(product.double(), multiplied(a.double(), b.double()), rtol=1e-5, atol=1e-4)


def test_products_after_the_block_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told_by(TILES, monkeypatch)
    kinds = torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv
    before = [kind.fp32_precision for kind in kinds]
    with pytest.raises(RuntimeError), multiplying_in("bf16", CPU):
        assert [kind.fp32_precision for kind in kinds] == ["bf16", "bf16"]
        raise RuntimeError
    assert [kind.fp32_precision for kind in kinds] == before


@pytest.mark.parametrize(
    ("network", "answer"), [(nn.Conv2d(1, 1, 3), torch.bfloat16), (nn.Linear(4, 4), torch.float32)]
)
def test_with_tiles_the_factors_of_a_network_with_convolutions_are_cast(
    network: nn.Module, answer: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_by(TILES, monkeypatch)
    dtypes = list[torch.dtype]()

    def move(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        dtypes.append(network(x).dtype)
        return {"loss": network(x).mean()}

    metrics = in_precision(move, "bf16", nn.Sequential(nn.Flatten(0, 0), network))(torch.ones(1, 4, 4), torch.zeros(1))
    assert dtypes == [answer] and metrics["loss"].dtype == torch.float32
    in_precision(move, "fp32", network)(torch.ones(1, 4, 4), torch.zeros(1))
    assert dtypes[1:] == [torch.float32]


def test_a_game_is_played_in_bf16_where_it_is_asked_to() -> None:
    train, test = load("digits")

    def played(precision: Precision) -> Game:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
        return Game(network, eps=0.05, precision=precision).fit(train.take(torch.arange(512)), epochs=15, batch_size=32)

    games = [played("fp32"), played("bf16")]
    weights = [game.defender[0].weight for game in games]  # type: ignore[index]
    assert all(weight.dtype == torch.float32 for weight in weights)
    assert 1e-6 < (weights[0] - weights[1]).abs().max() < 0.1
    assert all(clean(game.defender, test).accuracy > 0.8 for game in games)
    with pytest.raises(InputError, match="precision cannot be 'bf15'; did you mean 'bf16'"):
        Game(mlp(test.shape, [16, 10]), precision="bf15")  # type: ignore[arg-type]


def test_evaluations_ask_a_gpu_for_all_digits_and_leave_its_settings_as_they_were() -> None:
    backends: Any = torch.backends
    kinds = [backends.cuda.matmul, backends.cudnn.conv]
    before, seen = [kind.fp32_precision for kind in kinds], list[list[str]]()

    class Noting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append([kind.fp32_precision for kind in kinds])
            return x.flatten(1)[:, :2] @ torch.eye(2)

    data, threat = (
        Data(torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.long), 2, "none"),
        ThreatModel(0.1, (1, 2, 2)),
    )
    attacked(Noting(), data, fgsm(threat), threat)
    worst_case(Noting(), data, [0.1], lambda threat: [("FGSM", fgsm(threat))])
    evaluate(Noting(), data, eps=[0.1])
    assert len(seen) > 4 and all(one == ["ieee", "ieee"] for one in seen)
    assert [kind.fp32_precision for kind in kinds] == before


@pytest.mark.parametrize(("told", "chosen"), [(TILES, "bf16"), (NO_TILES, "fp32"), ({}, "fp32")])
def test_bf16_is_chosen_on_processors_that_multiply_in_it(
    told: dict[str, bool], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_by(told, monkeypatch)
    assert fast_precision(CPU) == chosen and fast_precision(torch.device("mps")) == "fp32"


def test_a_release_that_does_not_tell_gets_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fast_precision(CPU) == "fp32"


class WithoutDoubles(TorchDispatchMode):
    """What a device does that knows no float64: it refuses."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        inside = func is torch.ops.aten.empty.memory_format  # a processor's batch norm takes such memory for itself
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, Tensor) and value.dtype == torch.float64 and not inside:
                raise TypeError(f"{func} made a float64 tensor")
        return found


def test_nothing_that_runs_on_a_device_needs_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("precision", "evaluation.standing", "attacks.square", "game.checkpoint", "auditing.probe"):
        monkeypatch.setattr(f"sparring.{name}.widest", lambda device: torch.float32)
    train, test = load("digits")
    some_to_train_on = train.take(torch.arange(256))
    some, threat = test.take(torch.arange(8)), ThreatModel(0.1, test.shape)
    games = {
        "recurrent": Game(mlp(test.shape, [16, 10]), eps=0.1, eps_low=0.01),
        "with bounds": Game(mlp(test.shape, [16, 10]), ibp=0.1),
        "the paper's": Game(mlp(test.shape, [16, 10]), adversary="mlp"),
    }
    with WithoutDoubles():
        for game in games.values():
            game.fit(some_to_train_on, epochs=1)
        defender = games["recurrent"].defender
        for attack in (*quick_suite(threat, 10, test.shape), RayS(threat, queries=30), Smoothed(threat, steps=3),
                       FAB(threat, steps=3), games["recurrent"].attack):  # fmt: skip
            attacked(defender, some, attack, threat)
        pgd_curve(defender, some, [0.1, 0.2], steps=3)
        transfer({"own": games["recurrent"].attack.adversary}, {"own": defender}, some, 0.1)
        worst_case(defender, some, [0.1], lambda threat: named(quick_suite(threat, 10, test.shape)), store=tmp_path)
