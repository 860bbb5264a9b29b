"""fit_together: several seeds of a game, each taken to where `fit` would take it alone."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.adversaries import Adversary
from sparring.data.batches import Data
from sparring.errors import CannotStack, Diverged, InputError, NotStacked
from sparring.game import Game, alternating, fit_together

SHAPE = (1, 8, 8)
SEEDS = (3, 4, 7)


@pytest.fixture
def train() -> Data:
    return sparring.data.load("digits")[0].take(torch.arange(200))


class Branching(nn.Module):
    """Asks a tensor for a Python number, which no stack can answer for all its copies."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        return logits if float(logits.detach().mean()) < 1e6 else 2 * logits


class Counting(nn.Module):
    """Keeps a sum of what it has seen in a buffer that no state_dict shows."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.register_buffer("seen", torch.zeros(64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.add_(x.detach().flatten(1).mean(0))
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def half_frozen() -> nn.Module:
    network = sparring.models.mlp(SHAPE, [16, 10])
    network.linears[0].requires_grad_(False)
    return network


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)
    )


def image_to_image() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 3, padding=1))


DEFENDERS: dict[str, Callable[[], nn.Module]] = {
    "our perceptrons": lambda: sparring.models.mlp(SHAPE, [16, 10]),
    "perceptrons": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)),
    "convolutions": convolutional,
    "half frozen": half_frozen,
    "unsaved buffer": Counting,
}
ADVERSARIES: dict[str, Callable[[], nn.Module | str | None]] = {
    "recurrent, the default": lambda: None,
    "the paper's": lambda: "mlp",
    "images": image_to_image,
    "a whole adversary": lambda: Adversary(sparring.models.mlp(SHAPE, [12, 64]), "scaled"),
}


def drawn(network: nn.Module | None, seed: int) -> nn.Module | None:
    """The network with weights of this seed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters() if network else ():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


def new_games(
    make: Callable[[], nn.Module] = DEFENDERS["our perceptrons"],
    adversary: Callable[[], nn.Module | str | None] = ADVERSARIES["the paper's"],
    **settings: Any,
) -> list[Game]:
    """A game for each seed; the same ones each time."""
    games = []
    for seed in SEEDS:
        defender = drawn(make(), seed)
        assert defender is not None
        made = adversary()
        opponent = made if isinstance(made, str) else drawn(made, seed + 50)
        named: dict[str, Any] = {"adversary": opponent} if opponent else {}
        games.append(Game(defender, seed=seed, **named, **settings))
    return games


def values(game: Game) -> list[Tensor]:
    networks = (game.defender, game.attack.adversary)
    return [t.detach().clone() for n in networks for t in (*n.parameters(), *n.buffers())]


def assert_same(games: list[Game], others: list[Game], atol: float) -> None:
    for game, other in zip(games, others, strict=True):
        for a, b in zip(values(game), values(other), strict=True):
            assert torch.allclose(a, b, rtol=0.0, atol=atol)


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("defender", DEFENDERS)
def test_a_stack_takes_every_game_to_where_fit_takes_it_alone(defender: str, adversary: str, train: Data) -> None:
    makes = DEFENDERS[defender], ADVERSARIES[adversary]
    games, alone = new_games(*makes), new_games(*makes)
    before = [copy.deepcopy(game.defender) for game in games]
    assert fit_together(games, train, epochs=2, batch_size=50, rate="every", every=1, stacked=True) == games
    for game in alone:
        game.fit(train, epochs=2, batch_size=50, rate="every", every=1)
    assert_same(games, alone, 1e-4)
    x = train.floats()
    for game, other, first in zip(games, alone, before, strict=True):
        assert not any(m.training for n in (game.defender, game.attack.adversary) for m in n.modules())
        trained = [a.requires_grad for a in first.parameters()]
        moved = [not torch.equal(a, b) for a, b in zip(first.parameters(), game.defender.parameters(), strict=True)]
        assert moved == trained
        ours, theirs = (g.attack(g.defender, x, train.labels) for g in (game, other))
        # a recurrent adversary asks twenty times, and where a gradient is next to zero rounding decides
        assert torch.isclose(ours, theirs, rtol=0.0, atol=1e-3).float().mean() > (0.98 if game.recurrent else 0.9999)
    assert not torch.allclose(values(games[0])[0], values(games[1])[0], atol=1e-2)


@pytest.mark.parametrize("stacked", [True, False])
def test_games_go_on_from_where_they_are_also_with_some_that_were_fit_alone(stacked: bool, train: Data) -> None:
    makes = DEFENDERS["perceptrons"], image_to_image
    games, alone = new_games(*makes), new_games(*makes)
    games[0].fit(train, epochs=1)
    fit_together(games, train, epochs=1, stacked=stacked)
    adversaries = [game.attack.adversary for game in games]
    fit_together(games, train, epochs=1, stacked=stacked)
    for game, times in zip(alone, (3, 2, 2), strict=True):
        for _ in range(times):
            game.fit(train, epochs=1)
    assert_same(games, alone, 1e-4)
    assert [game.attack.adversary for game in games] == adversaries


def test_the_settings_of_the_games_and_the_schedule_reach_the_stack(train: Data) -> None:
    settings: dict[str, Any] = {"eps": 0.2, "bound": "scaled", "lr": 0.05, "loss": "margin", "clean_share": 0.3}
    settings |= {"adversary_loss": "non_saturating", "dynamic": alternating(2, 1)}
    games, alone = new_games(**settings), new_games(**settings)
    fit_together(games, train, epochs=3, batch_size=40, rate="rise", stacked=True)
    for game in alone:
        game.fit(train, epochs=3, batch_size=40, rate="rise")
    assert_same(games, alone, 1e-4)


def test_perceptrons_are_stacked_without_being_asked_and_without_a_word(train: Data) -> None:
    for name in ("our perceptrons", "perceptrons"):
        games, forced = new_games(DEFENDERS[name]), new_games(DEFENDERS[name])
        fit_together(games, train, epochs=1)
        assert_same(games, fit_together(forced, train, epochs=1, stacked=True), 0.0)


def test_convolutions_on_the_cpu_play_one_after_another_and_say_so(train: Data) -> None:
    games, alone, said = new_games(convolutional), new_games(convolutional), list[str]()
    fit_together(games, train, epochs=1, notice=said.append)
    assert_same(games, [game.fit(train, epochs=1) for game in alone], 0.0)
    assert len(said) == 1 and "the 3 games are played one after another: off CUDA devices" in said[0]
    of_the_adversary = new_games(adversary=image_to_image)
    with pytest.warns(NotStacked, match="stack of convolutions") as caught:
        fit_together(of_the_adversary, train, epochs=1)
    assert caught[0].filename == __file__


def test_what_cannot_be_stacked_plays_one_after_another_and_says_why(train: Data) -> None:
    games, alone = new_games(Branching), new_games(Branching)
    with pytest.warns(NotStacked, match=r"one after another: the networks cannot be stacked: in evaluation mode, .*"):
        fit_together(games, train, epochs=1)
    assert_same(games, [game.fit(train, epochs=1) for game in alone], 0.0)


def test_networks_of_two_architectures_play_one_after_another_too(train: Data) -> None:
    games, said = new_games(), list[str]()
    games[1] = Game(sparring.models.mlp(SHAPE, [9, 10]), adversary="mlp", seed=4)
    fit_together(games, train, epochs=1, notice=said.append)
    assert len(said) == 1 and "one architecture" in said[0]
    assert games[1].attack.adversary is not games[0].attack.adversary


def test_whoever_asks_for_one_after_another_is_told_nothing(train: Data) -> None:
    games, alone = new_games(Branching), new_games(Branching)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_together(games, train, epochs=1, stacked=False, notice=pytest.fail)
        fit_together(new_games(convolutional)[:1], train, epochs=1, notice=pytest.fail)
    assert_same(games, [game.fit(train, epochs=1) for game in alone], 0.0)


def test_whoever_insists_on_a_stack_gets_one_or_an_error(train: Data) -> None:
    with pytest.raises(CannotStack, match="cannot be stacked"):
        fit_together(new_games(Branching), train, epochs=1, stacked=True)
    bounds = iter(("tanh", "scaled", "tanh"))
    kinds = new_games(adversary=lambda: Adversary(sparring.models.mlp(SHAPE, [64]), next(bounds)))
    with pytest.raises(CannotStack, match="adversaries of one kind"):
        fit_together(kinds, train, epochs=1, stacked=True)

    class Own(Adversary):
        pass

    own = new_games(adversary=lambda: Own(sparring.models.mlp(SHAPE, [64])))
    with pytest.raises(CannotStack, match="got Own"):
        fit_together(own, train, epochs=1, stacked=True)


def explosive(which: int, **settings: Any) -> list[Game]:
    """Games of which one has weights that overflow."""
    games = new_games(DEFENDERS["perceptrons"], **settings)
    with torch.no_grad():
        next(games[which].defender.parameters()).fill_(torch.inf)
    return games


@pytest.mark.parametrize("stacked", [True, False])
def test_where_one_game_diverges_the_others_are_trained_and_the_error_names_it(stacked: bool, train: Data) -> None:
    games, alone = explosive(1), explosive(1)
    with pytest.raises(Diverged, match=r"^1 of 3 games diverged, .*: game 1 \(seed 4\) diverged in epoch 1.*lower"):
        fit_together(games, train, epochs=2, batch_size=50, stacked=stacked)
    with pytest.raises(Diverged):
        alone[1].fit(train, epochs=2, batch_size=50)
    for s in (0, 2):
        alone[s].fit(train, epochs=2, batch_size=50)
        assert_same([games[s]], [alone[s]], 1e-4)
        assert not games[s].defender.training
    with pytest.raises(RuntimeError, match="no trained adversary"):
        _ = games[1].attack


@pytest.mark.parametrize("stacked", [True, False])
def test_where_every_game_diverges_each_is_named(stacked: bool, train: Data) -> None:
    with pytest.raises(Diverged, match=r"^3 of 3 games diverged.*\(seed 3\).*\(seed 4\).*\(seed 7\)"):
        fit_together(new_games(DEFENDERS["perceptrons"], lr=1e30), train, epochs=3, batch_size=50, stacked=stacked)


@pytest.mark.parametrize("stacked", [True, False])
def test_whoever_listens_hears_of_every_epoch_and_finds_the_game_as_it_then_is(stacked: bool, train: Data) -> None:
    games, heard, accuracy = new_games(), list[tuple[int, int]](), list[float]()

    def listen(game: Game, epoch: Any) -> None:
        heard.append((game.seed, epoch.epoch))
        if game is games[2]:
            accuracy.append(sparring.evaluation.clean(game.defender, train).accuracy)

    fit_together(games, train, epochs=3, stacked=stacked, on_epoch=listen)
    assert sorted(heard) == [(seed, epoch) for seed in SEEDS for epoch in (1, 2, 3)]
    assert len(set(accuracy)) == 3
    assert accuracy[-1] == sparring.evaluation.clean(games[2].defender, train).accuracy


@pytest.mark.parametrize("stacked", [True, False])
def test_after_one_has_diverged_the_others_are_still_told_apart(stacked: bool, train: Data) -> None:
    games, heard = explosive(0), list[tuple[int, int]]()
    with pytest.raises(Diverged):
        fit_together(
            games, train, epochs=2, stacked=stacked, on_epoch=lambda game, epoch: heard.append((game.seed, epoch.epoch))
        )
    assert sorted(heard) == [(4, 1), (4, 2), (7, 1), (7, 2)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eps", 0.3),
        ("bound", "scaled"),
        ("lr", 0.2),
        ("loss", "margin"),
        ("adversary_loss", "margin"),
        ("dynamic", alternating(1, 2)),
        ("clean_share", 0.4),
        ("device", "meta"),
    ],
)
def test_games_that_differ_in_a_setting_are_refused_by_its_name(name: str, value: Any, train: Data) -> None:
    games = new_games()
    games[1] = Game(sparring.models.mlp(SHAPE, [16, 10]), **{"adversary": "mlp", name: value})
    with pytest.raises(InputError, match=rf"game 1 has {name} .*, game 0 "):
        fit_together(games, train)


def test_games_that_share_a_network_or_a_part_are_refused(train: Data) -> None:
    model, part = sparring.models.mlp(SHAPE, [16, 10]), nn.Linear(64, 64)
    with pytest.raises(InputError, match="games 0 and 1 share a network"):
        fit_together([Game(model, seed=seed) for seed in SEEDS], train)
    with pytest.raises(InputError, match="games 0 and 1 share a network"):
        fit_together(new_games(adversary=lambda: nn.Sequential(nn.Flatten(-3), part)), train)
    games = new_games()
    with pytest.raises(InputError, match="games 0 and 3 share a network"):
        fit_together([*games, games[0]], train)


def test_no_games_are_refused(train: Data) -> None:
    with pytest.raises(InputError, match="at least one game"):
        fit_together([], train)
