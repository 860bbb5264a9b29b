"""bf16 for a block: what is multiplied in it, and where it is chosen."""

import pytest
import torch

from sparring.precision import fast_precision, multiplying_in

CPU = torch.device("cpu")


def test_products_are_in_bf16_and_gradients_in_fp32() -> None:
    weight = torch.randn(3, 4, requires_grad=True)
    with multiplying_in("bf16", CPU):
        product = torch.ones(2, 4) @ weight.T
    (grad,) = torch.autograd.grad(product.sum(), weight)
    assert product.dtype == torch.bfloat16 and grad.dtype == torch.float32
    with multiplying_in("fp32", CPU):
        assert (torch.ones(2, 4) @ weight.T).dtype == torch.float32


@pytest.mark.parametrize(
    ("told", "chosen"), [({"amx_bf16": True}, "bf16"), ({"amx_bf16": False}, "fp32"), ({}, "fp32")]
)
def test_bf16_is_chosen_on_processors_that_multiply_in_it(
    told: dict[str, bool], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert fast_precision(CPU) == chosen and fast_precision(torch.device("mps")) == "fp32"


def test_a_release_that_does_not_tell_gets_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fast_precision(CPU) == "fp32"
