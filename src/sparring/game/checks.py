"""What is refused before a game begins: settings that do not go together, players that cannot play, games that differ.

Each function raises InputError, in one line, and returns nothing.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import chain, product
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparring.adversaries import BOUNDS, Adversary, AnyAdversary, RecurrentAdversary
from sparring.config import n_clean
from sparring.data import Data
from sparring.errors import InputError, line_of
from sparring.ibp import check_bounded
from sparring.losses import LOSSES
from sparring.models import TRIED, check_differentiable, tried, unchanged
from sparring.randomness import own_draws

Rate = Literal["rise", "every", "cosine", "constant"]
ALIKE = (
    "eps",
    "eps_low",
    "eps_power",
    "recurrent",
    "bound",
    "lr",
    "loss",
    "adversary_loss",
    "dynamic",
    "clean_share",
    "ibp",
    "precision",
    "device",
)


def adversary(given: object, recurrent: bool, bound: str | None, dynamic: object) -> None:
    """An adversary that is neither a network nor one of the two words; settings of a network for one that is none."""
    if bound is not None:
        _among("bound", bound, BOUNDS)
    if not isinstance(given, nn.Module) and given not in ("recurrent", "mlp"):
        raise InputError(f"adversary must be 'recurrent', 'mlp' or a network; got {given!r}")
    for setting, value in (("bound", bound), ("dynamic", dynamic)):
        if recurrent and value is not None:
            raise InputError(f"{setting} is for an adversary network: pass adversary='mlp' or a network of yours")


def radii(recurrent: bool, eps: float, low: float | None, power: float) -> None:
    """Radii that cannot be drawn."""
    if low is not None and not (recurrent and 0 <= low <= eps):
        raise InputError(f"eps_low needs a recurrent adversary and must be in [0, eps]; got {low} with eps {eps:g}")
    if not power > 0 or (power != 1 and low is None):
        raise InputError(f"eps_power must be > 0, and needs eps_low if it is not 1; got {power:g}")


def objective(loss: str, adversary_loss: str, clean_share: float, lr: float) -> None:
    """Losses, a share or a rate that are none."""
    for name in (loss, adversary_loss):
        _among("loss", name, LOSSES)
    if isinstance(lr, bool) or not 0 < lr < math.inf:
        raise InputError(f"lr must be > 0 and finite; got {lr!r}")
    if isinstance(clean_share, bool) or not 0 <= clean_share < 1:
        raise InputError(
            f"clean_share must be in [0, 1), as at 1 nothing is left to the adversary; got {clean_share!r}"
        )


def bounds(ibp: float, recurrent: bool, defender: nn.Module) -> None:
    """A share for interval bounds that is none, or a defender of which there are none."""
    if isinstance(ibp, bool) or not 0 <= ibp < 1 or (ibp and not recurrent):
        raise InputError(f"ibp must be in [0, 1), and above 0 needs a recurrent adversary; got {ibp!r}")
    if ibp:
        check_bounded(defender)


def schedule(epochs: int, batch_size: int, rate: Rate, every: int | None) -> None:
    """What is no schedule."""
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 2), ("every", every, 1)):
        if value is None and name == "every":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} must be a whole number, at least {least}; got {value!r}")
    _among("rate", rate, get_args(Rate))


def share(clean_share: float, against: nn.Module, n: int) -> None:
    """A share that leaves the adversary too few examples of a minibatch of n: batch norm needs two."""
    least = 2 if any(isinstance(module, _BatchNorm) for module in against.modules()) else 1
    if n > 1 and (left := n - n_clean(n, clean_share)) < least:
        raise InputError(
            f"clean_share {clean_share:g} leaves the adversary {left or 'none'} of a minibatch's {n} examples"
            f"{', where its batch norm needs two' if least > 1 else ''}; lower it, or make minibatches larger"
        )


def players(defender: nn.Module, against: AnyAdversary, data: Data) -> None:
    """A player that has nothing to learn, or cannot play on these data.

    The defender must answer them with logits that differentiate, the adversary see the input only, or gradients, and answer with
    a number a pixel.
    """
    few = data.floats(torch.arange(min(TRIED, len(data))))
    tried(defender, few, max(2, int(data.labels.max()) + 1))
    if isinstance(against, RecurrentAdversary):
        if against.shape != data.shape:
            raise InputError(f"the adversary is for inputs of shape {against.shape}; these have {data.shape}")
    elif against.sees != ("x",):
        seen = ", ".join(against.sees)
        raise InputError(f"a game's adversary network sees x only, this one {seen}: `best_response` trains such ones")
    else:
        _answer(against, few)
    for name, network in (("defender", defender), ("adversary", against)):
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise InputError(f"the {name} has no parameter to train; set requires_grad where it is to learn")
    check_differentiable(defender, few, "the defender")


def alike(games: Sequence[Any]) -> None:
    """Games that differ in a setting, or of which two would train the same network."""
    if not games:
        raise InputError("fit_together needs at least one game; got none")
    for number, name in product(range(len(games)), ALIKE):
        expected, came = getattr(games[0], name), getattr(games[number], name)
        if came != expected:
            raise InputError(
                f"games that are played together differ in networks and seed only; "
                f"game {number} has {name} {came!r}, game 0 {expected!r}"
            )
    owners: dict[Tensor, int] = {}
    for number, game in enumerate(games):
        for network in game.networks:
            for tensor in chain(network.parameters(), network.buffers()):
                if (owner := owners.setdefault(tensor, number)) != number:
                    raise InputError(f"games {owner} and {number} share a network; make one for each game")


def _answer(network: Adversary, x: Tensor) -> None:
    """A network that does not answer inputs (B, *shape) with a number a pixel."""
    try:
        with torch.no_grad(), own_draws(x.device), unchanged(network):
            network(x)
    except Exception as error:  # a network of the user's raises whatever its parts raise
        raise InputError(
            f"the adversary must answer inputs {tuple(x.shape)} with a number a pixel, and cannot: {line_of(error)}"
        ) from None


def _among(name: str, value: object, known: Iterable[str]) -> None:
    """A word that is none of those known."""
    if value not in (words := tuple(known)):
        raise InputError(f"{name} must be one of {', '.join(words)}; got {value!r}")
