"""Adversaries that are shown the model's gradient are judged beside attacks that are, not beside those that are not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.adversaries import Adversary, RecurrentAdversary, n_features
from sparring.attacks import PGD, LearnedAttack, Transferred
from sparring.auditing import CHECKS, Subject, audit_subject
from sparring.auditing.everything import over_all
from sparring.auditing.evidence import Evidence
from sparring.auditing.selftest import SELF
from sparring.auditing.thresholds import shipped
from sparring.data import load
from sparring.models import mlp
from sparring.threat import ThreatModel

TRAIN, TEST = load("digits")
FEW = replace(SELF, n=100, steps=20, queries=50, fresh=2, fresh_steps=30, surrogate_steps=20)
THREAT = ThreatModel(0.1, TEST.shape)


def guided(kind: str) -> Adversary | RecurrentAdversary:
    if kind == "recurrent":
        return RecurrentAdversary(TEST.shape, rounds=10)
    sees = ("x", "gradient")
    return Adversary(mlp((n_features(sees, TEST.shape, 10),), [8, 64]), "tanh", TEST.shape, sees=sees, n_classes=10)


def evidence(plain: nn.Module, **more: Any) -> Evidence:
    return Evidence(Subject(**{"model": plain, "data": TEST, "eps": (0.1,), "train": TRAIN, **more}), FEW, shipped())


@pytest.mark.parametrize("kind", ["recurrent", "network"])
def test_one_that_is_shown_the_gradient_is_no_attack_without_it(kind: str, plain: nn.Module) -> None:
    neighbour = LearnedAttack(guided(kind), THREAT)
    blind = LearnedAttack(Adversary(mlp(TEST.shape, [8, 64])), THREAT)
    e = evidence(plain, adversary=guided(kind), learned={"a game": neighbour, "the paper's": blind})
    without, shown = {run.name for run in e.black_box}, {run.name for run in e.guided}
    assert {"its own adversary", "adversary of a game"} <= shown and not shown & without
    assert "adversary of the paper's" in without
    assert "its own adversary" not in CHECKS["S6"](e).evidence + CHECKS["S17"](e).value
    least = torch.stack([run.share for run in e.guided]).amin(0)
    assert bool((e.white_worst <= least).all()) and bool((e.standing(0.1) <= least).all())


def goes_on(eps: float = 0.3) -> LearnedAttack:
    """One that starts where an attack on another model ends, and asks for another gradient."""
    start = Transferred(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), PGD(ThreatModel(eps, TEST.shape), steps=3, random_start=False)
    )
    recurrent = RecurrentAdversary(TEST.shape, rounds=2)
    return LearnedAttack(recurrent, ThreatModel(eps, TEST.shape), start=start, asks="margin")


def test_a_learned_attack_is_aimed_and_otherwise_as_it_was_given(plain: nn.Module) -> None:
    given = goes_on()
    e = evidence(plain, adversary=given, learned={"mine": given}, past=[given, given])
    CHECKS["G4"](e)
    own, mine, past = (e.runs[name] for name in ("its own adversary", "past adversary 1", "past adversary 2"))
    (other,) = (run for run in e.guided if run.name == "adversary of mine")
    assert isinstance(given.start, Transferred)
    start = replace(given.start, attack=PGD(THREAT, steps=3, random_start=False))
    aimed = replace(given, threat=THREAT, start=start)
    for run in (own, mine, past, other):
        assert run.attack == repr(aimed) and "asks='margin'" in run.attack and "start=Transferred" in run.attack
        assert torch.allclose(run.x_adv, aimed(plain, e.x, e.y).detach(), atol=1e-6)
        assert float((run.x_adv - e.x).abs().max()) <= 0.1 + 1e-6


def test_fresh_adversaries_that_see_as_much_start_and_ask_as_the_games_own(plain: nn.Module) -> None:
    e = evidence(plain, adversary=goes_on())
    assert e.doubling is not None
    for run in (*e.equals, *e.doubling):
        assert "asks='margin'" in run.attack and "start=Transferred" in run.attack, run.name
    assert all("start=" not in run.attack for run in e.fresh)


def test_the_mode_of_a_learned_attack_is_kept(plain: nn.Module) -> None:
    in_training = LearnedAttack(Adversary(mlp(TEST.shape, [8, 64])), THREAT, mode="training")
    e = evidence(plain, adversary=in_training, learned={"mine": in_training})
    assert e.own is not None and "mode='training'" in e.own.attack
    assert "mode='training'" in {run.name: run.attack for run in e.learned}["adversary of mine"]


def test_over_the_whole_set_they_attack_as_they_were_given(plain: nn.Module) -> None:
    asked: list[int] = []

    def start(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        asked.append(len(x))
        return x

    given = LearnedAttack(RecurrentAdversary(TEST.shape, rounds=1), THREAT, start=start)
    few = replace(FEW, fresh=0, fresh_steps=1)
    e = Evidence(Subject(plain, TEST, (0.1,), adversary=given, learned={"mine": given}), few, shipped())
    e.standing(0.1)
    before = len(asked)
    over_all(e)
    assert len(asked) > before


def test_g1_trains_adversaries_that_see_as_much_as_the_games_own(plain: nn.Module) -> None:
    e = evidence(plain, adversary=guided("recurrent"))
    found = CHECKS["G1"](e)
    assert "2 fresh seeds" in found.evidence and "2 equally informed seeds" in found.evidence
    assert all(isinstance(r.adversary, RecurrentAdversary) and r.examples == 30 * 128 for r in e.equal_responses)
    weights = [torch.cat([p.detach().flatten() for p in r.adversary.parameters()]) for r in e.equal_responses]
    untrained = torch.cat([p.detach().flatten() for p in guided("recurrent").parameters()])
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], untrained)
    blind = torch.stack([run.share for run in e.fresh]).amin(0)
    assert found.numbers["best_response"] < float(blind.sum()) - 5
    assert "as much as its own" in CHECKS["G2"](e).value


def test_against_its_own_kind_a_weak_adversary_is_found_out(plain: nn.Module) -> None:
    idle = RecurrentAdversary(TEST.shape, step=1e-4)
    assert CHECKS["G1"](evidence(plain, adversary=idle)).status == "FAIL"


def test_g3_doubles_the_training_of_one_that_sees_as_much(plain: nn.Module) -> None:
    e = evidence(plain, adversary=guided("recurrent"))
    found = CHECKS["G3"](e)
    assert (
        found.evidence == "fresh adversary 1, seeing as much, twice as long, beside fresh adversary 1, seeing as much"
    )
    assert e.doubling is not None
    once, twice = e.doubling
    assert not torch.equal(once.x_adv, twice.x_adv) and twice.survived <= once.survived + 3


def test_one_that_sees_x_only_is_answered_by_such_alone(plain: nn.Module) -> None:
    e = evidence(plain, adversary=Adversary(mlp(TEST.shape, [8, 64])))
    assert not e.equals and "its own adversary" in {run.name for run in e.black_box}
    assert "equally informed" not in CHECKS["G1"](e).evidence


def test_without_training_data_a_guided_game_cannot_pass(plain: nn.Module) -> None:
    e = evidence(plain, adversary=guided("recurrent"))
    given = evidence(plain, adversary=guided("recurrent"))
    given.training_data, given.responses = None, e.responses
    assert not given.equals and CHECKS["G1"](given).status == "INFO"


def test_the_whole_test_set_meets_them_too(plain: nn.Module) -> None:
    found = audit_subject(
        Subject(plain, TEST, (0.1,), train=TRAIN, adversary=guided("recurrent")), level=FEW, full=True,
        checks={id: CHECKS[id] for id in ("G1", "G2")},
    )  # fmt: skip
    names = {row.attack for row in found.attacks}
    assert {"fresh adversary 1, seeing as much", "fresh adversary 2, seeing as much", "its own adversary"} <= names
