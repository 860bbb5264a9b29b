"""Adversary networks: an input goes in, a perturbation in [-1, 1] comes out; an attack scales it by eps."""

from sparring.adversaries.adversary import Adversary
from sparring.adversaries.bounds import BOUNDS, Bound, scaled_bound, tanh_bound

__all__ = ["BOUNDS", "Adversary", "Bound", "scaled_bound", "tanh_bound"]
