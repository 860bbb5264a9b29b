"""The strong attacks against closed forms, plain implementations written here, and models made to mislead them."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.attacks import APGD, FAB, PGD, Attack, Cascade, RayS, Square, fgsm, quick_suite, standard_suite
from sparring.attacks.ascent import ASCENTS
from sparring.data.batches import Data
from sparring.data.synthetic import linear_margins, linear_problem, linear_robust_accuracy
from sparring.errors import InputError
from sparring.evaluation import attacked
from sparring.losses import cross_entropy, margin
from sparring.models import mlp
from sparring.models.stack import stack
from sparring.randomness import Stream
from sparring.threat import ThreatModel

TWENTY = [round(0.0055 + 0.02 * k, 4) for k in range(20)]
SHAPE = (1, 5, 5)


class Linear(nn.Module):
    """Logits x @ weight.T + bias in float64, whatever x is."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.double()), nn.Parameter(bias.double())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).double() @ self.weight.T + self.bias


class Of(nn.Module):
    """A function as a model that counts its forward passes."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.function(x)


@pytest.fixture
def model() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = mlp(SHAPE, [32, 16, 6], generator=generator).double().train()
    for _ in range(20):
        model(torch.rand(64, *SHAPE, generator=generator, dtype=torch.float64))
    return model.eval()


@pytest.fixture
def batch(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images with the model's own answers for labels, two of them replaced."""
    x = torch.rand(40, *SHAPE, generator=generator, dtype=torch.float64)
    y = model(x).argmax(-1)
    y[:2] = (y[:2] + 1) % 6
    return x, y


def strong(threat: ThreatModel) -> dict[str, Attack]:
    """One of each, cheap."""
    return {
        "cross-entropy": APGD(threat, steps=8),
        "dlr": APGD(threat, "dlr", steps=8),
        "dlr targets": APGD(threat, "dlr", targets=3, steps=8),
        "margin targets": APGD(threat, "margin", targets=9, steps=8, restarts=2),
        "square": Square(threat, queries=40),
        "fab": FAB(threat, steps=8),
        "rays": RayS(threat, queries=60),
    }


NAMES = list(strong(ThreatModel(0.1, SHAPE)))
every_one = pytest.mark.parametrize("name", NAMES)


def broken(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x_adv).argmax(-1) != y


# linear models


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


def four_classes() -> tuple[nn.Module, Data, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    bias = -weight.sum(-1) / 2
    x = torch.rand(200, 8, generator=generator)
    model = Linear(weight, bias)
    return model, Data(x, model(x).argmax(-1), 4, "four"), weight, bias


@pytest.mark.parametrize("eps", [0.02, 0.05, 0.1])
def test_with_a_target_for_every_wrong_class_apgd_and_fab_are_exact_on_many_linear_classes(eps: float) -> None:
    model, data, weight, bias = four_classes()
    threat, exact = ThreatModel(eps, (8,)), linear_robust_accuracy(data, weight, bias, eps)
    assert attacked(model, data, APGD(threat, "margin", targets=9, steps=20), threat).accuracy == exact
    assert attacked(model, data, FAB(threat, steps=20), threat).accuracy == exact


@pytest.mark.parametrize("name", NAMES)
def test_no_attack_breaks_what_cannot_be_broken(name: str) -> None:
    model, data, weight, bias = four_classes()
    threat = ThreatModel(0.05, (8,))
    safe = linear_margins(data, weight, bias, 0.05) > 1e-6
    outcome = attacked(model, data, strong(threat)[name], threat)
    assert bool(outcome.correct[safe].all())


def test_the_nearest_point_on_a_linear_model_is_margin_over_l1_norm_away_within_one_percent() -> None:
    problem = linear_problem(64, 12, seed=4)
    model = Linear(problem.weight, problem.bias)
    x = problem.data.floats().double() * 0.1 + 0.45  # no pixel is clipped
    y = model(x).argmax(-1)
    w = problem.weight[1] - problem.weight[0]
    exact = -margin(model(x), y) / w.abs().sum()
    x_min, distance = FAB(ThreatModel(0.0, (12,)), targets=1, steps=20).nearest(model, x, y)
    assert torch.allclose(distance, (x_min - x).abs().amax(-1))
    assert bool(broken(model, x_min, y).all())
    assert bool((distance >= exact).all()) and bool((distance <= 1.01 * exact).all())


def test_the_nearest_point_in_the_box_is_exact_within_one_percent() -> None:
    model, data, weight, bias = four_classes()
    data = data.take(torch.arange(40))
    x, y = data.floats().double(), data.labels
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.ones(len(x), dtype=torch.float64)
    for _ in range(25):  # the exact distance, by bisection on the exact margin
        middle = (low + high) / 2
        safe = torch.tensor(
            [
                float(linear_margins(data.take(torch.tensor([i])), weight, bias, float(e))[0])
                for i, e in enumerate(middle)
            ]
        )
        low, high = torch.where(safe > 0, middle, low), torch.where(safe > 0, high, middle)
    _, distance = FAB(ThreatModel(0.0, (8,)), steps=40).nearest(model, x, y)
    assert bool((distance >= low * (1 - 1e-9)).all())
    assert float((distance / high).max()) < 1.01


# Auto-PGD


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


# Square Attack and RayS


@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 4, 6), (5, 5), (25,), (2, 3, 4, 4)])
@pytest.mark.parametrize("eps", [0.1, 0.7])
def test_square_stays_in_the_ball_and_stands_on_its_corners_for_any_shape(
    shape: tuple[int, ...], eps: float, generator: torch.Generator
) -> None:
    size = math.prod(shape)
    weight = torch.randn(3, size, generator=generator, dtype=torch.float64)
    x = torch.rand(30, *shape, generator=generator, dtype=torch.float64)
    model = Linear(weight, torch.zeros(3))
    y, threat = model(x).argmax(-1), ThreatModel(eps, shape)
    x_adv = Square(threat, queries=200)(model, x, y)
    assert float((x_adv - x).abs().max()) <= eps + 1e-12
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    assert bool(((x_adv == low) | (x_adv == high)).all())
    stripes = Square(threat, queries=1)(model, x, y)
    assert int(broken(model, x_adv, y).sum()) > int(broken(model, stripes, y).sum())


def test_squares_windows_are_the_papers_schedule() -> None:
    threat = ThreatModel(0.1, (1, 28, 28))
    shares = [Square(threat, rescale=False).share(query) for query in (1, 10, 11, 51, 201, 501, 1001, 2001, 4001)]
    assert shares == [0.8, 0.8, 0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625]
    assert [Square(threat, queries=1000).share(query) for query in (1, 2, 5, 6, 900)] == [0.8, 0.4, 0.4, 0.2, 0.8 / 512]
    _, windows, _ = Square(threat, queries=500)._draws(torch.zeros(1))
    heights = [bottom - top for top, bottom, _, _ in windows]
    assert heights[0] == round(math.sqrt(0.4 * 784)) and heights[-1] == 1 and heights == sorted(heights, reverse=True)
    assert all(0 <= t < b <= 28 and 0 <= left < right <= 28 for t, b, left, right in windows)


def test_squares_windows_reach_every_pixel_and_are_runs_on_flat_inputs() -> None:
    for shape, height in (((1, 6, 6), 6), ((36,), 1)):
        _, windows, _ = Square(ThreatModel(0.1, shape), queries=2000)._draws(torch.zeros(1))
        last = windows[-500:]
        assert {b - t for t, b, _, _ in last} == {1}
        assert len({(t, left) for t, _, left, _ in last}) == 36
        assert max(b for _, b, _, _ in windows) == height


@pytest.mark.parametrize("queries", [1, 2, 30])
def test_square_asks_as_often_as_it_says(queries: int) -> None:
    model = Of(lambda x: torch.stack((1 - 0 * x[:, 0], 0 * x[:, 0]), -1))  # cannot be broken
    Square(ThreatModel(0.1, (9,)), queries=queries)(model, torch.rand(4, 9), torch.zeros(4, dtype=torch.long))
    assert len(model.seen) == queries + 1  # and once at the examples


def test_no_window_of_square_is_wasted() -> None:
    """A window that would change nothing gets the other sign: every query differs from the point it starts at."""
    model = Of(lambda x: torch.stack((1 - 0 * x[:, 0], 0 * x[:, 0]), -1))
    Square(ThreatModel(0.1, (9,)), queries=30)(model, torch.full((2, 9), 0.5), torch.zeros(2, dtype=torch.long))
    first = model.seen[1]
    assert all(bool((point != first).flatten(1).any(1).all()) for point in model.seen[2:])


def staircase(problem_weight: Tensor, bias: Tensor) -> nn.Module:
    """A linear model of rounded pixels: no gradient anywhere."""
    inner = Linear(problem_weight, bias)
    return Of(lambda x: inner((x * 20).round() / 20))


@pytest.mark.parametrize("name", ["square", "rays"])
def test_a_model_without_gradient_is_broken_all_the_same(name: str) -> None:
    problem = linear_problem(100, 16, seed=1)
    model, x = staircase(problem.weight, problem.bias), problem.data.floats()
    y, threat = model(x).argmax(-1), ThreatModel(0.15, (16,))
    blind = attacked(model, Data(x, y, 2, "stairs"), PGD(threat, steps=5, random_start=False), threat).accuracy
    attack: Attack = Square(threat, queries=500) if name == "square" else RayS(threat, queries=500)
    seen = attacked(model, Data(x, y, 2, "stairs"), attack, threat).accuracy
    exact = linear_robust_accuracy(Data(x, y, 2, "stairs"), problem.weight, problem.bias, 0.15)
    assert blind == 1 and seen < exact + 0.05


def test_rays_needs_labels_only() -> None:
    problem = linear_problem(100, 16, seed=1)
    inner = Linear(problem.weight, problem.bias)
    answers_only = Of(lambda x: F.one_hot(inner(x).argmax(-1), 2).double())
    threat, exact = ThreatModel(0.1, (16,)), problem.robust_accuracy(0.1)
    found = attacked(answers_only, problem.data, RayS(threat, queries=800), threat).accuracy
    assert exact <= found < exact + 0.03


def test_rays_keeps_to_its_queries() -> None:
    model = Of(lambda x: torch.stack((1 - 0 * x[:, 0], 0 * x[:, 0]), -1))  # cannot be broken
    RayS(ThreatModel(0.1, (9,)), queries=25)(model, torch.rand(4, 9), torch.zeros(4, dtype=torch.long))
    assert len(model.seen) == 26  # and once at the examples


# what every one of them keeps


@every_one
def test_examples_that_are_wrong_already_are_returned_as_they_are(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    x_adv = strong(ThreatModel(0.1, SHAPE))[name](model, x, y)
    assert torch.equal(x_adv[:2], x[:2])
    assert not torch.equal(x_adv[2:], x[2:])


@every_one
def test_a_stack_is_attacked_as_its_copies_are(name: str, generator: torch.Generator) -> None:
    copies = [mlp(SHAPE, [12, 5], generator=torch.Generator().manual_seed(s)).double().eval() for s in (1, 2)]
    x = torch.rand(20, *SHAPE, generator=generator, dtype=torch.float64)
    y = copies[0](x).argmax(-1)
    threat = ThreatModel(torch.tensor([[0.05], [0.1]], dtype=torch.float64), SHAPE)
    together = strong(threat)[name](stack(copies).eval(), x.expand(2, *x.shape), y.expand(2, 20))
    for s, eps in enumerate((0.05, 0.1)):
        alone = strong(ThreatModel(eps, SHAPE))[name](copies[s], x, y)
        assert torch.allclose(together[s], alone, atol=1e-9), s


@every_one
def test_every_example_is_attacked_as_it_would_be_alone_also_in_chunks(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    threat = ThreatModel(0.06, SHAPE)
    whole = strong(threat)[name](model, x, y)
    in_chunks = replace(strong(threat)[name], chunk=7)(model, x, y)  # type: ignore[type-var]
    assert torch.allclose(whole, in_chunks, atol=1e-9)
    for i in range(0, 40, 9):
        alone = strong(threat)[name](model, x[i : i + 1], y[i : i + 1])
        assert torch.allclose(whole[i], alone[0], atol=1e-9)


@every_one
def test_no_example_gives_no_example(name: str, model: nn.Module) -> None:
    x, y = torch.zeros(0, *SHAPE, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
    assert strong(ThreatModel(0.1, SHAPE))[name](model, x, y).shape == (0, *SHAPE)


@every_one
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_example_near_which_the_logits_are_not_finite_is_broken(name: str, value: float) -> None:
    def logits(x: Tensor) -> Tensor:
        holes = (x.mean(-1) - 0.5).abs() > 0.01
        clean = torch.stack((1 + 0 * x[..., 0], x.sum(-1) * 1e-3, 0 * x[..., 0], -1 + 0 * x[..., 0]), -1)
        return torch.where(holes.unsqueeze(-1), value, clean)

    x, y, threat = torch.full((3, 8), 0.5), torch.zeros(3, dtype=torch.long), ThreatModel(0.2, (8,))
    x_adv = strong(threat)[name](Of(logits), x, y)
    assert bool(torch.isfinite(x_adv).all())
    assert not bool(torch.isfinite(logits(x_adv)).any())


@every_one
def test_gradients_that_are_not_finite_do_no_harm(name: str, generator: torch.Generator) -> None:
    def logits(x: Tensor) -> Tensor:
        root = (x[..., :4] - x[..., :4].detach()).sqrt().sum(-1)  # 0, its derivative infinite, its chain's NaN
        return torch.stack((1 + root * 0, x[..., 4:].sum(-1), 0 * root, 0 * root - 1), -1)

    x = torch.rand(20, 8, generator=generator) * 0.2
    y, threat = logits(x).argmax(-1), ThreatModel(0.2, (8,))
    x_adv = strong(threat)[name](Of(logits), x, y)
    assert bool(torch.isfinite(x_adv).all())
    assert float((x_adv - x).abs().max()) <= 0.2 + 1e-6


@every_one
def test_a_model_that_gives_no_gradient_at_all_does_not_stop_an_attack(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    x_adv = strong(ThreatModel(0.1, SHAPE))[name](Of(lambda x: model(x).detach()), x, y)
    assert bool(torch.isfinite(x_adv).all())


@every_one
def test_the_same_configuration_gives_the_same_images(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    threat = ThreatModel(0.06, SHAPE)
    assert torch.equal(strong(threat)[name](model, *batch), strong(threat)[name](model, *batch))


def test_other_seeds_give_other_images(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    threat = ThreatModel(0.03, SHAPE)
    for make in (lambda s: APGD(threat, steps=2, stream=s), lambda s: Square(threat, queries=9, stream=s)):
        assert not torch.equal(make(Stream(0, "a"))(model, *batch), make(Stream(1, "a"))(model, *batch))


# suites


def test_a_cascade_breaks_what_any_member_breaks_and_asks_nothing_more_of_what_is_broken(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    threat = ThreatModel(0.05, SHAPE)

    def members() -> tuple[Attack, ...]:
        return fgsm(threat), APGD(threat, steps=20), Square(threat, queries=100)

    single = torch.stack([broken(model, attack(model, x, y), y) for attack in members()]).any(0)
    counted = Of(model)
    together = broken(model, Cascade(members(), threat)(counted, x, y), y)
    assert torch.equal(together, single) and 2 < int(single.sum()) < 40
    assert len(counted.seen[-1]) < 40


def test_a_cascade_aims_its_members_at_its_own_threat(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    narrow, wide = ThreatModel(0.01, SHAPE), ThreatModel(0.2, SHAPE)
    x_adv = Cascade((fgsm(wide), APGD(wide, steps=5)), narrow)(model, x, y)
    assert float((x_adv - x).abs().max()) == pytest.approx(0.01)


@pytest.mark.parametrize("n_classes", [2, 3, 4, 6])
@pytest.mark.parametrize("suite", [standard_suite, quick_suite])
def test_a_suite_fits_any_number_of_classes(suite: Any, n_classes: int, generator: torch.Generator) -> None:
    problem = linear_problem(30, 6, seed=0)
    weight = torch.randn(n_classes, 6, generator=generator, dtype=torch.float64)
    data = Data(
        problem.data.images, Linear(weight, torch.zeros(n_classes))(problem.data.images).argmax(-1), n_classes, ""
    )
    threat = ThreatModel(0.02, (6,))
    members = suite(threat, n_classes, (6,))
    assert [type(member) for member in members][-1] is Square
    exact = linear_robust_accuracy(data, weight, torch.zeros(n_classes), 0.02)
    small = members[:-1]  # the last member's queries are for larger problems
    assert attacked(Linear(weight, torch.zeros(n_classes)), data, Cascade(small, threat), threat).accuracy == exact


def test_a_suites_members_differ_in_name_and_draws() -> None:
    members = standard_suite(ThreatModel(0.1, SHAPE), 10, SHAPE, seed=3)
    assert len({repr(member) for member in members}) == len(members)
    streams = [member.stream for member in members if isinstance(member, APGD | Square)]
    assert len({stream.name for stream in streams}) == len(streams) and {stream.seed for stream in streams} == {3}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: APGD(t, steps=0), "steps must be >= 1"),
        (lambda t: APGD(t, restarts=0), "restarts must be >= 1"),
        (lambda t: APGD(t, "accuracy"), "loss must be one of"),
        (lambda t: APGD(t, targets=-1), "targets must be >= 0"),
        (lambda t: APGD(t, targets=3), "cross_entropy has no targeted form"),
        (lambda t: Square(t, queries=0), "queries must be >= 1"),
        (lambda t: Square(t, p=0.0), "p must be in"),
        (lambda t: FAB(t, targets=0), "targets must be >= 1"),
        (lambda t: RayS(t, queries=0), "queries must be >= 1"),
        (lambda t: RayS(t, tolerance=0.0), "tolerance must be > 0"),
        (lambda t: standard_suite(t, 10, (3, 3)), "give both one shape"),
        (lambda t: quick_suite(t, 1, SHAPE), "at least 2 classes"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[ThreatModel], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(ThreatModel(0.1, SHAPE))


@pytest.mark.parametrize(("targets", "n_classes"), [(0, 2), (3, 3)])
def test_dlr_refuses_models_with_too_few_classes(targets: int, n_classes: int) -> None:
    attack = APGD(ThreatModel(0.1, (4,)), "dlr", targets=targets)
    with pytest.raises(InputError, match="take loss='margin'"):
        attack(Linear(torch.randn(n_classes, 4), torch.zeros(n_classes)), torch.rand(3, 4), torch.zeros(3).long())
