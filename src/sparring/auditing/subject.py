"""What is audited: a model, the data it is judged on, and whatever else is known about how it was made and measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from sparring.adversaries import AnyAdversary
from sparring.attacks import Attack, LearnedAttack
from sparring.data import Data
from sparring.threat import ThreatModel

AttackAt = Callable[[ThreatModel], Attack]


@dataclass(frozen=True, eq=False)
class Claimed:
    """Somebody's finished evaluation, to be verified: the adversarial images and which of them count as robust.

    `x_adv` (N, *shape) belongs to the first N audited examples, in the order of `Evidence.indices`; `robust` (N,) is bool.
    """

    x_adv: Tensor
    robust: Tensor
    eps: float


@dataclass(frozen=True, eq=False)
class Fresh:
    """A best response that was trained before the audit: what its adversary sees (a kind of `evaluation.responses`), how long."""

    kind: str
    seed: int
    adversary: AnyAdversary
    eps: float  # at which it was trained; it is used at this eps only
    steps: int
    examples: int  # seen in training, repetitions counted


@dataclass(frozen=True)
class Drop:
    """One look at a training: accuracy under FGSM and under PGD-10, as fractions."""

    step: int
    fgsm: float
    pgd: float


@dataclass(frozen=True)
class Provenance:
    """How the model was chosen and how often the test set was asked; None where nobody knows."""

    selection: str | None = None  # "none", "training", "validation" or "test"
    test_evaluations: int | None = None
    seeds: tuple[int, ...] = ()
    commit: str | None = None
    co_trained_examples: int | None = None  # perturbed ones that the co-trained adversary saw in training


@dataclass(frozen=True, eq=False)
class Subject:
    """Everything an audit may use; only `model`, `data` and `eps` are needed. Checks that lack something are skipped, by name.

    The first eps is the claimed one, at which the checks are made; the headline is given at each. `attack` and `fgsm` are
    the attacks whose numbers are claimed, as functions of the threat model; None means this library's own. An audit also takes
    an attack with a `threat`, such as `PGD(threat)`, which it aims, and a function (model, x, y) -> x_adv, which keeps its own
    radius and is projected. What does not fit the data or is none of these it refuses, by InputError, before it attacks.
    """

    model: nn.Module
    data: Data
    eps: tuple[float, ...]
    name: str = "model"
    train: Data | None = None
    adversary: AnyAdversary | LearnedAttack | None = None  # the co-trained one
    twin: nn.Module | None = None  # same architecture and budget, clean training
    sources: Mapping[str, nn.Module] = field(default_factory=dict)  # of transfer
    learned: Mapping[str, LearnedAttack] = field(default_factory=dict)  # adversaries of other games
    fresh: Sequence[Fresh] = ()  # best responses at hand; the audit trains what its level lacks of seeds
    siblings: Mapping[str, nn.Module] = field(default_factory=dict)  # other seeds of the defender
    past: Sequence[LearnedAttack] = ()  # the adversary at past checkpoints, oldest first
    past_epochs: Sequence[int] = ()  # theirs, where known
    past_defenders: Sequence[nn.Module] = ()
    declared_random: bool = False
    attack: AttackAt | None = None
    fgsm: AttackAt | None = None
    claimed: Claimed | None = None
    statements: Sequence[str] = ()  # sentences in which the result is or was reported
    history: Sequence[Drop] = ()
    provenance: Provenance = field(default_factory=Provenance)
