"""Networks that cannot be stacked are refused with the reason, and a check leaves the others as they were."""

import copy
from collections.abc import Callable

import pytest
import torch
from stackable import NETWORKS, SHAPE, B, C, D, S, Tied, Unsaved, inputs, networks, tensors
from torch import Tensor, nn

from sparring.errors import CannotStack
from sparring.models import mlp
from sparring.models.functional import FunctionalStack, check_stackable


def dropping() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, C))


# Networks that cannot be stacked: how to make copy s, and what the error says


class Hidden(nn.Module):
    """A setting that neither its repr nor its state shows."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x.flatten(1)


class Calls(nn.Module):
    """x flattened, and after it whatever the function makes of that."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x.flatten(1))


class Remembers(nn.Module):
    """A buffer that the first pass makes."""

    first: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.first is None:
            self.first = x.mean(0)
        return (x - self.first).flatten(1)


class Later(nn.Module):
    """A setting that only the second pass shows, and its repr never."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.seen = factor, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x.flatten(1) * (self.factor if self.seen > 1 else 1.0)


class WithExtraState(nn.Flatten):
    def get_extra_state(self) -> dict[str, int]:
        return {"seen": 0}


class Uncopied(nn.Flatten):
    def __deepcopy__(self, memo: object) -> "Uncopied":
        raise TypeError("one of a kind\nand more lines")


def into_zeros(h: Tensor) -> Tensor:
    out = torch.zeros(h.shape)
    out += h
    return out


def linear(**changes: object) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(D, C, **changes))  # type: ignore[arg-type]


def second(s: int, first: Callable[[], nn.Module], other: Callable[[], nn.Module]) -> nn.Module:
    return other() if s == 1 else first()


def frozen_linear() -> nn.Module:
    return linear().requires_grad_(False)


def untied() -> nn.Module:
    network = Tied()
    network.second.weight = nn.Parameter(network.second.weight.detach().clone())
    return network


def saved() -> nn.Module:
    network = Unsaved()
    network.register_buffer("unsaved", network.unsaved)
    return network


ALIKE_BUT: dict[str, tuple[Callable[[int], nn.Module], str]] = {
    "class": (lambda s: nn.Sequential(second(s, nn.Flatten, nn.Identity)), r"at '0', network 1 has Identity\(\)"),
    "namesake": (
        lambda s: nn.Sequential(type("Flatten", (nn.Flatten,), {"__module__": f"module{s}"})()),
        r"module1\.Flatten.*module0\.Flatten",
    ),
    "depth": (lambda s: nn.Sequential(*[nn.Flatten()] * (1 + s)), r"at '1', network 1 has Flatten.*network 0 nothing"),
    "bias": (lambda s: second(s, linear, lambda: linear(bias=False)), r"at '1.bias', network 1 has nothing"),
    "shape": (lambda s: nn.Linear(4 + s, 2), r"at 'weight', network 1 has a parameter \(2, 5\).*network 0 .*\(2, 4\)"),
    "type": (lambda s: second(s, linear, lambda: linear(dtype=torch.float64)), "torch.float64"),
    "stride": (lambda s: nn.Conv2d(2, 3, 3, stride=1 + s), r"as a whole, network 1 has .*stride=\(2, 2\)"),
    "frozen": (lambda s: second(s, linear, frozen_linear), "network 1 has .*cpu, network 0 .*cpu, trained"),
    "tied": (lambda s: second(s, Tied, untied), "at 'second.weight'.* tied to 'first.weight'"),
    "saved": (lambda s: second(s, Unsaved, saved), "at 'unsaved'.* not saved"),
    "mode": (lambda s: linear().train(s == 0), "in evaluation mode"),
    "extra state": (lambda s: WithExtraState(), "'_extra_state' is neither"),
    "uncopied": (lambda s: Uncopied(), r"can be copied: one of a kind$"),
}


@pytest.mark.parametrize(("make", "why"), ALIKE_BUT.values(), ids=ALIKE_BUT)
def test_networks_that_differ_in_more_than_values_are_not_stacked(make: Callable[[int], nn.Module], why: str) -> None:
    with pytest.raises(CannotStack, match=why) as caught:
        FunctionalStack([make(s) for s in range(S)])
    assert "\n" not in str(caught.value)


UNMAPPED: dict[str, tuple[Callable[[int], nn.Module], str]] = {
    "branch": (lambda s: Calls(lambda h: h if h.sum() > 0 else -h), "evaluation mode, Calls raised: .*control flow"),
    "item": (lambda s: Calls(lambda h: h * h.sum().item()), r"Calls raised: .*\.item\(\)"),
    "in place": (lambda s: Calls(into_zeros), "Calls raised: output with shape"),
    "input in place": (lambda s: nn.Sequential(nn.Hardtanh(0, 0.5, inplace=True), nn.Flatten()), "Hardtanh raised"),
    "cumulative batch norm": (
        lambda s: nn.Sequential(nn.BatchNorm2d(2, momentum=None), nn.Flatten()),
        "training mode, BatchNorm2d raised",
    ),
    "new buffer": (lambda s: Remembers(), "evaluation mode, FunctionalStack raised: "),
    "second pass": (lambda s: Later(1.0 + s), "evaluation mode, the output of network 1 differs from alone"),
    "hidden setting": (lambda s: Hidden(1.0 + s), "evaluation mode, the output of network 1 differs from alone"),
    "hidden statistics": (
        lambda s: nn.Sequential(HiddenMomentum(0.1 * s), nn.Flatten()),
        "training mode, 0.running_mean of network 1 differs from alone",
    ),
    "tuple": (lambda s: Calls(lambda h: (h, h)), "return one tensor, got tuple"),
}


class HiddenMomentum(nn.BatchNorm2d):
    """Batch norm with a momentum that its repr does not show."""

    def __init__(self, momentum: float) -> None:
        super().__init__(2, momentum=momentum)

    def extra_repr(self) -> str:
        return ""


@pytest.mark.parametrize("through", ["check", "constructor"])
@pytest.mark.parametrize(("make", "why"), UNMAPPED.values(), ids=UNMAPPED)
def test_networks_that_do_otherwise_as_a_stack_are_not_stacked(
    make: Callable[[int], nn.Module], why: str, through: str
) -> None:
    made = [make(s) for s in range(S)]
    x = inputs(4)[0][0].float()
    shown = x.clone()
    with pytest.raises(CannotStack, match=f"stack.*{why}") as caught:
        check_stackable(made, x) if through == "check" else FunctionalStack(made, probe=x)
    assert "\n" not in str(caught.value) and torch.equal(x, shown)


def test_no_network_is_no_stack() -> None:
    with pytest.raises(CannotStack, match="at least one network, got none"):
        FunctionalStack([])


def test_networks_that_have_yet_to_see_an_input_are_not_stacked() -> None:
    with pytest.raises(CannotStack, match=r"'1.weight' has no shape yet: run each network once"):
        FunctionalStack([nn.Sequential(nn.Flatten(), nn.LazyLinear(C)) for _ in range(S)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*NETWORKS, "dropout", "multilayer perceptron"])
def test_a_check_passes_and_leaves_everything_as_it_was(name: str, dtype: torch.dtype) -> None:
    others = {"dropout": dropping, "multilayer perceptron": lambda: mlp(SHAPE, [8, C])}
    copies = [network.to(dtype) for network in networks({**NETWORKS, **others}[name])]
    for network in copies:
        next(network.children()).eval()
    before, state = copy.deepcopy(copies), torch.get_rng_state()
    x = inputs(4)[0][0].to(dtype)
    shown = x.clone()
    check_stackable(copies, x)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, shown)
    for network, original in zip(copies, before, strict=True):
        assert [m.training for m in network.modules()] == [m.training for m in original.modules()]
        for tensor, as_before in zip(tensors(network).values(), tensors(original).values(), strict=True):
            assert torch.equal(tensor, as_before) and tensor.requires_grad == as_before.requires_grad


def test_what_random_networks_do_to_their_statistics_is_checked_all_the_same() -> None:
    made = [nn.Sequential(HiddenMomentum(0.1 * s), nn.Flatten(), nn.Dropout()) for s in range(S)]
    with pytest.raises(CannotStack, match=r"training mode, 0\.running_mean of network 1"):
        check_stackable(made, inputs(4)[0][0].float())


def test_a_network_that_fails_alone_raises_its_own_error() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        check_stackable([linear() for _ in range(S)], torch.rand(B, 3))
