"""Auto-PGD against closed forms, a case worked by hand, and its algorithm written out plainly."""

import pytest
import torch
import torch.nn.functional as F
from problems import SHAPE, Linear, Of, broken, four_classes
from torch import Tensor, nn

from sparring.attacks import APGD, FAB, fgsm
from sparring.attacks.ascent import ASCENTS
from sparring.data.synthetic import linear_problem, linear_robust_accuracy
from sparring.evaluation import attacked
from sparring.losses import cross_entropy
from sparring.randomness import Stream
from sparring.threat import ThreatModel

TWENTY = [round(0.0055 + 0.02 * k, 4) for k in range(20)]


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("dims", [3, 10])
def test_apgd_reaches_the_exact_robust_accuracy_of_a_linear_problem_at_twenty_eps(loss: str, dims: int) -> None:
    problem = linear_problem(300, dims, seed=7)
    model = Linear(problem.weight, problem.bias)
    exact = [problem.robust_accuracy(eps) for eps in TWENTY]
    assert len(set(exact)) > 10
    found = []
    for eps in TWENTY:
        threat = ThreatModel(eps, (dims,))
        found.append(attacked(model, problem.data, APGD(threat, loss, steps=20), threat).accuracy)
    assert found == exact


@pytest.mark.parametrize("eps", [0.02, 0.05, 0.1])
def test_with_a_target_for_every_wrong_class_apgd_and_fab_are_exact_on_many_linear_classes(eps: float) -> None:
    model, data, weight, bias = four_classes()
    threat, exact = ThreatModel(eps, (8,)), linear_robust_accuracy(data, weight, bias, eps)
    assert attacked(model, data, APGD(threat, "margin", targets=9, steps=20), threat).accuracy == exact
    assert attacked(model, data, FAB(threat, steps=20), threat).accuracy == exact


def test_the_checkpoints_are_the_papers() -> None:
    threat = ThreatModel(0.1, SHAPE)
    assert APGD(threat).checkpoints() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert APGD(threat, steps=10).checkpoints() == [3, 5, 6, 7, 8, 9]
    assert APGD(threat, steps=1).checkpoints() == []


def test_apgd_halves_its_step_and_goes_back_to_the_best_point_as_worked_by_hand() -> None:
    """The loss is -|x - 0.45| - 1 on [0.25, 0.75], from 0.75. Step 2 * 0.25.

    Down to 0.25 (rises); z = 0.75, so 0.25 + 0.75 * 0.5 - 0.25 * 0.5 = 0.5 (rises); z = 0.25, so
    0.5 - 0.75 * 0.25 + 0.25 * 0.25 = 0.375 (falls). Two rises of three are fewer than 0.75 * 3: the step becomes 0.25, the
    point 0.5 again, the one before it is 0.5. Then z = 0.25 gives 0.5 - 0.75 * 0.25 = 0.3125, which falls from -1.05; then z =
    0.5625, so 0.3125 + 0.75 * 0.25 - 0.25 * 0.1875 = 0.453125.
    """
    model = Of(lambda x: torch.cat((-(x - 0.45).abs() - 1, 0 * x), -1).flip(-1))
    x, y = torch.full((1, 1), 0.5, dtype=torch.float64), torch.tensor([0])
    threat = ThreatModel(0.25, (1,))
    for seed in range(50):
        model.seen.clear()
        APGD(threat, "margin", steps=10, stream=Stream(seed, "start"))(model, x, y)
        trace = [float(point) for point in model.seen[1:]]  # the first pass is the example's
        if trace[0] == 0.75:
            break
    assert trace[:6] == pytest.approx([0.75, 0.25, 0.5, 0.375, 0.3125, 0.453125])
    assert len(trace) == 11


def plain_apgd(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, start: Tensor, steps: int, checks: list[int]
) -> tuple[Tensor, bool]:
    """Algorithm 1 for one example and cross-entropy, line by line."""

    def value(z: Tensor) -> tuple[float, Tensor, bool]:
        z = z.clone().requires_grad_()
        out = model(z.unsqueeze(0))
        loss = F.cross_entropy(out, y.view(1))
        return float(loss.detach()), torch.autograd.grad(loss, z)[0], int(out.argmax()) != int(y)

    def project(z: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(z, x - eps), x + eps).clamp(0, 1)

    eta, now = 2 * eps, project(x + eps * start)
    f, grad, wrong = value(now)
    if wrong:
        return now, True
    before, best, f_best, f_check, halved, rises, last = now, now, f, f, True, 0, 0
    for k in range(1, steps + 1):
        z = project(now + eta * grad.sign())
        new = z if k == 1 else project(now + 0.75 * (z - now) + 0.25 * (now - before))
        before, now = now, new
        f_new, grad, wrong = value(now)
        if wrong:
            return now, True
        rises, f = rises + (f_new > f), f_new
        if f > f_best:
            best, f_best = now, f
        if k in checks:
            if rises < 0.75 * (k - last) or (not halved and f_best == f_check):
                eta, now, f, halved = eta / 2, best, f_best, True
                grad = value(now)[1]
            else:
                halved = False
            f_check, rises, last = f_best, 0, k
    return best, False


def test_apgd_is_the_papers_algorithm(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    eps, steps = 0.06, 30
    threat = ThreatModel(eps, SHAPE)
    attack = APGD(threat, steps=steps, stream=Stream(5, "plain"))
    found = attack(model, x, y)
    start = torch.empty(SHAPE, dtype=x.dtype).uniform_(-1, 1, generator=Stream(5, "plain").generator())
    n_broken = 0
    for i in range(2, 40):  # the first two are wrong from the start
        expected, fell = plain_apgd(model, x[i], y[i], eps, start / start.abs().max(), steps, attack.checkpoints())
        n_broken += fell
        assert torch.allclose(found[i], expected, atol=1e-6), i
    assert 5 < n_broken < 35


@pytest.mark.parametrize("target", [False, True])
@pytest.mark.parametrize("name", list(ASCENTS))
def test_every_direction_is_a_positive_multiple_of_its_losss_derivative(
    name: str, target: bool, generator: torch.Generator
) -> None:
    logits = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    y = torch.arange(50) % 6
    towards = (y + 1 + torch.arange(50) % 5) % 6 if target else None
    point = logits.clone().requires_grad_()
    top = point.sort(-1, descending=True).values
    right = point.gather(1, y[:, None])[:, 0]
    wrong = (
        point.scatter(1, y[:, None], -torch.inf).amax(1) if towards is None else point.gather(1, towards[:, None])[:, 0]
    )
    spread = top[:, 0] - (top[:, 2] if towards is None else (top[:, 2] + top[:, 3]) / 2)
    plain = {
        "cross_entropy": cross_entropy(point, y),
        "margin": wrong - right,
        "dlr": -(right - wrong) / spread,
    }[name]
    (expected,) = torch.autograd.grad(plain.sum(), point)
    loss, direction = ASCENTS[name](logits, y, towards)
    same = torch.log1p(loss.exp()) if name == "cross_entropy" else loss
    assert torch.allclose(same, plain.detach(), atol=1e-9)
    sloped = expected.norm(dim=1) > 1e-9  # DLR is flat where the right class is the third
    assert int(sloped.sum()) > 30
    assert torch.allclose(F.normalize(direction[sloped], dim=1), F.normalize(expected[sloped], dim=1), atol=1e-9)


def test_apgd_on_cross_entropy_keeps_its_direction_where_cross_entropy_saturates() -> None:
    problem = linear_problem(100, 6, seed=2)
    sharp = Linear(1e4 * problem.weight, 1e4 * problem.bias)
    threat, exact = ThreatModel(0.1, (6,)), problem.robust_accuracy(0.1)
    assert attacked(sharp, problem.data, fgsm(threat), threat).accuracy > exact
    assert attacked(sharp, problem.data, APGD(threat, steps=10), threat).accuracy == exact


def test_targets_break_no_less_than_the_loss_as_it_is(model: nn.Module, generator: torch.Generator) -> None:
    x = torch.rand(200, *SHAPE, generator=generator, dtype=torch.float64)
    y, threat = model(x).argmax(-1), ThreatModel(0.05, SHAPE)
    plain, targeted = (
        int(broken(model, APGD(threat, "dlr", targets=k, steps=20)(model, x, y), y).sum()) for k in (0, 5)
    )
    assert 0 < plain <= targeted < 200
