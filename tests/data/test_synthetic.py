"""The closed forms, checked by enumeration."""

import itertools

import pytest
import torch

from sparring.data.batches import Data
from sparring.data.synthetic import (
    linear_margins,
    linear_problem,
    linear_robust_accuracy,
    threshold_problem,
    threshold_robust_accuracy,
)


def test_a_linear_problem_is_labelled_without_error_by_its_own_classifier() -> None:
    problem = linear_problem(200, 6, seed=1)
    assert problem.robust_accuracy(0) == 1
    assert problem.data.shape == (6,) and problem.data.n_classes == 2
    assert problem.data.images.min() >= 0 and problem.data.images.max() <= 1
    assert set(problem.data.labels.tolist()) == {0, 1}


def test_a_linear_problem_depends_on_its_seed_alone() -> None:
    state = torch.get_rng_state()
    assert linear_problem(50, 3, 1).data.fingerprint == linear_problem(50, 3, 1).data.fingerprint
    assert linear_problem(50, 3, 1).data.fingerprint != linear_problem(50, 3, 2).data.fingerprint
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("eps", [0.0, 0.03, 0.2, 0.7])
def test_the_smallest_margin_is_found_at_a_corner_of_the_ball_within_the_box(eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(40, 4, generator=generator), torch.arange(40) % 3
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    bias = torch.randn(3, generator=generator, dtype=torch.float64) / 4
    data = Data(x, y, 3, "three")
    lowest, highest = (x.double() - eps).clamp(min=0), (x.double() + eps).clamp(max=1)
    worst = torch.full((40,), torch.inf, dtype=torch.float64)
    for corner in itertools.product([False, True], repeat=4):
        logits = torch.where(torch.tensor(corner), highest, lowest) @ weight.T + bias
        own = logits.gather(1, y.unsqueeze(1)).squeeze(1)
        best_other = logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1)
        worst = torch.minimum(worst, own - best_other)
    assert torch.allclose(linear_margins(data, weight, bias, eps), worst, atol=1e-12)
    assert linear_robust_accuracy(data, weight, bias, eps) == float((worst > 0).double().mean())


def test_where_no_pixel_is_clipped_every_margin_falls_by_eps_times_the_l1_norm() -> None:
    problem = linear_problem(100, 5, seed=3)
    inner = Data(problem.data.images * 0.5 + 0.25, problem.data.labels, 2, "inner")
    fall = linear_margins(inner, problem.weight, problem.bias, 0.0) - linear_margins(
        inner, problem.weight, problem.bias, 0.25
    )
    norm = (problem.weight[1] - problem.weight[0]).abs().sum()
    assert torch.allclose(fall, 0.25 * norm.expand(100), atol=1e-12)


def test_robust_accuracy_never_rises_with_eps() -> None:
    problem = linear_problem(300, 8, seed=0)
    curve = [problem.robust_accuracy(eps / 50) for eps in range(51)]
    assert curve == sorted(curve, reverse=True) and curve[0] == 1 and curve[-1] == 0


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.25, 0.4])
def test_a_threshold_loses_two_eps_of_its_accuracy(eps: float) -> None:
    data = threshold_problem(1000)
    assert threshold_robust_accuracy(data, 0.5, eps) == pytest.approx(1 - 2 * eps, abs=1e-9)


def test_the_two_closed_forms_agree_on_the_threshold_problem() -> None:
    data = threshold_problem(97, threshold=0.3)
    weight = torch.tensor([[0.0], [1.0]])
    for t, eps in itertools.product([0.2, 0.3, 0.6], [0.0, 0.05, 0.31]):
        bias = torch.tensor([t, 0.0], dtype=torch.float64)
        assert linear_robust_accuracy(data, weight, bias, eps) == threshold_robust_accuracy(data, t, eps)
