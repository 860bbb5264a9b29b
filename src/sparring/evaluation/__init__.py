"""Evaluation: accuracy under attack, calibration, transfer, exploitability, and the statistics that make them comparable."""

from sparring.evaluation.accuracy import Cost, Outcome, attacked, clean, curve, pgd_curve
from sparring.evaluation.certificates import Certificates, certify
from sparring.evaluation.evaluation import Evaluation, evaluate
from sparring.evaluation.exploitability import exploitability, fresh_adversary
from sparring.evaluation.memory import Payoffs, load_history, overfitting, payoffs
from sparring.evaluation.one_step import fgsm_curve
from sparring.evaluation.responses import (
    KINDS,
    BestResponses,
    Gain,
    Response,
    best_responses,
    load_adversary,
    save_adversary,
)
from sparring.evaluation.standing import Stage
from sparring.evaluation.transfer import transfer
from sparring.evaluation.worst_case import Suite, WorstCases, named, worst_case

__all__ = [
    "KINDS",
    "BestResponses",
    "Certificates",
    "Cost",
    "Evaluation",
    "Gain",
    "Outcome",
    "Payoffs",
    "Response",
    "Stage",
    "Suite",
    "WorstCases",
    "attacked",
    "best_responses",
    "certify",
    "clean",
    "curve",
    "evaluate",
    "exploitability",
    "fgsm_curve",
    "fresh_adversary",
    "load_adversary",
    "load_history",
    "named",
    "overfitting",
    "payoffs",
    "pgd_curve",
    "save_adversary",
    "transfer",
    "worst_case",
]
