"""Gradient attacks against closed forms, and against plain implementations written here."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import Linear
from torch import Tensor, nn

from sparring.adversaries import RecurrentAdversary
from sparring.attacks import PGD, Attack, LearnedAttack, Noise, WorstCase, fgsm
from sparring.data.batches import Data
from sparring.data.synthetic import (
    linear_margins,
    linear_problem,
    linear_robust_accuracy,
    threshold_problem,
    threshold_robust_accuracy,
)
from sparring.errors import InputError
from sparring.evaluation import attacked, fgsm_curve, pgd_curve
from sparring.losses import margin
from sparring.models import mlp
from sparring.randomness import Stream
from sparring.threat import ThreatModel

TWENTY = [round(0.0055 + 0.02 * k, 4) for k in range(20)]


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("kind", ["fgsm", "pgd", "pgd last", "pgd random"])
def test_on_a_linear_model_every_margin_falls_by_exactly_eps_times_the_l1_norm(kind: str, loss: str) -> None:
    problem = linear_problem(64, 12, seed=4)
    model = Linear(problem.weight, problem.bias)
    x = problem.data.floats().double() * 0.5 + 0.25  # no pixel is clipped
    y = problem.data.labels
    threat = ThreatModel(0.04, (12,))
    attack = {
        "fgsm": fgsm(threat, loss=loss),
        "pgd": PGD(threat, steps=10, random_start=False, loss=loss),
        "pgd last": PGD(threat, steps=10, random_start=False, keep="last", loss=loss),
        "pgd random": PGD(threat, steps=10, loss=loss, keep="last"),
    }[kind]
    w = problem.weight[1] - problem.weight[0]
    # margin() is wrong minus right, so it rises by what the logit margin falls
    rise = margin(model(attack(model, x, y)), y) - margin(model(x), y)
    expected = float(0.04 * w.abs().sum())
    if kind == "pgd":  # keeps the first iterate that is misclassified
        still_right = margin(model(x), y) + expected <= 0
        rise = rise[still_right]
        assert len(rise) > 0
    assert torch.allclose(rise, torch.full_like(rise, expected), atol=1e-12)


@pytest.mark.parametrize("dims", [3, 10])
def test_in_the_box_robust_accuracy_of_a_linear_problem_is_exact_at_twenty_eps(dims: int) -> None:
    problem = linear_problem(400, dims, seed=7)
    model = Linear(problem.weight, problem.bias)
    exact = [problem.robust_accuracy(eps) for eps in TWENTY]
    assert len(set(exact)) > 10
    assert [o.accuracy for o in fgsm_curve(model, problem.data, TWENTY).values()] == exact
    assert [o.accuracy for o in pgd_curve(model, problem.data, TWENTY, steps=10).values()] == exact


def test_robust_accuracy_of_a_threshold_is_exact_at_twenty_eps() -> None:
    data = threshold_problem(500, 0.4)
    model = Linear(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.4, -0.4]))
    for eps, outcome in fgsm_curve(model, data, TWENTY).items():
        assert outcome.accuracy == pytest.approx(threshold_robust_accuracy(data, 0.4, eps), abs=1e-9)


def test_no_attack_reports_less_than_the_exact_robust_accuracy_of_many_linear_classes() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    bias = -weight.sum(-1) / 2
    x = torch.rand(300, 8, generator=generator)
    model = Linear(weight, bias)
    data = Data(x, model(x).argmax(-1), 4, "four")
    for eps in (0.05, 0.1, 0.2):
        threat = ThreatModel(eps, (8,))
        exact = linear_robust_accuracy(data, weight, bias, eps)
        attacks: list[Attack] = [fgsm(threat), PGD(threat, loss="margin"), PGD(threat)]
        attacks.append(WorstCase(tuple(attacks), threat))
        for attack in attacks:
            outcome = attacked(model, data, attack, threat)
            assert outcome.accuracy >= exact
            assert bool((outcome.correct | (linear_margins(data, weight, bias, eps) <= 1e-6)).all())
        assert outcome.accuracy == pytest.approx(exact, abs=0.03)  # the last is the worst case


@pytest.fixture
def model() -> nn.Module:
    model = mlp((1, 5, 5), [32, 16, 6], generator=torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(20):
        model(torch.rand(64, 1, 5, 5, generator=generator, dtype=torch.float64))
    return model.eval()


def the_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y, reduction="sum").backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("eps", [0.03, 0.1, 0.3])
def test_fgsm_is_its_equation(eps: float, model: nn.Module, generator: torch.Generator) -> None:
    x = torch.rand(40, 1, 5, 5, generator=generator, dtype=torch.float64)
    y = torch.arange(40) % 6
    plain = (x + eps * the_gradient(model, x, y).sign()).clamp(0, 1)
    assert torch.allclose(fgsm(ThreatModel(eps, (1, 5, 5)))(model, x, y), plain, atol=1e-6)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_pgd_of_twenty_steps_is_its_equation(keep: str, model: nn.Module, generator: torch.Generator) -> None:
    eps, step_size, steps = 0.1, 0.02, 20
    x = torch.rand(40, 1, 5, 5, generator=generator, dtype=torch.float64)
    y = model(x).argmax(-1)
    threat = ThreatModel(eps, (1, 5, 5))
    z = x.clone()
    iterates = [z]
    for _ in range(steps):
        z = z + step_size * the_gradient(model, z, y).sign()
        z = torch.stack([z, x + eps]).amin(0)
        z = torch.stack([z, x - eps]).amax(0).clamp(0, 1)
        iterates.append(z)
    expected = z.clone()
    if keep == "best":
        for i in range(40):
            logits = [model(z[i : i + 1])[0].detach() for z in iterates]
            broken = [k for k, out in enumerate(logits) if int(out.argmax()) != int(y[i])]
            losses = [float(F.cross_entropy(out, y[i])) for out in logits]
            expected[i] = iterates[broken[0] if broken else losses.index(max(losses))][i]
        assert not torch.allclose(expected, z, atol=1e-6)
    attack = PGD(threat, steps=steps, step_size=step_size, random_start=False, keep=keep)  # type: ignore[arg-type]
    assert torch.allclose(attack(model, x, y), expected, atol=1e-6)


def test_the_default_step_lets_all_steps_together_walk_two_and_a_half_eps(model: nn.Module) -> None:
    threat = ThreatModel(0.08, (1, 5, 5))
    x, y = torch.full((4, 1, 5, 5), 0.5, dtype=torch.float64), torch.arange(4)
    by_reach = PGD(threat, steps=10, random_start=False, keep="last")
    by_size = PGD(threat, steps=10, step_size=0.02, random_start=False, keep="last")
    assert torch.allclose(by_reach(model, x, y), by_size(model, x, y), atol=1e-12)


def test_more_steps_never_leave_more_standing(model: nn.Module, generator: torch.Generator) -> None:
    x = torch.rand(200, 1, 5, 5, generator=generator, dtype=torch.float64)
    y = model(x).argmax(-1)
    threat = ThreatModel(0.06, (1, 5, 5))

    def standing(steps: int) -> int:
        attack = PGD(threat, steps=steps, step_size=0.06, random_start=False)
        return int((margin(model(attack(model, x, y)), y) <= 0).sum())

    curve = [standing(steps) for steps in (1, 2, 4, 8)]  # one course, followed for longer
    assert curve == sorted(curve, reverse=True) and curve[0] > curve[-1]


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_dropping_what_is_misclassified_changes_the_cost_alone(start: bool, loss: str) -> None:
    problem = linear_problem(300, 12, seed=4)
    model = nn.Sequential(nn.Linear(12, 30), nn.Tanh(), nn.Linear(30, 2)).double()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    x = problem.data.floats().double()
    y = model(x).argmax(-1)
    y[::7] = 1 - y[::7]  # wrong from the start
    asked: list[int] = []
    model.register_forward_hook(lambda module, inputs, output: asked.append(len(output)))

    def run(drop: bool) -> tuple[Tensor, int]:
        asked.clear()
        stream = Stream(1, "start")
        threat = ThreatModel(0.05, (12,))
        found = PGD(threat, steps=12, random_start=start, loss=loss, stream=stream, drop=drop)(model, x, y)
        return found, sum(asked)

    (kept, n_kept), (dropped, n_dropped) = run(False), run(True)
    broken = model(kept).argmax(-1) != y
    assert 60 < int(broken.sum()) < 290
    assert torch.allclose(kept, dropped, rtol=0, atol=1e-12)
    assert n_dropped < n_kept == 300 * 13


@pytest.mark.parametrize("eps", [0.3, torch.full((40,), 0.3)])
def test_nothing_is_dropped_where_examples_need_each_other(eps: float | Tensor) -> None:
    model = mlp((6,), [8, 3])
    x, y = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    threat = ThreatModel(eps, (6,))
    kept, dropped = (
        PGD(threat, steps=5, random_start=False, mode="training", drop=drop)(model, x, y) for drop in (False, True)
    )
    assert torch.equal(kept, dropped)


def test_fgsm_and_noise_are_the_projections_to_the_bit(model: nn.Module, generator: torch.Generator) -> None:
    x = torch.rand(40, 1, 5, 5, generator=generator, dtype=torch.float64)
    y = torch.arange(40) % 6
    threat = ThreatModel(0.1, (1, 5, 5))
    moved = x + 0.1 * the_gradient(model, x, y).sign()
    assert torch.equal(fgsm(threat)(model, x, y), threat.project(moved, x))
    for law in ("uniform", "sign"):
        delta = Stream(3, "noise").uniform(x)
        moved = x + 0.1 * (delta.sign() if law == "sign" else delta)
        assert torch.equal(Noise(threat, law, Stream(3, "noise"))(model, x, y), threat.project(moved, x))


@pytest.mark.parametrize(
    ("make", "option", "value", "known"),
    [
        (PGD, "label", "predictd", "; did you mean 'predicted'? known: predicted, true"),
        (PGD, "keep", "first", "; known: best, last"),
        (PGD, "mode", "x", "; known: evaluation, training"),
        (PGD, "loss", "hinge", "loss must be one of cross_entropy"),
        (fgsm, "mode", "eval", "known: evaluation, training"),
        (Noise, "law", "gauss", "; known: sign, uniform"),
        (
            lambda t, **o: LearnedAttack(RecurrentAdversary((2,)), t, **o),
            "mode",
            "train",
            "known: evaluation, training",
        ),
    ],
)
def test_an_option_that_is_none_is_refused_with_those_that_are(make: Any, option: str, value: str, known: str) -> None:
    with pytest.raises(InputError) as caught:
        make(ThreatModel(0.1, (2,)), **{option: value})
    told = str(caught.value)
    assert known in told and option in told and repr(value) in told and "\n" not in told
