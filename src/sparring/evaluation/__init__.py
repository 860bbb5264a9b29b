"""Evaluation: accuracy under attack, calibration, transfer, exploitability, and the statistics that make them comparable."""

from sparring.evaluation.accuracy import Cost, Outcome, attacked, clean, curve, fgsm_curve, pgd_curve
from sparring.evaluation.evaluation import Evaluation, evaluate
from sparring.evaluation.exploitability import exploitability, fresh_adversary
from sparring.evaluation.transfer import transfer

__all__ = [
    "Cost",
    "Evaluation",
    "Outcome",
    "attacked",
    "clean",
    "curve",
    "evaluate",
    "exploitability",
    "fgsm_curve",
    "fresh_adversary",
    "pgd_curve",
    "transfer",
]
