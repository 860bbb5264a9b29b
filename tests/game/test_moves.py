"""Moves: who steps, on which examples, and what stays as it was."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.adversaries import Adversary, RecurrentAdversary
from sparring.attacks import fgsm, identity
from sparring.errors import Diverged, InputError
from sparring.game import (
    Dynamic,
    Move,
    Player,
    against,
    alternating,
    best_response,
    duel,
    extragradient,
    player,
    pursuit,
    recurrent_response,
    simultaneous,
)
from sparring.game.moves import Batch
from sparring.game.radii import Radii
from sparring.losses import margin
from sparring.models import mlp
from sparring.randomness import Stream
from sparring.threat import ThreatModel

SHAPE = (1, 4, 4)
THREAT = ThreatModel(0.2, SHAPE)
C = 5


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def defender_of(lr: float = 0.05, **settings: Any) -> Player:
    return player("defender", mlp(SHAPE, [12, 8, C], generator=seeded(1)).double(), maximize=False, lr=lr, **settings)


def adversary_of(lr: float = 0.05, bound: str = "tanh", **settings: Any) -> Player:
    network = Adversary(mlp(SHAPE, [10, 16], generator=seeded(2)).double(), bound)
    return player("adversary", network, maximize=True, lr=lr, **settings)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(16, *SHAPE, generator=seeded(3), dtype=torch.float64), torch.arange(16) % C


def parameters(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def buffers(network: nn.Module) -> list[Tensor]:
    return [b.clone() for b in network.buffers()]


def flags(network: nn.Module) -> list[bool]:
    return [m.training for m in network.modules()] + [p.requires_grad for p in network.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Watched:
    """An attack that remembers what it was called with, and moves every example by a hundredth."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.seen.append((x, y))
        return (x + 0.01).clamp(0, 1)


@pytest.mark.parametrize(("share", "n_clean"), [(0.0, 0), (0.25, 4), (0.5, 8), (1.0, 16)])
def test_a_share_of_the_batch_stays_clean_and_the_rest_is_perturbed(
    share: float, n_clean: int, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    attack, defender = Watched(), defender_of()
    inputs: list[Tensor] = []
    defender.network.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    metrics = against(defender, attack, clean_share=share)(x, y)
    assert len(attack.seen) == (n_clean < 16)  # at 1 it is never called
    if attack.seen:
        assert torch.equal(attack.seen[0][0], x[n_clean:]) and torch.equal(attack.seen[0][1], y[n_clean:])
    assert len(inputs) == 1
    assert torch.equal(inputs[0][:n_clean], x[:n_clean])
    assert torch.equal(inputs[0][n_clean:], (x[n_clean:] + 0.01).clamp(0, 1))
    assert ("clean_accuracy" in metrics) == (n_clean > 0)
    assert ("perturbed_accuracy" in metrics) == (n_clean < 16)


def test_mix_both_shows_the_whole_batch_clean_and_the_whole_batch_perturbed(batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    attack, defender = Watched(), defender_of()
    inputs: list[Tensor] = []
    defender.network.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    against(defender, attack, mix="both")(x, y)
    assert torch.equal(attack.seen[0][0], x) and torch.equal(attack.seen[0][1], y)
    assert torch.equal(inputs[0], torch.cat((x, (x + 0.01).clamp(0, 1))))


def test_a_split_goes_along_the_batch_axis_of_a_stack(generator: torch.Generator) -> None:
    x, y = torch.rand(3, 10, *SHAPE, generator=generator), torch.arange(30).view(3, 10) % C
    parts = Batch(x, y, 0.3, "split")
    assert parts.x_clean.shape == (3, 3, *SHAPE) and parts.x_game.shape == (3, 7, *SHAPE)
    assert torch.equal(parts.joined(parts.x_game), x) and torch.equal(parts.y, y)
    assert torch.equal(parts.y_game, y[:, 3:])


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize(("clean_share", "mix"), [(0.0, "split"), (0.3, "split"), (0.5, "both")])
def test_examples_moved_in_place_are_those_joined(
    lead: tuple[int, ...], clean_share: float, mix: Literal["split", "both"], generator: torch.Generator
) -> None:
    x, y = torch.rand(*lead, 10, *SHAPE, generator=generator), torch.arange(10).expand(*lead, 10) % C
    parts = Batch(x, y, clean_share, mix)
    delta = 2 * torch.rand(parts.x_game.shape, generator=generator) - 1
    aimed = THREAT.at(torch.linspace(0, 0.3, parts.n_game).expand(*lead, -1))
    whole, perturbed = parts.moved(aimed, delta)
    assert torch.equal(perturbed, aimed.moved(parts.x_game, delta)) and torch.equal(whole, parts.joined(perturbed))


@pytest.mark.parametrize("loss", [None, margin])
def test_against_takes_one_plain_step_on_the_mean_loss(loss: Any, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    defender = defender_of(momentum=0.0, weight_decay=0.0)
    other = copy.deepcopy(defender.network)
    x_adv = fgsm(THREAT)(other, x[8:], y[8:])
    logits = other.train()(torch.cat((x[:8], x_adv)))
    value = margin(logits, y).mean() if loss else F.cross_entropy(logits, y)
    value.backward()
    settings = {"loss": loss} if loss else {}
    metrics = against(defender, fgsm(THREAT), **settings)(x, y)
    for p, q in zip(defender.network.parameters(), other.parameters(), strict=True):
        assert q.grad is not None
        assert torch.allclose(p, q - 0.05 * q.grad, atol=1e-12)
    assert equal(buffers(defender.network), buffers(other))
    assert float(metrics["defender_loss"]) == pytest.approx(float(value.detach()), abs=1e-12)
    right = (logits.argmax(-1) == y).double()
    assert float(metrics["clean_accuracy"]) == pytest.approx(float(right[:8].mean()))
    assert float(metrics["perturbed_accuracy"]) == pytest.approx(float(right[8:].mean()))


def test_vanilla_training_is_against_the_identity_or_with_a_clean_share_of_one(batch: tuple[Tensor, Tensor]) -> None:
    one, other = defender_of(), defender_of()
    against(one, identity)(*batch)
    against(other, Watched(), clean_share=1.0)(*batch)
    assert all(
        torch.allclose(p, q, atol=1e-12)
        for p, q in zip(one.network.parameters(), other.network.parameters(), strict=True)
    )


def test_a_best_response_leaves_the_model_as_it_was_and_raises_its_loss(batch: tuple[Tensor, Tensor]) -> None:
    model = defender_of().network
    model.train()
    model(batch[0])
    model.norms[0].eval()  # type: ignore[index, union-attr]
    next(model.parameters()).requires_grad_(False)
    adversary = adversary_of(lr=0.5)
    before = parameters(model), buffers(model), flags(model)
    start = parameters(adversary.network)
    move = best_response(adversary, model, THREAT)
    losses = [float(move(*batch)["adversary_loss"]) for _ in range(30)]
    assert equal(before[0], parameters(model)) and equal(before[1], buffers(model)) and before[2] == flags(model)
    assert all(p.grad is None for p in model.parameters())
    assert not equal(start, parameters(adversary.network))
    assert losses[-1] > losses[0] + 0.1


def test_a_best_response_takes_one_plain_step_up_the_frozen_models_loss(batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    adversary, model = adversary_of(momentum=0.0, weight_decay=0.0), defender_of().network
    other, frozen = copy.deepcopy(adversary.network), copy.deepcopy(model).eval()
    F.cross_entropy(frozen((x + 0.2 * other.train()(x)).clamp(0, 1)), y).backward()
    best_response(adversary, model, THREAT)(x, y)
    for p, q in zip(adversary.network.parameters(), other.parameters(), strict=True):
        assert q.grad is not None
        assert torch.allclose(p, q + 0.05 * q.grad, atol=1e-12)
    assert equal(buffers(adversary.network), buffers(other))


def recording(seen: dict[str, Any], defender: Player, adversary: Player) -> Dynamic:
    """An alternating round that notes what each turn changes."""

    def dynamic(adversarys: Any, defenders: Any) -> None:
        for turn, mine, other in ((adversarys, adversary, defender), (defenders, defender, adversary)):
            before = parameters(other.network), buffers(other.network), flags(other.network)
            own = parameters(mine.network), buffers(mine.network)
            turn.player.step(turn.objective())
            seen[mine.name] = {
                "other parameters": equal(before[0], parameters(other.network)),
                "other statistics": equal(before[1], buffers(other.network)),
                "other flags": before[2] == flags(other.network),
                "own parameters": equal(own[0], parameters(mine.network)),
                "own statistics": equal(own[1], buffers(mine.network)),
            }

    return dynamic


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mix", ["split", "both"])
def test_on_one_players_turn_the_other_does_not_change(
    mix: Literal["split", "both"], training: bool, batch: tuple[Tensor, Tensor]
) -> None:
    defender, adversary = defender_of(), adversary_of()
    defender.network.train(training)
    adversary.network.train(training)
    seen: dict[str, Any] = {}
    duel(defender, adversary, THREAT, recording(seen, defender, adversary), mix=mix)(*batch)
    kept = {"other parameters": True, "other statistics": True, "other flags": True}
    changed = {"own parameters": False, "own statistics": False}
    assert seen == {"adversary": kept | changed, "defender": kept | changed}


def test_in_a_duel_of_training_modes_the_resting_player_is_in_training_mode_too(batch: tuple[Tensor, Tensor]) -> None:
    for training in (True, False):  # whatever mode it was left in
        defender, adversary = defender_of(), adversary_of()
        defender.network.train(training)
        adversary.network.train(training)
        modes: dict[str, list[bool]] = {"defender": [], "adversary": []}
        for p in (defender, adversary):
            p.network.register_forward_hook(lambda m, a, o, seen=modes[p.name]: seen.append(m.training))
        duel(defender, adversary, THREAT, alternating(), others="training")(*batch)
        assert modes == {"defender": [True, True], "adversary": [True, True]}
        assert defender.network.training is training and adversary.network.training is training


def test_in_a_duel_of_turns_only_the_player_whose_turn_it_is_is_in_training_mode(
    batch: tuple[Tensor, Tensor],
) -> None:
    defender, adversary = defender_of(), adversary_of()
    modes: list[tuple[str, bool]] = []
    for p in (defender, adversary):
        p.network.register_forward_hook(lambda m, a, o, name=p.name: modes.append((name, m.training)))
    duel(defender, adversary, THREAT, alternating())(*batch)
    assert modes == [("adversary", True), ("defender", False), ("adversary", False), ("defender", True)]


def the_gradients(defender: nn.Module, adversary: nn.Module, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Both players' gradients at one point, each from copies of its own: no state is shared."""
    d, a = copy.deepcopy(defender).eval(), copy.deepcopy(adversary).train()
    up = torch.autograd.grad(F.cross_entropy(d((x[8:] + 0.2 * a(x[8:])).clamp(0, 1)), y[8:]), list(a.parameters()))
    d, a = copy.deepcopy(defender).train(), copy.deepcopy(adversary).eval()
    with torch.no_grad():
        x_adv = (x[8:] + 0.2 * a(x[8:])).clamp(0, 1)
    down = torch.autograd.grad(F.cross_entropy(d(torch.cat((x[:8], x_adv))), y), list(d.parameters()))
    return list(up), list(down)


def plain_players() -> tuple[Player, Player]:
    return defender_of(momentum=0.0, weight_decay=0.0), adversary_of(momentum=0.0, weight_decay=0.0)


def test_simultaneous_play_steps_both_along_the_gradients_of_one_point(batch: tuple[Tensor, Tensor]) -> None:
    defender, adversary = plain_players()
    up, _ = the_gradients(defender.network, adversary.network, *batch)
    seen = copy.deepcopy(adversary.network)
    seen.train()(batch[0][8:])  # the defender meets the statistics of the adversary's turn, and its old parameters
    _, down = the_gradients(defender.network, seen, *batch)
    d, a = parameters(defender.network), parameters(adversary.network)
    duel(defender, adversary, THREAT, simultaneous)(*batch)
    for p, before, grad in zip(defender.network.parameters(), d, down, strict=True):
        assert torch.allclose(p, before - 0.05 * grad, atol=1e-12)
    for p, before, grad in zip(adversary.network.parameters(), a, up, strict=True):
        assert torch.allclose(p, before + 0.05 * grad, atol=1e-12)


def test_extragradient_moves_batch_norms_statistics_once(batch: tuple[Tensor, Tensor]) -> None:
    defender, adversary = plain_players()
    duel(defender, adversary, THREAT, extragradient)(*batch)
    for network in (defender.network, adversary.network):
        counts = [int(b) for name, b in network.named_buffers() if name.endswith("num_batches_tracked")]
        assert counts and set(counts) == {1}


def test_extragradient_steps_along_the_gradients_found_ahead(batch: tuple[Tensor, Tensor]) -> None:
    defender, adversary = plain_players()
    ahead_d, ahead_a = copy.deepcopy(defender.network), copy.deepcopy(adversary.network)
    up, _ = the_gradients(ahead_d, ahead_a, *batch)
    seen = copy.deepcopy(ahead_a)
    seen.train()(batch[0][8:])  # the defender meets the statistics of the adversary's turn
    _, down = the_gradients(ahead_d, seen, *batch)
    with torch.no_grad():
        for p, grad in zip(ahead_d.parameters(), down, strict=True):
            p.sub_(0.05 * grad)
        for p, grad in zip(ahead_a.parameters(), up, strict=True):
            p.add_(0.05 * grad)
    up, _ = the_gradients(ahead_d, ahead_a, *batch)
    a = parameters(adversary.network)
    duel(defender, adversary, THREAT, extragradient)(*batch)
    for p, before, grad in zip(adversary.network.parameters(), a, up, strict=True):
        assert torch.allclose(p, before + 0.05 * grad, atol=1e-12)


@pytest.mark.parametrize("make", ["duel", "best response"])
def test_an_adversary_that_would_help_the_defender_is_refused(make: str) -> None:
    network = Adversary(mlp(SHAPE, [16]))
    helper = player("adversary", network, maximize=False)
    defender = defender_of()
    with pytest.raises(ValueError, match="must maximise"):
        if make == "duel":
            duel(defender, helper, THREAT, alternating())
        else:
            best_response(helper, defender.network, THREAT)


def test_each_player_may_have_its_own_loss(batch: tuple[Tensor, Tensor]) -> None:
    defender, adversary = plain_players()
    metrics = duel(defender, adversary, THREAT, alternating(), loss=margin, adversary_loss=margin)(*batch)
    assert float(metrics["adversary_loss"]) < 2 and "clipped" in metrics
    fresh_d, fresh_a = plain_players()
    other = duel(fresh_d, fresh_a, THREAT, alternating(), adversary_loss=margin)(*batch)
    assert float(other["adversary_loss"]) == float(metrics["adversary_loss"])
    assert float(other["defender_loss"]) != float(metrics["defender_loss"])


def test_a_clipped_pixel_passes_gradient_straight_through_only_where_asked() -> None:
    x, y = torch.ones(16, *SHAPE, dtype=torch.float64), torch.arange(16) % C
    x[::2] = 0.999
    moved = {}
    clips: tuple[Literal["plain", "straight_through", "none"], ...] = ("plain", "straight_through", "none")
    for clip in clips:
        defender, adversary = plain_players()
        linear = [m for m in adversary.network.modules() if isinstance(m, nn.Linear)][-1]
        with torch.no_grad():
            linear.bias.fill_(2.0)  # every pixel is pushed up, out of range
            linear.weight.zero_()
        before = parameters(adversary.network)
        best_response(adversary, defender.network, THREAT, clip=clip)(x, y)
        moved[clip] = not equal(before, parameters(adversary.network))
    assert moved == {"plain": False, "straight_through": True, "none": True}


MAKE: dict[str, Callable[[Player, Player, Any], Any]] = {
    "against": lambda d, a, loss: against(d, Watched(), loss=loss),
    "best response": lambda d, a, loss: best_response(a, d.network, THREAT, loss=loss),
    "duel": lambda d, a, loss: duel(d, a, THREAT, alternating(), loss=loss, adversary_loss=loss),
}


@pytest.mark.parametrize("bad", ["nan loss", "infinite loss", "finite loss, infinite gradient"])
@pytest.mark.parametrize("name", MAKE)
def test_a_loss_or_gradient_that_is_not_finite_stops_the_player_before_its_step(
    name: str, bad: str, batch: tuple[Tensor, Tensor]
) -> None:
    def loss(logits: Tensor, y: Tensor) -> Tensor:
        value = F.cross_entropy(logits, y, reduction="none")
        if bad == "nan loss":
            return value * float("nan")
        if bad == "infinite loss":
            return value + float("inf")
        return (value - value.detach()).abs().sqrt()  # 0, of infinite slope

    defender, adversary = defender_of(), adversary_of()
    before = parameters(defender.network), parameters(adversary.network)
    states = [{k: v.clone() for k, v in p.optimizer.state().items()} for p in (defender, adversary)]
    first = "defender" if name == "against" else "adversary"
    with pytest.raises(Diverged, match=f"the {first}'s (loss|gradient) is not finite"):
        MAKE[name](defender, adversary, loss)(*batch)
    assert equal(before[0], parameters(defender.network)) and equal(before[1], parameters(adversary.network))
    for p, state in zip((defender, adversary), states, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in p.optimizer.state().items())


def test_a_defender_with_frozen_or_unused_parameters_can_be_trained(batch: tuple[Tensor, Tensor]) -> None:
    """A pretrained backbone, an auxiliary head: any nn.Module may play."""

    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.frozen, self.unused = (nn.Linear(16, C).double() for _ in range(3))
            self.frozen.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            out: Tensor = self.used(flat) + self.frozen(flat)
            return out

    network = Partly()
    before = [[p.detach().clone() for p in part.parameters()] for part in (network.used, network.frozen)]
    against(player("defender", network, maximize=False, lr=0.1, weight_decay=0.0), fgsm(THREAT))(*batch)
    assert not equal(before[0], list(network.used.parameters()))
    assert equal(before[1], list(network.frozen.parameters()))
    assert not any(p.requires_grad for p in network.frozen.parameters())


def a_move(name: str, adversary: Player) -> Move:
    defender, radii, stream = defender_of(), Radii(0.2, None, Stream(0, "radii")), Stream(0, "attack")
    if name == "duel":
        return duel(defender, adversary, THREAT, alternating())
    if name == "best_response":
        return best_response(adversary, defender.network, THREAT)
    if name == "pursuit":
        return pursuit(defender, adversary, THREAT, radii, stream)
    return recurrent_response(adversary, [defender.network], THREAT, radii, stream)


@pytest.mark.parametrize("name", ["duel", "best_response", "pursuit", "recurrent_response"])
def test_an_adversary_of_another_kind_than_the_move_plays_is_refused_in_words(name: str) -> None:
    plain, recurrent = Adversary(mlp(SHAPE, [16])), RecurrentAdversary(SHAPE)
    fits, other = (recurrent, plain) if name in ("pursuit", "recurrent_response") else (plain, recurrent)
    assert a_move(name, player("adversary", fits, maximize=True))
    for network, advice in (
        (mlp(SHAPE, [16]), "wrap it|make one"),
        (other, "an Adversary plays duel and best_response"),
    ):
        got = f"^{name} needs a network of type {type(fits).__name__} as adversary; got {type(network).__name__}: "
        with pytest.raises(InputError, match=f"{got}({advice})"):
            a_move(name, player("adversary", network, maximize=True))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"mix": "halves"}, r"^mix cannot be 'halves'"),
    ({"clean_share": 1.5}, r"^clean_share is 1.5; expected a share of the minibatch, from 0 to 1$"),
    ({"clean_share": float("nan")}, r"^clean_share is nan"),
    ({"others": "turn"}, r"^others cannot be 'turn'; did you mean 'turns'"),
    ({"clip": "plane"}, r"^clip cannot be 'plane'; did you mean 'plain'"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_settings_that_are_none_are_refused_when_the_move_is_made(settings: dict[str, Any], message: str) -> None:
    defender, plain = defender_of(), player("adversary", Adversary(mlp(SHAPE, [16])), maximize=True)
    asking = player("adversary", RecurrentAdversary(SHAPE), maximize=True)
    radii, stream = Radii(0.2, None, Stream(0, "radii")), Stream(0, "attack")
    makers: list[Callable[..., Move]] = [partial(duel, defender, plain, THREAT, alternating())]
    if not settings.keys() & {"others", "clip"}:
        makers += [partial(against, defender, fgsm(THREAT)), partial(pursuit, defender, asking, THREAT, radii, stream)]
    if "clip" in settings:
        makers += [partial(best_response, plain, defender.network, THREAT)]
    for made in makers:
        with pytest.raises(InputError, match=message):
            made(**settings)
