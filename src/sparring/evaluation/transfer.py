"""Adversary i against defender j: does an adversary fit the one defender it learned on? (paper, section 6; claims N11, D2)"""

from collections.abc import Mapping
from typing import Literal

from torch import nn

from sparring.adversaries import Adversary
from sparring.attacks import Attack, LearnedAttack, Noise
from sparring.data import Data
from sparring.evaluation.accuracy import Outcome, attacked, averaged_over_passes
from sparring.randomness import Stream
from sparring.threat import ThreatModel


def transfer(
    adversaries: Mapping[str, Adversary],
    defenders: Mapping[str, nn.Module],
    data: Data,
    eps: float,
    *,
    mode: Literal["evaluation", "training"] = "evaluation",
    seed: int = 0,
) -> dict[tuple[str, str], tuple[float, Outcome]]:
    """(attacker, defender) -> accuracy and outcome, for every adversary and for noise of the same radius.

    The noise columns are "uniform noise" and "sign noise". `mode` "training" is the *paper* protocol, for both networks.
    """
    threat = ThreatModel(eps, data.shape)
    attacks: dict[str, Attack] = {name: LearnedAttack(a, threat, mode) for name, a in adversaries.items()}
    attacks["uniform noise"] = Noise(threat, "uniform", Stream(seed, "eval.uniform"))
    attacks["sign noise"] = Noise(threat, "sign", Stream(seed, "eval.sign"))
    cells = {}
    for attacker, attack in attacks.items():
        for defender, model in defenders.items():
            if mode == "training":
                cells[attacker, defender] = averaged_over_passes(model, data, attack, threat, seed=seed)
            else:
                outcome = attacked(model, data, attack, threat)
                cells[attacker, defender] = outcome.accuracy, outcome
    return cells
