"""A stack of any networks computes, and is trained to, exactly what they would alone, or says why it cannot."""

import copy
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparring import modes
from sparring.adversaries import Adversary
from sparring.attacks import PGD, Attack, fgsm
from sparring.errors import CannotStack
from sparring.game import Move, Player, against, alternating, duel, player
from sparring.losses import cross_entropy, objective
from sparring.models import Normalize, mlp
from sparring.models.functional import FunctionalStack, check_stackable
from sparring.threat import ThreatModel

S, B, C = 3, 6, 4
SHAPE = (2, 6, 6)
D = 72
EPS = 0.2


class Residual(nn.Module):
    """x + f(x) with one batch norm in front of both uses of it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.inner = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))
        self.head = nn.Linear(D, C)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return self.head((h + self.inner(h)).flatten(1))


class Tied(nn.Module):
    """Two layers with one weight, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(D, D), nn.Linear(D, D)
        self.second.weight = self.first.weight
        self.head = nn.Linear(D, C)
        self.again = self.head

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.first(x.flatten(1)).tanh())
        return self.head(h) + self.again(h**2)


class Unsaved(nn.Module):
    """A buffer that no state_dict shows; in training, it moves in place, and a saved one is replaced."""

    unsaved: Tensor
    saved: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(D, C)
        self.register_buffer("unsaved", torch.rand(D), persistent=False)
        self.register_buffer("saved", torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        if self.training:
            self.unsaved.mul_(0.5).add_(h.detach().mean(0))
            self.saved = 0.9 * self.saved + 0.1 * h.detach().mean(0)
        return self.head(h * self.unsaved - self.saved)


class Squared(nn.Module):
    """A parametrisation: the weight is the square of what is trained."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight**2


def frozen() -> nn.Module:
    network = convolutional()
    for parameter in network[0].parameters():
        parameter.requires_grad_(False)
    return network


def parametrised() -> nn.Module:
    linear = nn.Linear(D, C)
    parametrize.register_parametrization(linear, "weight", Squared())
    return nn.Sequential(nn.Flatten(), linear)


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, C)
    )


def dropping() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, C))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutions and batch norm": convolutional,
    "group and layer norm": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, C)
    ),
    "batch statistics only": lambda: nn.Sequential(
        nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(D, C)
    ),
    "residual": Residual,
    "tied": Tied,
    "normalised pixels": lambda: nn.Sequential(Normalize([0.4, 0.5], [0.2, 0.3]), nn.Flatten(), nn.Linear(D, C)),
    "frozen": frozen,
    "unsaved": Unsaved,
    "parametrised": parametrised,
}


def networks(make: Callable[[], nn.Module], seed: int = 0) -> list[nn.Module]:
    """S networks of seeds of their own, in float64, with statistics that differ."""
    made = []
    for s in range(S):
        with torch.random.fork_rng():
            torch.manual_seed(seed + s)
            network = make().double()
        network(inputs(100 + s)[0][s] * (s + 1) / S)
        made.append(network)
    return made


def inputs(seed: int) -> tuple[Tensor, Tensor]:
    """A batch of its own for every copy: (S, B, ...)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(S, B, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randint(C, (S, B), generator=generator)


def tensors(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters()) | dict(network.named_buffers())


def assert_is_stack_of(together: nn.Module, copies: list[nn.Module]) -> None:
    for name, tensor in tensors(together).items():
        for s, network in enumerate(copies):
            assert torch.allclose(tensor[s], tensors(network)[name], atol=1e-9), name


every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


@every_network
@pytest.mark.parametrize("training", [False, True])
def test_a_stack_computes_what_its_copies_compute(make: Callable[[], nn.Module], training: bool) -> None:
    copies = networks(make)
    together = FunctionalStack(copies).train(training)
    for seed in (2, 3):  # statistics that the first pass moved are found by the second
        x = inputs(seed)[0]
        out = together(x)
        assert out.shape == (S, B, C)
        for s, network in enumerate(copies):
            assert torch.allclose(out[s], network.train(training)(x[s]), atol=1e-12)
    assert_is_stack_of(together, copies)


@every_network
def test_a_stack_has_the_state_of_one_network_with_an_axis_in_front(make: Callable[[], nn.Module]) -> None:
    copies = networks(make)
    together = FunctionalStack(copies)
    single = copies[0]
    assert together.n_copies == S
    assert list(together.state_dict()) == list(single.state_dict())
    for name, tensor in together.state_dict().items():
        assert torch.equal(tensor, torch.stack([network.state_dict()[name] for network in copies])), name
    assert [(n, p.requires_grad) for n, p in together.named_parameters()] == [
        (n, p.requires_grad) for n, p in single.named_parameters()
    ]
    assert [n for n, _ in together.named_buffers()] == [n for n, _ in single.named_buffers()]
    assert [n for n, _ in together.named_modules()] == [n for n, _ in single.named_modules()]


@every_network
def test_a_copys_slice_of_the_state_is_the_network_it_was(make: Callable[[], nn.Module]) -> None:
    copies, fresh = networks(make), networks(make, seed=50)
    together = FunctionalStack(fresh)
    together.load_state_dict(FunctionalStack(copies).state_dict())
    for s, network in enumerate(fresh):
        network.load_state_dict({name: tensor[s] for name, tensor in together.state_dict().items()})
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, copies[s].state_dict()[name]), name


@every_network
def test_gradients_of_a_stack_are_the_copies_gradients(make: Callable[[], nn.Module]) -> None:
    copies = networks(make)
    together = FunctionalStack(copies)
    x, y = inputs(4)
    x.requires_grad_()
    trained = [p for p in together.parameters() if p.requires_grad]
    found = torch.autograd.grad(objective(cross_entropy(together(x), y)).sum(), [x, *trained])
    for s, network in enumerate(copies):
        mine = x[s].detach().requires_grad_()
        trained = [p for p in network.parameters() if p.requires_grad]
        alone = torch.autograd.grad(objective(cross_entropy(network(mine), y[s])), [mine, *trained])
        for a, b in zip(found, alone, strict=True):
            assert torch.allclose(a[s], b, atol=1e-12)


def test_without_gradients_a_stack_records_none() -> None:
    together = FunctionalStack(networks(convolutional))
    with torch.no_grad():
        assert not together(inputs(4)[0]).requires_grad
    with modes.frozen(together):
        assert not together(inputs(4)[0]).requires_grad


def learner(network: nn.Module, n_copies: int | None, name: Literal["defender", "adversary"] = "defender") -> Player:
    return player(name, network, maximize=name == "adversary", lr=0.05, weight_decay=0.01, n_copies=n_copies)


@every_network
@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_a_stack_trained_ten_steps_equals_the_networks_trained_alone(
    make: Callable[[], nn.Module], mode: Literal["evaluation", "training"]
) -> None:
    attack = fgsm(ThreatModel(EPS, SHAPE), mode=mode)
    copies = networks(make)
    before = copy.deepcopy(copies)
    together = FunctionalStack(copies)
    batches = [inputs(500 + step) for step in range(10)]
    move = against(learner(together, S), attack)
    metrics = [move(x, y) for x, y in batches]
    for s, network in enumerate(copies):
        alone = against(learner(network, None), attack)
        for (x, y), seen in zip(batches, metrics, strict=True):
            for key, value in alone(x[s], y[s]).items():
                assert float(seen[key][s]) == pytest.approx(float(value), abs=1e-9), key
        for name, parameter in network.named_parameters():
            assert torch.equal(parameter, before[s].get_parameter(name)) != parameter.requires_grad, name
    assert_is_stack_of(together, copies)


def test_a_game_of_stacks_equals_the_games_alone() -> None:
    def image() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))

    def game(defender: nn.Module, adversary: nn.Module, n_copies: int | None) -> Move:
        learners = learner(defender, n_copies), learner(Adversary(adversary, shape=SHAPE), n_copies, "adversary")
        return duel(*learners, ThreatModel(EPS, SHAPE), alternating())

    defenders, adversaries = networks(convolutional), networks(image, seed=30)
    together = FunctionalStack(defenders), FunctionalStack(adversaries)
    move, alone = game(*together, S), [game(d, a, None) for d, a in zip(defenders, adversaries, strict=True)]
    for step in range(5):
        x, y = inputs(600 + step)
        move(x, y)
        for s in range(S):
            alone[s](x[s], y[s])
    assert_is_stack_of(together[0], defenders)
    assert_is_stack_of(together[1], adversaries)


ATTACKS: dict[str, Attack] = {
    "fgsm": fgsm(ThreatModel(EPS, SHAPE)),
    "fgsm training": fgsm(ThreatModel(EPS, SHAPE), mode="training"),
    "pgd": PGD(ThreatModel(EPS, SHAPE), steps=4, random_start=False),
}


@every_network
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_on_a_stack_attacks_each_copy_as_alone(make: Callable[[], nn.Module], attack: Attack) -> None:
    copies = networks(make)
    x, y = inputs(4)
    found = attack(FunctionalStack(copies), x, y)
    assert (found != x).any()
    for s, network in enumerate(copies):
        assert torch.allclose(found[s], attack(network, x[s], y[s]), atol=1e-9)


def test_every_submodule_of_a_stack_has_a_mode_that_its_copies_follow() -> None:
    copies = networks(convolutional)
    together = FunctionalStack(copies)
    x = inputs(4)[0]
    for network in (together, *copies):
        network.get_submodule("1").eval()
    before = [module.training for module in together.modules()]
    with modes.evaluation(together):
        assert not any(module.training for module in together.modules())
        assert torch.allclose(together(x)[0], copies[0].eval()(x[0]), atol=1e-12)
    assert [module.training for module in together.modules()] == before == [True, True, False, *[True] * 4]
    together(x)
    assert_is_stack_of(together, copies)  # the batch norm in evaluation mode has kept its statistics
    with modes.training(together):
        together(x)
    assert int(together.state_dict()["1.num_batches_tracked"][0]) == 2


def test_the_networks_own_mode_is_the_stacks() -> None:
    class Doubles(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) * (2 if self.training else 1)

    together = FunctionalStack([Doubles().eval() for _ in range(S)])
    x = inputs(4)[0]
    assert torch.equal(together(x), x.flatten(2))
    with modes.training(together):
        assert torch.equal(together(x), 2 * x.flatten(2))
    assert torch.equal(together(x), x.flatten(2))


def test_statistics_kept_through_a_pass_in_training_mode_are_put_back() -> None:
    copies = networks(convolutional)
    together = FunctionalStack(copies)
    with modes.training(together, keep_statistics=True):
        together(inputs(4)[0])
    assert_is_stack_of(together, copies)


def test_dropout_drops_differently_in_each_copy() -> None:
    together = FunctionalStack([nn.Sequential(nn.Flatten(), nn.Dropout(0.5)) for _ in range(S)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = together(torch.ones(S, 50, *SHAPE))
    assert set(out.unique().tolist()) == {0.0, 2.0}
    for s in range(S):
        agreement = (out[s] == out[s - 1]).double().mean()
        assert float(agreement) == pytest.approx(0.5, abs=0.05)  # 3600 coins: six standard deviations
    with modes.evaluation(together):
        assert (together(torch.ones(S, 50, *SHAPE)) == 1).all()


def test_what_is_tied_in_the_networks_is_one_tensor_in_the_stack() -> None:
    together = FunctionalStack(networks(Tied))
    assert together.get_parameter("second.weight") is together.get_parameter("first.weight")
    assert together.get_submodule("again") is together.get_submodule("head")
    assert len(list(together.parameters())) == len(list(Tied().parameters())) == 5


def test_a_stack_shares_no_memory_with_the_networks_nor_with_its_own_copy() -> None:
    copies = networks(convolutional)
    before = copy.deepcopy(copies)
    together = FunctionalStack(copies)
    other = copy.deepcopy(together)
    x = inputs(4)[0]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other(x)
    assert_is_stack_of(together, before)
    together(x)
    for network, original in zip(copies, before, strict=True):
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, original.state_dict()[name])
    assert not torch.allclose(other(x), together(x))


def test_a_stack_moves_to_another_type() -> None:
    copies = networks(Residual)
    together = FunctionalStack(copies).float()
    x = inputs(4)[0].float()
    out = together(x)
    assert out.dtype == torch.float32
    for s, network in enumerate(copies):
        assert torch.allclose(out[s], network.float()(x[s]), atol=1e-4)


def test_one_network_is_a_stack_of_one() -> None:
    network = networks(convolutional)[0].eval()
    x = inputs(4)[0][:1]
    assert torch.allclose(FunctionalStack([network], probe=x[0])(x)[0], network(x[0]), atol=1e-12)


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


def test_names_of_the_networks_parts_do_not_clash_with_the_stacks() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._single, self.n_copies = nn.Linear(D, C), nn.Linear(C, C)

        def forward(self, x: Tensor) -> Tensor:
            return self.n_copies(self._single(x.flatten(1)))

    copies = networks(Named)
    together = FunctionalStack(copies)
    assert together.n_copies == S and list(together.state_dict()) == list(copies[0].state_dict())
    x = inputs(4)[0]
    assert torch.allclose(together(x)[1], copies[1](x[1]), atol=1e-12)


@pytest.mark.gpu
@every_network
def test_on_a_gpu_a_stack_computes_and_keeps_what_its_copies_do(make: Callable[[], nn.Module]) -> None:
    copies = [network.cuda() for network in networks(make)]
    x = inputs(4)[0].cuda()
    together = FunctionalStack(copies, probe=x[0])
    out = together(x)
    for s, network in enumerate(copies):
        assert torch.allclose(out[s], network(x[s]), atol=1e-9)
    assert_is_stack_of(together, copies)
