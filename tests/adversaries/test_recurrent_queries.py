"""The recurrent adversary and a stack of it: what a query sees and does, what it learns through, what is refused."""

import math
from typing import Any

import pytest
import torch
from answers import SHAPE, B, Fixed, K, S, drawn, seeded, trained
from torch import Tensor

from sparring.adversaries import RecurrentAdversary, stack_recurrent
from sparring.adversaries.recurrent import FEATURES, scaled
from sparring.errors import CannotStack
from sparring.models import copy_to, keep_copies

PRODUCT = FEATURES.index("gradient x perturbation")


class Given:
    """All that a recurrent adversary is called with, for these leading axes."""

    def __init__(self, *lead: int) -> None:
        self.gradients, self.odds = drawn(K, *lead, *SHAPE, seed=2), 4 * drawn(K, *lead, seed=3)
        self.x, self.radius = drawn(*lead, *SHAPE, seed=4).sigmoid(), 0.3 * drawn(*lead, seed=5).sigmoid()
        self.start = 0.3 * torch.tanh(drawn(*lead, *SHAPE, seed=6))

    def put_to(self, adversary: RecurrentAdversary, *part: Any) -> Tensor:
        """The adversary's end for this part of the leading axes."""
        fixed = Fixed(self.gradients[(slice(None), *part)], self.odds[(slice(None), *part)])
        end: Tensor = adversary(fixed, self.x[part], self.radius[part], self.start[part])
        return end


@pytest.mark.parametrize("hidden", [0, 3])
def test_untrained_it_goes_softly_along_the_gradients_sign(hidden: int) -> None:
    strong, single = torch.ones(SHAPE), torch.zeros(SHAPE)
    strong[0, ::2] = -1
    single[0, 2, 1] = 5.0
    soft = 1.75 * strong
    soft[0, :, ::2] *= 1 / 7  # a quarter of the mean: half a step
    gradients = torch.stack((strong, 1e-6 * soft, 1e6 * soft, single)).unsqueeze(0)
    adversary = RecurrentAdversary(SHAPE, queries=1, hidden=hidden, step=0.25)
    x, radius, start = torch.rand(4, *SHAPE, generator=seeded(0)), torch.full((4,), 0.1), torch.full((4, *SHAPE), 0.5)
    moved = adversary(Fixed(gradients, torch.full((1, 4), -7.0)), x, radius, start) - start
    half = strong.clone()
    half[0, :, ::2] /= 2
    assert torch.allclose(moved, torch.stack((strong, half, half, single.sign())) / 4, atol=1e-6)


@pytest.mark.parametrize("hidden", [0, 3])
def test_it_never_leaves_the_ball_and_asks_at_no_point_outside(hidden: int) -> None:
    given, adversary = Given(B), trained(hidden, step=1.5)
    fixed = Fixed(given.gradients, given.odds)
    start = given.start.sign()
    end = adversary(fixed, given.x, given.radius, start).detach()
    assert all(float(u.abs().max()) <= 1 for u in [*fixed.asked, end])
    assert torch.equal(fixed.asked[0], start)
    assert float((end - start).abs().max()) > 1.5  # it does go across


@pytest.mark.parametrize("hidden", [0, 3])
def test_each_query_has_a_step_size_of_its_own(hidden: int) -> None:
    given, adversary = Given(B), trained(hidden, step=0.1)
    with torch.no_grad():
        adversary.log_step[1] = -torch.inf
    fixed = Fixed(given.gradients, given.odds)
    end = adversary(fixed, given.x, given.radius, given.start)
    assert torch.equal(fixed.asked[2], fixed.asked[1])
    assert not torch.equal(fixed.asked[1], fixed.asked[0]) and not torch.equal(end, fixed.asked[2])


@pytest.mark.parametrize("feature", range(len(FEATURES)))
def test_every_feature_has_a_weight_that_counts(feature: int) -> None:
    given, adversary = Given(B), RecurrentAdversary(SHAPE, queries=K, step=0.1).double()
    before = given.put_to(adversary).detach()
    with torch.no_grad():
        adversary.weight[feature] += 0.5
        after = given.put_to(adversary)
    assert float((after - before).abs().amax((1, 2, 3)).min()) > 1e-3  # for every example


def only(feature: str, weight: float = 1.0, queries: int = 1) -> RecurrentAdversary:
    """One whose linear cell looks at one feature."""
    adversary = RecurrentAdversary(SHAPE, queries=queries, step=0.25).double()
    with torch.no_grad():
        adversary.weight.zero_()
        adversary.weight[FEATURES.index(feature)] = weight
    return adversary


def test_the_mean_of_the_gradients_fades_in_and_forgets_by_a_quarter_a_query() -> None:
    gradients = torch.ones(K, 1, *SHAPE, dtype=torch.float64)
    gradients[2] = -1  # of the mean magnitude 1, so seen as they are
    fixed, zero = Fixed(gradients, torch.zeros(K, 1)), torch.zeros(1, *SHAPE, dtype=torch.float64)
    end = only("its mean so far", queries=K)(fixed, zero, torch.zeros(1), zero)
    assert torch.allclose(end, torch.full_like(end, (1 / 4 + 7 / 16 + 21 / 64 - 1 / 4) / 4), atol=1e-12)


def test_log_odds_are_seen_in_units_of_eight_and_bounded() -> None:
    zero = torch.zeros(3, *SHAPE, dtype=torch.float64)
    fixed = Fixed(torch.ones(1, *zero.shape).double(), torch.tensor([[-8.0, 0.0, 1e6]], dtype=torch.float64))
    end = only("log odds", weight=0.5)(fixed, zero, torch.zeros(3), zero)
    assert end[:, 0, 1, 2].tolist() == pytest.approx([-math.tanh(1) / 8, 0, 1 / 8])


def test_hidden_units_see_what_the_linear_part_sees() -> None:
    given, plain, small = Given(B), trained(), 1e-5
    unit = RecurrentAdversary(SHAPE, queries=K, hidden=1).double()
    with torch.no_grad():
        unit.weight.zero_()
        unit.log_step.copy_(plain.log_step)
        unit.bias.copy_(plain.bias)
        unit.into.copy_(small * plain.weight)  # where its unit is as good as linear
        unit.out.fill_(1 / small)
    assert torch.allclose(given.put_to(unit), given.put_to(plain), atol=1e-7)


def test_what_is_asked_carries_no_gradient_and_the_end_carries_the_parameters() -> None:
    given, adversary = Given(B), trained(hidden=3)
    fixed = Fixed(given.gradients, given.odds)
    end = adversary(fixed, given.x, given.radius, given.start)
    assert len(fixed.asked) == K and not any(u.requires_grad for u in fixed.asked)
    grads = torch.autograd.grad(end.sum(), list(adversary.parameters()))
    assert {name for name, _ in adversary.named_parameters()} == {"weight", "bias", "log_step", "into", "shift", "out"}
    assert all(bool(torch.isfinite(grad).all()) and bool((grad != 0).all()) for grad in grads)


@pytest.mark.parametrize("name", ["weight", "bias", "log_step", "into", "shift", "out"])
def test_its_gradient_is_the_slope_of_its_end_while_the_answers_to_its_queries_stand(name: str) -> None:
    given, adversary = Given(B), trained(hidden=3, step=0.1)
    with torch.no_grad():
        adversary.weight[PRODUCT] = 0.0
        adversary.into[:, PRODUCT] = 0.0  # a later query's product is not differentiated
    parameter = dict(adversary.named_parameters())[name]
    direction = drawn(*parameter.shape, seed=7)
    if name == "into":
        direction[:, PRODUCT] = 0.0

    def value(h: float) -> Tensor:
        with torch.no_grad():
            parameter.add_(h * direction)
            end = given.put_to(adversary)
            parameter.sub_(h * direction)
        return (end * given.gradients[0]).sum()

    (grad,) = torch.autograd.grad((given.put_to(adversary) * given.gradients[0]).sum(), parameter)
    h = 1e-5
    slope = float(value(h) - value(-h)) / (2 * h)
    assert float((grad * direction).sum()) == pytest.approx(slope, rel=1e-6) and abs(slope) > 1e-4


@pytest.mark.parametrize("hidden", [0, 3])
def test_an_examples_end_depends_on_no_other_example(hidden: int) -> None:
    given, adversary = Given(B), trained(hidden)
    together = given.put_to(adversary)
    order = torch.randperm(B, generator=seeded(8))
    assert torch.allclose(given.put_to(adversary, order), together[order], atol=1e-12)
    for i in range(B):
        assert torch.allclose(given.put_to(adversary, slice(i, i + 1))[0], together[i], atol=1e-12)


@pytest.mark.parametrize("hidden", [0, 3])
def test_a_stack_ends_where_each_copy_ends_alone(hidden: int) -> None:
    given = Given(S, B)
    copies = [trained(hidden, seed=10 + s, step=0.1 * (s + 1), rounds=2) for s in range(S)]
    together = stack_recurrent(copies)
    assert (together.queries, together.hidden, together.rounds) == (K, hidden, 2)
    assert all(len(parameter) == S for parameter in together.parameters())
    end = given.put_to(together)
    assert end.shape == (S, B, *SHAPE)
    for s, copy in enumerate(copies):
        assert torch.allclose(end[s], given.put_to(copy, s), atol=1e-12)
        assert not torch.allclose(end[s], given.put_to(copies[s - 1], s), atol=1e-2)


@pytest.mark.parametrize("hidden", [0, 3])
def test_a_stacks_gradients_are_each_copys_own(hidden: int) -> None:
    given = Given(S, B)
    copies = [trained(hidden, seed=10 + s) for s in range(S)]
    together = stack_recurrent(copies)
    grads = torch.autograd.grad(given.put_to(together).sum(), list(together.parameters()))
    for s, copy in enumerate(copies):
        alone = torch.autograd.grad(given.put_to(copy, s).sum(), list(copy.parameters()))
        assert all(torch.allclose(grad[s], own, atol=1e-10) for grad, own in zip(grads, alone, strict=True))


@pytest.mark.parametrize("hidden", [0, 3])
def test_a_stack_shares_no_memory_with_its_copies_and_gives_them_back(hidden: int) -> None:
    given = Given(S, B)
    copies = [trained(hidden, seed=10 + s) for s in range(S)]
    ends = [given.put_to(copy, s) for s, copy in enumerate(copies)]
    together = stack_recurrent(copies)
    fresh = RecurrentAdversary(SHAPE, queries=K, hidden=hidden).double()
    copy_to(together, 1, fresh)
    assert torch.equal(given.put_to(fresh, 1), ends[1])
    keep_copies(together, torch.tensor([2, 0]))
    left = given.put_to(together, torch.tensor([2, 0]))
    assert torch.allclose(left, torch.stack((ends[2], ends[0])), atol=1e-12)
    with torch.no_grad():
        for parameter in together.parameters():
            parameter.add_(1)
    assert all(torch.equal(given.put_to(copy, s), ends[s]) for s, copy in enumerate(copies))


@pytest.mark.parametrize("other", [{"queries": 2}, {"hidden": 2}, {"rounds": 2}, {"begin": 0.5}, {"shape": (1, 2, 8)}])
def test_those_that_differ_in_more_than_weights_are_not_stacked(other: dict[str, Any]) -> None:
    settings = {"shape": SHAPE, "queries": 1, "hidden": 0, "rounds": 1, "begin": 0.0}
    with pytest.raises(CannotStack, match="recurrent adversaries of one shape"):
        stack_recurrent([RecurrentAdversary(**settings), RecurrentAdversary(**settings | other)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"queries": 0},
        {"hidden": -1},
        {"step": 0.0},
        {"step": -0.5},
        {"step": math.nan},
        {"step": math.inf},
        {"step": [0.5, 0.0]},
        {"rounds": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="queries must be >= 1, hidden >= 0, step > 0 and finite, rounds >= 1; got"):
        RecurrentAdversary(SHAPE, **settings)


def test_untrained_each_query_follows_the_gradients_sign_by_its_own_step() -> None:
    g = torch.tensor([3.0, -2.0, 0.5, -0.1] * 4, dtype=torch.float64).view(1, *SHAPE)
    fixed = Fixed(torch.stack((g, g)), torch.zeros(2, 1, dtype=torch.float64))
    adversary = RecurrentAdversary(SHAPE, queries=2, step=(0.25, 0.125), follow=4.0).double()
    u = adversary(fixed, torch.zeros_like(g), torch.ones(1, dtype=torch.float64), torch.zeros_like(g))
    mean = float(g.abs().mean())  # 1.4: 0.5 is above a quarter of it, 0.1 is not
    expected = [0.375, -0.375, 0.375, -0.375 * 4 * 0.1 / mean] * 4
    assert torch.allclose(u.flatten(), torch.tensor(expected, dtype=torch.float64), atol=1e-6)


def test_steps_are_one_number_or_one_for_each_query() -> None:
    with pytest.raises(ValueError, match="step must be one number, or one for each of 3 queries; got 2"):
        RecurrentAdversary(SHAPE, queries=3, step=(0.5, 0.25))


@pytest.mark.parametrize("begin", [-1.5, 1.01, math.nan])
def test_a_beginning_outside_the_ball_is_refused(begin: float) -> None:
    with pytest.raises(ValueError, match=r"begin must be in \[-1, 1\], radii; got"):
        RecurrentAdversary(SHAPE, begin=begin)


def test_hidden_units_start_as_the_generator_draws_them_and_change_nothing_until_trained() -> None:
    given = Given(B)
    plain = RecurrentAdversary(SHAPE, queries=K).double()
    one, other = (RecurrentAdversary(SHAPE, queries=K, hidden=3, generator=seeded(s)).double() for s in (1, 2))
    assert torch.equal(one.into, RecurrentAdversary(SHAPE, hidden=3, generator=seeded(1)).into.double())
    assert not torch.equal(one.into, other.into)
    assert torch.equal(given.put_to(one), given.put_to(plain)) and torch.equal(given.put_to(other), given.put_to(plain))


def test_a_gradient_is_seen_over_its_examples_mean_magnitude() -> None:
    gradient = torch.zeros(3, *SHAPE)
    gradient[0] = torch.randn(SHAPE, generator=seeded(0)).clamp(-1, 1)
    gradient[1] = 2.0**60 * gradient[0]
    gradient[2] = -(2.0**-60) * gradient[0]
    seen = scaled(gradient.clone(), 3)
    assert torch.equal(seen[1], seen[0]) and torch.equal(seen[2], -seen[0])
    assert float(seen[0].abs().mean()) == pytest.approx(1)
    assert torch.equal(scaled(gradient.view(3, 16), 1), seen.view(3, 16))


def test_a_gradient_that_vanishes_or_is_not_finite_is_seen_as_zero() -> None:
    gradient = torch.ones(4, *SHAPE)
    gradient[0] = 0.0
    gradient[1] = torch.nan
    gradient[2, 0, 0, 0], gradient[2, 0, 0, 1], gradient[2, 0, 0, 2] = torch.nan, torch.inf, -torch.inf
    seen = scaled(gradient, 3)
    assert not seen[:2].any() and not seen[2, 0, 0, :3].any()
    assert torch.allclose(seen[2].flatten()[3:], torch.full((13,), 16 / 13))
    assert torch.equal(seen[3], torch.ones(SHAPE))


def test_no_pixels_gradient_is_seen_as_more_than_four_and_huge_ones_stay_finite() -> None:
    gradient = torch.full((2, *SHAPE), 1e30)
    gradient[:, 0, 0, 0] = -1e36
    gradient[1, 0, 1:] = 0.0
    seen = scaled(gradient, 3)
    assert seen[:, 0, 0, 0].tolist() == [-4, -4]
    assert float(seen.max()) < 1e-4 and float(seen[0].flatten()[1:].min()) > 0


def test_an_example_whose_gradient_vanishes_does_not_trouble_its_neighbours() -> None:
    gradient = drawn(3, *SHAPE, seed=1)
    gradient[1] = 0.0
    seen = scaled(gradient.clone(), 3)
    assert torch.equal(seen[::2], scaled(gradient[::2].clone(), 3)) and not seen[1].any()
