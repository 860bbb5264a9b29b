"""The recurrent game on one minibatch, with small players, for the tests of it."""

from typing import Any

import torch
from torch import Tensor

from sparring.adversaries import RecurrentAdversary
from sparring.game import Metrics, Player, player, pursuit
from sparring.game.radii import Radii
from sparring.game.warm import WarmStart
from sparring.models import mlp
from sparring.randomness import Stream
from sparring.threat import ThreatModel

SHAPE, C, B, S, N = (1, 4, 4), 5, 16, 3, 40
THREAT = ThreatModel(0.2, SHAPE)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def eps_of(threat: ThreatModel) -> Tensor:
    assert isinstance(threat.eps, Tensor)
    return threat.eps


def defender_of(lr: float = 0.05, **settings: Any) -> Player:
    return player("defender", mlp(SHAPE, [12, 8, C], generator=seeded(1)).double(), maximize=False, lr=lr, **settings)


def adversary_of(queries: int = 2, hidden: int = 0, step: float = 0.5, lr: float = 0.05, **settings: Any) -> Player:
    network = RecurrentAdversary(SHAPE, queries=queries, hidden=hidden, step=step).double()
    return player("adversary", network, maximize=True, kind="adam", lr=lr, weight_decay=0.0, **settings)


class Table:
    """A game on one minibatch, its streams beside it, and all that the defender is shown: (training, input)."""

    def __init__(
        self,
        *,
        defender: Player | None = None,
        adversary: Player | None = None,
        low: float | None = None,
        warm: bool = False,
        **settings: Any,
    ) -> None:
        self.defender, self.adversary = defender or defender_of(), adversary or adversary_of()
        self.attack, self.drawn = Stream(5, "attack"), Stream(5, "radii")
        self.warm = WarmStart(B, SHAPE, 5) if warm else None
        radii = Radii(0.2, low, self.drawn)
        self.move = pursuit(
            self.defender, self.adversary, THREAT, radii, self.attack, warm=self.warm, **{"mix": "both"} | settings
        )
        self.shown: list[tuple[bool, Tensor]] = []
        self.defender.network.register_forward_pre_hook(
            lambda module, arguments: self.shown.append((module.training, arguments[0].detach().clone()))
        )

    def play(self, x: Tensor, y: Tensor, *position: int) -> Metrics:
        self.shown.clear()
        for stream in (self.attack, self.drawn):
            stream.seek(*position)
        if self.warm:
            self.warm.seek(torch.arange(len(y)))
        return self.move(x, y)

    @property
    def trained_on(self) -> Tensor:
        """The perturbed examples that the defender last trained on."""
        (found,) = [x for training, x in self.shown if training]
        return found[-B:]


def parameters(of: Player) -> list[Tensor]:
    return [p.detach().clone() for p in of.network.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
