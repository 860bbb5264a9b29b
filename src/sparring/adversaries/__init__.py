"""Adversary networks: an input goes in, a perturbation in [-1, 1] comes out; an attack scales it by eps."""

from sparring.adversaries.adversary import SEEN, Adversary, Seen, n_features
from sparring.adversaries.bounds import BOUNDS, Bound, scaled_bound, tanh_bound

__all__ = ["BOUNDS", "SEEN", "Adversary", "Bound", "Seen", "n_features", "scaled_bound", "tanh_bound"]
