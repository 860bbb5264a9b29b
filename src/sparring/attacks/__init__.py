"""Attacks: plain callables (model, x, y) -> x_adv.

The contract. x has shape (..., *threat.shape) with values in the pixel range, y the labels (...); x_adv has x's shape and type
and lies inside the threat model, up to the rounding of that type. An attack treats every leading axis as batch, works example by
example (but for `FittedRehearsal`, and batch norm in training mode), and leaves the model as it found it, even when it raises:
modes, parameters, gradients, batch-norm statistics. It does not say whether it succeeded: the caller measures that. Its repr is
its configuration.
"""

from sparring.attacks.apgd import APGD
from sparring.attacks.contract import Attack, described, identity
from sparring.attacks.fitted import FittedRehearsal
from sparring.attacks.gradient import PGD, fgsm
from sparring.attacks.hard_label import RayS
from sparring.attacks.learned import LearnedAttack
from sparring.attacks.minimal import FAB
from sparring.attacks.noise import Noise
from sparring.attacks.rehearsal import Rehearsal
from sparring.attacks.smoothed import Smoothed
from sparring.attacks.square import Square
from sparring.attacks.suites import Cascade, Escalation, quick_suite, standard_suite
from sparring.attacks.transferred import Together, Transferred
from sparring.attacks.worst_case import WorstCase

__all__ = [
    "APGD",
    "FAB",
    "PGD",
    "Attack",
    "Cascade",
    "Escalation",
    "FittedRehearsal",
    "LearnedAttack",
    "Noise",
    "RayS",
    "Rehearsal",
    "Smoothed",
    "Square",
    "Together",
    "Transferred",
    "WorstCase",
    "described",
    "fgsm",
    "identity",
    "quick_suite",
    "standard_suite",
]
