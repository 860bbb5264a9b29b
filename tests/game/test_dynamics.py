"""The dynamics on V(x, y) = xy, whose orbits are known; x is the defender's number, y the adversary's."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.errors import Diverged, InputError
from sparring.game import Dynamic, Player, Turn, alternating, extragradient, player, simultaneous

LR = 0.1


class Number(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))


def number(name: str, value: float, *, maximize: bool, lr: float = LR) -> tuple[Player, Tensor]:
    network = Number(value)
    return player(name, network, maximize=maximize, lr=lr, momentum=0.0, weight_decay=0.0), network.value


def bilinear(x0: float = 1.0, y0: float = 0.5) -> tuple[Turn, Turn, Callable[[], tuple[float, float]]]:
    """The adversary's turn, the defender's turn, and where they stand."""
    defender, x = number("defender", x0, maximize=False)
    adversary, y = number("adversary", y0, maximize=True)

    def value() -> Tensor:
        return x * y

    return Turn(adversary, value), Turn(defender, value), lambda: (float(x.detach()), float(y.detach()))


def test_simultaneous_play_spirals_out_by_one_plus_lr_squared() -> None:
    adversary, defender, at = bilinear()
    for _ in range(20):
        x, y = at()
        simultaneous(adversary, defender)
        assert at() == pytest.approx((x - LR * y, y + LR * x), abs=1e-15)
        assert sum(v * v for v in at()) == pytest.approx((x * x + y * y) * (1 + LR**2), rel=1e-12)


def test_extragradient_spirals_in_by_one_minus_lr_squared_plus_lr_to_the_fourth() -> None:
    adversary, defender, at = bilinear()
    for _ in range(20):
        x, y = at()
        extragradient(adversary, defender)
        assert sum(v * v for v in at()) == pytest.approx((x * x + y * y) * (1 - LR**2 + LR**4), rel=1e-12)
        ahead_x, ahead_y = x - LR * y, y + LR * x
        assert at() == pytest.approx((x - LR * ahead_y, y + LR * ahead_x), abs=1e-15)


def test_alternating_play_keeps_its_invariant_the_adversary_going_first() -> None:
    adversary, defender, at = bilinear()
    x, y = at()
    invariant = x * x + y * y + LR * x * y
    seen = set()
    for _ in range(200):
        alternating()(adversary, defender)
        x, y = at()
        assert x * x + y * y + LR * x * y == pytest.approx(invariant, rel=1e-12)
        seen.add(round(x, 1))
    assert len(seen) > 10  # it goes round, it does not stand still


def test_alternating_play_keeps_the_mirrored_invariant_when_the_defender_goes_first() -> None:
    adversary, defender, at = bilinear()
    x, y = at()
    invariant = x * x + y * y - LR * x * y
    for _ in range(50):
        alternating(first="defender")(adversary, defender)
        x, y = at()
        assert x * x + y * y - LR * x * y == pytest.approx(invariant, rel=1e-12)


@pytest.mark.parametrize(
    ("dynamic", "course"),
    [
        (alternating(), "ad"),
        (alternating(first="defender"), "da"),
        (alternating(3, 1), "aaad"),
        (alternating(1, 2), "add"),
        (alternating(2, 3, "defender"), "dddaa"),
    ],
)
def test_each_player_steps_as_often_and_in_the_order_that_was_asked(dynamic: Dynamic, course: str) -> None:
    played: list[str] = []
    defender, x = number("defender", 1.0, maximize=False)
    adversary, y = number("adversary", 0.5, maximize=True)
    by_hand = [1.0, 0.5]

    def turn(letter: str) -> Callable[[], Tensor]:
        def objective() -> Tensor:
            played.append(letter)
            return x * y

        return objective

    dynamic(Turn(adversary, turn("a")), Turn(defender, turn("d")))
    assert "".join(played) == course
    for letter in course:  # every step sees what the step before it has done
        if letter == "a":
            by_hand[1] += LR * by_hand[0]
        else:
            by_hand[0] -= LR * by_hand[1]
    assert [float(x.detach()), float(y.detach())] == pytest.approx(by_hand, abs=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1), "adversary_steps must be a whole number >= 1; got 0"),
        ((1, -1), "defender_steps must be a whole number >= 1; got -1"),
        ((1.5, 1), "adversary_steps must be a whole number >= 1; got 1.5"),
        ((1, True), "defender_steps must be a whole number >= 1; got True"),
        ((1, 1, "foo"), "first cannot be 'foo'; known: adversary, defender"),
        ((1, 1, "defendr"), "first cannot be 'defendr'; did you mean 'defender'?"),
    ],
)
def test_a_game_in_which_one_never_steps_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        alternating(*arguments)


def test_n_adversary_steps_before_one_of_the_defender_equal_the_linear_map() -> None:
    adversary, defender, at = bilinear()
    one, n = torch.eye(2, dtype=torch.float64), 4
    up = torch.tensor([[1.0, 0.0], [LR, 1.0]], dtype=torch.float64)
    down = torch.tensor([[1.0, -LR], [0.0, 1.0]], dtype=torch.float64)
    for _ in range(n):
        one = up @ one
    expected = down @ one @ torch.tensor(at(), dtype=torch.float64)
    alternating(n, 1)(adversary, defender)
    assert at() == pytest.approx(expected.tolist(), abs=1e-15)


def test_extragradient_looks_ahead_without_momentum_and_steps_with_it() -> None:
    defender = Number(1.0)
    adversary = Number(0.5)
    players = [
        player(name, network, maximize=up, lr=LR, momentum=0.9, weight_decay=0.0)
        for name, network, up in (("adversary", adversary, True), ("defender", defender, False))
    ]

    def value() -> Tensor:
        return defender.value * adversary.value

    x, y, b_x, b_y = 1.0, 0.5, 0.0, 0.0
    for _ in range(5):
        extragradient(Turn(players[0], value), Turn(players[1], value))
        ahead_x, ahead_y = x - LR * y, y + LR * x
        b_x, b_y = 0.9 * b_x + ahead_y, 0.9 * b_y - ahead_x
        x, y = x - LR * b_x, y - LR * b_y
        assert float(defender.value.detach()) == pytest.approx(x, abs=1e-14)
        assert float(adversary.value.detach()) == pytest.approx(y, abs=1e-14)


@pytest.mark.parametrize("dynamic", [alternating(), simultaneous, extragradient])
@pytest.mark.parametrize("who", ["adversary", "defender"])
def test_a_gradient_that_is_not_finite_stops_both_before_they_step_or_names_who_failed(
    dynamic: Dynamic, who: str
) -> None:
    adversary, defender, at = bilinear()
    before = at()
    broken = {"adversary": adversary, "defender": defender}[who]
    value = broken.objective

    def infinite() -> Tensor:
        return value() * torch.tensor(float("nan"), dtype=torch.float64)

    turns = {"adversary": adversary, "defender": defender} | {who: Turn(broken.player, infinite)}
    with pytest.raises(Diverged, match=f"the {who}'s"):
        dynamic(turns["adversary"], turns["defender"])
    after = at()
    assert after[0] == before[0]  # the defender never steps: it comes second, or it is the broken one
    if who == "adversary" or dynamic in (simultaneous, extragradient):
        assert after == before
