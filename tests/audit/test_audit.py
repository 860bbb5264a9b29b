"""The audit from outside: what it returns, prints and refuses, and the checks that no planted model breaks."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparring.adversaries import Adversary
from sparring.attacks import LearnedAttack
from sparring.auditing import CHECKS, TITLES, Audit, Check, Subject, Thresholds, audit, audit_subject
from sparring.auditing.evidence import Evidence
from sparring.auditing.gradients import differences
from sparring.auditing.selftest import SELF
from sparring.auditing.thresholds import images, read, shipped
from sparring.auditing.verifier import verify
from sparring.data import Data, load
from sparring.errors import InputError
from sparring.models import mlp
from sparring.targets import run_audit
from sparring.threat import ThreatModel

TRAIN, TEST = load("digits")
FEW = replace(SELF, n=60, steps=20, queries=50, fresh_steps=20, surrogate_steps=20)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def result(plain: nn.Module) -> Audit:
    return audit(plain, TEST, [0.1, 0.2], train=TRAIN, level=FEW)


def evidence(plain: nn.Module, **more: Any) -> Evidence:
    subject = Subject(**{"model": plain, "data": TEST, "eps": (0.1,), "train": TRAIN, **more})
    return Evidence(subject, FEW, shipped())


def test_every_check_is_made_or_skipped_with_a_reason(result: Audit) -> None:
    assert [check.id for check in result.checks] == list(TITLES) and set(TITLES) == set(CHECKS)
    assert all(check.evidence for check in result.checks if check.status == "SKIP")


def test_what_is_printed_names_every_skip_and_ends_with_the_verdict_and_its_interval(result: Audit) -> None:
    text = str(result)
    assert all(check.id in text for check in result.checks if check.status in ("SKIP", "WARN", "FAIL"))
    last = text.splitlines()[-1]
    assert last.startswith("VERDICT") and "robust" not in last.replace("Robust accuracy withheld", "").lower()
    if not result.withheld:
        assert text.count("[") >= 2 and "at eps 0.1" in text and "at eps 0.2" in text


def test_the_record_is_plain_json_and_says_what_the_text_says(result: Audit) -> None:
    record = json.loads(json.dumps(result.to_json()))
    assert record["verdict"] == result.verdict and record["exit_code"] == result.exit_code
    assert len(record["checks"]) == len(TITLES) and record["attacks"]


def test_two_audits_with_one_seed_are_equal(plain: nn.Module, result: Audit) -> None:
    again = audit(plain, TEST, [0.1, 0.2], train=TRAIN, level=FEW)
    assert again.checks == result.checks and again.headlines == result.headlines


class Drop(nn.Module):
    """Random at every pass, from PyTorch's own generator."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(nn.functional.dropout(x, 0.2, training=True))
        return logits


def test_an_audit_of_a_random_model_repeats_itself_whatever_was_drawn_before(plain: nn.Module) -> None:
    made = []
    for drawn in (1, 2):
        torch.manual_seed(drawn)
        found = audit(Drop(plain).eval(), TEST, 0.1, train=TRAIN, level=replace(FEW, n=100), declared_random=True)
        made.append([found.checks, found.headlines, [replace(row, seconds=0.0) for row in found.attacks]])
    assert made[0] == made[1]
    assert made[0][1]


def test_no_audit_moves_pytorchs_own_generator(plain: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.random.get_rng_state()
    for model, more in ((plain, {}), (Drop(plain).eval(), {"declared_random": True})):
        audit(
            model, TEST, 0.1, train=TRAIN, twin=plain, level=FEW, attack=lambda model, x, y: torch.rand_like(x), **more
        )
        assert torch.equal(drawn, torch.random.get_rng_state())


def test_a_model_that_is_random_in_secret_draws_anew_in_every_verdict(plain: nn.Module) -> None:
    e = evidence(Drop(plain).eval())
    first, same, other = (e.verdict(e.x, e.y, name) for name in ("a", "a", "b"))
    assert torch.equal(first.labels, same.labels) and not torch.equal(first.labels, other.labels)


@pytest.mark.parametrize("seed", [np.int64(3), 3])
def test_a_seed_may_be_numpys(seed: Any, plain: nn.Module) -> None:
    result = audit_subject(Subject(plain, TEST, (0.1,)), level=FEW, seed=seed, checks={"S1": CHECKS["S1"]})
    assert json.loads(json.dumps(result.to_json()))["seed"] == 3


# few examples


def test_fewer_than_a_hundred_examples_have_no_headline(plain: nn.Module) -> None:
    few, only = TEST.take(torch.arange(99)), {"S1": CHECKS["S1"]}
    result = audit_subject(Subject(plain, few, (0.1,)), level="quick", checks=only, full=True)
    assert result.verdict == "NO HEADLINE: N=99, fewer than 100 examples" and result.exit_code == 0 and result.withheld
    last = str(result).splitlines()[-1]
    assert (
        "Robust accuracy withheld" in last and "Worst case" not in last and re.search(r"clean .* \[.*\], N=99$", last)
    )
    told = result.to_json()
    assert told["headlines"] == [] and told["too_little"] == "N=99, fewer than 100 examples"
    enough = audit_subject(Subject(plain, TEST.take(torch.arange(100)), (0.1,)), level="quick", checks=only)
    assert enough.verdict == "NO OBJECTION FOUND" and not enough.withheld and enough.to_json()["too_little"] == ""


def test_what_failed_is_named_first_and_the_few_examples_too(plain: nn.Module) -> None:
    subject = Subject(plain, TEST.take(torch.arange(99)), (0.1,), statements=["robust accuracy 92 % under FGSM"])
    result = audit_subject(subject, level="quick", checks={"G7": CHECKS["G7"]})
    assert result.verdict == "NOT CREDIBLE: G7 (wording)" and result.exit_code == 4 and result.withheld
    assert str(result).endswith("N=99, fewer than 100 examples")


def test_one_example_is_no_ground_for_a_verdict(plain: nn.Module) -> None:
    result = audit(plain, (TEST.floats()[:1], TEST.labels[:1]), 0.05, level=FEW)
    assert result.verdict.startswith("NO HEADLINE: N=1,") and result.to_json()["headlines"] == []


def test_examples_of_one_class_only_have_no_headline(plain: nn.Module) -> None:
    one = TEST.take((TEST.labels == 3).nonzero().squeeze(1).repeat(4)[:120])
    result = audit_subject(Subject(plain, one, (0.1,)), level="quick", checks={"S1": CHECKS["S1"]})
    assert result.verdict == "NO HEADLINE: all N=120 examples are of class 3" and result.withheld


def test_the_worst_case_never_rises_with_eps(result: Audit) -> None:
    assert result.headlines[0].survived >= result.headlines[1].survived


def test_the_model_is_left_as_it_was(plain: nn.Module) -> None:
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    plain.train()
    drawn = torch.random.get_rng_state()
    audit_subject(Subject(plain, TEST, (0.1,)), level=FEW, checks={id: CHECKS[id] for id in ("I1", "S1", "S9")})
    assert all(module.training for module in plain.modules()) and torch.equal(drawn, torch.random.get_rng_state())
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    plain.eval()


def test_strict_takes_what_was_skipped_for_failed(plain: nn.Module) -> None:
    subject, only = Subject(plain, TEST, (0.1,)), {"I2": CHECKS["I2"], "S1": CHECKS["S1"], "T3": CHECKS["T3"]}
    assert audit_subject(subject, level=FEW, checks=only).exit_code == 0
    assert audit_subject(subject, level=FEW, checks=only, strict=True).exit_code == 4


def test_a_verdict_is_never_the_word_robust() -> None:
    empty = Audit("m", "d", 1, "0" * 64, "quick", "v", 1.0, False, (Check("I2", "PASS"),), (), ())
    assert empty.verdict == "NO OBJECTION FOUND" and empty.exit_code == 0


def test_thresholds_count_images_rounded_down() -> None:
    assert [images(0.2, n) for n in (300, 1000, 10_000)] == [0, 2, 20]
    assert images(1, 300) == 3 and images(0.5, 300) == 1


def test_a_threshold_file_that_lacks_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("[S1]\npass = 1\n")
    with pytest.raises(InputError, match="lacks"):
        read(tmp_path / "t.toml")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"eps": 0.0}, "radii > 0"),
        ({"eps": 8.0}, "8/255"),
        ({"eps": "0.1"}, "must be a number"),
        ({"eps": None}, "must be a number"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"seed": 0.5}, "seed must be a whole number >= 0"),
        ({"declared_random": True, "full": True}, "leave out full"),
        ({"level": "qick"}, "did you mean 'quick'"),
        ({"data": (TEST.images.float(), TEST.labels)}, "255"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(
    plain: nn.Module, call: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evidence, "__init__", lambda *_, **__: pytest.fail("it went on to the attacks"))
    with pytest.raises(ValueError, match=message) as raised:
        audit(plain, **{"data": TEST, "eps": 0.1, **call})
    assert "\n" not in str(raised.value)


def test_a_model_of_other_outputs_is_refused() -> None:
    with pytest.raises(InputError, match="expected logits"):
        audit(nn.Flatten(), Data(TEST.images[:, :, :2, :2], TEST.labels, 10, "small"), 0.1)


# checks that no planted model breaks: the measurements themselves are planted


def changed(e: Evidence, **properties: Any) -> Evidence:
    for name, value in properties.items():
        e.__dict__[name] = value
    return e


def survivors(e: Evidence, k: int) -> Tensor:
    return torch.arange(e.n).lt(k).float()


def test_restarts_that_keep_gaining_are_raised_and_then_warned_of(
    plain: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = evidence(plain)
    e.__dict__["white"] = replace(e.white, share=survivors(e, 60))
    monkeypatch.setattr(Evidence, "restarts", lambda self, n: survivors(self, 60 - 5 * n))
    assert CHECKS["S3"](e).status == "WARN"


def test_a_curve_that_rises_with_eps_fails(plain: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    e = evidence(plain)
    flat = replace(e.white, share=survivors(e, 10))
    monkeypatch.setattr(Evidence, "at", lambda self, eps: replace(flat, share=survivors(self, 10 + round(20 * eps))))
    assert CHECKS["S4"](e).status == "FAIL"


def test_kinds_of_attack_that_could_not_run_are_named(plain: nn.Module) -> None:
    e = evidence(plain, train=None, data=TEST.take(torch.arange(100)))
    assert CHECKS["S15"](e).status == "WARN" and "transfer" in CHECKS["S15"](e).value


def test_autoattack_may_seed_the_global_generator_and_it_is_put_back(
    plain: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seeding:
        def __init__(self, model: nn.Module, *, eps: float, seed: int, device: torch.device) -> None:
            self.eps = eps

        def run_standard_evaluation(self, x: Tensor, y: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
            torch.manual_seed(5)
            return (x + self.eps).clamp(0, 1), y

    peer = ModuleType("pyautoattack")
    peer.AutoAttack = Seeding  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyautoattack", peer)
    before = torch.random.get_rng_state()
    e = evidence(plain)
    assert e.autoattack is not None and 0 <= e.autoattack <= e.clean.share.sum()
    assert torch.equal(before, torch.random.get_rng_state())


def test_autoattack_being_stronger_fails(plain: nn.Module) -> None:
    e = evidence(plain)
    skipped = CHECKS["S16"](changed(e, autoattack=None))
    assert skipped.status == "SKIP" and 'pip install "pyautoattack>=0.2"' in skipped.evidence
    e.white  # noqa: B018
    assert CHECKS["S16"](changed(e, autoattack=0.0)).status == "FAIL"
    assert CHECKS["S16"](changed(e, autoattack=60.0)).status == "PASS"


def test_less_information_that_wins_is_warned_of(plain: nn.Module) -> None:
    e = evidence(plain)
    better = replace(e.single, name="learned", share=torch.zeros(e.n))
    check = CHECKS["S17"](changed(e, learned=[better], single=replace(e.single, share=survivors(e, 40))))
    assert check.status == "WARN" and "training mode" in check.evidence


def test_a_best_response_that_gains_with_training_is_warned_of(plain: nn.Module) -> None:
    e = evidence(plain)
    once = e.fresh[0]
    assert CHECKS["G3"](changed(e, doubling=(once, replace(once, share=torch.zeros(e.n))))).status == "WARN"
    assert CHECKS["G3"](changed(e, doubling=(once, once))).status == "PASS"


def test_a_past_adversary_that_is_stronger_is_cycling(plain: nn.Module) -> None:
    idle = Adversary(mlp(TEST.shape, [8, 64]))
    for parameter in idle.parameters():
        parameter.data.zero_()
    strong = evidence(plain).responses[0].adversary
    threat = ThreatModel(0.1, TEST.shape)
    for past, status in (([idle, strong], "WARN"), ([idle, idle], "PASS")):
        attacks = [LearnedAttack(adversary, threat) for adversary in past]
        e = evidence(plain, adversary=idle, past=attacks, past_defenders=[plain])
        assert CHECKS["G4"](e).status == status


def test_rates_need_an_interval_that_holds_them_and_attacks_that_say_what_they_are(plain: nn.Module) -> None:
    e = evidence(plain)
    assert CHECKS["T1"](e).status == CHECKS["T6"](e).status == "PASS"
    e.runs["x"] = replace(e.white, name="", attack="")
    assert CHECKS["T6"](e).status == "FAIL"


def test_an_undefended_model_on_a_large_test_set_is_no_objection_to_its_digits(plain: nn.Module) -> None:
    e = evidence(plain)
    e.n = 10_000
    e.standing = lambda eps: torch.zeros(10_000)  # type: ignore[method-assign]
    found = CHECKS["T6"](e)
    assert found.status == "PASS" and "narrower" in found.value


@pytest.mark.parametrize("fault", ["training", "no statistics"])
def test_batch_norm_that_needs_the_batch_is_an_objection_not_an_error(fault: str) -> None:
    class Training(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if fault == "training":
                self.train()
            found: Tensor = super().forward(x)
            return found

    torch.manual_seed(0)
    norm = nn.BatchNorm1d(16, track_running_stats=fault == "training")
    model = Training(nn.Flatten(), nn.Linear(64, 16), norm, nn.ReLU(), nn.Linear(16, 10))
    found = audit(model, TEST, 0.1, train=TRAIN, level=FEW)
    assert found["I2"].status == "FAIL" and "more than 1 value" in found["I2"].evidence
    assert found.withheld and found.exit_code == 4


# the parts


def test_the_verifier_finds_what_lies_outside_and_what_is_wrong(plain: nn.Module) -> None:
    x, y = TEST.floats()[:20], TEST.labels[:20]
    inside = verify(plain, x, y, x, 0.1, 1e-6)
    assert inside.out_of_ball == inside.out_of_range == 0 and inside.distance == 0
    assert verify(plain, x, y, x + 0.2, 0.1, 1e-6).out_of_ball == 20
    assert verify(plain, x, y, x - 0.05, 0.1, 1e-6).out_of_range == 20
    assert not verify(plain, x, (y + 1) % 10, x, 0.1, 1e-6).correct[inside.correct].any()


def test_a_smooth_model_has_true_gradients_and_a_rounded_one_none(plain: nn.Module) -> None:
    x, y = TEST.floats()[:16], TEST.labels[:16]
    good = differences(plain, x, y)
    assert good.error < 1e-6 and good.cosine > 0.95 and not good.vanishing


def test_a_target_is_audited_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = "nn.Sequential(nn.Flatten(), nn.Linear(64, 10))"
    (tmp_path / "theirs.py").write_text(f"from torch import nn\ndef net():\n    return {made}\n")
    found = run_audit("theirs:net", data="digits", eps=0.1, level=replace(FEW, n=40))
    assert found.subject == "theirs:net" and found.n == 40
    with pytest.raises(InputError, match="name the data"):
        run_audit("theirs:net")


def test_the_example_runs() -> None:
    words, one = [sys.executable, "examples/audit_my_classifier.py"], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=one, capture_output=True, text=True, timeout=110)
    assert done.returncode in (0, 4), done.stderr
    assert "ROBUSTNESS AUDIT" in done.stdout and "VERDICT" in done.stdout


def test_thresholds_carry_their_version() -> None:
    assert isinstance(shipped(), Thresholds) and shipped().version.startswith("v1")
