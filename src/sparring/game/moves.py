"""Moves: one minibatch of any method. Everything that tells two regimes apart is here.

A move takes (x, y), steps whoever trains, and returns the batch's metrics, each of shape () or (S,): the losses per player
and, on the training batch as it was met, the accuracies. Clean and perturbed examples split the batch axis, `dim = y.ndim - 1`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.adversaries import Adversary, RecurrentAdversary
from sparring.attacks import Attack
from sparring.attacks.contract import aimed
from sparring.attacks.learned import Clip, perturb, shown_to
from sparring.config import n_clean
from sparring.errors import InputError, one_of
from sparring.game.dynamics import Dynamic, Turn
from sparring.game.player import Player
from sparring.game.radii import Radii
from sparring.losses import Loss, cross_entropy, objective
from sparring.precision import Precision, multiplying_in
from sparring.threat import ThreatModel

Metrics = dict[str, Tensor]
Move = Callable[[Tensor, Tensor], Metrics]
Mix = Literal["split", "both"]
Others = Literal["turns", "training"]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def against(
    defender: Player,
    attack: Attack,
    *,
    clean_share: float = 0.5,
    mix: Mix = "split",
    loss: Loss = cross_entropy,
    radii: Radii | None = None,
) -> Move:
    """The defender steps; its opponent is a fixed attack on its current parameters (paper, equation 5).

    With `clean_share` 1 the attack is never called (vanilla); with 0 every example is perturbed (the noise model). `radii` draw
    each example's radius; the attack then needs a field `threat`. Raises InputError for another `mix` or an impossible share.
    """
    check_shares(clean_share, mix)

    def move(x: Tensor, y: Tensor) -> Metrics:
        batch = Batch(x, y, clean_share, mix)
        at_these = attack if radii is None else aimed(attack, radii.aim(attack.threat, batch.y_game))  # type: ignore[attr-defined]
        x_adv = at_these(defender.network, batch.x_game, batch.y_game).detach() if batch.n_game else batch.x_game
        with modes.training(defender.network):
            logits = defender.network(batch.joined(x_adv))
        losses = loss(logits, batch.y)
        defender.step(objective(losses))
        return batch.metrics(logits, losses)

    return move


def duel(
    defender: Player,
    adversary: Player,
    threat: ThreatModel,
    dynamic: Dynamic,
    *,
    clean_share: float = 0.5,
    mix: Mix = "split",
    loss: Loss = cross_entropy,
    adversary_loss: Loss = cross_entropy,
    clip: Clip = "plain",
    others: Others = "turns",
) -> Move:
    """Both players step (paper, equations 3 to 5): V = E[J(x + eps A(x), y)] on the perturbed share of each batch.

    `others` "turns": on one player's turn the other is frozen, in evaluation mode. "training": it is in
    training mode too (docs/claims.md, ambiguity p). Raises ValueError for an adversary whose optimizer does not maximise,
    InputError for a network that is no Adversary, another word or an impossible share.
    """
    check_shares(clean_share, mix)
    one_of("others", others, get_args(Others))
    one_of("clip", clip, get_args(Clip))
    network = network_of(adversary, Adversary, "duel")
    seen: Metrics = {}

    def move(x: Tensor, y: Tensor) -> Metrics:
        batch = Batch(x, y, clean_share, mix)

        def adversarys() -> Tensor:
            with _resting(defender.network, others), modes.training(network):
                losses = adversary_loss(defender.network(perturb(network, threat, batch.x_game, clip)), batch.y_game)
            seen["adversary_loss"] = losses.detach().mean(-1)
            return objective(losses)

        def defenders() -> Tensor:
            with torch.no_grad(), _resting(network, others):
                x_adv = perturb(network, threat, batch.x_game)
            with modes.training(defender.network):
                logits = defender.network(batch.joined(x_adv))
            losses = loss(logits, batch.y)
            seen.update(batch.metrics(logits, losses))
            seen["clipped"] = at_the_edge(x_adv, threat)
            return objective(losses)

        dynamic(Turn(adversary, adversarys), Turn(defender, defenders))
        return dict(seen)

    return move


def best_response(
    adversary: Player, model: nn.Module, threat: ThreatModel, *, loss: Loss = cross_entropy, clip: Clip = "plain"
) -> Move:
    """Only the adversary steps, against a frozen model: how a game is initialised, and how exploitability is measured.

    Beside the input it is shown what it sees: the label, the model's gradient. Raises as `duel` does.
    """
    one_of("clip", clip, get_args(Clip))
    network = network_of(adversary, Adversary, "best_response")

    def move(x: Tensor, y: Tensor) -> Metrics:
        with modes.frozen(model), modes.training(network):
            x_adv = perturb(network, threat, x, clip, **shown_to(network, model, x, y))
            logits = model(x_adv)
        losses = loss(logits, y)
        adversary.step(objective(losses))
        mean = losses.detach().mean(-1)
        return {
            "adversary_loss": mean,
            "perturbed_accuracy": accuracy(logits.detach(), y),
            "clipped": at_the_edge(x_adv.detach(), threat),
        }

    return move


def in_precision(move: Move, name: Precision, *networks: nn.Module) -> Move:
    """The move of these networks with its matrix products in this precision; its metrics are in fp32."""
    if name == "fp32":
        return move
    convolutions = any(isinstance(part, CONVOLUTIONS) for network in networks for part in network.modules())

    def cast(x: Tensor, y: Tensor) -> Metrics:
        with multiplying_in(name, x.device, convolutions=convolutions):
            metrics = move(x, y)
        return {name: value.float() for name, value in metrics.items()}  # sums over an epoch need more digits

    return cast


def check_shares(clean_share: float, mix: Mix) -> None:
    """Raises InputError for another word than those of Mix, or a share that is none."""
    one_of("mix", mix, get_args(Mix))
    if not 0 <= clean_share <= 1:
        raise InputError(f"clean_share is {clean_share}; expected a share of the minibatch, from 0 to 1")


class Batch:
    """A minibatch in two parts along its batch axis: what stays clean, and what is perturbed."""

    def __init__(self, x: Tensor, y: Tensor, clean_share: float, mix: Mix) -> None:
        self.dim = y.ndim - 1
        n = y.shape[self.dim]
        if mix == "both":
            self.n_clean, self.n_game = n, n
            self.x_clean, self.x_game, self.y_game, self.y = x, x, y, torch.cat((y, y), self.dim)
        else:
            self.n_clean = n_clean(n, clean_share)
            self.n_game = n - self.n_clean
            self.x_clean, x_game = x.split((self.n_clean, self.n_game), self.dim)
            self.x_game = x_game.contiguous()  # of a stack: once, instead of in every product
            self.y_game, self.y = y.narrow(self.dim, self.n_clean, self.n_game), y

    def joined(self, x_adv: Tensor) -> Tensor:
        """Clean and perturbed examples in one batch, in the order of `y`."""
        if not self.n_clean:
            return x_adv
        return torch.cat((self.x_clean, x_adv), self.dim) if self.n_game else self.x_clean

    def moved(self, threat: ThreatModel, delta: Tensor) -> tuple[Tensor, Tensor]:
        """`joined` for perturbations that are not differentiated, written where they belong; and the perturbed part of it."""
        if not self.n_clean:
            x_adv = threat.moved(self.x_game, delta)
            return x_adv, x_adv
        whole = self.x_game.new_empty((*self.y.shape, *threat.shape))
        whole.narrow(self.dim, 0, self.n_clean).copy_(self.x_clean)
        part = whole.narrow(self.dim, self.n_clean, self.n_game)
        return whole, threat.moved(self.x_game, delta, out=part)

    def metrics(self, logits: Tensor, losses: Tensor) -> Metrics:
        """The defender's loss, and its accuracy on either part."""
        right = _right(logits.detach(), self.y)
        metrics = {"defender_loss": losses.detach().mean(-1)}
        if self.n_clean:
            metrics["clean_accuracy"] = right.narrow(-1, 0, self.n_clean).mean(-1)
        if self.n_game:
            metrics["perturbed_accuracy"] = right.narrow(-1, self.n_clean, self.n_game).mean(-1)
        return metrics


Kind = TypeVar("Kind", Adversary, RecurrentAdversary)


def network_of(adversary: Player, kind: type[Kind], move: str) -> Kind:
    """The adversary's network; raises ValueError for one that would help the defender, InputError for one of another kind."""
    if not adversary.maximizes:
        raise ValueError("the adversary's optimizer must maximise: make its player with maximize=True")
    network = adversary.network
    if isinstance(network, kind):
        return network
    if isinstance(network, Adversary | RecurrentAdversary):
        advice = "an Adversary plays duel and best_response, a RecurrentAdversary pursuit and recurrent_response"
    else:
        advice = (
            "wrap it: Adversary(network, shape=...)" if kind is Adversary else "make one: RecurrentAdversary(shape)"
        )
    raise InputError(
        f"{move} needs a network of type {kind.__name__} as adversary; got {type(network).__name__}: {advice}"
    )


def _resting(network: nn.Module, others: Others) -> AbstractContextManager[None]:
    """The mode of a player whose turn it is not."""
    return modes.frozen(network) if others == "turns" else modes.training(network)


def _right(logits: Tensor, y: Tensor) -> Tensor:
    """1 where an example is classified rightly, else 0."""
    return (logits.contiguous().argmax(-1) == y).float()  # over what lies side by side argmax is five times as fast


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    return _right(logits, y).mean(-1)


SAMPLED = 8


def at_the_edge(x_adv: Tensor, threat: ThreatModel) -> Tensor:
    """The share of perturbed pixels at an end of the pixel range, in each copy: nearly all were clipped there.

    Of one example in SAMPLED: over all it would take a twentieth of a step. Inside, the distances to either end have a positive
    product: plain arithmetic, which is faster than comparing.
    """
    flat = threat.flat(x_adv.detach())[..., ::SAMPLED, :]
    inside = (flat - threat.low).mul_(threat.high - flat).relu_().sign_()
    return 1 - inside.mean((-2, -1))
