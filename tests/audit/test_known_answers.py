"""The audit on problems whose robust accuracy is known exactly, and under changes that may not matter."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparring.auditing import CHECKS, Audit, Level, Subject, audit_subject
from sparring.auditing.selftest import SELF
from sparring.auditing.zoo import Wrapped
from sparring.data import Data
from sparring.data.synthetic import linear_problem, linear_robust_accuracy, threshold_problem, threshold_robust_accuracy


def headline(model: nn.Module, test: Data, *eps: float, level: Level = SELF) -> Audit:
    subject = Subject(model=model, data=test, eps=eps)
    return audit_subject(subject, level=level, checks={"S1": CHECKS["S1"], "I5": CHECKS["I5"]})


def linear(weight: Tensor, bias: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return nn.Sequential(nn.Flatten(), layer).eval()


def test_a_binary_linear_classifier_is_exact_at_twenty_eps() -> None:
    problem = linear_problem(150, 12, seed=0)
    grid = [0.02 * k for k in range(1, 21)]
    result = headline(linear(problem.weight, problem.bias), problem.data, *grid)
    assert [h.accuracy for h in result.headlines] == pytest.approx([problem.robust_accuracy(e) for e in grid], abs=1e-9)
    assert result["I5"].status == "PASS"


def test_a_linear_classifier_of_five_classes_is_exact_in_the_box() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 10, generator=generator, dtype=torch.float64)
    bias = -weight.sum(1) / 2
    x = torch.rand(150, 10, generator=generator)
    test = Data(x, (x.double() @ weight.T + bias).argmax(1), 5, "linear")
    result = headline(linear(weight, bias), test, 0.02, 0.05, 0.1)
    exact = [linear_robust_accuracy(test, weight, bias, e) for e in (0.02, 0.05, 0.1)]
    assert [h.accuracy for h in result.headlines] == pytest.approx(exact, abs=1e-9)


def test_a_threshold_keeps_what_is_farther_than_eps() -> None:
    test = threshold_problem(150)
    model = linear(torch.tensor([[0.0], [20.0]]), torch.tensor([0.0, -10.0]))
    result = headline(model, test, 0.101, 0.253)
    assert [h.accuracy for h in result.headlines] == [threshold_robust_accuracy(test, 0.5, e) for e in (0.101, 0.253)]


def test_a_constant_classifier_keeps_the_rate_of_its_class(digits: tuple[Data, Data]) -> None:
    model = linear(torch.zeros(10, 64), torch.eye(10)[3])
    result = headline(model, digits[1], 0.1, 0.9)
    rate = result.clean
    assert [h.accuracy for h in result.headlines] == [pytest.approx(rate)] * 2 and 0.05 < rate < 0.15


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda z: 1e4 * z, id="logits x 1e4"),
        pytest.param(lambda z: 0.01 * z, id="logits x 0.01"),
        pytest.param(lambda z: z + 5 * z.detach().sum(-1, keepdim=True), id="the same number added to all classes"),
    ],
)
def test_the_worst_case_ignores_what_no_answer_depends_on(
    plain: nn.Module, digits: tuple[Data, Data], change: Callable[[Tensor], Tensor]
) -> None:
    before = headline(plain, digits[1], 0.1).headlines[0].survived
    after = headline(Wrapped(plain, after=change).eval(), digits[1], 0.1).headlines[0].survived
    assert abs(before - after) <= 1  # 0.2 points are less than one image


def test_the_worst_case_ignores_the_names_of_classes_and_the_order_of_pixels(
    plain: nn.Module, digits: tuple[Data, Data]
) -> None:
    test = digits[1]
    before = headline(plain, test, 0.1).headlines[0].survived
    classes = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    renamed = Data(test.images, classes.argsort()[test.labels], 10, "renamed")
    model = Wrapped(plain, after=lambda z: z[:, classes]).eval()
    whole = Level(**{**SELF.__dict__, "n": None})
    before = headline(plain, test, 0.1, level=whole).headlines[0].survived
    assert abs(headline(model, renamed, 0.1, level=whole).headlines[0].survived - before) <= 1
    pixels = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    moved = Data(test.images.flatten(1)[:, pixels].view_as(test.images), test.labels, 10, "moved")
    back = Wrapped(plain, lambda x: x.flatten(1)[:, pixels.argsort()].view_as(x)).eval()
    assert abs(headline(back, moved, 0.1, level=whole).headlines[0].survived - before) <= 2


def test_a_set_taken_twice_has_the_same_worst_case(plain: nn.Module, digits: tuple[Data, Data]) -> None:
    once = digits[1].take(torch.arange(120))
    twice = Data(torch.cat([once.images] * 2), torch.cat([once.labels] * 2), 10, "twice")
    whole = Level(**{**SELF.__dict__, "n": None})
    a, b = (headline(plain, test, 0.1, level=whole).headlines[0] for test in (once, twice))
    assert abs(2 * a.survived - b.survived) <= 2
