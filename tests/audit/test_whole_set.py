"""The headline over the whole test set, and what is told over seeds."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sparring import data
from sparring.auditing import Subject
from sparring.auditing.everything import over_all
from sparring.auditing.evidence import Evidence
from sparring.auditing.selftest import SELF
from sparring.auditing.thresholds import shipped
from sparring.errors import InputError
from sparring.records import AuditRecord, HeadlineRecord
from sparring.reproduction.audits import over_seeds

TINY = replace(SELF, name="tiny", n=40, steps=5, queries=10, noise_draws=5, fresh_steps=5, surrogate_steps=5)


def evidence(**more: bool) -> Evidence:
    train, test = data.load("digits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    weights = torch.linalg.lstsq(train.floats().flatten(1), nn.functional.one_hot(train.labels, 10).float()).solution
    linear = model[1]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(weights.T)
        linear.bias.zero_()
    subject = Subject(model=model, data=test.take(torch.arange(120)), eps=(0.05,), train=train, **more)
    return Evidence(subject, TINY, shipped())


def test_the_whole_set_is_never_a_laxer_judge_of_the_audited_examples() -> None:
    e = evidence()
    run = e.white
    before = over_all(e)
    assert before.n == 120 and 0 < before.survived < 120
    e.runs["planted"] = replace(run, name="planted", share=torch.zeros_like(run.share))  # breaks every audited example
    after = over_all(e)
    assert after.survived < before.survived and after.survived <= 120 - len(e.indices)


def test_attacks_on_the_whole_set_are_counted_once() -> None:
    e = evidence()
    before = over_all(e).attacks
    assert len(e.fresh) == 1 and e.doubled.again and e.at(0.5).again and len(e.restarts(3)) == e.n
    assert before == 6  # FGSM, fresh adversaries, APGD on three losses, Square
    assert over_all(e).attacks == before + 1


def test_a_model_that_is_random_on_purpose_is_refused() -> None:
    with pytest.raises(InputError, match="leave out full"):
        over_all(evidence(declared_random=True))


def audited(seed: int, *accuracies: float) -> AuditRecord:
    told = tuple(HeadlineRecord(0.1 * (k + 1), 100, 100 * a, a, a, a, 3) for k, a in enumerate(accuracies))
    return AuditRecord(
        "vanilla", seed, "", not told, 4 * (not told), "standard", 100, "", "v", "", 1.0, told, (), 1.0, "abc"
    )


def test_over_seeds_tells_a_mean_of_every_eps_and_nothing_where_a_seed_is_withheld() -> None:
    first, second = over_seeds([audited(0, 0.5, 0.25), audited(1, 0.7, 0.25)])
    assert (first.mean, first.values, first.n_seeds) == (pytest.approx(0.6), (0.5, 0.7), 2)
    assert (second.mean, second.low, second.high) == (0.25, 0.25, 0.25)
    assert over_seeds([audited(0, 0.5), audited(1)]) == []
