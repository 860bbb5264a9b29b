"""Game: the short way in, for anyone's network and anyone's data."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sparring
from sparring.adversaries import RecurrentAdversary
from sparring.data.batches import Data
from sparring.errors import Diverged, InputError


def small(train: Data, n: int = 200) -> Data:
    return train.take(torch.arange(n))


def test_the_five_lines_of_the_readme_give_an_adversary_that_lowers_accuracy() -> None:
    train, test = sparring.data.load("digits")
    game = sparring.Game(sparring.models.mlp(train.shape, [64, 32, 10]), eps=0.2)
    assert game.fit(train, epochs=6) is game
    found = sparring.evaluate(game.defender, test, eps=[0, 0.2], steps=10, attacks={"own": game.attack})
    clean = found.accuracy("clean", 0.0)
    assert clean > 0.9
    assert found.accuracy("own", 0.2) < clean - 0.03
    assert found.accuracy("own", 0.2) < found.accuracy("noise", 0.2)
    assert found.worst_case(0.2) <= found.accuracy("own", 0.2)
    assert "own" in str(found) and "95 % interval" in str(found)
    assert not game.defender.training and not game.attack.adversary.training


class Conv(nn.Module):
    """Nothing of ours: a convolution, dropout, no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(144, 10))
        for p in self.net.parameters():
            nn.init.normal_(p, std=0.1, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


@pytest.mark.parametrize("kind", ["Data", "tensors", "numpy arrays", "TensorDataset", "DataLoader"])
def test_any_network_plays_on_any_kind_of_data(kind: str) -> None:
    train, test = (small(part) for part in sparring.data.load("digits"))
    sources: dict[str, Any] = {}
    for name, part in (("train", train), ("test", test)):
        x, y = part.floats(), part.labels
        sources[name] = {
            "Data": part,
            "tensors": (x, y),
            "numpy arrays": (x.numpy(), y.numpy()),
            "TensorDataset": TensorDataset(x, y),
            "DataLoader": DataLoader(TensorDataset(x, y), batch_size=64),
        }[kind]
    game = sparring.Game(Conv(), eps=0.1, lr=0.05).fit(sources["train"], epochs=2, batch_size=50)
    found = sparring.evaluate(game.defender, sources["test"], eps=0.1, steps=3, attacks={"own": game.attack})
    assert found.rows[0].n == 200 and {row.attack for row in found.rows} == {"clean", "noise", "fgsm", "pgd", "own"}


def the_weights(seed: int, **settings: Any) -> list[Tensor]:
    train = small(sparring.data.load("digits")[0])
    game = sparring.Game(sparring.models.mlp(train.shape, [16, 10]), seed=seed, **settings).fit(train, epochs=2)
    return [*game.defender.parameters(), *game.attack.adversary.parameters()]


def test_the_same_seed_gives_the_same_game_whatever_the_global_generator_does() -> None:
    first = the_weights(1)
    torch.rand(5)
    state = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(first, the_weights(1), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first[0], the_weights(2)[0])


def test_the_settings_of_a_game_reach_it() -> None:
    shared: list[dict[str, Any]] = [{"eps": 0.3}, {"lr": 0.01}, {"clean_share": 0.2}, {"adversary_loss": "margin"}]
    for adversary, own in (("recurrent", {"eps_low": 0.01}), ("mlp", {"bound": "scaled"})):
        plain = the_weights(1, adversary=adversary)
        for settings in (*shared, own):
            assert not torch.equal(plain[0], the_weights(1, adversary=adversary, **settings)[0]), settings
    uniform, powered = (the_weights(1, eps_low=0.01, eps_power=power) for power in (1.0, 2.0))
    assert not torch.equal(uniform[0], powered[0])


def test_the_default_game_withstands_what_breaks_the_papers() -> None:
    train, test = sparring.data.load("digits")
    left = {}
    for adversary in ("recurrent", "mlp"):
        game = sparring.Game(sparring.models.mlp(train.shape, [64, 32, 10]), eps=0.1, adversary=adversary)
        found = sparring.evaluate(game.fit(train, epochs=10).defender, test, eps=0.1, attacks={"own": game.attack})
        left[adversary] = found.accuracy("own", 0.1), found.accuracy("pgd", 0.1)
    assert left["recurrent"][1] > left["mlp"][1] + 0.1
    assert left["mlp"][0] - left["mlp"][1] > 0.2 > 0.1 > left["recurrent"][0] - left["recurrent"][1]


def test_a_second_fit_goes_on_with_both_players() -> None:
    train = small(sparring.data.load("digits")[0])
    game = sparring.Game(sparring.models.mlp(train.shape, [16, 10])).fit(train, epochs=1)
    adversary = game.attack.adversary
    before = [p.detach().clone() for p in adversary.parameters()]
    game.fit(train, epochs=1)
    assert game.attack.adversary is adversary
    assert not torch.equal(before[0], next(adversary.parameters()))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.1, 0.075, 0.025]),  # half a cosine: cos 60 deg is 1/2, the end is 0
        ({"every": 2}, [0.1, 0.05, 0.0]),
        ({"rate": "every"}, [0.1, 0.1, 0.1]),
        ({"rate": "every", "every": 1}, [0.1, 0.05, 0.025]),
        ({"rate": "constant"}, [0.1, 0.1, 0.1]),
    ],
)
def test_the_rate_falls_as_asked_by_default_to_zero(settings: dict[str, Any], expected: list[float]) -> None:
    train, seen = small(sparring.data.load("digits")[0]), list[float]()
    game = sparring.Game(sparring.models.mlp(train.shape, [16, 10]))
    game.fit(train, epochs=3, on_epoch=lambda epoch, progress: seen.append(epoch.rates["defender"]), **settings)
    assert seen == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"every": 0}, "every must be a whole number, at least 1; got 0"),
        ({"epochs": 0}, "epochs must be a whole number, at least 1; got 0"),
        ({"epochs": 2.0}, "epochs must be a whole number, at least 1; got 2.0"),
        ({"epochs": None}, "epochs must be a whole number, at least 1; got None"),
        ({"batch_size": 1}, "batch_size must be a whole number, at least 2; got 1"),
        ({"batch_size": True}, "batch_size must be a whole number, at least 2; got True"),
        ({"rate": "step"}, "rate must be one of rise, every, cosine, constant; got 'step'"),
        ({"clean_share": 0.999}, "clean_share 0.999 leaves the adversary none of a minibatch's 128 examples"),
        (
            {"clean_share": 0.95, "batch_size": 8},
            "none of a minibatch's 8 examples; lower it, or make minibatches larger",
        ),
        ({"clean_share": 0.999, "batch_size": 1000}, "none of a minibatch's 200 examples"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_schedule_that_cannot_be_is_refused(schedule: dict[str, Any], message: str, together: bool) -> None:
    train, schedule = small(sparring.data.load("digits")[0]), dict(schedule)
    share = schedule.pop("clean_share", 0.5)
    games = [sparring.Game(Conv(), clean_share=share) for _ in range(2)]
    with pytest.raises(InputError, match=message):
        sparring.game.fit_together(games, train, **schedule) if together else games[0].fit(train, **schedule)


def test_a_share_that_leaves_the_adversary_a_single_example_is_played() -> None:
    train = small(sparring.data.load("digits")[0])
    sparring.Game(Conv(), clean_share=0.9).fit(train, epochs=1, batch_size=8)


def test_an_adversary_of_ones_own_is_used() -> None:
    train = small(sparring.data.load("digits")[0])
    network = sparring.models.mlp(train.shape, [12, 64])
    game = sparring.Game(sparring.models.mlp(train.shape, [16, 10]), adversary=network).fit(train, epochs=1)
    assert isinstance(game.attack.adversary, sparring.Adversary)
    assert game.attack.adversary.network is network


def test_a_recurrent_adversary_of_ones_own_is_used() -> None:
    train = small(sparring.data.load("digits")[0])
    adversary = RecurrentAdversary(train.shape, queries=3, hidden=4)
    game = sparring.Game(sparring.models.mlp(train.shape, [16, 10]), adversary=adversary).fit(train, epochs=1)
    assert game.attack.adversary is adversary and "rounds=1" in repr(game.attack)


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (lambda z: (z, z), "the model returned a tuple; return logits"),
        (lambda z: {"logits": z}, "the model returned a dict"),
        (lambda z: z[:, :1], r"returned \(8, 1\) for inputs \(8, 1, 8, 8\); expected logits \(8, 10\)"),
        (lambda z: z[:, 0], r"returned \(8,\).*expected logits \(8, 10\)"),
        (lambda z: z[:, :9], r"returned \(8, 9\).*expected logits \(8, 10\)"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_defender_that_gives_no_logits_is_refused_before_the_first_move(
    then: Callable[[Tensor], Any], message: str, together: bool
) -> None:
    class Then(Conv):
        def forward(self, x: Tensor) -> Any:
            return then(super().forward(x))

    train, games = small(sparring.data.load("digits")[0]), [sparring.Game(Conv()), sparring.Game(Then())]
    before = [p.detach().clone() for game in games for p in game.defender.parameters()]
    with pytest.raises(InputError, match=message):
        sparring.game.fit_together(games, train, stacked=False) if together else games[1].fit(train)
    assert all(
        torch.equal(a, b) for a, b in zip(before, (p for g in games for p in g.defender.parameters()), strict=True)
    )


@pytest.mark.parametrize("adversary", ["recurrent", "mlp"])
def test_a_defender_may_know_more_classes_than_occur(adversary: Any) -> None:
    train = small(sparring.data.load("digits")[0])
    few = train.labels < 4
    for data in ((train.floats()[few], train.labels[few]), train.take(few.nonzero().squeeze(1))):
        game = sparring.Game(sparring.models.mlp(train.shape, [16, 7]), adversary=adversary).fit(data, epochs=1)
        assert game.attack.adversary


def test_a_player_with_nothing_to_train_is_refused() -> None:
    train = small(sparring.data.load("digits")[0])
    frozen = Conv().requires_grad_(False)
    with pytest.raises(InputError, match="the defender has no parameter to train; set requires_grad"):
        sparring.Game(frozen).fit(train)
    with pytest.raises(InputError, match="the adversary has no parameter to train"):
        sparring.Game(Conv(), adversary=nn.Identity()).fit(train)


def test_data_that_cannot_be_played_on_are_refused_by_name() -> None:
    x, y = torch.rand(20, 8, 8, 1, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10
    for data, message in (
        ((x, y), r"fails on inputs \(8, 8, 8, 1\): .*x\.permute\(0, 3, 1, 2\)$"),
        ((x * 255, y), "look unscaled; divide by 255"),
        ((x * torch.nan, y), "non-finite values"),
        ((x, y.float()), "expected integer class indices"),
        (x, "each item must be a pair"),
    ):
        with pytest.raises(InputError, match=message):
            sparring.Game(Conv()).fit(data)
    sparring.Game(Conv()).fit((x.permute(0, 3, 1, 2), y), epochs=1)


def test_a_game_that_was_not_played_has_no_attack() -> None:
    with pytest.raises(RuntimeError, match="call fit"):
        _ = sparring.Game(Conv()).attack


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 8}, r"8/255"),
        ({"eps": -0.1}, "eps must be in"),
        ({"eps": float("nan")}, "eps must be in"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"adversary_loss": "hinge"}, "loss must be one of"),
        ({"adversary": "lstm"}, "'recurrent', 'mlp' or a network"),
        ({"bound": "tanh"}, "bound is for an adversary network"),
        ({"dynamic": sparring.game.alternating(2, 1)}, "dynamic is for an adversary network"),
        ({"eps_low": 0.2}, r"must be in \[0, eps\]"),
        ({"adversary": "mlp", "eps_low": 0.05}, "eps_low needs a recurrent adversary"),
        ({"eps_power": 2.0}, "eps_power must be > 0, and needs eps_low if it is not 1; got 2"),
        ({"eps_low": 0.01, "eps_power": 0.0}, "eps_power must be > 0"),
        *(({"lr": lr}, f"lr must be > 0 and finite; got {lr}") for lr in (0, -0.1, float("nan"), float("inf"), True)),
        *(({"clean_share": share}, r"clean_share must be in \[0, 1\)") for share in (-0.1, 1.5, float("nan"), True)),
        ({"clean_share": 1.0}, "as at 1 nothing is left to the adversary; got 1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sparring.Game(Conv(), **settings)


def test_an_unknown_bound_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="bound must be one of"):
        sparring.Game(Conv(), bound="sigmoid")


def test_a_game_that_diverges_says_so() -> None:
    train = small(sparring.data.load("digits")[0])
    with pytest.raises(Diverged, match=r"epoch \d+, step \d+: the (defender|adversary)'s"):
        sparring.Game(Conv(), lr=1e30).fit(train, epochs=3, batch_size=50)
