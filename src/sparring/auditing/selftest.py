"""The audit on itself: every planted fault must be caught, and honest models must stay clear, by this very code."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from sparring import data
from sparring.attacks import PGD, Attack, identity
from sparring.auditing.audit import CHECKS, audit_subject
from sparring.auditing.check import Check
from sparring.auditing.evidence import Evidence, chosen
from sparring.auditing.levels import LEVELS
from sparring.auditing.subject import Subject
from sparring.auditing.thresholds import Thresholds
from sparring.auditing.verdict import SelfTest
from sparring.auditing.zoo import Row, rows
from sparring.data import Data
from sparring.game import train_steps
from sparring.game.moves import against
from sparring.game.player import player
from sparring.models import mlp
from sparring.randomness import generator
from sparring.threat import ThreatModel

EPS = 0.1
SELF = replace(
    LEVELS["quick"],
    name="self-test",
    n=150,
    restarts=2,
    queries=300,
    noise_draws=30,
    fresh_steps=60,
    surrogate_steps=60,
    leaves_out={"S16": "not in the self-test"},
)
Makers = Mapping[str, Callable[[Evidence], Check]]


def self_test(thresholds: Thresholds | None = None, checks: Makers | None = None, *, honest: bool = True) -> SelfTest:
    """Audit the zoo, and two honest models, with these thresholds and checks; half a minute.

    One image more or less may alarm a check of so few; so an honest model that does is trained again from another seed,
    and counts where the same check alarms twice.
    """
    known = dict(CHECKS if checks is None else checks)
    train, test = data.load("digits")
    plain = trained(train)
    missed = {row.name: sets for row in zoo_rows(plain, train, test) if (sets := missed_by(row, thresholds, known))}
    alarmed: dict[str, tuple[str, ...]] = {}
    pgd = PGD(ThreatModel(EPS, train.shape), steps=7, keep="last")
    attacks: dict[str, Attack] = {"clean": identity, "PGD": pgd} if honest else {}
    for name, attack in attacks.items():
        bad = frozenset(known)
        for seed in (0, 1):
            subject = Subject(model=trained(train, attack, seed=seed), data=test, eps=(EPS,), name=name, train=train)
            result = audit_subject(subject, level=SELF, thresholds=thresholds, checks=known)
            bad &= frozenset(alarms(result.checks))
            if not bad:
                break
        if bad:
            alarmed[name] = tuple(id for id in known if id in bad)
    return SelfTest(missed, alarmed, len(zoo_rows(plain, train, test)), len(attacks))


def zoo_rows(model: nn.Module, train: Data, test: Data) -> list[Row]:
    """The zoo around this model, for the self-test's level."""
    n = min(SELF.n or len(test), len(test))
    return rows(model, train, test, EPS, n, chosen(test, n, 0))


def missed_by(row: Row, thresholds: Thresholds | None, checks: Makers) -> tuple[str, ...]:
    """The sets of checks expected to fire on this fault of which none did; only those are made.

    A fault that draws draws the same every time, since an audit does.
    """
    wanted = frozenset().union(*row.fires)
    only = {id: check for id, check in checks.items() if id in wanted}
    level = replace(SELF, headline=False, surrogate_steps=0, fresh=int(any(id[0] == "G" for id in wanted)))
    result = audit_subject(row.subject, level=level, thresholds=thresholds, checks=only, keep_going=True)
    fired = {check.id for check in result.checks if check.status in ("WARN", "FAIL")}
    return tuple("|".join(sorted(ids)) for ids in row.fires if not ids & fired)


def alarms(checks: tuple[Check, ...]) -> tuple[str, ...]:
    """What warned or failed in groups I and II."""
    return tuple(check.id for check in checks if check.group in ("I", "II") and check.status in ("WARN", "FAIL"))


def trained(train: Data, attack: Attack = identity, *, steps: int = 150, seed: int = 0) -> nn.Module:
    """A small network trained on clean images, or on what the attack makes of them."""
    network = mlp(train.shape, [64, 32, train.n_classes], generator=generator(seed, "init.zoo"))
    learner = player("defender", network, maximize=False, lr=0.1, rate="constant")
    move = against(learner, attack, clean_share=1.0 if attack is identity else 0.0)
    train_steps(move, train, learner, steps=steps, seed=seed)
    return network.eval()
