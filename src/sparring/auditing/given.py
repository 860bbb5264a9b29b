"""What a subject was given, tried on a few examples before the first attack: what does not fit is refused in one line."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.adversaries import Adversary, RecurrentAdversary
from sparring.attacks import Attack, LearnedAttack, described
from sparring.attacks.contract import has_threat
from sparring.auditing.runs import NotImages, images_of
from sparring.auditing.subject import AttackAt, Claimed, Drop, Fresh, Provenance, Subject
from sparring.data import Data, as_data
from sparring.errors import InputError, line_of, one_of
from sparring.evaluation.accuracy import inside
from sparring.evaluation.responses import KINDS
from sparring.models import TRIED, tried
from sparring.randomness import own_draws
from sparring.threat import ThreatModel, check_eps

SELECTIONS = (None, "none", "training", "validation", "test")
ATTACKS = "a function of the threat model that returns an attack, an attack with a threat, or a function (model, x, y) -> x_adv"


def checked(subject: Subject) -> Subject:
    """The subject with as many classes as its model knows, and its attacks as functions of the threat model.

    Raises InputError for a model, training data, an adversary, an attack or a claim that does not fit the data, and for what is
    not of the kind that `Subject` names.
    """
    _check_kinds(subject)
    data = classes_of(subject.data, subject.model)
    threat = ThreatModel(subject.eps[0], data.shape)
    for name, model in _models(subject).items():
        if (n := n_outputs(model, data, name)) != data.n_classes:
            raise InputError(f"{name} returns {n} logits, the model {data.n_classes}; give one with the same classes")
    if subject.adversary is not None:
        _check_adversary(subject.adversary, data)
    for name, attack in _learned(subject).items():
        if not isinstance(attack, LearnedAttack):
            raise InputError(f"{name} is a {type(attack).__name__}; expected a LearnedAttack")
        _check_adversary(attack, data, name)
    for i, response in enumerate(subject.fresh):
        _check_fresh(response, data, f"fresh[{i}]")
    if subject.claimed is not None:
        _check_claimed(subject.claimed, data)
    found = replace(
        subject,
        data=data,
        train=None if subject.train is None else _training(subject.train, data),
        attack=None if subject.attack is None else attack_at(subject.attack, threat, "attack"),
        fgsm=None if subject.fgsm is None else attack_at(subject.fgsm, threat, "fgsm"),
    )
    for name, at in {"attack": found.attack, "fgsm": found.fgsm}.items():
        if at is not None:
            _try_attack(at(threat), subject.model, data, name)
    return found


def linear_model(x: Tensor, n_classes: int, generator: torch.Generator) -> nn.Module:
    """A linear classifier of inputs like x (N, *shape), with random weights: a model to try an attack on."""
    model = nn.Sequential(nn.Flatten(), nn.utils.skip_init(nn.Linear, x[0].numel(), n_classes)).to(x.device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def _check_kinds(subject: Subject) -> None:
    """Raises InputError for fields that are not of the kind that `Subject` says; what they hold is looked at later."""
    for name in ("sources", "learned", "siblings"):
        if not isinstance(found := getattr(subject, name), Mapping):
            raise InputError(f"{name} is a {type(found).__name__}; expected a dict, each by its name")
    for name in ("fresh", "past", "past_defenders", "history"):
        if not isinstance(found := getattr(subject, name), Sequence | nn.ModuleList):
            raise InputError(f"{name} is a {type(found).__name__}; expected a list")
    single: dict[str, tuple[Any, type]] = {f"history[{i}]": (look, Drop) for i, look in enumerate(subject.history)}
    single |= {f"fresh[{i}]": (response, Fresh) for i, response in enumerate(subject.fresh)}
    single["provenance"] = (subject.provenance, Provenance)
    if subject.claimed is not None:
        single["claimed"] = (subject.claimed, Claimed)
    for name, (value, kind) in single.items():
        if not isinstance(value, kind):
            expected = f"a {kind.__name__}, of sparring.auditing"
            raise InputError(f"{name} is a {type(value).__name__}; expected {expected}")
    one_of("provenance.selection", subject.provenance.selection, SELECTIONS)


def _models(subject: Subject) -> dict[str, Any]:
    """The networks that are given beside the model, by what messages call them."""
    found = {} if subject.twin is None else {"the twin": subject.twin}
    found |= {f"sources[{name!r}]": model for name, model in subject.sources.items()}
    found |= {f"siblings[{name!r}]": model for name, model in subject.siblings.items()}
    return found | {f"past_defenders[{i}]": model for i, model in enumerate(subject.past_defenders)}


def _learned(subject: Subject) -> dict[str, Any]:
    """The learned attacks that are, in the same way."""
    found = {f"learned[{name!r}]": attack for name, attack in subject.learned.items()}
    return found | {f"past[{i}]": attack for i, attack in enumerate(subject.past)}


def classes_of(data: Data, model: nn.Module) -> Data:
    """Arrays know only the classes that occur in them; the model may know more. Raises InputError for other outputs."""
    n = n_outputs(model, data, "the model")
    return replace(data, n_classes=n) if n > data.n_classes else data


def n_outputs(model: nn.Module, data: Data, name: str) -> int:
    """How many logits a model returns for an example. Raises InputError, in one line, where it takes none or returns others."""
    device = next((p.device for p in model.parameters()), None) if isinstance(model, nn.Module) else None
    return tried(
        model, data.floats(torch.arange(min(TRIED, len(data)))).to(device or data.images.device), data.n_classes, name
    )


def attack_at(given: Any, threat: ThreatModel, name: str) -> AttackAt:
    """An attack as a function of the threat model, whichever of ATTACKS it is; raises InputError for anything else.

    An attack with a threat is aimed; what a function (model, x, y) returns is projected, as `evaluate` does it.
    """
    n = 3 if callable(given) and has_threat(given) else _arguments(given)
    if n is None:
        raise InputError(f"{name} is a {type(given).__name__}{_signature(given) or ''}; expected {ATTACKS}")
    if n == 3:
        return partial(inside, given if has_threat(given) else _Judgeable(given, name))
    try:
        attack = given(threat)
    except Exception as error:
        raise InputError(f"{name} failed on {threat}: {line_of(error)}; expected {ATTACKS}") from error
    if not callable(attack):
        raise InputError(
            f"{name} returned a {type(attack).__name__} for {threat}; expected an attack (model, x, y) -> x_adv"
        )
    found: AttackAt = given
    return found


@dataclass(frozen=True)
class _Judgeable:
    """A function (model, x, y) -> x_adv that is held to return images; float64 becomes the type of x."""

    attack: Attack
    name: str

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return images_of(self.attack(model, x, y), x, self.name)

    def __repr__(self) -> str:
        return described(self.attack)


def _try_attack(attack: Attack, model: nn.Module, data: Data, name: str) -> None:
    """Raises InputError where an attack returns no images, tried on a linear model.

    A copy is tried, as an attack may keep what it finds first. One that cannot be copied, or that cannot be run on such a model
    since it is made for the audited one, is not tried.
    """
    x, y = _two(data, model)
    with own_draws(x.device) as draw_from:
        draw_from(0)
        try:
            tried_one = copy.deepcopy(attack)
            found = tried_one(linear_model(x, data.n_classes, torch.Generator().manual_seed(0)), x.clone(), y.clone())
        except NotImages:
            raise
        except Exception:  # anyone's attack may ask anything of a model
            return
    images_of(found, x, name)


def _arguments(given: Any) -> int | None:
    """Whether it can be called with one argument, or else with three; None where with neither, or where nothing names them."""
    signature = _signature(given)
    named = [] if signature is None else [p for p in signature.parameters.values() if p.kind is not p.VAR_POSITIONAL]
    if signature is None or not named:
        return None
    for n in (1, 3):
        try:
            signature.bind(*[None] * n)
        except TypeError:
            continue
        return n
    return None


def _signature(given: Any) -> inspect.Signature | None:
    """What it is called with; None for what cannot be called, and for what does not tell."""
    try:
        return inspect.signature(given.forward if isinstance(given, nn.Module) else given)
    except (TypeError, ValueError):
        return None


def _check_claimed(claimed: Claimed, data: Data) -> None:
    """Raises InputError for adversarial images that are no such images, or verdicts that are none on as many."""
    x_adv, robust = claimed.x_adv, claimed.robust
    for name, value in (("x_adv", x_adv), ("robust", robust)):
        if not isinstance(value, Tensor) or not value.numel():
            got = "empty" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InputError(f"claimed.{name} is {got}; expected a tensor, one row an image")
    check_eps(claimed.eps)
    if x_adv.shape[1:] != data.shape or not x_adv.is_floating_point():
        got = f"{x_adv.dtype} of shape {tuple(x_adv.shape)}".removeprefix("torch.")
        raise InputError(f"claimed.x_adv is {got}; expected float images (N, {', '.join(map(str, data.shape))})")
    if robust.shape != x_adv.shape[:1] or robust.dtype != torch.bool:
        got = f"{robust.dtype} of shape {tuple(robust.shape)}".removeprefix("torch.")
        raise InputError(f"claimed.robust is {got}; expected bool of shape ({len(x_adv)},), one verdict an image")


def _check_adversary(given: Any, data: Data, name: str = "adversary") -> None:
    """Raises InputError for what is no adversary, or one for other inputs or classes."""
    network = given.adversary if isinstance(given, LearnedAttack) else given
    if not isinstance(network, Adversary | RecurrentAdversary):
        expected = "the network of the game, an Adversary or a RecurrentAdversary, or a LearnedAttack"
        raise InputError(f"{name} is a {type(network).__name__}; expected {expected}; another attack goes to attack=")
    if network.shape is not None and tuple(network.shape) != data.shape:
        raise InputError(
            f"{name} is for inputs {tuple(network.shape)}; the data are {data.shape}: give the game's own data"
        )
    if isinstance(network, RecurrentAdversary):
        return
    if "label" in network.sees and (network.n_classes or 0) < data.n_classes:
        raise InputError(
            f"{name} sees {network.n_classes} classes; the data have {data.n_classes}: give the game's own data"
        )
    x, y = _two(data, network)
    try:
        with torch.no_grad(), modes.evaluation(network), own_draws(x.device):
            network(x, y, torch.zeros_like(x))
    except Exception as error:
        raise InputError(f"{name} takes no inputs of shape {tuple(x.shape)}: {line_of(error)}") from error


def _check_fresh(given: Fresh, data: Data, name: str) -> None:
    """Raises InputError for a best response that is none, or sees something else than its kind says."""
    one_of(f"{name}.kind", given.kind, list(KINDS))
    check_eps(given.eps)
    if isinstance(given.adversary, LearnedAttack):
        raise InputError(f"{name}.adversary is a LearnedAttack; expected its network, its .adversary")
    _check_adversary(given.adversary, data, f"{name}.adversary")
    recurrent = isinstance(given.adversary, RecurrentAdversary)
    if KINDS[given.kind] != tuple(given.adversary.sees) or (given.kind == "recurrent") != recurrent:
        sees = f"{type(given.adversary).__name__} sees {', '.join(given.adversary.sees)}"
        raise InputError(f"{name} is of kind {given.kind!r}, but its {sees}; name its own kind")


def _training(given: Any, data: Data) -> Data:
    """Training data, with the classes of the test data. Raises InputError where they have others, or other inputs."""
    train = as_data(given)
    if train.shape != data.shape:
        raise InputError(
            f"train has inputs {train.shape}, the test data {data.shape}; give training data of the same inputs"
        )
    if len(train) < 2:
        raise InputError("train has 1 example; networks of the audit's own need two to train on, or leave train out")
    if train.n_classes > data.n_classes:
        raise InputError(f"train has {train.n_classes} classes, the model {data.n_classes}; give its own training data")
    return train if train.n_classes == data.n_classes else replace(train, n_classes=data.n_classes)


def _two(data: Data, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Two examples, where the model is."""
    few = torch.arange(min(2, len(data)))
    device = next((p.device for p in model.parameters()), data.images.device)
    return data.floats(few).to(device), data.labels[few.to(data.labels.device)].to(device)
