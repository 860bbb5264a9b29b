"""bf16 for a block: what is multiplied in it, and where it is chosen."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.attacks import fgsm
from sparring.data import Data
from sparring.evaluation import evaluate, worst_case
from sparring.evaluation.accuracy import attacked
from sparring.precision import fast_precision, multiplying_in
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
