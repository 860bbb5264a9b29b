"""What an audit is given beside the model: refused before the first attack where it does not fit, taken as it is meant."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.adversaries import Adversary, RecurrentAdversary
from sparring.attacks import PGD, LearnedAttack, fgsm
from sparring.auditing import CHECKS, Audit, Claimed, Fresh, Provenance, Subject, audit, audit_subject
from sparring.auditing.evidence import Evidence
from sparring.auditing.given import attack_at, checked
from sparring.auditing.selftest import SELF
from sparring.auditing.thresholds import shipped
from sparring.data import Data, load
from sparring.errors import InputError
from sparring.models import mlp
from sparring.threat import ThreatModel

TRAIN, TEST = load("digits")
FEW = replace(SELF, n=60, steps=5, queries=10, noise_draws=5, fresh_steps=5, surrogate_steps=5)
THREAT = ThreatModel(0.1, TEST.shape)


def net(n: int = 10, size: int = 64) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(size, n))


def shifted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """An attack that knows no threat model."""
    return x + 0.5


def anything(*arguments: Any) -> Any:
    return arguments[1]


def unlucky(threat: ThreatModel) -> PGD:
    raise ZeroDivisionError("of mine")


class Bare:
    """Of two arguments."""

    def __call__(self, model: nn.Module, x: Tensor) -> Tensor:
        return x


SEES_X = Adversary(mlp(TEST.shape, [8, 64]))
FRESH: dict[str, Any] = {"kind": "x", "seed": 0, "adversary": SEES_X, "eps": 0.1, "steps": 4, "examples": 400}
ROBUST = torch.ones(5, dtype=torch.bool)


def returning(found: Any) -> Any:
    """An attack that returns this of its x."""
    return lambda model, x, y: found(x)


NO_IMAGES: list[tuple[Any, str]] = [
    (lambda x: None, "returned a NoneType"),
    (lambda x: x.numpy(), "returned a ndarray"),
    (lambda x: (x, x), "returned a tuple"),
    (lambda x: x.long(), r"returned int64 of shape \(2, 1, 8, 8\)"),
    (lambda x: x[:1], r"returned float32 of shape \(1, 1, 8, 8\)"),
    (lambda x: x.flatten(1), r"returned float32 of shape \(2, 64\)"),
]
SMALL = Data(TRAIN.images[:, :, :4, :4], TRAIN.labels, 10, "small")
MORE = Data(TRAIN.images, TRAIN.labels + 2, 12, "more")
WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"model": net(size=784)},
        r"the model fails on inputs \(8, 1, 8, 8\).*is that the shape that it was made for\?",
    ),
    ({"model": net().double()}, r"its weights are float64, so give it as \.float\(\)"),
    ({"model": net().half()}, r"its weights are float16, so give it as \.float\(\)"),
    ({"model": net(9)}, r"the model returned \(8, 9\).*expected logits \(8, 10\)"),
    ({"train": SMALL}, r"train has inputs \(1, 4, 4\), the test data \(1, 8, 8\)"),
    ({"train": MORE}, "train has 12 classes, the model 10"),
    ({"twin": net(12)}, "the twin returns 12 logits, the model 10"),
    ({"twin": net(4)}, r"the twin returned \(8, 4\)"),
    ({"twin": net(size=16)}, "the twin fails on inputs"),
    ({"twin": shifted}, "the twin is a function; expected a torch.nn.Module"),
    ({"adversary": PGD(THREAT)}, "adversary is a PGD; expected .* another attack goes to attack="),
    ({"adversary": net()}, "adversary is a Sequential; expected"),
    ({"adversary": Adversary(mlp((1, 4, 4), [8, 16]))}, "adversary takes no inputs of shape"),
    ({"adversary": LearnedAttack(Adversary(mlp((1, 4, 4), [8, 16])), THREAT)}, "adversary takes no inputs of shape"),
    ({"adversary": RecurrentAdversary((1, 4, 4))}, r"adversary is for inputs \(1, 4, 4\)"),
    (
        {"adversary": Adversary(mlp((68,), [8, 64]), shape=TEST.shape, sees=("x", "label"), n_classes=4)},
        "adversary sees 4 classes; the data have 10",
    ),
    ({"attack": "pgd"}, "attack is a str; expected a function of the threat model"),
    ({"attack": anything}, r"attack is a function\(\*arguments.*; expected a function of the threat model"),
    ({"attack": Bare()}, "attack is a Bare.* expected a function of the threat model"),
    ({"attack": lambda threat: 0.1}, "attack returned a float for .* expected an attack"),
    ({"attack": unlucky}, "attack failed on .*: of mine"),
    ({"sources": {"mine": net(9)}}, r"sources\['mine'\] returned \(8, 9\)"),
    ({"sources": {"mine": net(12)}}, r"sources\['mine'\] returns 12 logits, the model 10"),
    ({"siblings": {"seed1": net(size=16)}}, r"siblings\['seed1'\] fails on inputs"),
    ({"past_defenders": [net(), "net"]}, r"past_defenders\[1\] is a str; expected a torch.nn.Module"),
    ({"learned": {"a game": PGD(THREAT)}}, r"learned\['a game'\] is a PGD; expected a LearnedAttack"),
    (
        {"past": [LearnedAttack(RecurrentAdversary((1, 4, 4)), THREAT)]},
        r"past\[0\] is for inputs \(1, 4, 4\)",
    ),
    (
        {"claimed": Claimed(torch.rand(5, 64), torch.ones(5, dtype=torch.bool), 0.1)},
        r"claimed.x_adv is float32 of shape \(5, 64\); expected float images \(N, 1, 8, 8\)",
    ),
    (
        {"claimed": Claimed(torch.rand(5, 1, 8, 8), torch.ones(4, dtype=torch.bool), 0.1)},
        r"claimed.robust is bool of shape \(4,\); expected bool of shape \(5,\)",
    ),
    ({"fgsm": 3}, "fgsm is a int; expected a function of the threat model"),
    ({"train": TRAIN.take(torch.arange(1))}, "train has 1 example; .* two"),
    ({"sources": [net()]}, "sources is a list; expected a dict"),
    ({"siblings": (net(),)}, "siblings is a tuple; expected a dict"),
    ({"learned": [LearnedAttack(SEES_X, THREAT)]}, "learned is a list; expected a dict"),
    ({"past": LearnedAttack(SEES_X, THREAT)}, "past is a LearnedAttack; expected a list"),
    ({"fresh": [LearnedAttack(SEES_X, THREAT)]}, r"fresh\[0\] is a LearnedAttack; expected a Fresh"),
    ({"fresh": Fresh(**FRESH)}, "fresh is a Fresh; expected a list"),
    ({"fresh": [Fresh(**FRESH | {"kind": "y"})]}, r"fresh\[0\].kind cannot be 'y'"),
    (
        {"fresh": [Fresh(**FRESH | {"kind": "xg"})]},
        r"fresh\[0\] is of kind 'xg', but its Adversary sees x",
    ),
    (
        {"fresh": [Fresh(**FRESH | {"adversary": LearnedAttack(SEES_X, THREAT)})]},
        r"fresh\[0\].adversary is a LearnedAttack",
    ),
    (
        {"fresh": [Fresh(**FRESH | {"adversary": Adversary(mlp((1, 4, 4), [8, 16]))})]},
        r"fresh\[0\].adversary takes no inputs",
    ),
    ({"history": [(1, 0.5, 0.5)]}, r"history\[0\] is a tuple; expected a Drop"),
    ({"provenance": {"selection": "test"}}, "provenance is a dict; expected a Provenance"),
    ({"provenance": Provenance("tset")}, "provenance.selection cannot be 'tset'; did you mean 'test'"),
    ({"claimed": (torch.rand(5, 1, 8, 8), ROBUST, 0.1)}, "claimed is a tuple; expected a Claimed"),
    (
        {"claimed": Claimed(torch.rand(5, 1, 8, 8).numpy(), ROBUST, 0.1)},
        "claimed.x_adv is a ndarray; expected a tensor",
    ),  # type: ignore[arg-type]
    ({"claimed": Claimed(torch.rand(0, 1, 8, 8), ROBUST[:0], 0.1)}, "claimed.x_adv is empty"),
    ({"claimed": Claimed(torch.rand(5, 1, 8, 8), ROBUST, 8)}, "did you mean 8/255"),
    *[({"attack": returning(found)}, f"attack {message}") for found, message in NO_IMAGES],
    *[({"attack": lambda threat, found=found: returning(found)}, f"attack {message}") for found, message in NO_IMAGES],
    *[({"fgsm": returning(found)}, f"fgsm {message}") for found, message in NO_IMAGES],
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_what_does_not_fit_is_refused_before_the_first_attack(
    given: dict[str, Any], message: str, plain: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evidence, "__init__", lambda *_, **__: pytest.fail("it went on to the attacks"))
    with pytest.raises(InputError, match=message) as raised:
        audit(**{"model": plain, "data": TEST, "eps": 0.1, "level": FEW, **given})
    assert "\n" not in str(raised.value)


SEEING = Adversary(mlp((138,), [8, 64]), shape=TEST.shape, sees=("x", "label", "gradient"), n_classes=10)
FITTING: list[dict[str, Any]] = [
    {"train": TRAIN, "twin": net(), "adversary": Adversary(mlp(TEST.shape, [8, 64]))},
    {"adversary": RecurrentAdversary(TEST.shape)},
    {"adversary": LearnedAttack(SEEING, THREAT)},
]


@pytest.mark.parametrize("given", FITTING)
def test_what_fits_is_taken_as_it_is(given: dict[str, Any], plain: nn.Module) -> None:
    drawn = torch.random.get_rng_state()
    found = checked(Subject(plain, TEST, (0.1,), **given))
    assert all(getattr(found, name) is value for name, value in given.items())
    assert torch.equal(drawn, torch.random.get_rng_state())


def test_training_data_without_the_last_classes_have_those_of_the_model(plain: nn.Module) -> None:
    few = Data(TRAIN.images, TRAIN.labels % 3, 3, "few")
    found = checked(Subject(plain, TEST, (0.1,), train=few)).train
    assert found is not None and (found.n_classes, found.fingerprint) == (10, few.fingerprint)


def white_box(model: nn.Module, attack: Any) -> tuple[float, Audit]:
    """How many images an audit with this attack leaves, by that attack."""
    only = {id: CHECKS[id] for id in ("I5", "S1")}
    result = audit_subject(Subject(model, TEST, (0.1,), attack=attack), level=FEW, checks=only)
    (row,) = (row for row in result.attacks if row.attack == "white box cross-entropy")
    return row.survived, result


def test_a_function_of_model_x_and_y_is_projected(plain: nn.Module) -> None:
    left, result = white_box(plain, shifted)
    assert result["I5"].status == "PASS"
    assert left == white_box(plain, lambda threat: lambda model, x, y: threat.project(x + 0.5, x))[0]
    assert white_box(plain, lambda threat: shifted)[1]["I5"].status == "FAIL", "one that a function returned is not"


def test_images_in_float64_are_taken_in_float32(plain: nn.Module) -> None:
    left = white_box(plain, shifted)[0]
    assert left == white_box(plain, lambda model, x, y: x.double() + 0.5)[0]
    inside = white_box(plain, lambda threat: lambda model, x, y: threat.project(x.double() + 0.5, x.double()))
    assert left == inside[0] and inside[1]["I5"].status == "PASS"
    twice = Subject(
        plain, TEST, (0.1,), attack=lambda threat: lambda model, x, y: threat.project(x.double(), x.double())
    )
    assert audit_subject(twice, level=FEW, checks={"I6": CHECKS["I6"]})["I6"].status == "PASS"


def particular(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    """An attack that only models with a layer of this name can be shown to, and that returns no images."""
    model.get_submodule("linears")
    return None


def test_an_attack_that_cannot_be_tried_before_is_held_to_the_same_when_it_runs(plain: nn.Module) -> None:
    checked(Subject(plain, TEST, (0.1,), attack=particular))
    with pytest.raises(InputError, match="returned a NoneType") as raised:
        white_box(plain, particular)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("eps", [0.02, 0.5])
def test_an_attack_with_a_threat_is_aimed(eps: float, plain: nn.Module) -> None:
    steps: dict[str, Any] = {"steps": 5, "random_start": False}
    left, result = white_box(plain, PGD(ThreatModel(eps, TEST.shape), **steps))
    assert result["I5"].status == "PASS"
    assert left == white_box(plain, partial(PGD, **steps))[0] == white_box(plain, lambda t: PGD(t, **steps))[0]


@pytest.mark.parametrize("given", [PGD, partial(PGD, steps=3), fgsm, lambda threat, steps=3: PGD(threat, steps=steps)])
def test_a_function_of_the_threat_model_is_left_as_it_is(given: Any) -> None:
    assert attack_at(given, THREAT, "attack") is given


def test_of_a_claim_on_more_images_those_that_are_audited_are_verified(plain: nn.Module) -> None:
    few = Evidence(Subject(plain, TEST, (0.1,)), FEW, shipped()).indices
    order = torch.cat([few, torch.tensor(sorted({*range(len(TEST))} - {*few.tolist()}))])
    x = TEST.floats(order)
    right = plain(x).argmax(-1) == TEST.labels[order]
    for robust, status in ((right, "PASS"), (torch.ones_like(right), "FAIL")):
        subject = Subject(plain, TEST, (0.1,), claimed=Claimed(x, robust, 0.1))
        assert audit_subject(subject, level=FEW, checks={"I5": CHECKS["I5"]})["I5"].status == status
