"""Which perceptrons are stacked natively: those that are as `mlp` made them. Others are stacked by their code, if at all."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm

import sparring
from sparring import Game
from sparring.data import Data, stratified
from sparring.errors import CannotStack
from sparring.game import fit_together
from sparring.models import MLP, FunctionalStack, StackedMLP, mlp, stack

SHAPE = (1, 8, 8)


def pruned(network: MLP) -> None:
    prune.l1_unstructured(network.linears[0], "weight", 0.5)


def hooked(network: MLP) -> None:
    network.linears[0].register_forward_hook(lambda module, inputs, output: 0.5 * output)


def hooked_before(network: MLP) -> None:
    network.register_forward_pre_hook(lambda module, inputs: (1 - inputs[0],))


def hooked_inside(network: MLP) -> None:
    network.norms[0].register_forward_hook(lambda module, inputs, output: output.tanh())


def tied(network: MLP) -> None:
    network.norms[1].weight = network.norms[0].weight


def with_a_buffer(network: MLP) -> None:
    network.register_buffer("seen", torch.zeros(3))


def with_a_parameter(network: MLP) -> None:
    network.linears[0].register_parameter("scale", nn.Parameter(torch.ones(())))


def without_a_bias(network: MLP) -> None:
    network.linears[0].bias = None  # type: ignore[assignment, union-attr]


def with_code_of_its_own(network: MLP) -> None:
    network.forward = lambda x: -MLP.forward(network, x)  # type: ignore[method-assign]


CHANGES: dict[str, Callable[[MLP], None]] = {
    "pruned": pruned,
    "hooked": hooked,
    "hooked before": hooked_before,
    "hooked inside": hooked_inside,
    "tied": tied,
    "with a buffer": with_a_buffer,
    "with a parameter": with_a_parameter,
    "without a bias": without_a_bias,
}


def networks(change: Callable[[MLP], None] = lambda network: None, n: int = 2) -> list[nn.Module]:
    made = [mlp(SHAPE, [8, 8, 10], generator=torch.Generator().manual_seed(s)) for s in range(n)]
    for network in made:
        change(network)
    return list(made)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_perceptron_that_was_changed_is_stacked_by_its_code_and_computes_what_it_does_alone(
    change: Callable[[MLP], None],
) -> None:
    made, x = networks(change), torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    for network in made:
        with torch.no_grad():
            network.eval()(x)  # after which a pruned one can be copied
    together = stack(made, x)
    assert isinstance(together, FunctionalStack) and isinstance(stack(networks()), StackedMLP)
    for one, alone in zip(together(x.expand(2, *x.shape)), made, strict=True):
        assert torch.allclose(one, alone(x), atol=1e-6)


def test_a_perceptron_with_code_of_its_own_is_not_taken_for_ours() -> None:
    made = networks(with_code_of_its_own)
    with pytest.raises(CannotStack):
        stack(made, torch.rand(5, *SHAPE))
    undone = networks(pruned)
    for network in undone:
        prune.remove(network.linears[0], "weight")  # type: ignore[index, union-attr]
    assert isinstance(stack(undone), StackedMLP)


def test_networks_with_different_hooks_are_not_stacked() -> None:
    seen: list[Tensor] = []
    made = networks(with_a_buffer)
    made[1].register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    with pytest.raises(
        CannotStack, match=r"network 1 has .*in training mode, with 1 hook\), network 0 .*training mode\)"
    ):
        stack(made)


@pytest.fixture
def train() -> Data:
    return stratified(sparring.data.load("digits")[0], 200)


@pytest.mark.parametrize("change", [pruned, hooked])
def test_games_of_changed_perceptrons_end_together_as_alone(change: Callable[[MLP], None], train: Data) -> None:
    together, alone = ([Game(network, seed=s) for s, network in enumerate(networks(change))] for _ in range(2))
    fit_together(together, train, epochs=2)
    for game, other in zip(together, alone, strict=True):
        other.fit(train, epochs=2)
        for name, tensor in game.defender.state_dict().items():
            assert torch.allclose(tensor, other.defender.state_dict()[name], atol=1e-4), name


def test_games_of_perceptrons_that_cannot_be_mapped_play_one_after_another(train: Data) -> None:
    made = networks()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for network in made:
            spectral_norm(network.linears[0])  # type: ignore[index]
    together, alone = ([Game(copy.deepcopy(n), seed=s) for s, n in enumerate(made)] for _ in range(2))
    said = list[str]()
    fit_together(together, train, epochs=1, notice=said.append)
    assert len(said) == 1 and "one after another: the networks cannot be stacked" in said[0]
    for game, other in zip(together, alone, strict=True):
        other.fit(train, epochs=1)
        states = zip(game.defender.state_dict().values(), other.defender.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in states)
