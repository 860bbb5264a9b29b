"""A stack of any networks computes, and is trained to, exactly what they would alone."""

import copy
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from stackable import (
    EPS,
    SHAPE,
    B,
    C,
    D,
    Residual,
    S,
    Tied,
    assert_is_stack_of,
    convolutional,
    every_network,
    inputs,
    networks,
)
from torch import Tensor, nn

from sparring import modes
from sparring.adversaries import Adversary
from sparring.attacks import PGD, Attack, fgsm
from sparring.game import Move, Player, against, alternating, duel, player
from sparring.losses import cross_entropy, objective
from sparring.models.functional import FunctionalStack
from sparring.threat import ThreatModel


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


def test_names_of_the_networks_parts_do_not_clash_with_the_stacks() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._single, self.n_copies = nn.Linear(D, C), nn.Linear(C, C)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.n_copies(self._single(x.flatten(1)))
            return out

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
