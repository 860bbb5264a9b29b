"""Models that answer in another number format, or with no number at all, and tolerances that no number format can reach."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import APGD, PGD, Attack, RayS, Smoothed, WorstCase, fgsm, quick_suite, standard_suite
from sparring.attacks.rows import fooled
from sparring.attacks.suites import Cascade
from sparring.data import Data
from sparring.evaluation.accuracy import attacked
from sparring.models import mlp
from sparring.threat import ThreatModel

SHAPE, C = (6, 6), 4


def problem() -> tuple[nn.Module, Data, Tensor, Tensor]:
    """A network whose batch norm has seen data, and images with its own answers for labels."""
    generator = torch.Generator().manual_seed(3)
    model, x = mlp(SHAPE, [32, 16, C], generator=generator).train(), torch.rand(120, *SHAPE, generator=generator)
    for _ in range(20):
        model(torch.rand(64, *SHAPE, generator=generator))
    y = model.eval()(x).argmax(-1)
    return model, Data(x, y, C, "own answers"), x, y


class Silent(nn.Module):
    """No number where the model is unsure."""

    def __init__(self, model: nn.Module, sure: float) -> None:
        super().__init__()
        self.model, self.sure = model, sure

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return torch.where(logits.softmax(-1).amax(-1, keepdim=True) < self.sure, torch.nan, logits)


class Answering(nn.Module):
    """Logits in another number format."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits.to(self.dtype)


@pytest.mark.parametrize(
    "made",
    [
        lambda threat: PGD(threat, steps=20),
        lambda threat: PGD(threat, steps=20, random_start=False),
        lambda threat: PGD(threat, steps=20, random_start=False, drop=True),
        lambda threat: WorstCase((fgsm(threat), APGD(threat, steps=20)), threat),
        lambda threat: WorstCase((APGD(threat, steps=20), fgsm(threat)), threat),
    ],
    ids=["PGD", "PGD from x", "PGD that drops", "worst case", "worst case, the other way"],
)
def test_no_number_for_an_answer_is_found_where_it_is_near(made: Callable[[ThreatModel], Attack]) -> None:
    model, data, x, y = problem()
    threat, sure = ThreatModel(0.1, data.shape), model(x).detach().softmax(-1).amax(-1)
    silent = Silent(model, float(sure.quantile(0.3))).eval()
    stands = ~fooled(silent(x), y)
    assert 0.5 < float(stands.float().mean()) < 0.9
    left = ~fooled(silent(made(threat)(silent, x, y)), y)
    best = ~fooled(silent(APGD(threat, steps=20)(silent, x, y)), y)
    assert int(left.sum()) <= int(best.sum()) + 5 < int(stands.sum())
    assert int(attacked(silent, data, made(threat), threat).invalid.sum()) > int((~stands).sum()) - 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_may_answer_in_another_number_format(dtype: torch.dtype) -> None:
    model, data, x, y = problem()
    threat, odd = ThreatModel(0.1, data.shape), Answering(model, dtype).eval()
    suites = (quick_suite, standard_suite)
    for attack in (
        APGD(threat, steps=10),
        Smoothed(threat, steps=5),
        RayS(threat, queries=50),
        *(Cascade(suite(threat, C, data.shape), threat) for suite in suites),
    ):
        x_adv = attack(odd, x[:30], y[:30])
        assert x_adv.dtype == x.dtype and float((x_adv - x[:30]).abs().max()) <= 0.1 + 1e-6


def test_radii_of_examples_may_have_more_digits_than_the_images() -> None:
    model, data, x, y = problem()
    radii = torch.linspace(0, 0.2, len(y), dtype=torch.float64)
    for threat in (ThreatModel(radii, data.shape), ThreatModel(radii.float(), data.shape)):
        for attack in (APGD(threat, steps=5), RayS(threat, queries=30), PGD(threat, steps=5)):
            x_adv = attack(model, x, y)
            assert x_adv.dtype == x.dtype and bool((threat.distance(x_adv, x) <= radii + 1e-6).all())


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("tolerance", "dtype"), [(1e-12, torch.float32), (1e-3, torch.bfloat16)])
def test_a_bisection_ends_where_no_number_lies_between(tolerance: float, dtype: torch.dtype) -> None:
    model, data, x, y = problem()
    x_adv = RayS(ThreatModel(0.1, data.shape), queries=100, tolerance=tolerance)(
        model.to(dtype), x[:20].to(dtype), y[:20]
    )
    assert x_adv.dtype == dtype and bool(torch.isfinite(x_adv).all())
