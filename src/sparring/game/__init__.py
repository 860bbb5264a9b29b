"""Training: players, their moves on a minibatch, the one loop, and checkpoints. Only this package changes parameters."""

from sparring.game.dynamics import Dynamic, Turn, alternating, extragradient, simultaneous
from sparring.game.game import Game, fit_together
from sparring.game.limited import train_steps
from sparring.game.moves import Metrics, Move, against, best_response, duel
from sparring.game.player import Player, player
from sparring.game.train import Epoch, Progress, train
from sparring.game.unrolled import pursuit, recurrent_response

__all__ = [
    "Dynamic",
    "Epoch",
    "Game",
    "Metrics",
    "Move",
    "Player",
    "Progress",
    "Turn",
    "against",
    "alternating",
    "best_response",
    "duel",
    "extragradient",
    "fit_together",
    "player",
    "pursuit",
    "recurrent_response",
    "simultaneous",
    "train",
    "train_steps",
]
