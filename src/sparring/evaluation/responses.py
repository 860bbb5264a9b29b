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

from sparring.adversaries import Adversary, Seen
from sparring.adversaries.adversary import n_parameters
from sparring.attacks import LearnedAttack
from sparring.config import Adversary as AdversaryConfig
from sparring.config import from_dict, to_dict
from sparring.data import Data
from sparring.errors import CorruptCheckpoint, InputError, nearest
from sparring.evaluation.accuracy import Cost, Outcome, attacked, counted
from sparring.evaluation.exploitability import FRESH, OnEpoch, fresh_adversary, new_adversary
from sparring.evaluation.pieces import fingerprint
from sparring.evaluation.statistics import Interval, paired_bootstrap
from sparring.game.checkpoint import load_weights, read_verified, save_weights
from sparring.precision import Precision
from sparring.threat import ThreatModel

KINDS: Mapping[str, tuple[Seen, ...]] = {
    "x": ("x",),  # sees the input only, as the paper's adversary does
    "xy": ("x", "label"),
    "xg": ("x", "gradient"),
    "xyg": ("x", "label", "gradient"),
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
    kinds: Sequence[str] = ("x", "xy", "xg"),
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 1,
    settings: AdversaryConfig = FRESH,
    batch_size: int = 128,
    precision: Precision = "fp32",
    double: bool = True,
    in_game: Tensor | None = None,
    folder: Path | None = None,
    on_epoch: OnEpoch = lambda epoch, progress: None,
    on_response: Callable[[Response], None] = lambda response: None,
) -> BestResponses:
    """Train fresh adversaries of each kind and seed against the frozen model, and attack the test set with each.

    `settings` and `epochs` should be at least those of the co-trained adversary. With `double`, each is then
    trained for as long again, its rate set up again at half, which tells whether training had converged; these count among
    the responses too. With `folder`, trained adversaries are kept there and not trained again. `precision` is that of the
    training; every attack on the test set is in fp32. A model is left as found.
    """
    check_kinds(kinds)
    if in_game is not None and in_game.shape != (len(test),):
        raise InputError(f"in_game has shape {tuple(in_game.shape)}; expected one outcome an example, ({len(test)},)")
    threat = ThreatModel(eps, test.shape)
    responses = []
    o = settings.optimizer
    lengths = [(epochs, settings), (2 * epochs, replace(settings, optimizer=replace(o, lr=o.lr / 2)))]
    for kind in kinds:
        for seed in seeds:
            start = None
            for length, how in lengths[: 2 if double else 1]:
                start, cost = _trained(
                    model,
                    train_on,
                    threat,
                    folder,
                    on_epoch,
                    start,
                    kind=kind,
                    seed=seed,
                    epochs=length,
                    settings=how,
                    batch_size=batch_size,
                    precision=precision,
                )
                outcome = attacked(model, test, LearnedAttack(start, threat), threat)
                responses.append(Response(kind, seed, length, outcome, n_parameters(start), cost))
                on_response(responses[-1])
    gains = tuple(_gain(kind, epochs, responses) for kind in kinds) if double else ()
    return BestResponses(float(eps), tuple(responses), gains, in_game)


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises InputError for a kind of adversary that there is not, or for none."""
    if not kinds:
        raise InputError(f"name at least one kind of adversary: {', '.join(KINDS)}")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(f"there is no kind {unknown[0]!r} of adversary{nearest(unknown[0], KINDS)}")


def save_adversary(
    path: Path,
    adversary: Adversary,
    settings: AdversaryConfig,
    kind: str = "x",
    header: Mapping[str, Any] | None = None,
) -> None:
    """A fresh adversary's weights, with all that `load_adversary` needs to build it."""
    described = {
        "kind": kind,
        "settings": to_dict(settings),
        "shape": adversary.shape,
        "n_classes": adversary.n_classes,
    }
    save_weights(path, adversary, described | dict(header or {}))


def load_adversary(path: Path) -> Adversary:
    """The adversary of such a file, in evaluation mode; raises CorruptCheckpoint where it is none, or is damaged."""
    header = read_verified(path)[1]
    try:
        settings = from_dict(AdversaryConfig, header["settings"])
        shape, n_classes, kind = tuple(header["shape"]), int(header["n_classes"]), header["kind"]
        adversary = new_adversary(shape, n_classes, settings, KINDS[kind], seed=0)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpoint(f"{path} is no adversary's file: {type(error).__name__}: {error}") from None
    load_weights(path, adversary)
    return adversary.eval()


def _trained(
    model: nn.Module,
    data: Data,
    threat: ThreatModel,
    folder: Path | None,
    on_epoch: OnEpoch,
    start: Adversary | None,
    *,
    kind: str,
    seed: int,
    epochs: int,
    settings: AdversaryConfig,
    batch_size: int,
    precision: Precision,
) -> tuple[Adversary, Cost]:
    """A fresh adversary after so many epochs, the first half of them those of `start` where it is given; and what these cost.

    From the folder where it is there already.
    """
    path = folder and folder / f"best-response-{kind}-seed{seed}-epochs{epochs}.safetensors"
    training = [threat, kind, seed, epochs, to_dict(settings), batch_size, precision, start is not None]
    stamp = fingerprint([model, data.fingerprint, *training]) if path else ""
    if path and path.exists():
        try:
            header = read_verified(path)[1]
            if header.get("training") == stamp:
                return load_adversary(path).to(data.images.device), Cost(**header["cost"])
        except CorruptCheckpoint:
            pass  # trained again, and written over
    with counted(model) as cost:
        adversary = fresh_adversary(
            model,
            data,
            threat,
            seed=seed,
            epochs=epochs if start is None else epochs // 2,
            settings=settings,
            sees=KINDS[kind],
            start=start,
            batch_size=batch_size,
            precision=precision,
            on_epoch=on_epoch,
        )
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        steps = epochs * max(1, len(data) // batch_size)
        told: dict[str, Any] = {"seed": seed, "eps": float(threat.eps), "steps": steps}
        told["examples"] = steps * min(batch_size, len(data))
        told |= {"defender": fingerprint([model]), "training": stamp, "cost": vars(cost)}
        save_adversary(path, adversary, settings, kind, told)
    return adversary, cost


def _gain(kind: str, epochs: int, responses: Sequence[Response]) -> Gain:
    once, twice = (
        np.stack([r.outcome.correct.cpu().double().numpy() for r in responses if (r.kind, r.epochs) == (kind, n)])
        for n in (epochs, 2 * epochs)
    )
    return Gain(kind, epochs, float((once - twice).mean()), paired_bootstrap(once, twice, seed=0))
