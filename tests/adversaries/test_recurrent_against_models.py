"""The recurrent adversary against models: what it asks them, what it learns through, and where its rounds end."""

from typing import Any

import pytest
import torch
from answers import SHAPE, C, Fixed, K, drawn, seeded, trained
from torch import Tensor, nn

from sparring.adversaries import RecurrentAdversary, stack_recurrent
from sparring.attacks import LearnedAttack
from sparring.attacks.learned import pursue
from sparring.models import mlp
from sparring.threat import ThreatModel

THREAT = ThreatModel(0.2, SHAPE)


def model_of(sizes: list[int], seed: int) -> nn.Module:
    return mlp(SHAPE, sizes, generator=seeded(seed)).double().eval()


def batch_of(n: int) -> tuple[Tensor, Tensor]:
    return torch.rand(n, *SHAPE, generator=seeded(9), dtype=torch.float64), torch.arange(n) % C


@pytest.mark.parametrize("begin", [-0.5, 1.0])
def test_as_an_attack_it_asks_first_where_it_begins(begin: float) -> None:
    (x, y), asked = batch_of(6), []
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, C)).double()
    model.register_forward_pre_hook(lambda _, given: asked.append(given[0].detach().clone()))
    adversary = stack_recurrent([RecurrentAdversary(SHAPE, queries=2, begin=begin)])
    assert adversary.begin == begin and f"begin={begin:g}" in repr(adversary)
    LearnedAttack(RecurrentAdversary(SHAPE, queries=2, begin=begin).double(), THREAT)(model, x, y)
    assert torch.allclose(asked[0], (x + THREAT.eps * begin).clamp(0, 1)) and len(asked) == 2


@pytest.mark.parametrize("hidden", [0, 3])
def test_rounds_go_on_from_where_the_last_one_ended(hidden: int) -> None:
    (x, y), model = batch_of(12), model_of([12, C], 1)
    adversary = trained(hidden, queries=1, rounds=3, step=0.2)
    u = torch.zeros_like(x)
    for _ in range(3):
        u = pursue(adversary, model, THREAT, x, y, u)
    found = LearnedAttack(adversary, THREAT)(model, x, y)
    assert torch.allclose(found, (x + 0.2 * u).clamp(0, 1), atol=1e-12)
    adversary.rounds = 1
    assert not torch.allclose(LearnedAttack(adversary, THREAT)(model, x, y), found, atol=1e-3)


@pytest.mark.parametrize(("queries", "rounds"), [(1, 1), (2, 1), (1, 4), (3, 2)])
def test_it_asks_the_model_as_often_as_it_has_queries_in_every_round(queries: int, rounds: int) -> None:
    (x, y), model = batch_of(12), model_of([12, C], 1)
    sizes: list[int] = []
    model.register_forward_hook(lambda module, arguments, out: sizes.append(len(out)))
    LearnedAttack(RecurrentAdversary(SHAPE, queries=queries, rounds=rounds).double(), THREAT)(model, x, y)
    assert sizes == [12] * (queries * rounds)


@pytest.mark.parametrize("hidden", [0, 3])
def test_an_example_with_fewer_queries_ends_where_it_would_with_an_adversary_of_so_many(hidden: int) -> None:
    (x, y), model = batch_of(12), model_of([12, C], 1)
    adversary, start = trained(hidden, queries=3, step=0.1), torch.tanh(drawn(12, *SHAPE, seed=3))
    aimed = THREAT.at(torch.linspace(0.05, 0.2, 12, dtype=torch.float64))
    u = pursue(adversary, model, aimed, x, y, start, (2, 6, 6))
    for queries, some in ((0, slice(0, 2)), (1, slice(2, 6)), (3, slice(6, 12))):
        adversary.queries = queries
        expected = pursue(adversary, model, aimed, x, y, start)
        assert torch.allclose(u[some], expected[some], atol=1e-9)
    adversary.queries = 3
    slopes = torch.autograd.grad(u[:6].sum(), adversary.log_step, retain_graph=True)[0]
    assert slopes[0] != 0 and slopes[1:].tolist() == [0, 0]


@pytest.mark.parametrize("hidden", [0, 3])
@pytest.mark.parametrize("first", [(), (0, 4), (3, 3), (2, 7)])
def test_where_nothing_is_learned_it_ends_at_the_same_point_to_the_bit(first: tuple[int, ...], hidden: int) -> None:
    (x, y), model = batch_of(12), model_of([12, C], 1)
    adversary, start = trained(hidden, queries=2, step=0.3), torch.tanh(drawn(12, *SHAPE, seed=3)).float()
    kept = start.clone()
    u = pursue(adversary, model, THREAT, x, y, start, first)
    with torch.no_grad():
        free = pursue(adversary, model, THREAT, x, y, start, first)
    assert u.requires_grad and not free.requires_grad
    assert torch.equal(free, u.detach()) and free.dtype == u.dtype and torch.equal(start, kept)
    assert float(free.abs().max()) == 1


def test_it_learns_through_its_queries_and_not_through_the_models_gradients() -> None:
    (x, y), model = batch_of(12), model_of([12, C], 1)
    adversary, start = trained(hidden=3, step=0.1), torch.zeros_like(x)
    answers: list[tuple[Tensor, Tensor]] = []

    def noting(module: nn.Module, arguments: Any) -> Any:
        def ask(u: Tensor) -> tuple[Tensor, Tensor]:
            gradient, odds = arguments[0](u)
            answers.append((gradient.clone(), odds))
            return gradient, odds

        return ask, *arguments[1:]

    with adversary.register_forward_pre_hook(noting):
        end = pursue(adversary, model, THREAT, x, y, start)
    assert len(answers) == K and not any(tensor.requires_grad for pair in answers for tensor in pair)
    fixed = Fixed(torch.stack([gradient for gradient, _ in answers]), torch.stack([odds for _, odds in answers]))
    again = adversary(fixed, x, torch.full((12,), 0.2, dtype=torch.float64), start)
    assert torch.equal(again, end)
    parameters = list(adversary.parameters())
    grads, others = (torch.autograd.grad(out.sum(), parameters) for out in (end, again))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(grads, others, strict=True))


def test_it_asks_for_the_gradient_of_the_log_odds_where_it_stands() -> None:
    (x, y), model = batch_of(12), model_of([12, C], 1)
    adversary, start = RecurrentAdversary(SHAPE, queries=1).double(), torch.tanh(drawn(12, *SHAPE, seed=3))
    point = (x + 0.2 * start).clamp(0, 1).requires_grad_()
    p = model(point).softmax(-1)[torch.arange(12), y]
    (gradient,) = torch.autograd.grad(((1 - p) / p).log().sum(), point)
    expected = adversary(Fixed(gradient.unsqueeze(0), torch.zeros(1, 12)), x, torch.zeros(12), start)
    assert torch.allclose(pursue(adversary, model, THREAT, x, y, start), expected, atol=1e-9)


class Halves(nn.Module):
    """Two classes, apart by one plane."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(-3) @ self.weight + self.bias
        return torch.stack((score, -score), -1)


@pytest.mark.parametrize("hidden", [0, 3])
def test_against_a_linear_classifier_enough_rounds_reach_the_worst_case(hidden: int) -> None:
    eps, n = 0.05, 400
    weight = drawn(16, seed=11)
    weight = weight.sign() * (0.2 + weight.abs())  # no pixel that does not matter
    x = eps + (1 - 2 * eps) * torch.rand(n, *SHAPE, generator=seeded(12), dtype=torch.float64)
    model = Halves(weight, -float(weight.sum()) / 2)
    y = (model(x)[:, 0] < 0).long()
    adversary = RecurrentAdversary(SHAPE, queries=2, hidden=hidden, rounds=25).double()
    x_adv = LearnedAttack(adversary, ThreatModel(eps, SHAPE))(model, x, y).detach()
    away = torch.where(y == 0, -1.0, 1.0).view(n, 1, 1, 1)
    assert torch.allclose(x_adv, x + eps * away * weight.sign().view(SHAPE), atol=1e-12)
    robust = model(x)[:, 0].abs() > eps * weight.abs().sum()  # the distance to the plane, in the l_inf norm
    assert torch.equal(model(x_adv).argmax(-1) == y, robust)
    assert 0.2 < float(robust.double().mean()) < 0.9


def test_a_model_that_answers_for_the_sum_of_the_pixels_can_be_asked() -> None:
    (x, y), adversary = batch_of(12), RecurrentAdversary(SHAPE, rounds=2).double()

    class Sum(nn.Module):  # its gradient is one number in memory, seen at every pixel
        def forward(self, x: Tensor) -> Tensor:
            total = x.flatten(1).sum(-1)
            return torch.stack((total, 16 - total), -1)

    x_adv = LearnedAttack(adversary, THREAT)(Sum(), x, y % 2)
    assert torch.allclose(x_adv, (x + 0.2 * torch.where(y % 2 == 0, -1.0, 1.0).view(-1, 1, 1, 1)).clamp(0, 1))


def test_a_model_without_a_gradient_leaves_the_untrained_adversary_where_it_is() -> None:
    (x, y), adversary = batch_of(12), RecurrentAdversary(SHAPE, rounds=2).double()

    class Constant(nn.Module):
        def __init__(self, on_graph: bool) -> None:
            super().__init__()
            self.on_graph = on_graph

        def forward(self, x: Tensor) -> Tensor:
            x = x if self.on_graph else x.detach()
            return 0 * x.flatten(1)[:, :C] + torch.arange(C)

    for on_graph in (True, False):
        assert torch.equal(LearnedAttack(adversary, THREAT)(Constant(on_graph), x, y), x)
