"""What a model gives, tried on a few inputs: how many classes it knows, or the likely mistake."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.errors import InputError
from sparring.models import check_differentiable, mlp, tried

X = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))


class Then(nn.Module):
    """A perceptron of five classes, and what is made of its logits."""

    def __init__(self, then: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.then = mlp(X.shape[1:], [8, 5]), then

    def forward(self, x: Tensor) -> Any:
        return self.then(self.network(x))


def test_a_model_may_know_more_classes_than_are_asked_for() -> None:
    assert [tried(Then(lambda z: z), X, least) for least in (2, 5)] == [5, 5]


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (lambda z: (z, z), "the model returned a tuple; return logits"),
        (lambda z: {"logits": z}, "the model returned a dict; return logits"),
        (lambda z: z[:, :1], r"returned \(8, 1\) for inputs \(8, 1, 6, 6\); expected logits \(8, 4\)"),
        (lambda z: z[:, 0], r"returned \(8,\).*expected logits \(8, 4\)"),
        (lambda z: z[:, :3], r"returned \(8, 3\).*expected logits \(8, 4\)"),
        (lambda z: z[:, None], r"returned \(8, 1, 5\).*expected logits \(8, 4\)"),
        (lambda z: z[1:], r"returned \(7, 5\).*expected logits \(8, 5\)"),
        (lambda z: z.sum(), r"returned \(\).*expected logits \(8, 4\)"),
    ],
)
def test_what_is_no_logits_is_refused_by_name(then: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        tried(Then(then), X, 4)
    assert "\n" not in str(caught.value)


class First(nn.Module):
    """What is done to the inputs of a perceptron."""

    def __init__(self, first: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.network = first, mlp(X.shape[1:], [8, 5])

    def forward(self, x: Tensor) -> Any:
        return self.network(self.first(x))


@pytest.mark.parametrize(
    "first",
    [
        lambda x: x.sub_(0.5).div_(0.2),
        lambda x: x.flatten(1).mul_(2).view(x.shape),
        lambda x: x.clamp_(0, 1),  # which changes nothing here
        nn.ReLU(inplace=True),
    ],
)
def test_a_model_that_writes_to_its_input_is_refused_and_the_input_is_as_it_was(
    first: Callable[[Tensor], Tensor],
) -> None:
    x = X.clone()
    with pytest.raises(InputError, match=r"^the model changes its input in place, .*; use x\.sub\(m\)$"):
        tried(First(first), x, 2)
    assert torch.equal(x, X) and x._version == 0
    assert tried(First(lambda x: x.clone().sub_(0.5)), x, 2) == 5


def test_logits_without_a_gradient_can_be_tried_but_are_refused_where_a_gradient_is_needed() -> None:
    model = Then(lambda z: z.detach())
    assert tried(model, X, 2) == 5
    with pytest.raises(InputError, match=r"^the defender returns logits without a gradient"):
        check_differentiable(model, X, "the defender")
    whole = Restless(False)
    before = whole.state_dict() | {"seen": whole.seen.clone()}
    with torch.no_grad():
        check_differentiable(whole, X)
    assert torch.equal(whole.seen, before["seen"]) and whole.training


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((6, 6, 1), True), ((6, 6, 3), True), ((6, 6), False), ((6, 6, 6), False), ((3, 6, 1), False)],
)
def test_a_model_that_fails_on_its_inputs_is_told_their_shape_and_of_channels_that_come_last(
    shape: tuple[int, ...], hint: bool
) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten())
    with pytest.raises(InputError) as caught:
        tried(model, torch.rand(8, *shape), 2)
    told = str(caught.value)
    assert told.startswith(f"the model fails on inputs {(8, *shape)}: ") and "channels" in told and "\n" not in told
    assert told.endswith("; channels come first, use x.permute(0, 3, 1, 2)") is hint
    assert isinstance(caught.value.__cause__, RuntimeError)


class Restless(nn.Module):
    """Draws, counts what it has seen in two buffers, and fails on demand."""

    seen: Tensor
    sums: Tensor

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.linear, self.norm, self.fails = nn.Linear(36, 5), nn.BatchNorm1d(5), fails
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("sums", torch.full((36,), torch.nan))

    def forward(self, x: Tensor) -> Tensor:
        assert not any(module.training for module in self.modules())
        self.seen += len(x)
        self.sums = x.flatten(1).sum(0)
        if self.fails:
            raise ValueError("one line\nand another")
        out: Tensor = self.norm(self.linear(x.flatten(1)) + torch.rand(5))
        return out


@pytest.mark.parametrize("fails", [False, True])
def test_a_trial_leaves_the_model_and_the_generator_as_they_were(fails: bool) -> None:
    model = Restless(fails)
    model.norm.eval()
    flags, state = [module.training for module in model.modules()], torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if fails:
        with pytest.raises(InputError, match=r"fails on inputs \(8, 1, 6, 6\): one line; and another; is that"):
            tried(model, X, 2)
    else:
        assert tried(model, X, 2) == 5
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.allclose(v, before[n], rtol=0, atol=0, equal_nan=True) for n, v in model.state_dict().items())


def test_an_error_that_says_what_to_do_comes_through_as_it_is() -> None:
    def refuse(z: Tensor) -> Tensor:
        raise InputError("take another")

    with pytest.raises(InputError, match=r"^take another$"):
        tried(Then(refuse), X, 2)
