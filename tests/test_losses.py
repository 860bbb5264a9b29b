"""Losses per example against values worked out by hand and against PyTorch's own."""

import math

import pytest
import torch
import torch.nn.functional as F

from sparring.losses import LOSSES, cross_entropy, log_odds, margin, non_saturating, objective, softmax_twice


def test_cross_entropy_of_two_equal_logits_is_log_two() -> None:
    assert float(cross_entropy(torch.zeros(1, 2), torch.tensor([1]))) == pytest.approx(math.log(2))


def test_cross_entropy_is_pytorchs_example_by_example(generator: torch.Generator) -> None:
    logits = torch.randn(6, 5, generator=generator)
    y = torch.arange(6) % 5
    assert torch.equal(cross_entropy(logits, y), F.cross_entropy(logits, y, reduction="none"))


def test_the_margin_is_the_best_wrong_logit_minus_the_right_one() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5], [3.0, 1.0, 2.5]])
    assert margin(logits, torch.tensor([0, 1, 2])).tolist() == [-0.5, 2.0, 0.5]


def test_the_margin_is_positive_where_the_example_is_misclassified_and_negative_where_it_is_not(
    generator: torch.Generator,
) -> None:
    logits = torch.randn(200, 7, generator=generator)
    y = torch.randint(7, (200,), generator=generator)
    assert torch.equal(margin(logits, y) > 0, logits.argmax(-1) != y)


def test_the_margin_keeps_its_gradient_where_cross_entropy_has_none() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    y = torch.tensor([0])
    (saturated,) = torch.autograd.grad(cross_entropy(logits, y).sum(), logits)
    (kept,) = torch.autograd.grad(margin(logits, y).sum(), logits)
    assert float(saturated.abs().max()) == 0
    assert float(kept[0, 0]) == -1


def test_the_log_odds_are_those_that_the_model_is_wrong(generator: torch.Generator) -> None:
    logits = 3 * torch.randn(200, 7, generator=generator, dtype=torch.float64)
    y = torch.randint(7, (200,), generator=generator)
    p = logits.softmax(-1)[torch.arange(200), y]
    assert torch.allclose(log_odds(logits, y), ((1 - p) / p).log(), atol=1e-9)
    even = torch.tensor([[5.0, 5.0 - math.log(2), 5.0 - math.log(2)]])
    assert float(log_odds(even, torch.tensor([0]))) == pytest.approx(0, abs=1e-6)


def test_cross_entropy_is_the_softplus_of_the_log_odds(generator: torch.Generator) -> None:
    logits = 10 * torch.randn(200, 7, generator=generator, dtype=torch.float64)
    y = torch.randint(7, (200,), generator=generator)
    odds = log_odds(logits, y)
    assert float(odds.min()) < -5 and float(odds.max()) > 5
    assert torch.allclose(cross_entropy(logits, y), F.softplus(odds), atol=1e-9)


@pytest.mark.parametrize("right", [30.0, 200.0, 1e4])
def test_the_log_odds_keep_their_gradient_where_the_right_answers_probability_rounds_to_one(right: float) -> None:
    logits, y = torch.tensor([[right, 1.0, 0.0]], requires_grad=True), torch.tensor([0])
    assert float(logits.detach().softmax(-1)[0, 0]) == 1
    (grad,) = torch.autograd.grad(log_odds(logits, y).sum(), logits)
    p = 1 / (1 + math.exp(-1))  # of the two wrong answers
    assert grad[0].tolist() == pytest.approx([-1, p, 1 - p], abs=1e-6)


def test_the_non_saturating_loss_is_log_of_one_minus_p() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    p = 1 / (1 + math.exp(-1))
    expected = [math.log(1 - p), math.log(0.5)]
    assert non_saturating(logits, torch.tensor([0, 0])).tolist() == pytest.approx(expected)


def test_the_non_saturating_loss_keeps_its_gradient_against_a_confident_defender() -> None:
    logits = torch.tensor([[30.0, 0.0, -1.0]], requires_grad=True)
    loss = non_saturating(logits, torch.tensor([0]))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    # log(1 - p_y) tends to logsumexp(wrong) - z_y, whose derivative in z_y is -1
    assert float(grad[0, 0]) == pytest.approx(-1, abs=1e-3)
    assert torch.isfinite(grad).all() and torch.isfinite(loss).all()


def test_softmax_twice_takes_probabilities_for_logits() -> None:
    logits = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    p = 1 / (1 + math.exp(-2))
    expected = -math.log(math.exp(p) / (math.exp(p) + math.exp(1 - p)))
    assert float(softmax_twice(logits, torch.tensor([0]))) == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_gives_one_number_per_example_whatever_the_leading_axes(
    name: str, generator: torch.Generator
) -> None:
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    y = torch.randint(5, (2, 3, 4), generator=generator)
    losses = LOSSES[name](logits, y)
    assert losses.shape == y.shape
    alone = LOSSES[name](logits[1, 2, 3], y[1, 2, 3])
    assert float(losses[1, 2, 3]) == pytest.approx(float(alone), rel=1e-6)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_rises_when_the_right_logit_falls(name: str) -> None:
    y = torch.tensor([0])
    before = LOSSES[name](torch.tensor([[1.0, 0.5, 0.0]]), y)
    after = LOSSES[name](torch.tensor([[0.8, 0.5, 0.0]]), y)
    assert float(after) > float(before)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_stays_finite_with_huge_logits(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    for y in (0, 1):
        loss = LOSSES[name](logits, torch.tensor([y]))
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        assert torch.isfinite(loss).all() and torch.isfinite(grad).all()


def test_the_objective_gives_each_copy_the_gradient_it_would_have_alone(generator: torch.Generator) -> None:
    w = torch.randn(3, 1, generator=generator, requires_grad=True)
    x = torch.randn(3, 8, generator=generator)
    (grad,) = torch.autograd.grad(objective((w * x).square()).sum(), w)
    for s in range(3):
        alone = w[s].detach().requires_grad_()
        (own,) = torch.autograd.grad((alone * x[s]).square().mean(), alone)
        assert torch.allclose(grad[s], own)
