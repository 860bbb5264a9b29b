"""The games of `leads.py`: the recurrent one, its yardstick and the blind one, each with one thing changed at a time."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from x_only import EPS, variant

from sparring import modes, recipes
from sparring.adversaries import Adversary, RecurrentAdversary
from sparring.attacks.learned import perturb, pursue
from sparring.config import Optimizer, Run
from sparring.data import Data
from sparring.experiment import Streams, move_of, new_adversary, new_defender, new_player
from sparring.game import Player, dynamics, train
from sparring.game.moves import Batch, Metrics, Move, duel
from sparring.game.radii import Radii
from sparring.game.unrolled import learns_at, pursuit
from sparring.game.warm import WarmStart
from sparring.losses import Loss, cross_entropy, log_odds, objective
from sparring.models import MLP
from sparring.randomness import generator
from sparring.threat import ThreatModel

AVERAGED, SHARPNESS, AGAIN = 0.999, 10.0, 1000  # decay a step; of Softplus; added to the seed of a second adversary
SEVERAL, PAST, FRESH_EVERY = 4, 8, 3  # adversaries at once; snapshots; epochs


class Played(NamedTuple):
    """A defender, and in the blind game what it played against at the end."""

    defender: nn.Module
    own: Sequence[nn.Module] = ()


# ---------------------------------------------------------------- the recurrent game


def kl(weight: float) -> Loss:
    """Cross-entropy of the clean half, and how far the perturbed half's answers are from its (TRADES, Zhang et al. 2019)."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        clean, perturbed = logits.chunk(2, -2)
        return torch.cat((cross_entropy(clean, y.chunk(2, -1)[0]), weight * _divergence(clean, perturbed)), -1)

    return loss


def misclassification_aware(weight: float) -> Loss:
    """Boosted cross-entropy of the perturbed half, and the divergence, more where clean is wrong (MART, Wang et al. 2020)."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        (clean, perturbed), own = logits.chunk(2, -2), y.chunk(2, -1)[0]
        right = own.unsqueeze(-1)
        log_p = F.log_softmax(perturbed, -1)
        wrong = log_p.scatter(-1, right, -torch.inf).amax(-1).exp()
        boosted = -log_p.gather(-1, right).squeeze(-1) - torch.log1p(-wrong.clamp(max=1 - 1e-6))
        unsure = 1 - F.softmax(clean, -1).gather(-1, right).squeeze(-1)
        both = boosted + weight * _divergence(clean, perturbed) * unsure
        return torch.cat((both, both), -1)  # over two halves the mean is that of one

    return loss


def _divergence(clean: Tensor, perturbed: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(perturbed, -1), F.softmax(clean, -1), reduction="none").sum(-1)


class Smooth(MLP):
    """The same network with Softplus for leaky ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(-len(self.shape))
        for linear, norm in zip(self.linears, self.norms, strict=False):
            h = F.softplus(norm(linear(h)), SHARPNESS)
        logits: Tensor = self.linears[-1](h)
        return logits


class Average:
    """A network's weights and statistics, averaged over its steps."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.mean = network, copy.deepcopy(network)

    def after(self, move: Move) -> Move:
        def averaged(x: Tensor, y: Tensor) -> Metrics:
            metrics = move(x, y)
            with torch.no_grad():
                for mean, now in zip(_floats(self.mean), _floats(self.network), strict=True):
                    mean.lerp_(now, 1 - AVERAGED)
            return metrics

        return averaged


def _floats(network: nn.Module) -> list[Tensor]:
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]


def worse_of_two(
    defender: Player, adversaries: Sequence[Player], threat: ThreatModel, radii: Radii, streams: Streams, warm: Any
) -> Move:
    """`pursuit` by several recurrent adversaries, each from where it left the example; the defender meets the worst of them."""

    def move(x: Tensor, y: Tensor) -> Metrics:
        batch = Batch(x, y, 0.5, "both")
        aimed = radii.aim(threat, y)
        learns = learns_at(streams.attack.position[-1], 16)
        ends, found = [], []
        for player, table in zip(adversaries, warm, strict=True):
            network = player.network
            assert isinstance(network, RecurrentAdversary)
            first = radii.first(len(y), network.queries)
            with torch.set_grad_enabled(learns):
                u = pursue(network, defender.network, aimed, x, y, table.read(len(y)), first)
                with modes.frozen(defender.network):
                    raised = log_odds(defender.network(aimed.moved(x, u)), y)
            if learns:
                player.step(objective(raised))
            u = u.detach()
            table.write(u[first[0] :])
            ends.append(u)
            found.append(raised.detach())
        best = torch.stack(found).argmax(0)
        u = torch.stack(ends)[best, torch.arange(len(y))]
        with modes.training(defender.network):
            logits = defender.network(batch.joined(aimed.moved(x, u)))
        lost = cross_entropy(logits, batch.y)
        defender.step(objective(lost))
        own = {f"{player.name}_loss": one.mean() for player, one in zip(adversaries, found, strict=True)}
        return {**own, **batch.metrics(logits, lost)}

    return move


RECURRENT: dict[str, dict[str, Any]] = {
    "the game": {},
    "KL, weight 1": {"loss": kl(1.0)},
    "KL, weight 3": {"loss": kl(3.0)},
    "MART, weight 5": {"loss": misclassification_aware(5.0)},
    "weights averaged": {"averaged": True},
    "Softplus": {"smooth": True},
    "two adversaries": {"several": 2},
}


def recurrent(lead: str, seed: int, train_on: Data) -> Played:
    """The recurrent game with this changed."""
    changed, run = RECURRENT[lead], replace(recipes.gan_recurrent(), seed=seed)
    network: MLP = new_defender(run, train_on.shape, train_on.n_classes)
    if changed.get("smooth"):
        network.__class__ = Smooth
    defender = new_player("defender", network, run.defender.optimizer, maximize=False)
    threat, streams = ThreatModel(run.eps, train_on.shape), Streams.of(seed)
    radii = Radii(run.eps, run.eps_low, streams.radii)
    n = changed.get("several", 1)
    seeds = [seed + AGAIN * k for k in range(n)]
    warm = [WarmStart(len(train_on), train_on.shape, one) for one in seeds]
    assert run.learner is not None
    adversaries = [
        new_player(
            f"adversary{k}" if n > 1 else "adversary",
            new_adversary(replace(run, seed=one), train_on.shape),
            run.learner.optimizer,
            maximize=True,
        )
        for k, one in enumerate(seeds)
    ]
    if n > 1:
        move = worse_of_two(defender, adversaries, threat, radii, streams, warm)
    else:
        loss = changed.get("loss", cross_entropy)
        move = pursuit(defender, adversaries[0], threat, radii, streams.attack, warm=warm[0], mix="both", loss=loss)
    average = Average(network)
    if changed.get("averaged"):
        move = average.after(move)
    train(move, train_on, [*adversaries, defender], run.training, seed=seed, streams=list(streams), warm=warm)
    return Played((average.mean if changed.get("averaged") else network).eval())


# ---------------------------------------------------------------- their yardstick

PGD_7: dict[str, dict[str, Any]] = {"PGD-7": {}, "Softplus": {"smooth": True}}


def yardstick(lead: str, seed: int, train_on: Data) -> Played:
    """PGD-7 at the recurrent game's radii, with this changed."""
    run = replace(recipes.pgd_drawn(), seed=seed)
    network: MLP = new_defender(run, train_on.shape, train_on.n_classes)
    if PGD_7[lead].get("smooth"):
        network.__class__ = Smooth
    defender = new_player("defender", network, run.defender.optimizer, maximize=False)
    streams = Streams.of(seed)
    move = move_of(run, defender, None, ThreatModel(run.eps, train_on.shape), streams)
    train(move, train_on, [defender], run.training, seed=seed, streams=list(streams))
    return Played(network.eval())


# ---------------------------------------------------------------- the blind game


class Blind(NamedTuple):
    """The players of a blind game."""

    defender: Player
    adversaries: list[Player]
    threat: ThreatModel
    seed: int
    shape: tuple[int, ...]
    run: Run


Opposing = Callable[[Tensor, Tensor], Tensor]  # inputs and labels to what the defender meets


def meeting(game: Blind, opposing: Opposing) -> Move:
    """Each adversary steps on its share of the minibatch; the defender meets every example clean, and as `opposing` has it."""

    def move(x: Tensor, y: Tensor) -> Metrics:
        batch, raised = Batch(x, y, 0.5, "both"), {}
        n = len(game.adversaries)
        for player, own_x, own_y in zip(game.adversaries, x.chunk(n), y.chunk(n), strict=True):
            with modes.frozen(game.defender.network), modes.training(player.network):
                x_adv = perturb(_network(player), game.threat, own_x)
                lost = log_odds(game.defender.network(x_adv), own_y)
            player.step(objective(lost))
            raised[f"{player.name}_loss"] = lost.detach().mean()
        with torch.no_grad():
            x_adv = opposing(x, y)
        with modes.training(game.defender.network):
            logits = game.defender.network(batch.joined(x_adv))
        lost = cross_entropy(logits, batch.y)
        game.defender.step(objective(lost))
        return {**raised, **batch.metrics(logits, lost)}

    return move


def _network(player: Player) -> Adversary:
    assert isinstance(player.network, Adversary)
    return player.network


def _by(network: Adversary, threat: ThreatModel, x: Tensor) -> Tensor:
    with modes.frozen(network):
        return perturb(network, threat, x)


def shared(game: Blind) -> Opposing:
    """Each adversary perturbs its share."""

    def opposing(x: Tensor, y: Tensor) -> Tensor:
        parts = zip(game.adversaries, x.chunk(len(game.adversaries)), strict=True)
        return torch.cat([_by(_network(player), game.threat, part) for player, part in parts])

    return opposing


def worst(game: Blind) -> Opposing:
    """Each example as the adversary has it that raises its loss most."""

    def opposing(x: Tensor, y: Tensor) -> Tensor:
        made = [_by(_network(player), game.threat, x) for player in game.adversaries]
        with modes.frozen(game.defender.network):
            found = torch.stack([log_odds(game.defender.network(x_adv), y) for x_adv in made])
        return torch.stack(made)[found.argmax(0), torch.arange(len(y))]

    return opposing


class PastSelves:
    """Fictitious play: half of the examples by the adversary as it is, half by one of its past selves, drawn anew each time."""

    def __init__(self, game: Blind) -> None:
        self.game, self.kept = game, list[Adversary]()
        self.draws = generator(game.seed, "past")

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        now = _network(self.game.adversaries[0])
        if not self.kept:
            return _by(now, self.game.threat, x)
        past = self.kept[int(torch.randint(len(self.kept), (), generator=self.draws))]
        one, other = x.chunk(2)
        return torch.cat((_by(now, self.game.threat, one), _by(past, self.game.threat, other)))

    def after_epoch(self, epoch: int) -> None:
        """Keep it as it is; of more than PAST, one at random goes."""
        self.kept.append(copy.deepcopy(_network(self.game.adversaries[0])).requires_grad_(False))
        if len(self.kept) > PAST:
            self.kept.pop(int(torch.randint(len(self.kept), (), generator=self.draws)))


def restarts(game: Blind) -> Callable[[int], None]:
    """After every few epochs the next of the adversaries begins anew."""

    def after_epoch(epoch: int) -> None:
        if epoch % FRESH_EVERY:
            return
        turn = epoch // FRESH_EVERY
        player = game.adversaries[turn % len(game.adversaries)]
        anew = new_adversary(replace(game.run, seed=game.seed + AGAIN * (10 + turn)), game.shape)
        player.network.load_state_dict(anew.state_dict())
        for buffer in player.optimizer.state().values():
            buffer.zero_()

    return after_epoch


BLIND: dict[str, dict[str, Any]] = {
    "the game": {},
    "simultaneous": {"dynamic": dynamics.simultaneous},
    "extragradient": {"dynamic": dynamics.extragradient},
    "past selves": {"opposing": PastSelves},
    "begun anew": {"opposing": shared, "restarts": True},
    "four, each a share": {"several": SEVERAL, "opposing": shared},
    "four, the worst": {"several": SEVERAL, "opposing": worst},
    "four, the worst, one begun anew": {"several": SEVERAL, "opposing": worst, "restarts": True},
}


def blind(lead: str, seed: int, train_on: Data) -> Played:
    """The tanh game whose adversary raises the log odds, with this changed."""
    changed, run = BLIND[lead], variant("log odds", seed)
    assert run.adversary is not None
    defender = new_player(
        "defender", new_defender(run, train_on.shape, train_on.n_classes), run.defender.optimizer, maximize=False
    )
    n = changed.get("several", 1)
    rate: Optimizer = run.adversary.optimizer
    adversaries = [
        new_player(
            f"adversary{k}" if n > 1 else "adversary",
            new_adversary(replace(run, seed=seed + AGAIN * k), train_on.shape),
            rate,
            maximize=True,
        )
        for k in range(n)
    ]
    game = Blind(defender, adversaries, ThreatModel(EPS, train_on.shape), seed, train_on.shape, run)
    after: Callable[[int], None] = lambda epoch: None  # noqa: E731
    if make := changed.get("opposing"):
        opposing = make(game)
        after = opposing.after_epoch if isinstance(opposing, PastSelves) else after
        move = meeting(game, opposing)
    else:
        dynamic = changed.get("dynamic", dynamics.alternating())
        move = duel(defender, adversaries[0], game.threat, dynamic, mix="both", adversary_loss=log_odds)
    if changed.get("restarts"):
        after = restarts(game)
    train(
        move,
        train_on,
        [*adversaries, defender],
        run.training,
        seed=seed,
        after_epoch=lambda progress: after(progress.epoch),
    )
    return Played(defender.network.eval(), [player.network.eval() for player in adversaries])


LEADS = {"recurrent": RECURRENT, "PGD-7": PGD_7, "blind": BLIND}
PLAY = {"recurrent": recurrent, "PGD-7": yardstick, "blind": blind}
