"""A run's config becomes objects: networks, players, the regime's move; and a finished run is loaded. The methods live below."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from sparring import attacks, data
from sparring.adversaries import ROUNDS, Adversary, AnyAdversary, RecurrentAdversary
from sparring.config import Network, Optimizer, Run
from sparring.errors import InputError
from sparring.evaluation import memory
from sparring.game import dynamics
from sparring.game.checkpoint import load_weights, read_verified
from sparring.game.moves import Move, against, duel, in_precision
from sparring.game.player import Player, player
from sparring.game.radii import Radii
from sparring.game.unrolled import pursuit
from sparring.game.warm import WarmStart
from sparring.losses import LOSSES
from sparring.models import MLP, mlp
from sparring.randomness import Stream, generator
from sparring.records import RunPaths, RunRecord, read_json, restore
from sparring.settings import from_dict
from sparring.threat import ThreatModel


@dataclass(frozen=True)
class Trained:
    """A finished run, as `load` returns it: on the CPU, in evaluation mode."""

    run: Run
    defender: MLP
    adversary: AnyAdversary | None
    trained_alone: AnyAdversary | None  # the initialised games' adversary, as it was before the game
    record: RunRecord

    def attack(self) -> attacks.LearnedAttack:
        """The adversary as an attack; raises ValueError where the run has none."""
        if self.adversary is None:
            raise ValueError(f"{self.run.recipe} has no adversary; the games have: gan_tanh, gan_scaled, ...")
        return attacks.LearnedAttack(self.adversary, ThreatModel(self.run.judged, self.defender.shape))


class Streams(NamedTuple):
    """What a move draws from."""

    attack: Stream
    radii: Stream

    @staticmethod
    def of(seed: int | Sequence[int]) -> "Streams":
        return Streams(Stream(seed, "attack"), Stream(seed, "radii"))


def load(run_folder: str | Path) -> Trained:
    """A finished run's players; raises InputError where the folder holds none, CorruptCheckpoint where a file is damaged."""
    paths = RunPaths(Path(run_folder))
    if not paths.config.is_file():
        raise InputError(f"{run_folder} is not the folder of a run: it has no config.json")
    if not paths.done.is_file():
        raise InputError(f"the run in {run_folder} is not finished; `sparring train` continues it")
    run = from_dict(Run, read_json(paths.config))
    record = restore(RunRecord, read_json(paths.done))
    if record.status != "done":
        raise InputError(f"the run in {run_folder} diverged and has no weights: {record.message}")
    header = read_verified(paths.defender)[1]
    shape, n_classes = tuple(header["shape"]), int(header["n_classes"])
    defender = new_defender(run, shape, n_classes)
    load_weights(paths.defender, defender)
    adversary = _loaded_adversary(run, shape, paths.adversary)
    return Trained(run, defender.eval(), adversary, _loaded_adversary(run, shape, paths.trained_alone), record)


def history(run_folder: str | Path) -> list[memory.Snapshot]:
    """A run's players as they were along its training, by epoch; none where `history` was 0. Also of an unfinished run."""
    paths = RunPaths(Path(run_folder))
    if not paths.config.is_file():
        raise InputError(f"{run_folder} is not the folder of a run: it has no config.json")
    run = from_dict(Run, read_json(paths.config))

    def new(shape: tuple[int, ...], n_classes: int) -> tuple[nn.Module, AnyAdversary | None]:
        return new_defender(run, shape, n_classes), new_adversary(run, shape) if run.learner else None

    return memory.load_history(paths.folder, new)


def load_data(settings: Any) -> tuple[data.Data, data.Data]:
    """(training, test) that a run asks for."""
    train_on, test = data.load(settings.name, root=settings.root, allow_unknown=settings.allow_unknown)
    if settings.limit is not None:
        train_on = data.stratified(train_on, settings.limit)
    return train_on, test


def new_defender(run: Run, shape: tuple[int, ...], n_classes: int) -> MLP:
    """The run's defender with its initial weights."""
    return _network(run.defender, shape, n_classes, generator(run.seed, "init.defender"))


def new_adversary(run: Run, shape: tuple[int, ...]) -> AnyAdversary:
    """The run's adversary with its initial weights; the run must have one."""
    if (r := run.recurrent) is not None:
        draws = generator(run.seed, "init.adversary")
        rounds = ROUNDS if r.warm else 1
        return RecurrentAdversary(
            shape, queries=r.queries, hidden=r.hidden, step=r.step, rounds=rounds, generator=draws
        )
    assert run.adversary is not None
    n_pixels = int(torch.tensor(shape).prod())
    network = _network(run.adversary, shape, n_pixels, generator(run.seed, "init.adversary"))
    return Adversary(network, run.adversary.bound)


def new_player(
    name: str, network: nn.Module, optimizer: Optimizer, *, maximize: bool, n_copies: int | None = None
) -> Player:
    """A player with the optimizer that a config asks for; `n_copies` for a stack."""
    o = optimizer
    return player(
        name,
        network,
        maximize=maximize,
        kind=o.name,
        lr=o.lr,
        momentum=o.momentum,
        weight_decay=o.weight_decay,
        rate=o.rate,
        every=o.every,
        n_copies=n_copies,
    )


def move_of(
    run: Run,
    defender: Player,
    adversary: Player | None,
    threat: ThreatModel,
    streams: Streams,
    warm: WarmStart | None = None,
) -> Move:
    """A regime's move: the one thing in which two regimes differ."""
    return in_precision(_move(run, defender, adversary, threat, streams, warm), run.precision)


def _move(
    run: Run,
    defender: Player,
    adversary: Player | None,
    threat: ThreatModel,
    streams: Streams,
    warm: WarmStart | None,
) -> Move:
    settings, opponent, loss = run.training, run.opponent, LOSSES[run.defender.loss]
    radii, stream = Radii(run.eps, run.eps_low, streams.radii, run.eps_power), streams.attack
    if adversary is not None and (r := run.recurrent) is not None:
        return pursuit(
            defender,
            adversary,
            threat,
            radii,
            stream,
            warm=warm,
            sparing=r.sparing,
            every=r.every,
            clean_share=settings.clean_share,
            mix=settings.mix,
            loss=loss,
            adversary_loss=LOSSES[r.loss],
        )
    if adversary is not None and run.adversary is not None:
        return duel(
            defender,
            adversary,
            threat,
            _dynamic(run),
            clean_share=settings.clean_share,
            mix=settings.mix,
            loss=loss,
            adversary_loss=LOSSES[run.adversary.loss],
            clip=run.play.clip,
            others=run.play.modes,
        )
    attack: attacks.Attack = attacks.identity
    if opponent.kind == "noise":
        attack = attacks.Noise(threat, opponent.law, stream)
    elif opponent.kind == "fgsm":
        attack = attacks.fgsm(threat, loss=run.defender.loss, mode=opponent.mode)
    elif opponent.kind == "pgd":
        attack = attacks.PGD(
            threat,
            steps=opponent.steps,
            reach=opponent.reach,
            keep="last",
            loss=run.defender.loss,
            mode=opponent.mode,
            stream=stream,
        )
    drawn = radii if run.eps_low is not None and opponent.kind != "none" else None
    return against(defender, attack, clean_share=settings.clean_share, mix=settings.mix, loss=loss, radii=drawn)


def _network(settings: Network, shape: tuple[int, ...], n_out: int, draws: torch.Generator) -> MLP:
    return mlp(
        shape,
        [*settings.hidden, n_out],
        slope=settings.slope,
        bn_eps=settings.bn_eps,
        bn_momentum=settings.bn_momentum,
        initialisation=settings.initialisation,
        generator=draws,
    )


def _dynamic(run: Run) -> dynamics.Dynamic:
    play = run.play
    if play.dynamic == "simultaneous":
        return dynamics.simultaneous
    if play.dynamic == "extragradient":
        return dynamics.extragradient
    return dynamics.alternating(play.adversary_steps, play.defender_steps, play.first)


def _loaded_adversary(run: Run, shape: tuple[int, ...], path: Path) -> AnyAdversary | None:
    if run.learner is None or not path.is_file():
        return None
    adversary = new_adversary(run, shape)
    load_weights(path, adversary)
    return adversary.eval()
