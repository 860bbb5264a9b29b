"""Game: the short way in. Your classifier against an adversary that learns beside it; several seeds of it at once."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from sparring import modes
from sparring.adversaries import ROUNDS, Adversary, AnyAdversary, RecurrentAdversary, stack_any
from sparring.attacks import LearnedAttack
from sparring.config import Training
from sparring.data import Data, as_data
from sparring.errors import CannotStack, Diverged, NotStacked, one_of
from sparring.game import checks
from sparring.game.assured import Assurance
from sparring.game.checks import Rate
from sparring.game.closing import CLOSING, close, closing_turns
from sparring.game.dynamics import Dynamic, alternating
from sparring.game.moves import Move, duel, in_precision
from sparring.game.player import Player, player
from sparring.game.radii import Radii
from sparring.game.train import ADVICE, Epoch, Progress, train
from sparring.game.unrolled import EVERY, pursuit
from sparring.game.warm import WarmStart
from sparring.losses import LOSSES
from sparring.models import copy_to, mlp, stack
from sparring.precision import Precision
from sparring.randomness import Stream, check_seed, generator
from sparring.threat import ThreatModel, check_eps

CELLS_RATE = 0.01  # of Adam, for a recurrent adversary: its cell has few parameters
PROBE = 32  # examples on which a stack is tried out


class Game:
    """A defender, any nn.Module from inputs in [0, 1] to logits, and an adversary bounded by `eps`.

    After `fit`, `defender` is the trained classifier and `attack` the trained adversary, an attack (model, x, y) -> x_adv like
    any other. The rate is gentler than the paper's (0.1 instead of 1.0), for networks without batch norm.

    The adversary is recurrent unless another is asked for: from where it left an example last time, it takes two gradients of
    the defender, or fewer where radii are drawn and the example's is small (docs/game.md). When the defender has ended it learns
    on a few more minibatches, in all the rounds in which it attacks (`closing.py`). "mlp" is the paper's, a network that sees
    the input only: its game looks won and is not.
    """

    def __init__(
        self,
        defender: nn.Module,
        *,
        eps: float = 0.1,
        eps_low: float | None = None,
        eps_power: float = 1.0,
        adversary: nn.Module | Literal["recurrent", "mlp"] = "recurrent",
        bound: str | None = None,
        lr: float = 0.1,
        loss: str = "cross_entropy",
        adversary_loss: str | None = None,
        dynamic: Dynamic | None = None,
        clean_share: float = 0.5,
        ibp: float = 0.0,
        precision: Precision = "fp32",
        seed: int = 0,
        device: str | torch.device | None = None,
    ) -> None:
        """`adversary`: "recurrent"; "mlp"; a RecurrentAdversary; or a network from inputs (B, *shape) to one number a pixel.

        With a recurrent one every example's radius may be drawn anew at each step, from `eps_low` to `eps`, uniform, or with
        an `eps_power` above 1 more of them small (`Radii`). `bound` and `dynamic` are for networks: "tanh" and `alternating()`
        where they are None. `adversary_loss` None is "log_odds" for a recurrent adversary, "cross_entropy" for a network.

        `ibp`, in [0, 1): the share of the defender's objective that interval bounds have (`Assurance`), for a bound from below
        by `sparring.evaluation.certify`. It costs clean accuracy and seconds, and adds no accuracy under attack; the defender
        must be a `models.mlp` or a Sequential of layers that `sparring.ibp` knows.

        `precision` "bf16": both players multiply in bf16 while they train, with weights and steps in fp32. It is faster where
        `sparring.precision.fast_precision(device)` says "bf16", and slower elsewhere.

        Raises InputError for settings that do not go together.
        """
        eps = check_eps(eps)  # now, not after the data are read
        recurrent = adversary == "recurrent" or isinstance(adversary, RecurrentAdversary)
        adversary_loss = adversary_loss or ("log_odds" if recurrent else "cross_entropy")
        checks.adversary(adversary, recurrent, bound, dynamic)
        checks.radii(recurrent, eps, eps_low, eps_power)
        checks.objective(loss, adversary_loss, clean_share, lr)
        checks.bounds(ibp, recurrent, defender)
        one_of("precision", precision, get_args(Precision))
        self.defender = defender
        self.ibp = ibp
        self.precision: Precision = precision
        self.eps = eps
        self.eps_low = eps_low
        self.eps_power = eps_power
        self.recurrent = recurrent
        self.bound = bound or "tanh"
        self.lr = lr
        self.loss = loss
        self.adversary_loss = adversary_loss
        self.dynamic = dynamic or alternating()
        self.clean_share = clean_share
        self.seed = check_seed(seed)
        self.device = torch.device(device) if device else _device_of(defender)
        self._network = None if isinstance(adversary, str) else adversary
        self._attack: LearnedAttack | None = None

    def fit(
        self,
        train_on: Any,
        *,
        epochs: int = 20,
        batch_size: int = 128,
        rate: Rate = "cosine",
        every: int | None = None,
        on_epoch: Callable[[Epoch, Progress], None] = lambda epoch, progress: None,
    ) -> "Game":
        """Play for so many epochs on a Data, a Dataset, a DataLoader or (x, y) arrays.

        `rate` says what becomes of `lr`: "cosine", it falls to 0 over `every` epochs (None: over all of them); "every", it is
        halved after each `every` (None: 10); "rise", it is halved after an epoch in which the player's loss rose; "constant".

        Raises InputError for unusable data or settings, Diverged where a loss or gradient is not finite (the step is not taken).
        """
        checks.schedule(epochs, batch_size, rate, every)
        data = as_data(train_on).to(self.device)
        match = _Match([self], data, stacked=False)
        checks.share(self.clean_share, match.adversary, min(batch_size, len(data)))
        gone = match.play(epochs, batch_size, rate, every, lambda game, epoch, progress: on_epoch(epoch, progress))
        if gone:
            raise Diverged(gone[self])
        return self

    @property
    def attack(self) -> LearnedAttack:
        """The trained adversary as an attack; raises RuntimeError before `fit`."""
        if self._attack is None:
            raise RuntimeError("this game has no trained adversary yet: call fit(train) first")
        return self._attack

    def _adversary(self, data: Data) -> AnyAdversary:
        """The adversary that plays: the one at hand, else a new one."""
        if self._attack is not None:
            return self._attack.adversary
        if isinstance(self._network, Adversary | RecurrentAdversary):
            return self._network
        draws = generator(self.seed, "init.adversary")
        if self.recurrent:
            return RecurrentAdversary(data.shape, rounds=ROUNDS, generator=draws)
        n_pixels = data.floats(torch.tensor([0])).numel()
        network = self._network or mlp(data.shape, [512, 512, n_pixels], generator=draws)
        return Adversary(network, self.bound, data.shape)

    @property
    def networks(self) -> list[nn.Module]:
        """The defender, and the adversary if there is one yet."""
        adversary = self._attack.adversary if self._attack else self._network
        return [self.defender] if adversary is None else [self.defender, adversary]


def fit_together(
    games: Sequence[Game],
    train_on: Any,
    *,
    epochs: int = 20,
    batch_size: int = 128,
    rate: Rate = "cosine",
    every: int | None = None,
    stacked: bool | None = None,
    notice: Callable[[str], None] | None = None,
    on_epoch: Callable[[Game, Epoch], None] = lambda game, epoch: None,
) -> list[Game]:
    """Play several games, alike but for networks and seeds, to where `fit` would take each: as one stack, where that pays.

    `stacked` True insists, and raises CannotStack where the networks cannot be one; False has the games play one after another.
    None decides: they play one after another too where their networks cannot be stacked, or have convolutions and are not on a
    CUDA device. `notice` is then told why, in one sentence; without it that is the warning NotStacked.

    Raises InputError for games that differ in a setting or share a network, and Diverged, which names those that did, once all
    others have ended.
    """
    games = list(games)
    checks.alike(games)
    checks.schedule(epochs, batch_size, rate, every)
    data = as_data(train_on).to(games[0].device)
    matches, reason = _matches(games, data, stacked)
    checks.share(games[0].clean_share, matches[0].adversaries[0], min(batch_size, len(data)))
    if reason:
        sentence = f"the {len(games)} games are played one after another: {reason}"
        notice(sentence) if notice else warnings.warn(sentence, NotStacked, stacklevel=2)
    gone: dict[Game, str] = {}
    for match in matches:
        gone |= match.play(epochs, batch_size, rate, every, lambda game, epoch, progress: on_epoch(game, epoch))
    if gone:
        each = [f"game {number} (seed {game.seed}) {gone[game]}" for number, game in enumerate(games) if game in gone]
        raise Diverged(f"{len(gone)} of {len(games)} games diverged, the others are trained: {'; '.join(each)}")
    return games


class _Match:
    """Games under way: one on its own networks, or several on a stack of theirs."""

    def __init__(self, games: Sequence[Game], data: Data, *, stacked: bool) -> None:
        """The networks, on the data's device.

        Raises CannotStack where `stacked` asks for too much, InputError where a network cannot be trained on these data.
        """
        self.games, self.data, self.stacked = games, data, stacked
        self.threat = ThreatModel(games[0].eps, data.shape)
        self.adversaries = [game._adversary(data).to(data.images.device) for game in games]
        self.defenders = [game.defender.to(data.images.device) for game in games]
        for defender, adversary in zip(self.defenders, self.adversaries, strict=True):
            checks.players(defender, adversary, data)
        self.adversary, self.defender = self.adversaries[0], self.defenders[0]
        if stacked:
            spread = torch.linspace(0, len(data) - 1, min(PROBE, len(data)))  # over all classes, if they are sorted
            probe = data.floats(spread.long())
            with modes.kept(*self.networks):
                for network in self.networks:
                    network.train()
                self.adversary, self.defender = stack_any(self.adversaries, probe), stack(self.defenders, probe)

    @property
    def networks(self) -> list[nn.Module]:
        """All that play."""
        return [*self.adversaries, *self.defenders]

    def play(
        self,
        epochs: int,
        batch_size: int,
        rate: Rate,
        every: int | None,
        on_epoch: Callable[[Game, Epoch, Progress], None],
    ) -> dict[Game, str]:
        """Train to the end; which games diverged, and where. The others' networks are then in evaluation mode; those, and all
        of them where something raises, as they were."""
        going = list(range(len(self.games)))
        gone: dict[Game, str] = {}
        adversary, defender = self._players(rate, every or (epochs if rate == "cosine" else 10))
        steps = max(1, len(self.data) // min(batch_size, len(self.data)))  # of an epoch
        move, streams, warm = self._move(adversary, defender, epochs, steps)
        settings = Training(batch_size=batch_size, max_epochs=epochs, patience=epochs + 1, min_lr=0.0)

        def take(epoch: Epoch, progress: Progress) -> None:
            number = going[epoch.copy]
            if self.stacked:
                copy_to(self.adversary, epoch.copy, self.adversaries[number])
                copy_to(self.defender, epoch.copy, self.defenders[number])
            on_epoch(self.games[number], epoch, progress)

        def dismiss(progress: Progress) -> None:
            for number, copy in zip(tuple(going), progress.copies, strict=False):  # a single game has no copies
                if copy.diverged:
                    going.remove(number)
                    why = f"diverged in epoch {progress.epoch}: a loss or gradient is not finite; {ADVICE}"
                    gone[self.games[number]] = why

        with modes.kept(*self.networks):
            for network in self.networks:
                network.train()
            try:
                train(
                    move,
                    self.data,
                    (adversary, defender),
                    settings,
                    seed=self._seeds(),
                    streams=streams,
                    warm=warm,
                    on_epoch=take,
                    after_epoch=dismiss,
                )
            except Diverged as error:  # of a single game
                gone[self.games[0]] = str(error)
        for number, game in enumerate(self.games):
            if game not in gone:
                self._end(number, epochs, steps)
        return gone

    def _players(self, rate: Rate, every: int) -> tuple[Player, Player]:
        """The adversary and the defender, with their optimizers."""
        game = self.games[0]
        learning: dict[str, Any] = {"lr": game.lr, "rate": rate, "every": every}
        learning["n_copies"] = len(self.games) if self.stacked else None
        defender = player("defender", self.defender, maximize=False, **learning)
        if game.recurrent:
            learning |= {"kind": "adam", "lr": CELLS_RATE, "weight_decay": 0.0, "rate": "constant"}
        return player("adversary", self.adversary, maximize=True, **learning), defender

    def _move(
        self, adversary: Player, defender: Player, epochs: int, steps: int
    ) -> tuple[Move, list[Stream], list[WarmStart]]:
        """What they play on a minibatch, the random streams that it draws from and the tables that it reads."""
        game, seed = self.games[0], self._seeds()
        streams, warm = [Stream(seed, "attack"), Stream(seed, "radii")], list[WarmStart]()
        losses: dict[str, Any] = {"loss": LOSSES[game.loss], "adversary_loss": LOSSES[game.adversary_loss]}
        losses["clean_share"] = game.clean_share
        if game.recurrent:
            warm = [WarmStart(len(self.data), self.data.shape, seed, self.data.images.device)]
            radii = Radii(game.eps, game.eps_low, streams[1], game.eps_power)
            if game.ibp:
                losses["assurance"] = Assurance(game.ibp, epochs * steps, steps, streams[1])
            move = pursuit(defender, adversary, self.threat, radii, streams[0], warm=warm[0], **losses)
        else:
            move = duel(defender, adversary, self.threat, game.dynamic, **losses)
        return in_precision(move, game.precision, self.defender, self.adversary), streams, warm

    def _end(self, number: int, epochs: int, steps: int) -> None:
        """Close a game of so many epochs and steps in each, its networks in evaluation mode, its adversary an attack."""
        game, defender, adversary = self.games[number], self.defenders[number].eval(), self.adversaries[number]
        if isinstance(adversary, RecurrentAdversary):
            close(
                adversary,
                defender,
                self.data,
                self.threat,
                turns=closing_turns(CLOSING, epochs, steps, EVERY),
                seed=game.seed,
                low=game.eps_low,
                power=game.eps_power,
                loss=LOSSES[game.adversary_loss],
            )
        game._attack = LearnedAttack(adversary.eval(), self.threat)

    def _seeds(self) -> int | list[int]:
        """Of the one game, or of each in the stack."""
        seeds = [game.seed for game in self.games]
        return seeds if self.stacked else seeds[0]


def _matches(games: Sequence[Game], data: Data, stacked: bool | None) -> tuple[list[_Match], str]:
    """All games as one match, or a match for each; then also why, where nobody asked for that."""
    reason = ""
    if stacked is None and len(games) > 1 and data.images.device.type != "cuda" and _convolve(games[0]):
        reason = "off CUDA devices a stack of convolutions is slower, unless they are tiny (stacked=True makes one)"
    elif games[0].ibp and (stacked or (stacked is None and len(games) > 1)):
        reason = "interval bounds are of one network at a time"
        if stacked:
            raise CannotStack(f"the games cannot be one: {reason}")
    elif stacked or (stacked is None and len(games) > 1):
        try:
            return [_Match(games, data, stacked=True)], ""
        except CannotStack as error:
            if stacked:
                raise
            reason = str(error)
    return [_Match([game], data, stacked=False) for game in games], reason


def _convolve(game: Game) -> bool:
    """Whether a network of the game has weights with more axes than a matrix."""
    return any(parameter.ndim > 2 for network in game.networks for parameter in network.parameters())


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")
