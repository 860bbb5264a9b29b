"""Players with a past, and files of them that may be forged, for the tests of checkpoints."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as plain_safetensors
from torch import Tensor

from sparring.adversaries import Adversary
from sparring.game import Player, Progress, player
from sparring.models import mlp

SHAPE = (1, 8, 8)


def players(seed: int = 0, hidden: int = 4, **settings: Any) -> tuple[Player, Player]:
    """An adversary and a defender with some past: no state is zero."""
    draw = torch.Generator().manual_seed(seed)
    adversary = Adversary(mlp(SHAPE, [4, 64], generator=draw))
    defender = mlp(SHAPE, [hidden, 10], generator=draw)
    both = (
        player("adversary", adversary, maximize=True, **settings),
        player("defender", defender, maximize=False, **settings),
    )
    with torch.no_grad():
        for side in both:
            for tensor in side.optimizer.state().values():
                tensor.uniform_(generator=draw)
            side.grad_norm = torch.rand((), generator=draw)
    return both


def position() -> Progress:
    return Progress(2, 7, -0.1, 1, "", 1.5, {"z_loss": torch.tensor(0.3), "a_loss": torch.tensor(0.7)})


def states(both: tuple[Player, ...]) -> list[dict[str, Tensor]]:
    return [{k: v.detach().clone() for k, v in side.state().items()} | {"norm": side.grad_norm} for side in both]


def same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(one, other, strict=True)
    )


def forge(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """A file whose checksum is right and whose content may be anything."""
    content = plain_safetensors(tensors, metadata | {"sha256": "0" * 64})
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + digest.encode(), 1))
