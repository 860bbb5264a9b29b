"""Square Attack and RayS: their schedules, their queries, and models whose gradient misleads."""

import math

import pytest
import torch
import torch.nn.functional as F
from problems import Linear, Of, broken
from torch import Tensor, nn

from sparring.attacks import PGD, Attack, RayS, Square
from sparring.data.batches import Data
from sparring.data.synthetic import linear_problem, linear_robust_accuracy
from sparring.evaluation import attacked
from sparring.threat import ThreatModel


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
