"""The nearest misclassified point against exact distances of linear models."""

import torch
from problems import Linear, broken, four_classes

from sparring.attacks import FAB
from sparring.data.synthetic import linear_margins, linear_problem
from sparring.losses import margin
from sparring.threat import ThreatModel


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
