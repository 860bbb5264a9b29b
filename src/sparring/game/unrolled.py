"""The moves of the recurrent adversary: it asks for gradients, query after query, and learns from where that ends."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.adversaries import RecurrentAdversary
from sparring.attacks import Attack
from sparring.attacks.learned import end_of, pursue
from sparring.game.assured import Assurance
from sparring.game.moves import Batch, Metrics, Mix, Move, accuracy, at_the_edge, check_shares, network_of
from sparring.game.player import Player
from sparring.game.radii import Radii
from sparring.game.warm import WarmStart
from sparring.losses import Loss, cross_entropy, log_odds, objective
from sparring.randomness import Stream
from sparring.threat import ThreatModel

EVERY = 16  # minibatches, of which the adversary learns on one; the first of each epoch is such a one


def pursuit(
    defender: Player,
    adversary: Player,
    threat: ThreatModel,
    radii: Radii,
    stream: Stream,
    *,
    warm: WarmStart | None = None,
    sparing: bool = True,
    every: int = EVERY,
    clean_share: float = 0.5,
    mix: Mix = "split",
    loss: Loss = cross_entropy,
    adversary_loss: Loss = log_odds,
    assurance: Assurance | None = None,
) -> Move:
    """Both players step on the same perturbed examples; the adversary on one minibatch in `every` (0: never).

    The perturbation starts where `warm` has it, or at a uniform point that `stream` draws, and costs as many passes through the
    defender, forwards and backwards, as the adversary has queries; `sparing`, where radii are drawn, examples at smaller radii
    have fewer (`Radii.first`). On its turn the adversary asks once more, for the loss at the end, and learns through its own
    queries, not through the defender's gradients. The defender then trains on what the adversary found before it learned, and on
    what interval bounds cannot rule out, if it is asked for an `assurance`. Raises ValueError for an adversary whose optimizer
    does not maximise, InputError for one that is not recurrent, another `mix` or an impossible share.
    """
    check_shares(clean_share, mix)
    network = network_of(adversary, RecurrentAdversary, "pursuit")

    def move(x: Tensor, y: Tensor) -> Metrics:
        batch = Batch(x, y, clean_share, mix)
        aimed = radii.aim(threat, batch.y_game)
        start = warm.read(batch.n_game) if warm else stream.uniform(batch.x_game)
        first = radii.first(batch.n_game, network.queries) if sparing else ()
        learns = learns_at(stream.position[-1], every)
        with torch.set_grad_enabled(learns):
            u = pursue(network, defender.network, aimed, batch.x_game, batch.y_game, start, first)
        if learns:
            with modes.frozen(defender.network):
                adversary.step(objective(adversary_loss(defender.network(aimed.moved(batch.x_game, u)), batch.y_game)))
        u = u.detach()
        if warm:
            asked = first[0] if first else 0  # before it there was no query: those stand where they stood
            warm.write(u.narrow(batch.dim, asked, batch.n_game - asked))
        joined, x_adv = batch.moved(aimed, u)
        with modes.training(defender.network):
            logits = defender.network(joined)
        losses = loss(logits, batch.y)
        aim = objective(losses)
        if assurance:
            aim = assurance.part_of(aim, defender.network, batch.x_game, batch.y_game, aimed)
        defender.step(aim)
        game = logits.detach().narrow(batch.dim, batch.n_clean, batch.n_game)
        found = adversary_loss(game, batch.y_game).mean(-1)  # with the statistics of the defender's batch
        return {"adversary_loss": found, **batch.metrics(logits, losses), "clipped": at_the_edge(x_adv, threat)}

    return move


def learns_at(step: int, every: int) -> bool:
    """Whether the adversary learns at this step of an epoch: the move then takes another course."""
    return every > 0 and step % every == 0


def recurrent_response(
    adversary: Player,
    models: Sequence[nn.Module],
    threat: ThreatModel,
    radii: Radii,
    stream: Stream,
    *,
    loss: Loss = log_odds,
    asks: Loss = log_odds,
    start: Callable[[int, ThreatModel], Attack] | None = None,
) -> Move:
    """Only the adversary steps, against frozen models, one a step in turn: a learned attack, trained to be used on others.

    It starts as it will where it attacks: at its first point, or where an attack ends, or, if it is to go round several times,
    where its earlier rounds end, each of them in turn (`Cycle`). `start` makes the attack, for the number of the model whose turn
    it is and the threat at the radii of this minibatch. It is shown the gradient of `asks` and raises `loss`. Raises as `pursuit`
    does.
    """
    network = network_of(adversary, RecurrentAdversary, "recurrent_response")
    cycle = Cycle(len(models) * network.rounds)

    def move(x: Tensor, y: Tensor) -> Metrics:
        *epoch, step_of_epoch = stream.position
        step, turn = divmod(cycle.at(tuple(epoch), step_of_epoch), len(models))
        model, aimed = models[turn], radii.aim(threat, y)
        u = network.first_point(x) if start is None else end_of(start(turn, aimed), aimed, model, x, y)
        with torch.no_grad():
            for _ in range(step % network.rounds):
                u = pursue(network, model, aimed, x, y, u, asks=asks)
        u = pursue(network, model, aimed, x, y, u, asks=asks)
        with modes.frozen(model):
            logits = model(aimed.moved(x, u))
        losses = loss(logits, y)
        adversary.step(objective(losses))
        return {"adversary_loss": losses.detach().mean(-1), "perturbed_accuracy": accuracy(logits.detach(), y)}

    return move


class Cycle:
    """Which of so many turns a step is. Each epoch begins with the first, unless the one before was too short for all of them:
    then it goes on where that one stopped, so that none is left out on few examples."""

    def __init__(self, turns: int) -> None:
        self.turns, self.steps, self.before = turns, 0, 0
        self.epoch: tuple[int, ...] | None = None

    def at(self, epoch: tuple[int, ...], step: int) -> int:
        """The turn, modulo `turns`, of a step; to be asked step by step."""
        if epoch != self.epoch:
            self.before = self.before + self.steps if self.steps < self.turns else 0
            self.epoch = epoch
        self.steps = step + 1
        return (self.before + step) % self.turns
