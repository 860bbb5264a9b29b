"""Every attack keeps the contract: inside the ball, example by example, the model left as it was found."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from worn import EPS, SHAPE, B, edge_batch, stream, worn, worn_model

from sparring.adversaries import Adversary, RecurrentAdversary
from sparring.attacks import (
    APGD,
    FAB,
    PGD,
    Attack,
    Cascade,
    Escalation,
    FittedRehearsal,
    LearnedAttack,
    Noise,
    RayS,
    Rehearsal,
    Smoothed,
    Square,
    WorstCase,
    fgsm,
    identity,
)
from sparring.losses import margin
from sparring.models import mlp
from sparring.modes import evaluation
from sparring.threat import ThreatModel


def adversary(bound: str = "tanh") -> Adversary:
    network = worn(mlp(SHAPE, [8, 16], generator=torch.Generator().manual_seed(5)), 6).double()
    return Adversary(network, bound)


def recurrent(**settings: Any) -> RecurrentAdversary:
    """In double precision, no parameter where it starts."""
    network, generator = RecurrentAdversary(SHAPE, queries=2, **settings).double(), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network


def rehearsal(threat: ThreatModel) -> Rehearsal:
    sources = [worn(mlp(SHAPE, [8, 5], generator=torch.Generator().manual_seed(n)), n).double() for n in (8, 9)]
    return Rehearsal(sources, threat, starts=2, returns=3, steps=3, stream=stream())


def fitted(threat: ThreatModel) -> FittedRehearsal:
    first = rehearsal(threat)
    return FittedRehearsal(first.sources, threat, starts=1, returns=2, steps=3, stream=stream(), copies=1, epochs=3)


# attacks that draw are given a fresh stream, so that two made alike draw alike
ATTACKS: dict[str, Callable[[ThreatModel], Attack]] = {
    "identity": lambda threat: identity,
    "uniform noise": lambda threat: Noise(threat, "uniform", stream()),
    "sign noise": lambda threat: Noise(threat, "sign", stream()),
    "fgsm": fgsm,
    "fgsm margin": lambda threat: fgsm(threat, loss="margin"),
    "fgsm predicted": lambda threat: fgsm(threat, label="predicted"),
    "fgsm training": lambda threat: fgsm(threat, mode="training"),
    "pgd": lambda threat: PGD(threat, steps=5, stream=stream()),
    "pgd at the example": lambda threat: PGD(threat, steps=5, random_start=False),
    "pgd last": lambda threat: PGD(threat, steps=5, keep="last", random_start=False),
    "pgd margin": lambda threat: PGD(threat, steps=5, loss="margin", stream=stream()),
    "pgd restarts": lambda threat: PGD(threat, steps=3, restarts=3, stream=stream()),
    "pgd small steps": lambda threat: PGD(threat, steps=8, step_size=0.2, random_start=False),
    "pgd training": lambda threat: PGD(threat, steps=3, mode="training", stream=stream()),
    "learned tanh": lambda threat: LearnedAttack(adversary(), threat),
    "learned scaled": lambda threat: LearnedAttack(adversary("scaled"), threat),
    "learned training": lambda threat: LearnedAttack(adversary(), threat, "training"),
    "recurrent": lambda threat: LearnedAttack(recurrent(hidden=3, rounds=2), threat),
    "recurrent linear": lambda threat: LearnedAttack(recurrent(), threat),
    "recurrent margin": lambda threat: LearnedAttack(recurrent(hidden=3), threat, asks="margin"),
    "recurrent, rehearsed": lambda threat: LearnedAttack(recurrent(), threat, start=rehearsal(threat), asks="margin"),
    "rehearsal": lambda threat: rehearsal(threat),
    "fitted rehearsal": lambda threat: fitted(threat),
    "worst case": lambda threat: WorstCase((fgsm(threat), Noise(threat, "sign", stream())), threat),
    "apgd": lambda threat: APGD(threat, steps=6, stream=stream()),
    "apgd dlr": lambda threat: APGD(threat, "dlr", steps=5, restarts=2, stream=stream()),
    "apgd targets": lambda threat: APGD(threat, "dlr", targets=3, steps=5, stream=stream(), chunk=4),
    "apgd margin": lambda threat: APGD(threat, "margin", targets=9, steps=5, stream=stream()),
    "square": lambda threat: Square(threat, queries=12, stream=stream()),
    "square chunks": lambda threat: Square(threat, queries=9, rescale=False, stream=stream(), chunk=3),
    "smoothed": lambda threat: Smoothed(threat, steps=6, stream=stream()),
    "smoothed margin": lambda threat: Smoothed(
        threat, "margin", steps=3, samples=2, restarts=2, stream=stream(), chunk=5
    ),
    "fab": lambda threat: FAB(threat, steps=5, bisections=3),
    "rays": lambda threat: RayS(threat, queries=20),
    "escalation": lambda threat: Escalation(
        Square(threat, queries=6, stream=stream()),
        fgsm(threat),
        APGD(threat, steps=4, stream=stream()),
        Square(threat, queries=12, stream=stream()),
        threat,
    ),
    "cascade": lambda threat: Cascade((fgsm(threat), APGD(threat, steps=5, stream=stream())), threat),
}
# batch statistics, and copies that learn from a batch: not example by example
NEIGHBOURLY = {"fgsm training", "pgd training", "learned training", "fitted rehearsal"}
DRAWS = {"uniform noise", "sign noise", "pgd", "pgd margin", "pgd restarts", "worst case"}
SHARED = {
    "apgd",
    "apgd dlr",
    "apgd targets",
    "apgd margin",
    "square",
    "square chunks",
    "smoothed",
    "smoothed margin",
    "rehearsal",
    "recurrent, rehearsed",
}  # every example is given the same draws

every_attack = pytest.mark.parametrize("name", ATTACKS)
own_example = pytest.mark.parametrize("name", [n for n in ATTACKS if n not in NEIGHBOURLY])


@pytest.fixture
def model() -> nn.Module:
    return worn_model()


@pytest.fixture
def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return edge_batch(generator)


def the_state(*networks: nn.Module) -> list[Any]:
    """All that an attack must leave alone."""
    found: list[Any] = [torch.get_rng_state()]
    for network in networks:
        for module in network.modules():
            found += [module.training, len(module._forward_hooks)]
        for parameter in network.parameters():
            found += [parameter.requires_grad, parameter.detach().clone()]
            found.append(None if parameter.grad is None else parameter.grad.clone())
        found += [buffer.clone() for buffer in network.buffers()]
    return found


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else x is y or x == y
        for x, y in zip(a, b, strict=True)
    )


def disturb(model: nn.Module) -> None:
    """Mixed modes, one frozen parameter, gradients that someone still needs."""
    model.train()
    first = next((m for m in model.modules() if isinstance(m, nn.BatchNorm1d)), None)
    if first is not None:  # a recurrent adversary has none
        first.eval()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    for i, parameter in enumerate(parameters[1:3]):
        parameter.grad = torch.full_like(parameter, float(i + 1))


def networks_of(attack: Attack) -> list[nn.Module]:
    return [attack.adversary] if isinstance(attack, LearnedAttack) else []


@every_attack
@pytest.mark.parametrize("eps", [EPS, 1.0])
def test_an_attack_stays_in_the_ball_and_the_pixel_range(
    name: str, eps: float, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    threat = ThreatModel(eps, SHAPE)
    before = x.clone()
    x_adv = ATTACKS[name](threat)(model, x, y).detach()
    assert torch.equal(x, before)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert float(threat.distance(x_adv, x).max()) <= eps + 1e-9
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    if name != "identity":
        assert float(threat.distance(x_adv, x).max()) > eps / 10


@every_attack
def test_an_attack_leaves_the_model_as_it_found_it(name: str, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    attack = ATTACKS[name](ThreatModel(EPS, SHAPE))
    networks = [model, *networks_of(attack)]
    for network in networks:
        disturb(network)
    before = the_state(*networks)
    attack(model, *batch)
    assert same(before, the_state(*networks))


class Failing(nn.Module):
    """A model that raises in its n-th forward pass, after its batch norms have seen the batch."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.passes = 0
        self.fails_at = 10**9

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        self.passes += 1
        if self.passes == self.fails_at:
            raise ZeroDivisionError
        return out


@every_attack
def test_an_attack_leaves_the_model_as_it_found_it_when_any_of_its_passes_fails(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    attack = ATTACKS[name](ThreatModel(EPS, SHAPE))
    failing: list[Failing] = [Failing(model)]
    if isinstance(attack, LearnedAttack) and isinstance(attack.adversary, Adversary):
        failing.append(Failing(attack.adversary.network))
        attack.adversary.network = failing[1]
    networks: list[nn.Module] = [failing[0], *networks_of(attack)]
    for network in networks:
        disturb(network)
    attack(failing[0], *batch)
    n_passes = [f.passes for f in failing]
    assert (sum(n_passes) == 0) == (name in ("identity", "uniform noise", "sign noise"))
    for broken, n in zip(failing, n_passes, strict=True):
        for k in range(1, n + 1):
            broken.passes, broken.fails_at = 0, k
            before = the_state(*networks)
            with pytest.raises(ZeroDivisionError):
                attack(failing[0], *batch)
            assert same(before, the_state(*networks)), f"changed when pass {k} of {n} failed"


@every_attack
def test_eps_zero_returns_the_clean_example(name: str, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(ATTACKS[name](ThreatModel(0.0, SHAPE))(model, *batch), batch[0])


@own_example
def test_an_example_alone_is_attacked_as_in_a_batch(name: str, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    threat = ThreatModel(EPS, SHAPE)
    together = ATTACKS[name](threat)(model, x, y)
    if name == "pgd restarts":  # the second restart's draws depend on how many stand before them
        return
    for i in [0] if name in DRAWS else range(B):  # only the first example's draws are the same alone
        alone = ATTACKS[name](threat)(model, x[i : i + 1], y[i : i + 1])
        assert torch.allclose(alone[0], together[i], atol=1e-9)


@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in NEIGHBOURLY | DRAWS])
def test_the_order_of_a_batch_does_not_matter(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator
) -> None:
    x, y = batch
    threat = ThreatModel(EPS, SHAPE)
    order = torch.randperm(B, generator=generator)
    straight, other = (ATTACKS[name](threat)(model, x[i], y[i]) for i in (torch.arange(B), order))
    assert torch.allclose(other, straight[order], atol=1e-9)


@own_example
def test_a_radius_per_example_gives_each_example_its_own_attack(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    eps = torch.linspace(0, 0.3, B, dtype=torch.float64)
    threat = ThreatModel(0.0, SHAPE)
    if name == "pgd small steps":
        eps = eps.clamp(min=0.01)
    together = ATTACKS[name](threat.at(eps))(model, x, y)
    assert together.shape == x.shape
    assert bool((threat.distance(together, x) <= eps + 1e-9).all())
    for i in (1, B // 2, B - 1):
        alike = ATTACKS[name](threat.at(float(eps[i])))(model, x, y)
        assert torch.allclose(together[i], alike[i], atol=1e-9)


@every_attack
def test_an_attack_works_inside_no_grad_and_gives_the_same(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    threat = ThreatModel(EPS, SHAPE)
    with torch.no_grad():
        inside = ATTACKS[name](threat)(model, *batch)
    assert torch.equal(inside, ATTACKS[name](threat)(model, *batch).detach())
    assert not inside.requires_grad


@every_attack
def test_only_a_learned_attack_carries_gradient(name: str, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    attack = ATTACKS[name](ThreatModel(EPS, SHAPE))
    assert attack(model, *batch).requires_grad == isinstance(attack, LearnedAttack)


@every_attack
def test_an_attacks_repr_is_its_configuration(name: str) -> None:
    text = repr(ATTACKS[name](ThreatModel(0.125, SHAPE)))
    assert name == "identity" or ("0.125" in text and "object at 0x" not in text)


@pytest.mark.parametrize(
    "name", ["learned tanh", "learned scaled", "learned training", "recurrent", "recurrent linear"]
)
def test_a_learned_attack_is_differentiable_in_the_adversarys_parameters(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    attack = ATTACKS[name](ThreatModel(EPS, SHAPE))
    assert isinstance(attack, LearnedAttack)
    x_adv = attack(model, *batch)
    grads = torch.autograd.grad(margin(model.eval()(x_adv), batch[1]).sum(), list(attack.adversary.parameters()))
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert max(float(grad.abs().max()) for grad in grads) > 0


def test_a_learned_attack_adds_eps_times_the_adversarys_answer(batch: tuple[Tensor, Tensor]) -> None:
    network, x = adversary().eval(), batch[0]
    attack = LearnedAttack(network.train(), ThreatModel(EPS, SHAPE))
    with evaluation(network):
        expected = (x + EPS * network(x)).clamp(0, 1)
    assert torch.allclose(attack(nn.Identity(), *batch), expected, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in ("identity", "worst case")])
def test_the_worst_case_is_never_better_than_a_single_attack(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    model.eval()
    threat = ThreatModel(EPS, SHAPE)
    single = margin(model(ATTACKS[name](threat)(model, x, y)), y)
    both = WorstCase((ATTACKS[name](threat), Noise(threat, "sign", stream())), threat)(model, x, y)
    worst = margin(model(both), y)
    assert bool((worst >= single - 1e-9).all())
    assert bool((worst >= margin(model(x), y) - 1e-9).all())


def test_sign_noise_stands_on_the_corners_and_uniform_noise_fills_the_ball(generator: torch.Generator) -> None:
    threat = ThreatModel(0.2, (500,))
    x, y = torch.full((20, 500), 0.5, dtype=torch.float64), torch.zeros(20, dtype=torch.long)
    signs = Noise(threat, "sign", stream())(nn.Identity(), x, y) - x
    assert torch.allclose(signs.abs(), torch.full_like(signs, 0.2), atol=1e-12)
    assert abs(float(signs.mean())) < 0.01
    uniform = Noise(threat, "uniform", stream())(nn.Identity(), x, y) - x
    assert float(uniform.var()) == pytest.approx(0.2**2 / 3, rel=0.05) and abs(float(uniform.mean())) < 0.01


@pytest.mark.parametrize("name", sorted(DRAWS | SHARED | {"fitted rehearsal"}))
def test_the_same_position_of_a_stream_gives_the_same_attack(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    attack = ATTACKS[name](ThreatModel(EPS, SHAPE))
    inner = attack.attacks[1] if isinstance(attack, WorstCase) else attack
    inner = inner.start if isinstance(inner, LearnedAttack) else inner
    assert isinstance(inner, PGD | Noise | APGD | Square | Rehearsal | Smoothed)
    inner.stream.seek(2, 5)
    first = attack(model, *batch)
    second = attack(model, *batch)
    inner.stream.seek(2, 5)
    assert torch.equal(attack(model, *batch), first)
    converges = SHARED | {"worst case", "fitted rehearsal"}  # they may end at the same corner from anywhere
    assert name in converges or not torch.equal(first, second)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be >= 1"),
        ({"restarts": 0}, "restarts must be >= 1"),
        ({"loss": "accuracy"}, "loss must be one of"),
        ({"step_size": 0.0}, "step_size must be > 0"),
        ({"step_size": float("nan")}, "step_size must be > 0"),
        ({"steps": 4, "step_size": 0.01}, "cannot reach the boundary"),
        ({"restarts": 2, "random_start": False}, "restarts > 1 need"),
        ({"restarts": 2, "keep": "last"}, "restarts > 1 need"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PGD(ThreatModel(0.1, SHAPE), **settings)
