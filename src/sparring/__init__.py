"""sparring: classifiers trained against an opponent that learns, and robustness numbers that can be believed.

The public names are resolved on first use, so that `sparring --help` loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Game": "sparring.game",
    "Adversary": "sparring.adversaries",
    "ThreatModel": "sparring.threat",
    "PGD": "sparring.attacks",
    "APGD": "sparring.attacks",
    "Square": "sparring.attacks",
    "Noise": "sparring.attacks",
    "LearnedAttack": "sparring.attacks",
    "WorstCase": "sparring.attacks",
    "fgsm": "sparring.attacks",
    "fit_together": "sparring.game",
    "evaluate": "sparring.evaluation",
    "worst_case": "sparring.evaluation",
    "audit": "sparring.auditing",
    "run_audit": "sparring.targets",
    "load": "sparring.experiment",
}
_PACKAGES = ("adversaries", "attacks", "auditing", "data", "evaluation", "game", "models", "recipes")

__all__ = [
    "APGD",
    "PGD",
    "Adversary",
    "Game",
    "LearnedAttack",
    "Noise",
    "Square",
    "ThreatModel",
    "WorstCase",
    "audit",
    "evaluate",
    "fgsm",
    "fit_together",
    "load",
    "run_audit",
    "worst_case",
]

if TYPE_CHECKING:
    from sparring import adversaries, attacks, auditing, data, evaluation, game, models, recipes
    from sparring.adversaries import Adversary
    from sparring.attacks import APGD, PGD, LearnedAttack, Noise, Square, WorstCase, fgsm
    from sparring.auditing.audit import audit
    from sparring.evaluation import evaluate
    from sparring.evaluation.worst_case import worst_case
    from sparring.experiment import load
    from sparring.game import Game, fit_together
    from sparring.targets import run_audit
    from sparring.threat import ThreatModel


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"sparring.{name}")
    raise AttributeError(f"module 'sparring' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_HOMES, *_PACKAGES, "__version__"])
