"""The suites, the cascade that runs them, and the search that goes on only where it may find something."""

from typing import Any

import pytest
import torch
from problems import SHAPE, Linear, Of, broken
from torch import Tensor, nn

from sparring.attacks import APGD, Attack, Cascade, Escalation, Square, fgsm, identity, quick_suite, standard_suite
from sparring.data.batches import Data
from sparring.data.synthetic import linear_problem, linear_robust_accuracy
from sparring.evaluation import attacked
from sparring.evaluation.pieces import streams
from sparring.threat import ThreatModel


def test_a_cascade_breaks_what_any_member_breaks_and_asks_nothing_more_of_what_is_broken(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    threat = ThreatModel(0.05, SHAPE)

    def members() -> tuple[Attack, ...]:
        return fgsm(threat), APGD(threat, steps=20), Square(threat, queries=100)

    single = torch.stack([broken(model, attack(model, x, y), y) for attack in members()]).any(0)
    counted = Of(model)
    together = broken(model, Cascade(members(), threat)(counted, x, y), y)
    assert torch.equal(together, single) and 2 < int(single.sum()) < 40
    assert len(counted.seen[-1]) < 40


def test_a_cascade_aims_its_members_at_its_own_threat(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    narrow, wide = ThreatModel(0.01, SHAPE), ThreatModel(0.2, SHAPE)
    x_adv = Cascade((fgsm(wide), APGD(wide, steps=5)), narrow)(model, x, y)
    assert float((x_adv - x).abs().max()) == pytest.approx(0.01)


@pytest.mark.parametrize("n_classes", [2, 3, 4, 6])
@pytest.mark.parametrize("suite", [standard_suite, quick_suite])
def test_a_suite_fits_any_number_of_classes(suite: Any, n_classes: int, generator: torch.Generator) -> None:
    problem = linear_problem(30, 6, seed=0)
    weight = torch.randn(n_classes, 6, generator=generator, dtype=torch.float64)
    data = Data(
        problem.data.images, Linear(weight, torch.zeros(n_classes))(problem.data.images).argmax(-1), n_classes, ""
    )
    threat = ThreatModel(0.02, (6,))
    members = suite(threat, n_classes, (6,))
    assert type(members[-1]) is (Escalation if suite is standard_suite else Square)
    exact = linear_robust_accuracy(data, weight, torch.zeros(n_classes), 0.02)
    assert attacked(Linear(weight, torch.zeros(n_classes)), data, Cascade(members, threat), threat).accuracy == exact


def test_a_suites_members_differ_in_name_and_draws() -> None:
    members = standard_suite(ThreatModel(0.1, SHAPE), 10, SHAPE, seed=3)
    assert len({repr(member) for member in members}) == len(members)
    drawn = [stream for member in members for stream in streams(member)]
    assert len({stream.name for stream in drawn}) == len(drawn) == 7 and {stream.seed for stream in drawn} == {3}


SCOUT = 40  # queries


def search(threat: ThreatModel, beside: Attack) -> Escalation:
    return Escalation(Square(threat, queries=SCOUT), beside, identity, Square(threat, queries=200), threat, close=0)


def test_a_search_goes_on_where_the_gradient_led_no_further(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """Beside an attack that does nothing it is the whole search; beside one that finds more, it asks little."""
    x, y = batch
    threat = ThreatModel(0.03, SHAPE)
    whole, scout = (
        broken(model, Square(threat, queries=200)(model, x, y), y),
        Square(threat, queries=SCOUT)(model, x, y),
    )
    counted = Of(model)
    blind = search(threat, identity)(counted, x, y)
    assert torch.equal(broken(model, blind, y), whole | broken(model, scout, y)) and 4 < int(whole.sum()) < 40
    assert len(counted.seen) > 200
    counted, gradient = Of(model), APGD(threat, "margin", steps=20)
    shown = broken(model, search(threat, gradient)(counted, x, y), y)
    cheap = broken(model, scout, y) | broken(model, gradient(model, x, y), y)
    assert sum(len(seen) for seen in counted.seen) < 40 * 200 / 3
    assert bool((cheap <= shown).all()) and bool((shown <= cheap | whole).all()) and int(cheap.sum()) > 4


def test_a_search_goes_on_where_the_gradient_is_hidden(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """Rounded logits have no gradient, so that every example that the scout leaves gets the whole search."""
    x, y = batch
    threat = ThreatModel(0.05, SHAPE)
    rounded = Of(lambda x: (model(x) * 8).round() / 8)
    y = rounded(x).argmax(-1)
    whole = broken(rounded, Square(threat, queries=200)(rounded, x, y), y)
    scout = broken(rounded, Square(threat, queries=SCOUT)(rounded, x, y), y)
    found = broken(rounded, search(threat, APGD(threat, "margin", steps=20))(rounded, x, y), y)
    assert torch.equal(found, whole | scout) and int(found.sum()) > int(scout.sum())


def test_a_search_goes_on_where_an_error_is_close(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """With `close` 1 every example is close whose margin did not grow; with 0 one that stands never is."""
    x, y = batch
    threat, asked = ThreatModel(0.02, SHAPE), []
    for close in (0.0, 0.5, 1.0):
        counted = Of(model)
        cheap = Square(threat, queries=5), APGD(threat, "margin", steps=10)
        Escalation(*cheap, Square(threat, queries=100), identity, threat, close)(counted, x, y)
        asked.append(sum(len(seen) for seen in counted.seen))
    assert asked[0] < asked[1] < asked[2]


def test_an_escalation_aims_its_members_at_its_own_threat(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    narrow, wide = ThreatModel(0.01, SHAPE), ThreatModel(0.2, SHAPE)
    members = Square(wide, queries=5), fgsm(wide), APGD(wide, steps=3), Square(wide, queries=9)
    x_adv = Escalation(*members, narrow)(model, x, y)
    assert float((x_adv - x).abs().max()) == pytest.approx(0.01)


def test_what_hands_back_the_examples_themselves_leaves_them_as_they_were(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    before, threat = x.clone(), ThreatModel(0.05, SHAPE)
    Escalation(identity, identity, fgsm(threat), fgsm(threat), threat)(model, x, y)
    assert torch.equal(x, before)
