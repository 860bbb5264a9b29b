"""Game: the short way in. Your classifier against an adversary that learns beside it."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from sparring.adversaries import BOUNDS, Adversary
from sparring.attacks import LearnedAttack
from sparring.config import Training
from sparring.data import Data, as_data
from sparring.errors import InputError
from sparring.game.dynamics import Dynamic, alternating
from sparring.game.moves import duel
from sparring.game.player import player
from sparring.game.train import Epoch, Progress, train
from sparring.losses import LOSSES
from sparring.models import mlp
from sparring.randomness import generator
from sparring.threat import ThreatModel


class Game:
    """A defender, any nn.Module from inputs in [0, 1] to logits, and an adversary bounded by `eps`.

    After `fit`, `defender` is the trained classifier and `attack` the trained adversary, an attack (model, x, y) -> x_adv like
    any other. The defaults are gentler than the paper's (rate 0.1 instead of 1.0), for networks without batch norm.
    """

    def __init__(
        self,
        defender: nn.Module,
        *,
        eps: float = 0.1,
        bound: str = "tanh",
        adversary: nn.Module | None = None,
        lr: float = 0.1,
        loss: str = "cross_entropy",
        adversary_loss: str = "cross_entropy",
        dynamic: Dynamic | None = None,
        clean_share: float = 0.5,
        seed: int = 0,
        device: str | torch.device | None = None,
    ) -> None:
        """`adversary`: a network from inputs (B, *shape) to one number a pixel; None makes the paper's MLP for the data."""
        ThreatModel(eps, (1,))  # refuses a bad eps now, not after the data are read
        for name in (loss, adversary_loss):
            if name not in LOSSES:
                raise InputError(f"loss must be one of {', '.join(LOSSES)}; got {name!r}")
        if bound not in BOUNDS:
            raise InputError(f"bound must be one of {', '.join(BOUNDS)}; got {bound!r}")
        self.defender = defender
        self.eps = eps
        self.bound = bound
        self.lr = lr
        self.losses = LOSSES[loss], LOSSES[adversary_loss]
        self.dynamic = dynamic or alternating()
        self.clean_share = clean_share
        self.seed = seed
        self.device = torch.device(device) if device else _device_of(defender)
        self._network = adversary
        self._attack: LearnedAttack | None = None

    def fit(
        self,
        train_on: Any,
        *,
        epochs: int = 20,
        batch_size: int = 128,
        rate: Literal["rise", "every", "constant"] = "every",
        every: int = 10,
        on_epoch: Callable[[Epoch, Progress], None] = lambda epoch, progress: None,
    ) -> "Game":
        """Play for so many epochs on a Data, a Dataset, a DataLoader or (x, y) arrays; both rates are halved every `every`.

        Raises InputError for unusable data, Diverged where a loss or gradient is not finite (the step is not taken).
        """
        data: Data = as_data(train_on).to(self.device)
        threat = ThreatModel(self.eps, data.shape)
        adversary = self._adversary(data).to(self.device)
        self.defender.to(self.device).train()
        learning: dict[str, Any] = {"lr": self.lr, "rate": rate, "every": every}
        players = (
            player("adversary", adversary, maximize=True, **learning),
            player("defender", self.defender, maximize=False, **learning),
        )
        loss, adversary_loss = self.losses
        move = duel(
            players[1],
            players[0],
            threat,
            self.dynamic,
            clean_share=self.clean_share,
            loss=loss,
            adversary_loss=adversary_loss,
        )
        settings = Training(batch_size=batch_size, max_epochs=epochs, patience=epochs + 1, min_lr=0.0)
        train(move, data, players, settings, seed=self.seed, on_epoch=on_epoch)
        self.defender.eval()
        self._attack = LearnedAttack(adversary.eval(), threat)
        return self

    @property
    def attack(self) -> LearnedAttack:
        """The trained adversary as an attack; raises RuntimeError before `fit`."""
        if self._attack is None:
            raise RuntimeError("this game has no trained adversary yet: call fit(train) first")
        return self._attack

    def _adversary(self, data: Data) -> Adversary:
        if self._attack is not None:
            return self._attack.adversary
        if isinstance(self._network, Adversary):
            return self._network
        n_pixels = data.floats(torch.tensor([0])).numel()
        network = self._network or mlp(
            data.shape, [512, 512, n_pixels], generator=generator(self.seed, "init.adversary")
        )
        return Adversary(network, self.bound, data.shape)


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")
