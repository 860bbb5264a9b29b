"""The zoo: every planted fault is caught by the checks named for it; take a check away and a fault goes through."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sparring.attacks import PGD, identity
from sparring.auditing import CHECKS, LEVELS, Audit, Subject, audit_subject
from sparring.auditing.selftest import EPS, SELF, alarms, missed_by, self_test, trained, zoo_rows
from sparring.auditing.thresholds import shipped
from sparring.auditing.zoo import Row
from sparring.config import Training
from sparring.data import Data, load
from sparring.game import against, player
from sparring.game import train as play
from sparring.losses import cross_entropy
from sparring.threat import ThreatModel

TRAIN, TEST = load("digits")
FEW = replace(SELF, n=100, queries=100)
NAMES = [row.name for row in zoo_rows(trained(TRAIN, steps=1), TRAIN, TEST)]

# Checks that never warn or fail on a model alone: what they say is information, or they were skipped, or need a comparison.
ONLY_TELL = {"S18", "G2", "G5", "T2", "T5"}
# Checks that other tests break, since no model, attack or harness does.
ELSEWHERE = {"S3", "S4", "S15", "S16", "S17", "G3", "G4", "T1", "T6"}


@pytest.fixture(scope="module")
def zoo(plain: nn.Module) -> dict[str, Row]:
    return {row.name: row for row in zoo_rows(plain, TRAIN, TEST)}


@pytest.mark.parametrize("name", NAMES)
def test_every_planted_fault_is_caught_by_the_checks_named_for_it(zoo: dict[str, Row], name: str) -> None:
    assert missed_by(zoo[name], None, CHECKS) == ()


def test_planting_faults_draws_nothing(plain: nn.Module) -> None:
    before = torch.get_rng_state()
    zoo_rows(plain, TRAIN, TEST)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fault_that_draws_is_caught_whatever_was_drawn_before(zoo: dict[str, Row]) -> None:
    torch.manual_seed(57)  # with these draws S2 missed it
    before = torch.get_rng_state()
    assert missed_by(zoo["input noise"], None, CHECKS) == ()
    assert torch.equal(torch.get_rng_state(), before)


def test_every_check_is_needed_by_some_fault_or_broken_elsewhere(zoo: dict[str, Row]) -> None:
    alone = {next(iter(ids)) for row in zoo.values() for ids in row.fires if len(ids) == 1}
    assert alone | ONLY_TELL | ELSEWHERE == set(CHECKS)
    assert not alone & (ONLY_TELL | ELSEWHERE)


@pytest.mark.parametrize("id", ["I2", "I4", "I5", "I9", "S9", "S11", "T4"])
def test_a_check_that_is_switched_off_lets_a_fault_through(zoo: dict[str, Row], id: str) -> None:
    without = {name: check for name, check in CHECKS.items() if name != id}
    rows = [row for row in zoo.values() if frozenset({id}) in row.fires]
    assert rows and all(id in missed_by(row, None, without) for row in rows[:1])


def test_a_threshold_edited_so_that_a_fault_passes_is_noticed(zoo: dict[str, Row]) -> None:
    tables = {name: dict(table) for name, table in shipped().tables.items()}
    tables["S8"]["pass"] = 100.0
    edited = replace(shipped(), tables=tables, version="edited")
    assert missed_by(zoo["logits x 1e4"], edited, CHECKS) == ("S8",)


@pytest.mark.slow
def test_the_self_test_passes_as_shipped() -> None:
    result = self_test()
    assert result.passed and str(result).startswith(f"zoo {len(NAMES)}/{len(NAMES)} broken caught, 2/2 honest clear")


def test_a_failed_group_one_stops_the_audit_before_any_attack_and_withholds_the_number(zoo: dict[str, Row]) -> None:
    result = audit_subject(zoo["NaN logits"].subject, level=SELF)
    assert result["I4"].status == "FAIL" and result["S1"].status == "SKIP" and "I4" in result["S1"].evidence
    assert result.verdict.startswith("NOT CREDIBLE: I4") and result.exit_code == 4 and result.headlines == ()
    assert "withheld" in str(result) and result.attacks == ()


def test_a_masked_model_has_its_number_withheld(zoo: dict[str, Row]) -> None:
    result = audit_subject(zoo["detached gradient"].subject, level=FEW, checks={"S1": CHECKS["S1"], "S9": CHECKS["S9"]})
    assert result["S9"].status == "FAIL" and result.withheld and result.to_json()["headlines"] == []
    assert "Worst case" not in str(result)


def test_a_defender_known_only_in_game_keeps_its_headline_and_loses_the_words(zoo: dict[str, Row]) -> None:
    subject = replace(zoo["reported in-game only"].subject, statements=())
    result = audit_subject(subject, level=FEW, checks={"S1": CHECKS["S1"], "G1": CHECKS["G1"]})
    assert result["G1"].status == "FAIL" and result.exit_code == 4
    assert 'NOT CREDIBLE as "robust to its adversary"' in str(result) and "Worst case over" in str(result)


def honest(attack: object = identity) -> nn.Module:
    return trained(TRAIN, attack)  # type: ignore[arg-type]


def pgd_trained() -> nn.Module:
    return honest(PGD(ThreatModel(EPS, TRAIN.shape), steps=7, keep="last"))


def fgsm_trained() -> nn.Module:
    return honest(PGD(ThreatModel(EPS, TRAIN.shape), steps=1, reach=1.25, keep="last"))


def convolutional() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
        )
    learner = player("defender", model, maximize=False, lr=0.05, rate="constant")
    play(against(learner, identity, clean_share=1.0), TRAIN, [learner], Training(max_epochs=10, min_lr=0.0), seed=0)
    return model.eval()


def trades() -> nn.Module:
    """TRADES (Zhang et al. 2019): clean cross-entropy plus 3 times the divergence of attacked from clean answers."""
    model = trained(TRAIN, steps=20)
    threat = ThreatModel(EPS, TRAIN.shape)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    for _ in range(150):
        index = torch.randint(0, len(TRAIN), (128,), generator=order)
        x, y = TRAIN.floats(index), TRAIN.labels[index]
        x_adv = PGD(threat, steps=5, keep="last")(model, x, y)
        model.train()
        clean, attacked = model(x), model(x_adv)
        apart = nn.functional.kl_div(attacked.log_softmax(-1), clean.softmax(-1), reduction="batchmean")
        optimizer.zero_grad()
        (cross_entropy(clean, y).mean() + 3 * apart).backward()
        optimizer.step()
    return model.eval()


class Jittered(nn.Module):
    """A model that adds a little noise to its input at every pass, and says so."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x + 0.05 * torch.randn_like(x))
        return logits


def checked(model: nn.Module, *, eps: float = EPS, declared_random: bool = False, n: int = 300, seed: int = 0) -> Audit:
    subject = Subject(model=model, data=TEST, eps=(eps,), train=TRAIN, declared_random=declared_random)
    level = replace(LEVELS["quick"], n=n, queries=300, fresh_steps=100, surrogate_steps=100)
    return audit_subject(subject, level=level, seed=seed)


@pytest.mark.parametrize(
    "make",
    [
        honest,
        pgd_trained,
        *(pytest.param(make, marks=pytest.mark.slow) for make in (fgsm_trained, trades, convolutional)),
    ],
)
def test_honest_models_stay_clear(make: object) -> None:
    result = checked(make())  # type: ignore[operator]
    assert alarms(result.checks) == (), result
    assert result.verdict == "NO OBJECTION FOUND" and result.exit_code == 0


def test_an_eps_so_small_that_the_accuracy_stays_high_is_no_fault() -> None:
    result = checked(honest(), eps=4 / 255)
    assert alarms(result.checks) == () and result.headlines[0].accuracy > 0.85


@pytest.mark.slow
def test_a_defender_that_is_declared_random_stays_clear() -> None:
    made = [checked(Jittered(honest()), declared_random=True, seed=seed) for seed in (0, 1)]
    twice = set.intersection(
        *(set(alarms(result.checks)) for result in made)
    )  # of 40 noisy checks one may alarm by chance
    assert twice == set(), made


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_honest_models_of_other_seeds_stay_clear(seed: int, digits: tuple[Data, Data]) -> None:
    for attack in (identity, PGD(ThreatModel(EPS, TRAIN.shape), steps=7, keep="last")):
        result = checked(trained(TRAIN, attack, seed=seed))
        assert alarms(result.checks) == (), result
