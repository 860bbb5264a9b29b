"""What a game leaves of the process and the networks that it was given, and what it refuses before it begins."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.adversaries import Adversary, RecurrentAdversary
from sparring.data import Data
from sparring.errors import Diverged, InputError
from sparring.game import Game, fit_together
from sparring.models import mlp

TRAIN = sparring.data.load("digits")[0].take(torch.arange(200))


def dropping() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("adversary", ["recurrent", "mlp"])
def test_dropout_is_drawn_from_the_games_seed_and_moves_no_generator_of_others(adversary: Any) -> None:
    trained = []
    for seed in (1, 2):
        model = dropping()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        Game(model, adversary=adversary, seed=3).fit(TRAIN, epochs=2)
        assert torch.equal(torch.get_rng_state(), before)
        trained.append(flat(model))
    assert torch.equal(*trained)
    other = dropping()
    Game(other, adversary=adversary, seed=4).fit(TRAIN, epochs=2)
    assert not torch.equal(flat(other), trained[0])


def test_modes_are_as_they_were_where_a_game_does_not_end() -> None:
    model = mlp(TRAIN.shape, [16, 10]).eval()
    model.norms[0].train()
    modes = [module.training for module in model.modules()]

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Game(model).fit(TRAIN, epochs=2, on_epoch=stop)
    assert [module.training for module in model.modules()] == modes
    games = [Game(mlp(TRAIN.shape, [16, 10]).eval(), seed=seed) for seed in range(2)]
    with pytest.raises(KeyboardInterrupt):
        fit_together(games, TRAIN, epochs=2, stacked=True, on_epoch=stop)
    assert not any(module.training for game in games for module in game.defender.modules())
    with pytest.raises(InputError):
        Game(model).fit(TRAIN.take(torch.arange(1)), epochs=1)
    assert [module.training for module in model.modules()] == modes
    bad = mlp(TRAIN.shape, [16, 10]).eval()
    with torch.no_grad(), pytest.raises(Diverged):
        bad.linears[0].weight.fill_(1e38)
        Game(bad).fit(TRAIN, epochs=1)
    assert not bad.training


def test_it_trains_where_its_caller_takes_no_gradients() -> None:
    model, same = (mlp(TRAIN.shape, [16, 10], generator=torch.Generator().manual_seed(0)) for _ in range(2))
    with torch.no_grad():
        game = Game(model).fit(TRAIN, epochs=1)
        assert not torch.is_grad_enabled()
    Game(same).fit(TRAIN, epochs=1)
    assert torch.equal(flat(model), flat(same)) and not model.training
    assert sparring.evaluate(model, TRAIN, eps=0.1, attacks={"own": game.attack})


def test_a_seed_may_be_numpys_and_must_be_a_number_from_0_on() -> None:
    models = [mlp(TRAIN.shape, [16, 10], generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    for model, seed in zip(models, (5, np.int64(5)), strict=True):
        Game(model, seed=seed).fit(TRAIN, epochs=1)  # type: ignore[arg-type]
    assert torch.equal(flat(models[0]), flat(models[1]))
    for wrong in (-1, "a", 0.5, True):
        with pytest.raises(InputError, match="seed must be a whole number >= 0; got"):
            Game(models[0], seed=wrong)  # type: ignore[arg-type]


def test_an_adversary_that_cannot_play_on_these_data_is_refused_before_the_game() -> None:
    def refused(adversary: nn.Module, data: Data, said: str) -> None:
        model = mlp(data.shape, [16, 10])
        before = flat(model)
        with pytest.raises(InputError, match=said) as told:
            Game(model, adversary=adversary).fit(data, epochs=1)
        assert "\n" not in str(told.value) and torch.equal(flat(model), before)

    wide = Adversary(mlp((1, 8, 8), [8, 64]), "tanh", TRAIN.shape)
    assert Game(mlp(TRAIN.shape, [16, 10]), adversary=wide).fit(TRAIN, epochs=1)
    refused(mlp((1, 8, 8), [8, 10]), TRAIN, r"must answer inputs \(\d+, 1, 8, 8\) with a number a pixel")
    refused(RecurrentAdversary((64,)), TRAIN, r"for inputs of shape \(64,\); these have \(1, 8, 8\)")
    refused(RecurrentAdversary((1, 28, 28)), TRAIN, r"for inputs of shape \(1, 28, 28\)")
    sees = Adversary(mlp((138,), [8, 64]), "tanh", TRAIN.shape, sees=("x", "label", "gradient"), n_classes=10)
    refused(sees, TRAIN, "sees x only, this one x, label, gradient")


def test_a_minibatch_leaves_a_network_two_examples_for_its_batch_norm() -> None:
    few = TRAIN.take(torch.arange(20))
    with pytest.raises(
        InputError, match="leaves the adversary 1 of a minibatch's 2 examples, where its batch norm needs two"
    ):
        Game(mlp(TRAIN.shape, [16, 10]), adversary="mlp").fit(few, batch_size=2, epochs=1)
    assert Game(mlp(TRAIN.shape, [16, 10])).fit(few, batch_size=2, epochs=1)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8)))
    assert Game(mlp(TRAIN.shape, [16, 10]), adversary=plain, clean_share=0.75).fit(few, batch_size=4, epochs=1)


def test_a_defender_whose_logits_have_no_gradient_is_refused_before_the_game() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = mlp(TRAIN.shape, [16, 10])

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x).detach()

    with pytest.raises(InputError, match="the defender returns logits without a gradient"):
        Game(Detached()).fit(TRAIN, epochs=1)
