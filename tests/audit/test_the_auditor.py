"""The auditor's own rules: what it may not hold against an attack, which words it objects to, and what it counts."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.adversaries import Adversary
from sparring.attacks import PGD, LearnedAttack
from sparring.auditing import CHECKS, Check, Provenance, Subject, audit, audit_subject
from sparring.auditing.checks_game import misnamed
from sparring.auditing.evidence import Evidence
from sparring.auditing.selftest import SELF
from sparring.auditing.suite import Draws
from sparring.auditing.thresholds import shipped
from sparring.auditing.verdict import SelfTest
from sparring.data import Data, load
from sparring.models import mlp
from sparring.targets import run_audit
from sparring.threat import ThreatModel

TRAIN, TEST = load("digits")
FEW = replace(SELF, n=100, steps=20, queries=50, fresh_steps=20, surrogate_steps=20)
MISSED = SelfTest({"NaN logits": ("I4",)}, {}, 27, 2)
CLEAR = SelfTest({}, {}, 27, 2)


def evidence(model: nn.Module, **more: Any) -> Evidence:
    level = more.pop("level", FEW)
    return Evidence(Subject(**{"model": model, "data": TEST, "eps": (0.1,), "train": TRAIN, **more}), level, shipped())


def made(id: str, model: nn.Module, **more: Any) -> Check:
    return CHECKS[id](evidence(model, **more))


# the self-test


def test_an_auditor_that_fails_its_own_test_withholds_the_number(plain: nn.Module) -> None:
    subject, only = Subject(plain, TEST, (0.1,)), {"S1": CHECKS["S1"]}
    result = audit_subject(subject, level=FEW, checks=only, self_test=lambda: MISSED, full=True)
    assert result.verdict.startswith("NOT CREDIBLE: self-test") and result.exit_code == 4 and result.withheld
    told = result.to_json()
    assert told["headlines"] == [] and told["self_test_passed"] is False and "NaN logits not by I4" in told["self_test"]
    assert "withheld" in str(result).splitlines()[-1] and "Worst case" not in str(result)


def test_an_auditor_that_passes_its_own_test_or_made_none_changes_nothing(plain: nn.Module) -> None:
    subject, only = Subject(plain, TEST, (0.1,)), {"S1": CHECKS["S1"]}
    for made_before, passed in ((lambda: CLEAR, True), (None, None)):
        result = audit_subject(subject, level=FEW, checks=only, self_test=made_before)
        assert result.verdict == "NO OBJECTION FOUND" and result.exit_code == 0 and result.headlines
        assert result.to_json()["self_test_passed"] is passed


def test_a_self_test_made_before_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = "nn.Sequential(nn.Flatten(), nn.Linear(64, 10))"
    (tmp_path / "tested_before.py").write_text(f"from torch import nn\ndef net():\n    return {net}\n")
    level = replace(FEW, n=20, steps=5, self_test=True)
    result = run_audit("tested_before:net", data="digits", eps=0.1, level=level, train=False, tested=MISSED)
    assert result.verdict.startswith("NOT CREDIBLE: self-test") and result.exit_code == 4


# what an attack may be


def test_an_attack_that_asks_for_no_gradient_has_its_threat_model_recorded(plain: nn.Module) -> None:
    check = made("I10", plain, attack=lambda threat: Draws(threat, 5))
    assert check.status == "PASS" and check.numbers["steps"] == "0 gradients"
    assert check.numbers["knowledge"] == "black-box" and "scores only" in check.evidence


def test_an_attack_that_asks_nothing_has_none(plain: nn.Module) -> None:
    check = made("I10", plain, attack=lambda threat: lambda model, x, y: threat.project(x + 0.1, x))
    assert check.status == "FAIL" and "steps" in check.value and "knowledge" in check.value


def test_a_gradient_attack_is_a_white_box(plain: nn.Module) -> None:
    record = made("I10", plain).numbers
    assert record["knowledge"] == "white-box" and record["steps"] == FEW.steps


def test_an_attack_that_needs_neither_labels_nor_the_model_follows_no_predicted_labels(plain: nn.Module) -> None:
    idle = Adversary(mlp(TEST.shape, [8, 64]))
    check = made("I9", plain, attack=lambda threat: LearnedAttack(idle, threat))
    assert check.status != "FAIL" and "neither labels nor the model" in check.evidence


@dataclass(frozen=True)
class Particular:
    """An attack that some model cannot be shown to."""

    threat: ThreatModel
    fault: str

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if self.fault == "dtype":
            return model(x.double()) * 0 + x
        if self.fault == "layer":
            return model.get_submodule("encoder")(x)
        raise KeyError


@pytest.mark.parametrize("fault", ["dtype", "layer", "no message"])
def test_an_attack_that_cannot_be_tried_on_the_linear_model_gives_a_note(plain: nn.Module, fault: str) -> None:
    check = made("I9", plain, attack=lambda threat: Particular(threat, fault))
    assert check.status == "WARN" and "could not be tried: " in check.evidence and "\n" not in check.evidence


def test_predicted_labels_are_found_however_the_model_is_asked(plain: nn.Module) -> None:
    def by_layers(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        out = x
        for layer in model.children():
            out = layer(out)
        return x + 0.01 * out.argmax(-1).view(-1, 1, 1, 1)

    for attack in (lambda threat: PGD(threat, steps=5, label="predicted"), lambda threat: by_layers):
        assert made("I9", plain, attack=attack).status == "FAIL"


def test_training_images_are_known_again_as_bytes_and_as_floats(plain: nn.Module) -> None:
    floats = Data(TEST.floats().clone(), TEST.labels, 10, "floats")
    shrunk = Data(TEST.images.double().mul(1 / 255).float(), TEST.labels, 10, "another division")
    forms = (TEST, floats, shrunk)
    for test, train in itertools.product(forms, forms):
        check = made("I9", plain, data=test, train=train)
        assert check.status == "WARN" and "360 of 360 test images in training" in check.value, (test, train)
    between = Data((floats.images + 0.3 / 255).clamp(0, 1), TEST.labels, 10, "between the levels")
    assert made("I9", plain, data=between, train=TEST).status == "PASS"
    assert "360 of 360" in made("I9", plain, data=between, train=between).value


# words


@pytest.mark.parametrize(
    "text",
    [
        "not robust accuracy: in-game accuracy 97 %",
        "never call in-game accuracy robust accuracy",
        "In-game accuracy isn't robust accuracy.",
        "FGSM accuracy 92 %, which is not a robust accuracy",
        "In-game accuracy must never be reported as robust accuracy",
        "no robust accuracy: FGSM is a single step",
        'we do not call the number under FGSM "robust accuracy"',
        "robust accuracy 5 %",
        "",
        "   \n",
    ],
)
def test_denials_misname_nothing(text: str) -> None:
    assert not misnamed(text)


@pytest.mark.parametrize(
    "text",
    [
        "We do not claim perfection but robust accuracy under FGSM is 92 %",
        "The weights were not taken from a paper and reach robust accuracy 97 % against its own adversary",
        "We never report clean accuracy without robust accuracy under FGSM, 92 %",
        "robust accuracy 97 % against its own adversary",
        "robust accuracy 92 % (FGSM), not clean accuracy",
        "No attack lowers robust accuracy below 97 % under FGSM",
        "not robust accuracy but in-game accuracy; its robust accuracy under FGSM is 92 %",
        "The model does not fail: robust accuracy 97 % in-game",
        "no doubt robust accuracy is 92 % under FGSM",
        "not only robust accuracy 92 % under FGSM",
        "never broken, robust to its adversary",
    ],
)
def test_misnamings_stay_misnamings(text: str) -> None:
    assert misnamed(text)


@pytest.mark.parametrize("statements", [[""], [None, 97], (), None, b"x", "fine"])
def test_odd_statements_crash_nothing(plain: nn.Module, statements: Any) -> None:
    assert made("G7", plain, statements=statements).status == "PASS"


def test_one_statement_given_as_a_word_is_read_whole(plain: nn.Module) -> None:
    assert made("G7", plain, statements="robust accuracy 92 % under FGSM").status == "FAIL"


# counts


def test_the_headline_counts_attacks_not_their_repetitions(plain: nn.Module) -> None:
    only = {id: CHECKS[id] for id in ("S1", "S2", "S3", "S4", "S8", "I7", "I5")}
    result = audit_subject(Subject(plain, TEST, (0.1, 0.2)), level=FEW, checks=only)
    assert result.headlines[0].attacks == 6  # PGD on cross-entropy and margin, FGSM, APGD on three losses
    assert result.headlines[1].attacks == 4  # APGD on three losses, Square
    assert len([row for row in result.attacks if row.eps == 0.1]) > 7


def test_fresh_adversaries_of_several_seeds_are_one_attack(plain: nn.Module) -> None:
    subject = Subject(plain, TEST, (0.1,), train=TRAIN)
    level = replace(FEW, fresh=2)
    counts = [
        audit_subject(subject, level=one, checks={"G2": CHECKS["G2"], "G3": CHECKS["G3"]}).headlines[0].attacks
        for one in (FEW, level)
    ]
    assert counts[0] == counts[1]


def test_evaluations_on_the_test_set_are_counted_or_said_not_to_be(plain: nn.Module) -> None:
    for selection, status in (("training", "PASS"), ("test", "FAIL")):
        unknown, known = (made("T4", plain, provenance=Provenance(selection, n)) for n in (None, 12))
        assert unknown.status == known.status == status
        assert unknown.evidence == "test-set evaluations not counted" and "12 evaluations" in known.evidence


def test_what_black_boxes_add_stands_in_numbers(plain: nn.Module) -> None:
    numbers = made("S6", plain).numbers
    assert 0 <= numbers["beyond_all_gradient_attacks"] <= numbers["beyond_white_box"]
    alone = made("S6", plain, level=replace(FEW, headline=False)).numbers
    assert alone["beyond_all_gradient_attacks"] is None


@pytest.mark.parametrize(
    ("n", "broken", "status"),
    [(50, 1, "PASS"), (50, 2, "FAIL"), (300, 1, "PASS"), (300, 4, "FAIL"), (1000, 2, "PASS"), (1000, 3, "WARN")],
)
def test_one_image_that_only_a_black_box_breaks_is_chance(plain: nn.Module, n: int, broken: int, status: str) -> None:
    e = evidence(plain)
    stands, share = torch.ones(n), torch.arange(n) >= broken
    e.n, e.insisted, e.white_worst = n, stands, stands
    e.black_box = [SimpleNamespace(name="Square", share=share.float())]  # type: ignore[list-item]
    check = CHECKS["S6"](e)
    assert check.status == status and check.numbers["by"] == {"Square": broken}


def test_an_attack_that_keeps_what_it_found_first_is_not_primed_by_trying_it() -> None:
    class Universal:
        """One perturbation for all, from the first images that it meets."""

        delta: Tensor | None = None

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            if self.delta is None:
                point = x.clone().requires_grad_()
                F.cross_entropy(model(point), y).backward()
                assert point.grad is not None
                self.delta = 0.3 * point.grad.mean(0).sign()
            return (x + self.delta).clamp(0, 1)

    test, attack = load("digits")[1], Universal()
    found = audit(mlp(test.shape, [16, 10]).eval(), test.take(torch.arange(100)), 0.3, level="quick", attack=attack)
    assert "neither labels nor the model" not in found["I9"].value
    assert attack.delta is not None, "the audited model's"
