"""A stack of S copies computes, and is trained to, exactly what its copies would alone."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.adversaries import BOUNDS, Adversary, Seen, n_features, stack_adversaries
from sparring.adversaries.adversary import Layout
from sparring.attacks import PGD, Attack, LearnedAttack, Noise, WorstCase, fgsm
from sparring.data.batches import Data
from sparring.errors import InputError
from sparring.evaluation import attacked, clean, pgd_curve
from sparring.game import (
    Dynamic,
    Move,
    Player,
    Turn,
    against,
    alternating,
    best_response,
    duel,
    extragradient,
    player,
    simultaneous,
)
from sparring.losses import LOSSES, objective
from sparring.models import MLP, copy_to, mlp, stack
from sparring.randomness import Stream
from sparring.threat import ThreatModel

S, B, C = 3, 10, 4
SHAPE = (1, 3, 3)
D = 9
EPS = 0.2


def networks(sizes: list[int], seed: int, n: int = S) -> list[MLP]:
    return [mlp(SHAPE, sizes, slope=0.1, generator=torch.Generator().manual_seed(seed + s)).double() for s in range(n)]


def worn(copies: list[MLP]) -> list[MLP]:
    """With statistics that differ from copy to copy."""
    for s, network in enumerate(copies):
        network.train()
        for step in range(3):
            network(inputs(100 + 10 * s + step)[0][s] * (s + 1) / S)
        network.eval()
    return copies


def inputs(seed: int) -> tuple[Tensor, Tensor]:
    """A batch of its own for every copy: (S, B, ...)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(S, B, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randint(C, (S, B), generator=generator)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_on_a_stack_is_the_copies_losses(name: str, generator: torch.Generator) -> None:
    logits = torch.randn(S, B, C, generator=generator, dtype=torch.float64)
    y = inputs(0)[1]
    together = LOSSES[name](logits, y)
    for s in range(S):
        assert torch.allclose(together[s], LOSSES[name](logits[s], y[s]), atol=1e-12)


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_a_bound_on_a_stack_is_the_copies_bounds(name: str, generator: torch.Generator) -> None:
    z = torch.randn(S, B, D, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1]).view(S, 1, 1)
    together = BOUNDS[name](z)
    for s in range(S):
        assert torch.allclose(together[s], BOUNDS[name](z[s]), atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_a_stack_computes_what_its_copies_compute(training: bool) -> None:
    copies = worn(networks([8, 6, C], 1))
    together = stack(copies).train(training)
    x = inputs(2)[0]
    out = together(x)
    assert out.shape == (S, B, C)
    for s, network in enumerate(copies):
        network.train(training)
        assert torch.allclose(out[s], network(x[s]), atol=1e-12)
    for name, buffer in together.named_buffers():
        if not name.endswith("num_batches_tracked"):
            layer, kind = int(name.split(".")[1]), name.split(".")[2]
            for s, network in enumerate(copies):
                assert torch.allclose(buffer[s], getattr(network.norms[layer], kind), atol=1e-12)


def test_copies_written_back_are_the_networks_they_were() -> None:
    copies = worn(networks([8, 6, C], 1))
    together = stack(copies)
    fresh = networks([8, 6, C], 50)
    for s, network in enumerate(fresh):
        copy_to(together, s, network)
    for network, original in zip(fresh, copies, strict=True):
        for (name, a), (_, b) in zip(network.state_dict().items(), original.state_dict().items(), strict=True):
            assert torch.equal(a, b), name
    again = stack(fresh)
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), together.state_dict().values(), strict=True)
    )


def test_a_stack_shares_no_memory_with_the_networks_it_was_made_of() -> None:
    copies = networks([8, C], 1)
    before = [p.detach().clone() for p in copies[0].parameters()]
    together = stack(copies)
    with torch.no_grad():
        for parameter in together.parameters():
            parameter.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(before, copies[0].parameters(), strict=True))


def test_networks_of_different_architectures_are_not_stacked() -> None:
    with pytest.raises(ValueError, match="one architecture"):
        stack([*networks([8, C], 1, 1), *networks([7, C], 1, 1)])


@pytest.mark.parametrize("changes", [{"slope": 0.2}, {"bn_eps": 1e-3}, {"bn_momentum": 0.2}])
def test_networks_of_one_size_but_other_settings_are_not_stacked(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"one architecture: network 1 has"):
        stack([mlp(SHAPE, [8, C]), mlp(SHAPE, [8, C], **changes)])  # type: ignore[arg-type]


class Doubled(MLP):
    """Ours by descent only."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_network_that_derives_from_ours_keeps_its_own_code() -> None:
    copies = [Doubled(SHAPE, [8, C], slope=0.1, bn_eps=1e-5, bn_momentum=0.1).double().eval() for _ in range(S)]
    x = inputs(2)[0]
    out = stack(copies)(x)
    for s, network in enumerate(copies):
        assert torch.allclose(out[s], network(x[s]), atol=1e-12)


def test_what_is_frozen_in_ours_is_frozen_in_their_stack() -> None:
    copies = networks([8, C], 1)
    for network in copies:
        network.linears[0].requires_grad_(False)
    frozen = {name for name, parameter in stack(copies).named_parameters() if not parameter.requires_grad}
    assert frozen == {"linears.0.weight", "linears.0.bias"}


def stream() -> Stream:
    return Stream(3, "stack")


ADVERSARIES = [Adversary(network, "scaled").eval() for network in worn(networks([8, D], 30))]
STACKED_ADVERSARY = Adversary(stack(worn(networks([8, D], 30))), "scaled").eval()


def all_seeing(layout: Layout) -> list[Adversary]:
    """Shown the label and the defender's gradient, each with a gain of its own."""
    sees: tuple[Seen, ...] = ("x", "label", "gradient")
    found = []
    for s in range(S):
        generator = torch.Generator().manual_seed(40 + s)
        if layout == "flat":
            network: nn.Module = mlp((n_features(sees, SHAPE, C),), [8, D], generator=generator)
        else:
            network = nn.Conv2d(2 + C, 1, 3, padding=1)
            for parameter in network.parameters():
                nn.init.normal_(parameter, generator=generator)
        adversary = Adversary(network, "tanh", SHAPE, sees=sees, n_classes=C, layout=layout).double().eval()
        nn.init.constant_(adversary.gain, (s + 1) / 4)
        found.append(adversary)
    return found


SEEING: dict[Layout, list[Adversary]] = {"flat": all_seeing("flat"), "channels": all_seeing("channels")}


def seeing(layout: Layout, s: int | None) -> Adversary:
    return stack_adversaries(SEEING[layout]).eval() if s is None else SEEING[layout][s]


# (threat, copy or None) -> attack; what draws is left out or draws once, so that copies draw in turn from one stream
ATTACKS: dict[str, Callable[[ThreatModel, int | None, Stream], Attack]] = {
    "uniform noise": lambda t, s, g: Noise(t, "uniform", g),
    "sign noise": lambda t, s, g: Noise(t, "sign", g),
    "fgsm": lambda t, s, g: fgsm(t),
    "fgsm training": lambda t, s, g: fgsm(t, mode="training"),
    "fgsm predicted": lambda t, s, g: fgsm(t, label="predicted"),
    "pgd": lambda t, s, g: PGD(t, steps=4, stream=g),
    "pgd margin": lambda t, s, g: PGD(t, steps=4, loss="margin", random_start=False),
    "pgd last": lambda t, s, g: PGD(t, steps=4, keep="last", stream=g),
    "learned": lambda t, s, g: LearnedAttack(STACKED_ADVERSARY if s is None else ADVERSARIES[s], t),
    "learned training": lambda t, s, g: LearnedAttack(
        STACKED_ADVERSARY if s is None else ADVERSARIES[s], t, "training"
    ),
    "learned, all seen": lambda t, s, g: LearnedAttack(seeing("flat", s), t),
    "learned, all seen as channels": lambda t, s, g: LearnedAttack(seeing("channels", s), t),
    "worst case": lambda t, s, g: WorstCase((fgsm(t), PGD(t, steps=3, random_start=False)), t),
}


@pytest.mark.parametrize("radius", ["number", "per copy", "per example"])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_a_stack_attacks_each_copy_as_alone(name: str, radius: str) -> None:
    copies = worn(networks([8, 6, C], 1))
    together = stack(copies).eval()
    x, y = inputs(4)
    eps: dict[str, float | Tensor] = {
        "number": EPS,
        "per copy": torch.tensor([[0.05], [0.1], [0.3]], dtype=torch.float64),
        "per example": torch.linspace(0, 0.3, S * B, dtype=torch.float64).view(S, B),
    }
    threat = ThreatModel(eps[radius], SHAPE)
    found = ATTACKS[name](threat, None, stream())(together, x, y)
    draws = stream()
    for s, network in enumerate(copies):
        value = threat.eps[s] if isinstance(threat.eps, Tensor) else threat.eps
        alone = ATTACKS[name](threat.at(value), s, draws)(network, x[s], y[s])
        assert torch.allclose(found[s], alone, atol=1e-9)


@pytest.mark.parametrize("name", ["clean", "fgsm", "learned", "worst case"])
def test_accuracy_of_a_stack_is_the_copies_accuracy(name: str, generator: torch.Generator) -> None:
    copies = [network.float() for network in worn(networks([8, 6, C], 1))]
    together = stack(copies).eval()
    data = Data(torch.rand(53, *SHAPE, generator=generator), torch.arange(53) % C, C, "random")
    threat = ThreatModel(EPS, SHAPE)
    adversaries = [Adversary(network.float()).eval() for network in worn(networks([8, D], 30))]
    all_adversaries = Adversary(stack([a.network for a in adversaries])).eval()  # type: ignore[misc]

    def attack(s: int | None) -> Attack:
        if name == "learned":
            return LearnedAttack(all_adversaries if s is None else adversaries[s], threat)
        return ATTACKS[name](threat, s, stream())

    if name == "clean":
        outcome = clean(together, data, n_copies=S, batch_size=20)
    else:
        outcome = attacked(together, data, attack(None), threat, n_copies=S, batch_size=20)
    assert outcome.correct.shape == outcome.invalid.shape == (S, 53) and outcome.logits.shape == (S, 53, C)
    for s, network in enumerate(copies):
        if name == "clean":
            alone = clean(network, data, batch_size=20)
        else:
            alone = attacked(network, data, attack(s), threat, batch_size=20)
        assert torch.equal(outcome.correct[s], alone.correct)
        assert torch.allclose(outcome.logits[s], alone.logits, atol=1e-4)
    assert len({outcome.correct[s].sum().item() for s in range(S)}) > 1


def learner(
    name: Literal["defender", "adversary"], network: nn.Module, kind: Literal["sgd", "adam"], n_copies: int | None
) -> Player:
    lr = 0.05 if kind == "sgd" else 0.01
    return player(name, network, maximize=name == "adversary", kind=kind, lr=lr, weight_decay=0.01, n_copies=n_copies)


Make = Callable[[Player, Player, ThreatModel], Move]
MOVES: dict[str, Make] = {
    "against fgsm": lambda d, a, t: against(d, fgsm(t)),
    "against fgsm, both": lambda d, a, t: against(d, fgsm(t), mix="both"),
    "against fgsm in training mode": lambda d, a, t: against(d, fgsm(t, mode="training"), clean_share=0.3),
    "vanilla": lambda d, a, t: against(d, fgsm(t), clean_share=1.0),
    "duel": lambda d, a, t: duel(d, a, t, alternating()),
    "duel, margin": lambda d, a, t: duel(d, a, t, alternating(2, 1, "defender"), adversary_loss=LOSSES["margin"]),
    "duel, straight through": lambda d, a, t: duel(d, a, t, alternating(), clip="straight_through", mix="both"),
    "duel, both in training mode": lambda d, a, t: duel(d, a, t, alternating(), others="training"),
    "duel, simultaneous": lambda d, a, t: duel(d, a, t, simultaneous, clean_share=0.0),
    "duel, extragradient": lambda d, a, t: duel(d, a, t, extragradient),
    "best response": lambda d, a, t: best_response(a, d.network, t),
}


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("bound", ["tanh", "scaled-batch"])
@pytest.mark.parametrize("name", MOVES)
def test_a_stack_of_three_seeds_trained_ten_steps_equals_the_three_runs(
    name: str, bound: str, kind: Literal["sgd", "adam"]
) -> None:
    # a bias before batch norm has no gradient but rounding, which Adam would blow up to whole steps
    deep = kind == "sgd"
    d_sizes, a_sizes = ([8, 6, C], [7, D]) if deep else ([C], [D])
    threat = ThreatModel(EPS, SHAPE)
    defenders, adversaries = networks(d_sizes, 1), networks(a_sizes, 30)
    together_d, together_a = stack(defenders), Adversary(stack(adversaries), bound)
    move = MOVES[name](learner("defender", together_d, kind, S), learner("adversary", together_a, kind, S), threat)
    batches = [inputs(500 + step) for step in range(10)]
    metrics = [move(x, y) for x, y in batches]
    moved = False
    back_d, back_a = networks(d_sizes, 70), networks(a_sizes, 80)
    for s in range(S):
        copy_to(together_d, s, back_d[s])
        copy_to(together_a.network, s, back_a[s])
    for s in range(S):
        single_a = Adversary(adversaries[s], bound)
        before = [p.detach().clone() for n in (defenders[s], single_a) for p in n.parameters()]
        alone = MOVES[name](
            learner("defender", defenders[s], kind, None), learner("adversary", single_a, kind, None), threat
        )
        for step, (x, y) in enumerate(batches):
            for key, value in alone(x[s], y[s]).items():
                assert metrics[step][key].shape == (S,)
                assert float(metrics[step][key][s]) == pytest.approx(float(value), abs=1e-9), key
        after = [p for n in (defenders[s], single_a) for p in n.parameters()]
        moved |= any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))
        for mine, written in ((defenders[s], back_d[s]), (adversaries[s], back_a[s])):
            for (key, p), (_, q) in zip(mine.state_dict().items(), written.state_dict().items(), strict=True):
                assert torch.allclose(p, q, atol=1e-9), key
    assert moved


def test_a_dynamics_step_of_a_stack_is_the_copies_steps() -> None:
    """On V = x_s y_s, S games at once, each copy with its own learning rate."""
    rates = torch.tensor([0.1, 0.2, 0.05], dtype=torch.float64)

    class Numbers(nn.Module):
        def __init__(self, values: list[float]) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(values, dtype=torch.float64).unsqueeze(-1))

    dynamics: list[Dynamic] = [simultaneous, extragradient, alternating()]
    for dynamic, factor in zip(dynamics, (1 + rates**2, 1 - rates**2 + rates**4, None), strict=True):
        x, y = Numbers([1.0, -0.5, 2.0]), Numbers([0.5, 0.25, -1.0])
        players = [
            player(n, m, maximize=n == "adversary", momentum=0.0, weight_decay=0.0, n_copies=S)
            for n, m in (("adversary", y), ("defender", x))
        ]
        for p in players:
            p.optimizer.lr.copy_(rates)

        def value(x: Numbers = x, y: Numbers = y) -> Tensor:
            return objective(x.value * y.value)

        def size(x: Numbers = x, y: Numbers = y, mixed: bool = factor is None) -> Tensor:
            a, b = x.value.detach().squeeze(-1), y.value.detach().squeeze(-1)
            return a**2 + b**2 + (rates * a * b if mixed else 0)

        before = size()
        dynamic(Turn(players[0], value), Turn(players[1], value))
        assert torch.allclose(size(), before if factor is None else before * factor, atol=1e-12)


def test_the_gradient_of_a_stacks_input_lies_as_the_input_does() -> None:
    copies, x = networks([8, 6, C], 1), inputs(2)[0].requires_grad_()
    together = stack(copies)
    (grad,) = torch.autograd.grad(together(x).sum(), x)
    assert grad.is_contiguous()
    for s, network in enumerate(copies):
        own = x[s].detach().requires_grad_()
        assert torch.allclose(grad[s], torch.autograd.grad(network.train()(own).sum(), own)[0], atol=1e-12)
    grads = torch.autograd.grad(together(x).square().sum(), list(together.parameters()))
    assert all(one.is_contiguous() for one in grads)  # as the fused step takes them


def test_a_stack_is_evaluated_as_its_copies_alone_each_on_what_it_still_withstands() -> None:
    copies = [network.float() for network in worn(networks([8, 6, C], 1))]
    together = stack(copies).eval()
    generator = torch.Generator().manual_seed(8)
    x = torch.rand(60, *SHAPE, generator=generator)
    data = Data(x, copies[0](x).argmax(-1), C, "random")
    orders = torch.stack([torch.randperm(60, generator=generator) for _ in range(S)])
    grid = [0.0, 0.05, 0.1, 0.2, 0.4]
    curves = pgd_curve(together, data, grid, steps=5, restarts=1, batch_size=16, n_copies=S)
    fgsm_at = ThreatModel(0.1, SHAPE)
    mixed = attacked(together, data, fgsm(fgsm_at), fgsm_at, batch_size=16, n_copies=S, order=orders, mode="training")
    fallen = set()
    for s, network in enumerate(copies):
        for eps, outcome in pgd_curve(network, data, grid, steps=5, restarts=1, batch_size=16).items():
            assert torch.equal(curves[eps].correct[s], outcome.correct), (s, eps)
            fallen.add((eps, int(outcome.correct.sum())))
        alone = attacked(network, data, fgsm(fgsm_at), fgsm_at, batch_size=16, order=orders[s], mode="training")
        assert torch.equal(mixed.correct[s], alone.correct)
        torch.testing.assert_close(mixed.logits[s], alone.logits)
    assert len({n for eps, n in fallen if eps == 0.1}) > 1, "copies of which others fall"


@pytest.mark.parametrize("call", ["evaluate", "worst_case", "audit"])
def test_what_takes_one_network_refuses_a_stack_in_a_sentence(call: str) -> None:
    both = stack([mlp((1, 8, 8), [8, 10]) for _ in range(2)])
    test = sparring.data.load("digits")[1]
    more: dict[str, Any] = {"suite": lambda threat: [("FGSM", fgsm(threat))]} if call == "worst_case" else {}
    with pytest.raises(InputError, match=rf"{call} takes one network, got a stack of 2; .*copy_to"):
        getattr(sparring, call)(both, test, eps=[0.1], **more)
