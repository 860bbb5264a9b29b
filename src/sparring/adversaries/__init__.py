"""Adversary networks: an input goes in, a perturbation in [-1, 1] comes out; an attack scales it by eps."""

from sparring.adversaries.adversary import SEEN, Adversary, Seen, n_features, stack_adversaries
from sparring.adversaries.bounds import BOUNDS, Bound, scaled_bound, tanh_bound
from sparring.adversaries.recurrent import ROUNDS, AnyAdversary, RecurrentAdversary, stack_any, stack_recurrent

__all__ = [
    "BOUNDS",
    "ROUNDS",
    "SEEN",
    "Adversary",
    "AnyAdversary",
    "Bound",
    "RecurrentAdversary",
    "Seen",
    "n_features",
    "scaled_bound",
    "stack_adversaries",
    "stack_any",
    "stack_recurrent",
    "tanh_bound",
]
