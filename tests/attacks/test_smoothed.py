"""Averaged gradients find the way where the gradient at a point is rough, and are as strong as PGD where it is not."""

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import APGD, PGD, Attack, Smoothed
from sparring.errors import InputError
from sparring.randomness import Stream
from sparring.threat import ThreatModel

SHAPE, EPS, N = (1, 8, 8), 0.1, 60
THREAT = ThreatModel(EPS, SHAPE)


class Linear(nn.Module):
    """Two logits, opposite and linear in the pixels, but for ripples; the slope is 1 in the mean, and up to 1 + roughness."""

    def __init__(self, roughness: float = 0.0) -> None:
        super().__init__()
        self.roughness = roughness
        self.weight = nn.Parameter(torch.randn(64, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(-3)
        rough = x + self.roughness * torch.sin(x * 400) / 400
        logit = (rough * self.weight).sum(-1) / 8
        return torch.stack((logit, -logit), -1)


def some() -> tuple[Tensor, Tensor]:
    x = 0.5 + 0.3 * (torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(1)) - 0.5)
    return x, Linear()(x).argmax(-1)


def left(attack: Attack, model: nn.Module) -> int:
    x, y = some()
    with torch.no_grad():
        return int((model(attack(model, x, y)).argmax(-1) == y).sum())


def test_where_the_gradient_is_rough_it_finds_what_gradients_at_points_do_not() -> None:
    rough = Linear(roughness=3.0)
    others = [left(PGD(THREAT, steps=100), rough), left(APGD(THREAT, steps=100), rough)]
    assert left(Smoothed(THREAT, steps=100), rough) < min(others) - 5


def test_where_the_gradient_is_smooth_it_finds_what_there_is() -> None:
    smooth, (x, y) = Linear(), some()
    best = THREAT.moved(x, torch.where(y == 0, -1.0, 1.0)[:, None, None, None] * smooth.weight.sign().view(SHAPE))
    floor = int((smooth(best).argmax(-1) == y).sum())
    assert 0 < left(Smoothed(THREAT, steps=10), smooth) <= floor + 1


def test_restarts_draw_anew_and_only_help() -> None:
    rough = Linear(roughness=3.0)
    once, often = (left(Smoothed(THREAT, steps=8, restarts=n, stream=Stream(3, "s")), rough) for n in (1, 8))
    assert often <= once


def test_without_noise_it_asks_at_the_point_itself() -> None:
    asked = []

    class Told(Linear):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(x.detach().clone())
            return super().forward(x)

    x, y = some()
    stands = THREAT.at(1e-3)  # nothing is broken, so nothing leaves
    Smoothed(stands, steps=3, noise=0.0)(Told(), x, y)
    clean, *asked_after = asked
    assert torch.equal(clean, x) and len(asked_after) == 6
    for answered, gradient_at in zip(asked_after[1::2], asked_after[2::2], strict=False):
        assert torch.equal(answered, gradient_at)
    asked.clear()
    Smoothed(stands, steps=3, noise=1.0)(Told(), x, y)
    assert not torch.equal(asked[2], asked[3]) and all((point - x).abs().max() <= 1e-3 + 1e-6 for point in asked)


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"samples": 0}, {"noise": -1.0}, {"momentum": 1.0}, {"noise": float("nan")}, {"loss": "hinge"}],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Smoothed(THREAT, **settings)  # type: ignore[arg-type]
