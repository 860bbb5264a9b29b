"""Best responses: how far fresh adversaries get that know more, and that train longer, than the co-trained one.

Letters: N examples, S seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring.adversaries import AnyAdversary, RecurrentAdversary, Seen
from sparring.adversaries.adversary import n_parameters
from sparring.adversaries.recurrent import ROUNDS
from sparring.attacks import LearnedAttack
from sparring.config import Adversary as AdversaryConfig
from sparring.data import Data
from sparring.errors import CorruptCheckpoint, InputError, nearest
from sparring.evaluation.accuracy import Cost, Outcome, attacked, counted
from sparring.evaluation.exploitability import FRESH, RECURRENT, OnEpoch, fresh_adversaries, new_adversary
from sparring.evaluation.pieces import fingerprint
from sparring.evaluation.statistics import Interval, paired_bootstrap
from sparring.game.checkpoint import load_weights, read_verified, save_weights
from sparring.models import stack
from sparring.precision import Precision
from sparring.randomness import check_seed, check_seeds
from sparring.settings import from_dict, to_dict
from sparring.threat import ThreatModel, check_eps

KINDS: Mapping[str, tuple[Seen, ...]] = {
    "x": ("x",),  # sees the input only, as the paper's adversary does
    "xy": ("x", "label"),
    "xg": ("x", "gradient"),
    "xyg": ("x", "label", "gradient"),
    "recurrent": ("x", "label", "gradient"),  # and the gradient again, query after query, as a game's own may be
}


@dataclass(frozen=True)
class Response:
    """One fresh adversary and what it left of the test set."""

    kind: str  # of KINDS
    seed: int
    epochs: int
    outcome: Outcome
    parameters: int
    training: Cost  # example passes through the defender, and seconds


@dataclass(frozen=True)
class Gain:
    """What twice the training gained one kind of adversary: accuracy left after `epochs` less that after twice as many."""

    kind: str
    epochs: int
    gain: float  # mean over seeds
    interval: Interval  # 95 %, paired, over images and seeds


@dataclass(frozen=True)
class BestResponses:
    """What fresh adversaries of several kinds left of one defender at one eps.

    A gap that was found is proof; a gap that was not found is training that was not spent.
    """

    eps: float
    responses: tuple[Response, ...]
    gains: tuple[Gain, ...]  # one a kind, where training was doubled
    in_game: Tensor | None  # (N,) bool: right under the co-trained adversary

    def survived(self, kind: str | None = None) -> Tensor:
        """Right under every adversary of a kind, or of all kinds, (N,) bool; raises InputError for a kind that is not there."""
        chosen = [r.outcome.correct for r in self.responses if kind in (None, r.kind)]
        if not chosen:
            raise InputError(f"no best response of kind {kind!r}{nearest(str(kind), {r.kind for r in self.responses})}")
        return torch.stack(chosen).all(0)

    def accuracy(self, kind: str | None = None) -> float:
        """The share of examples that survived."""
        survived = self.survived(kind)
        return int(survived.sum()) / len(survived)

    def gap(self, kind: str | None = None, *, seed: int = 0) -> tuple[float, Interval]:
        """In-game accuracy less that under the best responses, with its 95 % interval over images.

        Kind "x" compares adversaries that know as much as the co-trained one. Raises InputError without `in_game`.
        """
        seed = check_seed(seed)
        if self.in_game is None:
            raise InputError("a gap needs the in-game outcomes: give best_responses in_game=outcome.correct")
        a, b = (t.cpu().double().numpy()[None] for t in (self.in_game, self.survived(kind)))
        return float((a - b).mean()), paired_bootstrap(a, b, seed=seed)


def best_responses(
    model: nn.Module,
    train_on: Data,
    test: Data,
    eps: float,
    *,
    in_game: Tensor | None = None,
    folder: str | Path | None = None,
    **options: Any,
) -> BestResponses:
    """Train fresh adversaries of each kind and seed against the frozen model, and attack the test set with each.

    Takes the options of `best_responses_to_each`, which does the same for several models at once. With `folder`, trained
    adversaries are kept there and not trained again. A model is left as found.
    """
    both: dict[str, Any] = {"in_games": [in_game], "folders": [folder]}
    return best_responses_to_each([model], train_on, test, eps, **both, **options)[0]


def best_responses_to_each(
    models: Sequence[nn.Module],
    train_on: Data,
    test: Data,
    eps: float,
    *,
    kinds: Sequence[str] = ("x", "xy", "xg"),
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 1,
    settings: AdversaryConfig = FRESH,
    like: RecurrentAdversary | None = None,
    batch_size: int = 128,
    precision: Precision = "fp32",
    double: bool = True,
    in_games: Sequence[Tensor | None] | None = None,
    folders: Sequence[str | Path | None] | None = None,
    on_epoch: OnEpoch = lambda epoch, progress: None,
    on_response: Callable[[Response], None] = lambda response: None,
) -> list[BestResponses]:
    """The best responses to each of several models of one architecture; all of a kind train as one stack.

    `settings` and `epochs` should be at least those of the co-trained adversary. Those of kind "recurrent" have settings of their
    own, and as many queries, hidden units and rounds as the one they are `like`, else 2, 0 and 10. With `double`, each is then
    trained for as long again, its rate set up again at half, which tells whether training had converged; these count among
    the responses too. `in_games` are (N,) bool each: right under the co-trained adversary. With `folders`, trained
    adversaries are kept there, each model's in its own, and not trained again. `precision` is that of the
    training; every attack on the test set is in fp32. Models are left as found.
    """
    check_kinds(kinds)
    eps, seeds = check_eps(eps), check_seeds(seeds)
    in_games, folders = in_games or [None] * len(models), folders or [None] * len(models)
    for in_game in in_games:
        if in_game is not None and in_game.shape != (len(test),):
            raise InputError(
                f"in_game has shape {tuple(in_game.shape)}; expected one outcome an example, ({len(test)},)"
            )
    threat = ThreatModel(eps, test.shape)
    pairs = [
        _Pair(model, None if folder is None else Path(folder), seed)
        for model, folder in zip(models, folders, strict=True)
        for seed in seeds
    ]
    found: dict[int, list[Response]] = {i: [] for i in range(len(models))}
    for kind in kinds:
        made: list[list[Response]] = [[] for _ in pairs]
        starts: list[AnyAdversary] | None = None
        fresh = like or RecurrentAdversary(test.shape, rounds=ROUNDS) if kind == "recurrent" else None
        first = settings if fresh is None else RECURRENT
        on = replace(first, optimizer=replace(first.optimizer, lr=first.optimizer.lr / 2))
        for length, how in [(epochs, first), (2 * epochs, on)][: 2 if double else 1]:
            training = _Training(kind, length, how, batch_size, precision, fresh)
            trained = _trained(pairs, train_on, threat, training, starts, on_epoch)
            starts = [adversary for adversary, _ in trained]
            for responses, pair, (adversary, cost) in zip(made, pairs, trained, strict=True):
                outcome = attacked(pair.model, test, LearnedAttack(adversary, threat), threat)
                responses.append(Response(kind, pair.seed, length, outcome, n_parameters(adversary), cost))
                on_response(responses[-1])
        for number, responses in enumerate(made):
            found[number // len(seeds)] += responses
    return [
        BestResponses(
            float(eps),
            tuple(responses),
            tuple(_gain(kind, epochs, responses) for kind in kinds) if double else (),
            in_game,
        )
        for responses, in_game in zip(found.values(), in_games, strict=True)
    ]


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises InputError for a kind of adversary that there is not, for one that is named twice, or for none."""
    if not kinds:
        raise InputError(f"name at least one kind of adversary: {', '.join(KINDS)}")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(f"there is no kind {unknown[0]!r} of adversary{nearest(unknown[0], KINDS)}")
    if len(set(kinds)) < len(kinds):
        raise InputError(f"name each kind of adversary once; got {', '.join(kinds)}")


def save_adversary(
    path: Path,
    adversary: AnyAdversary,
    settings: AdversaryConfig,
    kind: str = "x",
    header: Mapping[str, Any] | None = None,
) -> None:
    """A fresh adversary's weights, with all that `load_adversary` needs to build it."""
    described: dict[str, Any] = {"kind": kind, "settings": to_dict(settings), "shape": adversary.shape}
    if isinstance(adversary, RecurrentAdversary):
        described["recurrent"] = adversary.settings
    else:
        described["n_classes"] = adversary.n_classes
    save_weights(path, adversary, described | dict(header or {}))


def load_adversary(path: Path) -> AnyAdversary:
    """The adversary of such a file, in evaluation mode; raises CorruptCheckpoint where it is none, or is damaged."""
    header = read_verified(path)[1]
    try:
        settings = from_dict(AdversaryConfig, header["settings"])
        shape, kind = tuple(header["shape"]), header["kind"]
        adversary: AnyAdversary
        if kind == "recurrent":
            adversary = RecurrentAdversary(shape, **header["recurrent"])
        else:
            adversary = new_adversary(shape, int(header["n_classes"]), settings, KINDS[kind], seed=0)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpoint(f"{path} is no adversary's file: {type(error).__name__}: {error}") from None
    load_weights(path, adversary)
    return adversary.eval()


@dataclass(frozen=True)
class _Pair:
    """A model, the folder that keeps its adversaries, and the seed of one of them."""

    model: nn.Module
    folder: Path | None
    seed: int


@dataclass(frozen=True)
class _Training:
    """How adversaries of one kind are trained, up to so many epochs in all."""

    kind: str
    epochs: int
    settings: AdversaryConfig
    batch_size: int
    precision: Precision
    like: RecurrentAdversary | None  # those of the recurrent kind

    def path(self, pair: _Pair) -> Path | None:
        name = f"best-response-{self.kind}-seed{pair.seed}-epochs{self.epochs}.safetensors"
        return pair.folder and pair.folder / name

    def stamp(self, pair: _Pair, data: Data, threat: ThreatModel, goes_on: bool) -> str:
        how = [to_dict(self.settings), self.batch_size, self.precision, goes_on]
        how += [] if self.like is None else [self.like.settings]
        return fingerprint([pair.model, data.fingerprint, threat, self.kind, pair.seed, self.epochs, *how])


def _trained(
    pairs: Sequence[_Pair],
    data: Data,
    threat: ThreatModel,
    training: _Training,
    starts: Sequence[AnyAdversary] | None,
    on_epoch: OnEpoch,
) -> list[tuple[AnyAdversary, Cost]]:
    """A fresh adversary for each pair, the first half of its epochs those of its start where there are starts; its cost.

    From the folders where they are there already; all others are trained together.
    """
    goes_on = starts is not None
    stamps = [training.stamp(pair, data, threat, goes_on) if pair.folder else "" for pair in pairs]
    found = [_kept(training.path(pair), stamp, data) for pair, stamp in zip(pairs, stamps, strict=True)]
    todo = [i for i, one in enumerate(found) if one is None]
    if todo:
        own_models = len({id(pairs[i].model) for i in todo}) > 1
        target = stack([pairs[i].model for i in todo]) if own_models else pairs[todo[0]].model
        with counted(target) as cost:
            fresh = fresh_adversaries(
                target.to(data.images.device).eval() if own_models else target,
                data,
                threat,
                seeds=[pairs[i].seed for i in todo],
                epochs=training.epochs // 2 if goes_on else training.epochs,
                settings=training.settings,
                sees=KINDS[training.kind],
                like=training.like,
                starts=None if starts is None else [starts[i] for i in todo],
                batch_size=training.batch_size,
                precision=training.precision,
                stacked=own_models,
                on_epoch=on_epoch,
            )
        share = Cost(cost.forwards // len(todo), cost.backwards // len(todo), cost.seconds / len(todo))
        for i, adversary in zip(todo, fresh, strict=True):
            found[i] = adversary, share
            if path := training.path(pairs[i]):
                _keep(path, pairs[i], adversary, share, training, stamps[i], data, threat)
    return [one for one in found if one is not None]


def _kept(path: Path | None, stamp: str, data: Data) -> tuple[AnyAdversary, Cost] | None:
    """An adversary from its file, if it was trained just so."""
    if path is None or not path.exists():
        return None
    try:
        header = read_verified(path)[1]
        if header.get("training") == stamp:
            return load_adversary(path).to(data.images.device), Cost(**header["cost"])
    except CorruptCheckpoint:
        pass  # trained again, and written over
    return None


def _keep(
    path: Path,
    pair: _Pair,
    adversary: AnyAdversary,
    cost: Cost,
    training: _Training,
    stamp: str,
    data: Data,
    threat: ThreatModel,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = training.epochs * max(1, len(data) // training.batch_size)
    told: dict[str, Any] = {"seed": pair.seed, "eps": float(threat.eps), "steps": steps}
    told["examples"] = steps * min(training.batch_size, len(data))
    told |= {"defender": fingerprint([pair.model]), "training": stamp, "cost": vars(cost)}
    save_adversary(path, adversary, training.settings, training.kind, told)


def _gain(kind: str, epochs: int, responses: Sequence[Response]) -> Gain:
    once, twice = (
        np.stack([r.outcome.correct.cpu().double().numpy() for r in responses if (r.kind, r.epochs) == (kind, n)])
        for n in (epochs, 2 * epochs)
    )
    return Gain(kind, epochs, float((once - twice).mean()), paired_bootstrap(once, twice, seed=0))
