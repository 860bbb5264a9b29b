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
    "Noise": "sparring.attacks",
    "LearnedAttack": "sparring.attacks",
    "WorstCase": "sparring.attacks",
    "fgsm": "sparring.attacks",
    "evaluate": "sparring.evaluation",
    "load": "sparring.experiment",
}
_PACKAGES = ("adversaries", "attacks", "data", "evaluation", "game", "models", "recipes")

__all__ = ["PGD", "Adversary", "Game", "LearnedAttack", "Noise", "ThreatModel", "WorstCase", "evaluate", "fgsm", "load"]

if TYPE_CHECKING:
    from sparring import adversaries, attacks, data, evaluation, game, models, recipes
    from sparring.adversaries import Adversary
    from sparring.attacks import PGD, LearnedAttack, Noise, WorstCase, fgsm
    from sparring.evaluation import evaluate
    from sparring.experiment import load
    from sparring.game import Game
    from sparring.threat import ThreatModel


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"sparring.{name}")
    raise AttributeError(f"module 'sparring' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_HOMES, *_PACKAGES, "__version__"])
