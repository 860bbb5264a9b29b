"""How two players step. A turn is a player and its objective, a function that gives the value at the present point.

On the bilinear game V(x, y) = xy, with step lr and no momentum, each step multiplies x^2 + y^2 by 1 + lr^2 (simultaneous) or by
1 - lr^2 + lr^4 (extragradient); alternating play, adversary first, keeps x^2 + y^2 + lr x y, where x minimises and y maximises.
"""

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sparring import faults
from sparring.errors import InputError, one_of
from sparring.game.player import Player


class Turn(NamedTuple):
    """A player and the value it steps on; `objective` is called once for every gradient."""

    player: Player
    objective: Callable[[], Tensor]


Dynamic = Callable[[Turn, Turn], None]  # (adversary's turn, defender's turn)


@dataclass(frozen=True)
class _Alternating:
    """`alternating`, as a value that equals another of the same settings."""

    adversary_steps: int
    defender_steps: int
    first: str

    def __post_init__(self) -> None:
        for name in ("adversary_steps", "defender_steps"):
            if isinstance(n := getattr(self, name), bool) or not isinstance(n, numbers.Integral) or n < 1:
                raise InputError(f"{name} must be a whole number >= 1; got {n!r}")
        one_of("first", self.first, ("adversary", "defender"))

    def __call__(self, adversary: Turn, defender: Turn) -> None:
        turns = [(adversary, self.adversary_steps), (defender, self.defender_steps)]
        for turn, n_steps in turns if self.first == "adversary" else reversed(turns):
            for _ in range(n_steps):
                turn.player.step(turn.objective())
            faults.point("between_players")


def alternating(adversary_steps: int = 1, defender_steps: int = 1, first: str = "adversary") -> Dynamic:
    """Some steps of one player, then some of the other, each seeing what the other has just done.

    Raises InputError for fewer than one step of a player, and for a `first` that is neither "adversary" nor "defender".
    """
    return _Alternating(adversary_steps, defender_steps, first)


def simultaneous(adversary: Turn, defender: Turn) -> None:
    """Both gradients at the same point, then both steps."""
    turns = (adversary, defender)
    # each gradient right after its value: the other's pass moves the batch-norm statistics that this one's backward reads
    grads = [turn.player.gradients(turn.objective()) for turn in turns]
    for turn, grad in zip(turns, grads, strict=True):
        turn.player.apply(grad)


def extragradient(adversary: Turn, defender: Turn) -> None:
    """Look ahead by one plain gradient step of both, then step from here with the gradients found there (Korpelevich 1976).

    The look-ahead leaves no trace: parameters and batch-norm statistics go back before the step is taken.
    """
    turns = (adversary, defender)
    before = [[p.detach().clone() for p in turn.player.optimizer.parameters] for turn in turns]
    buffers = [(b, b.clone()) for turn in turns for b in turn.player.network.buffers()]
    grads = [turn.player.gradients(turn.objective()) for turn in turns]
    with torch.no_grad():
        for turn, grad in zip(turns, grads, strict=True):
            turn.player.optimizer.walk([-g for g in grad] if turn.player.maximizes else grad)
        for buffer, value in buffers:
            buffer.copy_(value)
    try:
        grads = [turn.player.gradients(turn.objective()) for turn in turns]
    finally:
        with torch.no_grad():
            for turn, points in zip(turns, before, strict=True):
                for parameter, point in zip(turn.player.optimizer.parameters, points, strict=True):
                    parameter.copy_(point)
    for turn, grad in zip(turns, grads, strict=True):
        turn.player.apply(grad)
