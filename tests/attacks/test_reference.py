"""FGSM and PGD give what Foolbox and ART gave on the same model and images; their answers are stored beside this file."""

import json
from pathlib import Path

import pytest
import torch
from reference import EPS, SHAPE, STEP, STEPS, fixed_batch, fixed_model

from sparring.attacks import PGD, fgsm
from sparring.threat import ThreatModel

ANSWERS = json.loads(Path(__file__).with_name("reference.json").read_text())
ROUNDING = 1e-7  # the stored values have seven decimals


@pytest.mark.parametrize("peer", ["foolbox", "art"])
def test_fgsm_gives_the_stored_answer_of(peer: str) -> None:
    x, y = fixed_batch()
    x_adv = fgsm(ThreatModel(EPS, SHAPE))(fixed_model(), x, y)
    assert not torch.equal(x_adv, x)
    assert torch.allclose(x_adv.flatten(), torch.tensor(ANSWERS[f"{peer} fgsm"]), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("peer", ["foolbox", "art"])
def test_pgd_gives_the_stored_answer_of(peer: str) -> None:
    x, y = fixed_batch()
    attack = PGD(ThreatModel(EPS, SHAPE), steps=STEPS, step_size=STEP, random_start=False, keep="last")
    assert torch.allclose(
        attack(fixed_model(), x, y).flatten(), torch.tensor(ANSWERS[f"{peer} pgd"]), rtol=0, atol=1e-5
    )
