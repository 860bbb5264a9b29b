"""Every setting of a run: frozen dataclasses that check themselves. Loads no torch.

A default that the paper leaves open names its ambiguity, a letter in docs/claims.md, section "What the paper leaves open".
"""

import hashlib
import json
import math
import typing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sparring.errors import InputError, one_of
from sparring.settings import to_dict

DATA_SETS = ("digits", "mnist", "fashion-mnist", "kmnist")
PAPERS = 0.1  # the radius of the paper's tables
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # the paper's lambda grid, section 4

LossName = Literal["cross_entropy", "margin", "log_odds", "non_saturating", "softmax_twice"]


@dataclass(frozen=True)
class Data:
    """Which examples to train and test on."""

    name: str = "digits"
    """digits (embedded), mnist, fashion-mnist or kmnist"""
    root: str | None = None
    """folder with the data set; else $SPARRING_DATA, else the usual cache"""
    allow_unknown: bool = False
    """accept files whose SHA-256 is not the published one"""
    limit: int | None = None
    """train on so many examples only, each class by its share (for trials)"""

    def __post_init__(self) -> None:
        one_of("data.name", self.name, DATA_SETS)
        if self.limit is not None:
            _at_least("data.limit", self.limit, 2)


@dataclass(frozen=True)
class Optimizer:
    """How one player steps. Defaults: the paper's, section 4."""

    name: Literal["sgd", "adam"] = "sgd"
    """sgd or adam (ambiguity r)"""
    lr: float = 1.0
    momentum: float = 0.9
    """of SGD; Adam takes its usual 0.9 and 0.999"""
    weight_decay: float = 0.0004
    """on all parameters (ambiguity i)"""
    rate: Literal["rise", "every", "cosine", "constant"] = "rise"
    """halve after an epoch in which the loss rose; halve every so many epochs; fall to 0 as a cosine does; leave it"""
    every: int = 10
    """epochs between halvings (paper, section 4.4), or those of the whole cosine"""

    def __post_init__(self) -> None:
        one_of("optimizer.name", self.name, ("sgd", "adam"))
        one_of("optimizer.rate", self.rate, ("rise", "every", "cosine", "constant"))
        _positive("optimizer.lr", self.lr)
        _share("optimizer.momentum", self.momentum)
        _not_negative("optimizer.weight_decay", self.weight_decay)
        _at_least("optimizer.every", self.every, 1)


@dataclass(frozen=True)
class Network:
    """One player: a multilayer perceptron and how it learns."""

    hidden: tuple[int, ...] = (128, 64)
    """hidden layers; the input and output sizes follow the data"""
    slope: float = 0.01
    """of the leaky ReLU (ambiguity h)"""
    bn_eps: float = 1e-5
    """of batch norm (ambiguity i)"""
    bn_momentum: float = 0.1
    initialisation: Literal["he", "torch", "xavier"] = "he"
    """initial weights (ambiguity j)"""
    loss: LossName = "cross_entropy"
    """what a defender lowers and an adversary raises (ambiguities b and n)"""
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise InputError(f"hidden must be positive widths, got {self.hidden}")
        if not math.isfinite(self.slope):
            raise InputError(f"slope must be finite; got {self.slope}")
        _not_negative("bn_eps", self.bn_eps)
        _share("bn_momentum", self.bn_momentum)
        one_of("initialisation", self.initialisation, ("he", "torch", "xavier"))
        one_of("loss", self.loss, typing.get_args(LossName))


@dataclass(frozen=True)
class Adversary(Network):
    """The learned opponent (paper, section 4.4)."""

    hidden: tuple[int, ...] = (512, 512)
    bound: Literal["tanh", "scaled", "scaled-minmax", "scaled-batch", "scaled-detached"] = "tanh"
    """from network output to [-1, 1] (ambiguity q)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("adversary.bound", self.bound, ("tanh", "scaled", "scaled-minmax", "scaled-batch", "scaled-detached"))


@dataclass(frozen=True)
class Recurrent:
    """The learned opponent that asks the defender for gradients, query after query (adversaries/recurrent.py)."""

    queries: int = 2
    """gradients a minibatch; where radii are drawn, at the largest"""
    sparing: bool = True
    """where radii are drawn, fewer queries for smaller ones: query k of K above k / (K + 1) of the largest"""
    hidden: int = 0
    """units of the cell's hidden layer; 0: the cell is linear"""
    step: float = 0.5
    """in radii, how far a query goes before anything is learned"""
    every: int = 16
    """the adversary learns on one minibatch in so many, of each epoch the first among them; 0: it never does"""
    closing: int = 0
    """minibatches at most on which it learns in all its rounds once the defender has ended, if it learns (game/closing.py)"""
    warm: bool = True
    """it starts where it left the training example last time, not at a random point"""
    loss: LossName = "log_odds"
    """what it raises"""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer("adam", lr=0.01, weight_decay=0.0, rate="constant"))

    def __post_init__(self) -> None:
        _at_least("recurrent.queries", self.queries, 1)
        _at_least("recurrent.hidden", self.hidden, 0)
        _at_least("recurrent.every", self.every, 0)
        _at_least("recurrent.closing", self.closing, 0)
        _positive("recurrent.step", self.step)
        one_of("recurrent.loss", self.loss, typing.get_args(LossName))


@dataclass(frozen=True)
class Opponent:
    """Whom the defender trains against."""

    kind: Literal["none", "noise", "fgsm", "pgd", "adversary", "recurrent"] = "none"
    law: Literal["uniform", "sign"] = "uniform"
    """of the noise (ambiguity k)"""
    steps: int = 7
    """of PGD"""
    reach: float = 2.5
    """of PGD: its steps together could walk this many eps"""
    mode: Literal["evaluation", "training"] = "evaluation"
    """batch norm while FGSM or PGD takes its gradient (ambiguity a)"""

    def __post_init__(self) -> None:
        one_of("opponent.kind", self.kind, ("none", "noise", "fgsm", "pgd", "adversary", "recurrent"))
        one_of("opponent.law", self.law, ("uniform", "sign"))
        one_of("opponent.mode", self.mode, ("evaluation", "training"))
        _at_least("opponent.steps", self.steps, 1)
        _positive("opponent.reach", self.reach)
        if self.reach < 1:
            raise InputError(f"opponent.reach must be >= 1, else PGD cannot reach the boundary; got {self.reach}")


@dataclass(frozen=True)
class Play:
    """The game: who steps when, and on what (ambiguities m, o, p, s)."""

    dynamic: Literal["alternating", "simultaneous", "extragradient"] = "alternating"
    adversary_steps: int = 1
    """in a row, where the dynamic is alternating"""
    defender_steps: int = 1
    first: Literal["adversary", "defender"] = "adversary"
    modes: Literal["turns", "training"] = "turns"
    """batch norm of the player whose turn it is not: in evaluation mode, or in training mode"""
    clip: Literal["plain", "straight_through", "none"] = "plain"
    """clipping to [0, 1] on the adversary's turn"""

    def __post_init__(self) -> None:
        one_of("play.dynamic", self.dynamic, ("alternating", "simultaneous", "extragradient"))
        one_of("play.first", self.first, ("adversary", "defender"))
        one_of("play.modes", self.modes, ("turns", "training"))
        one_of("play.clip", self.clip, ("plain", "straight_through", "none"))
        _at_least("play.adversary_steps", self.adversary_steps, 1)
        _at_least("play.defender_steps", self.defender_steps, 1)
        if self.dynamic != "alternating" and (self.adversary_steps, self.defender_steps) != (1, 1):
            raise InputError(f"play.dynamic={self.dynamic!r} steps both players once; several steps need 'alternating'")


@dataclass(frozen=True)
class Training:
    """Batches and when to stop (ambiguities d and e).

    Training ends after `max_epochs`, or once the best epoch loss has not fallen by more than the share `flat` of itself for
    `patience` epochs, or once every rate is below `min_lr`.
    """

    batch_size: int = 128
    clean_share: float = 0.5
    """share of each batch that stays clean (ambiguity l)"""
    mix: Literal["split", "both"] = "split"
    """"both": the whole batch clean and the whole batch perturbed (ambiguities l and m)"""
    max_epochs: int = 100
    patience: int = 5
    flat: float = 0.01
    min_lr: float = 0.001
    checkpoint_seconds: float = 10.0
    """write a checkpoint at the end of an epoch when the last one is at least this old"""

    def __post_init__(self) -> None:
        _at_least("training.batch_size", self.batch_size, 2)
        _share("training.clean_share", self.clean_share)
        one_of("training.mix", self.mix, ("split", "both"))
        _at_least("training.max_epochs", self.max_epochs, 1)
        _at_least("training.patience", self.patience, 1)
        _share("training.flat", self.flat)
        _not_negative("training.min_lr", self.min_lr)
        _not_negative("training.checkpoint_seconds", self.checkpoint_seconds)


@dataclass(frozen=True)
class Run:
    """One training, from scratch to saved weights: everything that decides its result."""

    recipe: str
    seed: int = 0
    eps: float = 0.1
    """radius of training, on the pixel scale (the paper's lambda); the largest, where radii are drawn"""
    eps_low: float | None = None
    """each training example's radius is drawn anew at every step, from here to eps; None: it is eps"""
    eps_power: float = 1.0
    """a radius is drawn as eps_low + (eps - eps_low) * v ** eps_power, v uniform in [0, 1]; above 1 more of them are small"""
    data: Data = field(default_factory=Data)
    defender: Network = field(default_factory=Network)
    adversary: Adversary | None = None
    """the learned opponent, in the paper's games"""
    recurrent: Recurrent | None = None
    """the learned opponent that asks for gradients"""
    opponent: Opponent = field(default_factory=Opponent)
    play: Play = field(default_factory=Play)
    training: Training = field(default_factory=Training)
    alone: Training | None = None
    """the adversary first trains alone against the trained vanilla model, so long (paper, section 4.5)"""
    alone_optimizer: Optimizer = field(default_factory=Optimizer)
    precision: Literal["fp32", "bf16"] = "fp32"
    """of the training's matrix products; weights, their gradients and every evaluation stay in fp32"""
    history: int = 0
    """keep both players' weights after every so many epochs, in history/; 0: keep none"""
    watch: bool = False
    """after every epoch measure FGSM and PGD-10 on 512 training examples, in watch.jsonl"""

    def __post_init__(self) -> None:
        _at_least("seed", self.seed, 0)
        _at_least("history", self.history, 0)
        one_of("precision", self.precision, ("fp32", "bf16"))
        if isinstance(self.eps, bool) or not isinstance(self.eps, int | float) or not 0 <= self.eps <= 1:
            raise InputError(f"eps must be in [0, 1] on the pixel scale, got {self.eps}" + _eps_hint(self.eps))
        for name, settings in (("adversary", self.adversary), ("recurrent", self.recurrent)):
            if (self.opponent.kind == name) != (settings is not None):
                raise InputError(
                    f"opponent.kind={self.opponent.kind!r} contradicts {name}={'settings' if settings else None}: "
                    "a game needs both, anything else neither"
                )
        if self.eps_low is not None and not 0 <= self.eps_low <= self.eps:
            raise InputError(f"eps_low must be in [0, eps] = [0, {self.eps:g}]; got {self.eps_low}")
        _positive("eps_power", self.eps_power)
        if self.eps_low is None and self.eps_power != 1:
            raise InputError(
                f"eps_power is for radii that are drawn: give eps_low too, or leave it at 1; got {self.eps_power:g}"
            )
        if self.eps_low is not None and self.opponent.kind in ("none", "adversary"):
            raise InputError(
                f"opponent.kind={self.opponent.kind!r} draws no radii: leave out eps_low, or take recurrent, pgd, fgsm or noise"
            )
        if self.learner is not None and self.training.mix == "split" and self.training.clean_share == 1:
            raise InputError("a game needs perturbed examples: training.clean_share must be below 1, got 1")
        n = min(self.training.batch_size, self.data.limit or self.training.batch_size)
        if self.learner is not None and self.training.mix == "split" and n_clean(n, self.training.clean_share) == n:
            raise InputError(
                f"training.clean_share {self.training.clean_share:g} leaves the adversary none of a minibatch's {n} examples; "
                "lower it, or make minibatches larger"
            )
        if self.alone is not None and self.adversary is None:
            raise InputError("alone needs an adversary: only the initialised games have one that trains alone first")

    @property
    def judged(self) -> float:
        """The radius at which it is measured and audited if nobody says another: its own; with drawn radii the paper's, 0.1,
        where that is among them."""
        return self.eps if self.eps_low is None else min(max(PAPERS, self.eps_low), self.eps)

    @property
    def passes(self) -> float:
        """Forwards and backwards through the defender for each training example and epoch: the opponent's, and its own.

        Without what closes a recurrent game, which does not grow with the data.
        """
        share = 1.0 if self.training.mix == "both" else 1 - self.training.clean_share
        asked = {"none": 0.0, "noise": 0.0, "fgsm": 1.0, "pgd": float(self.opponent.steps)}.get(self.opponent.kind, 0.0)
        if self.adversary is not None:
            asked = float(self.play.adversary_steps)
        if (r := self.recurrent) is not None:
            asked = self._asked(r) + (1 / r.every if r.every else 0.0)
        return share * asked + (2.0 if self.training.mix == "both" else 1.0)

    def _asked(self, r: Recurrent) -> float:
        """Its queries for an example in the mean over radii."""
        if not r.sparing or self.eps_low is None or self.eps_low == self.eps:
            return float(r.queries)
        least = (self.eps * k / (r.queries + 1) for k in range(1, r.queries + 1))
        return sum(1 - share_below(radius, self.eps_low, self.eps, self.eps_power) for radius in least)

    @property
    def learner(self) -> Adversary | Recurrent | None:
        """The settings of the learned opponent, of either kind."""
        return self.adversary or self.recurrent

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides the result; as before `eps_power` and `closing` were settings, where they are 1 and 0."""
        settings = to_dict(decisive(self))
        if settings["eps_power"] == 1:
            del settings["eps_power"]
        if settings["recurrent"] and not settings["recurrent"]["closing"]:
            del settings["recurrent"]["closing"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def share_below(radius: float, low: float, high: float, power: float) -> float:
    """The share of radii drawn from [low, high] with this power that are below `radius`."""
    share = min(1.0, max(0.0, (radius - low) / (high - low)))
    return float(share ** (1 / power))


def n_clean(n: int, clean_share: float) -> int:
    """How many of a minibatch's n examples stay clean."""
    return round(clean_share * n)


def decisive(run: Run) -> Run:
    """The run without what cannot change its result: where the data lie, how often to save, what to keep beside it."""
    training = replace(run.training, checkpoint_seconds=0.0)
    return replace(run, data=replace(run.data, root=None), training=training, history=0, watch=False)


def _eps_hint(eps: Any) -> str:
    usable = isinstance(eps, int | float) and not isinstance(eps, bool) and 1 < eps <= 255
    return f"; did you mean {eps:g}/255 = {eps / 255:.4f}?" if usable else ""


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be >= {least}; got {value}")


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"{name} must be > 0 and finite; got {value}")


def _not_negative(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise InputError(f"{name} must be >= 0 and finite; got {value}")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} must be in [0, 1]; got {value}")
