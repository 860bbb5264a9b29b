"""Interval bounds: exact for a linear network, never below what a point of the ball gives, and what a game makes of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.attacks import APGD, Cascade, Square
from sparring.errors import CannotStack, InputError
from sparring.evaluation import certify
from sparring.game.assured import Assurance
from sparring.ibp import certified, check_bounded, worst_margins
from sparring.losses import cross_entropy
from sparring.models import Normalize, mlp
from sparring.randomness import Stream
from sparring.threat import ThreatModel

SHAPE = (1, 8, 8)
THREAT = ThreatModel(0.1, SHAPE)
Made = Callable[[], nn.Module]


def convolutional() -> nn.Module:
    return nn.Sequential(
        Normalize(0.3, 0.5),
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        nn.Conv2d(4, 6, 3, stride=2, bias=False),
        nn.BatchNorm2d(6, affine=False),
        nn.Softplus(10),
        nn.AdaptiveAvgPool2d(2),
        nn.Dropout2d(0.5),
        nn.Flatten(),
        nn.Linear(24, 12),
        nn.BatchNorm1d(12),
        nn.Tanh(),
        nn.Linear(12, 10),
    )


def perceptron() -> nn.Module:
    return mlp(SHAPE, [16, 12, 10])


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))


def used(make: Made) -> nn.Module:
    """A network whose weights and statistics are not those of a new one, in evaluation mode."""
    torch.manual_seed(0)
    model = make().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for _ in range(3):
            model(torch.rand(32, *SHAPE))
    return model.eval()


def batch(n: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, *SHAPE, generator=generator), torch.randint(10, (n,), generator=generator)


@pytest.mark.parametrize("make", [convolutional, perceptron, linear])
@pytest.mark.parametrize("eps", [0.0, 0.1, 1.0])
def test_no_point_of_the_ball_exceeds_the_bound(make: Made, eps: float) -> None:
    model, (x, y) = used(make), batch()
    threat = ThreatModel(eps, SHAPE)
    bound = worst_margins(model, x, y, threat)
    generator = torch.Generator().manual_seed(2)
    points = [threat.random_start(x, generator) for _ in range(50)]
    points += [threat.moved(x, torch.sign(torch.randn(x.shape, generator=generator))) for _ in range(50)]
    points.append(APGD(threat, steps=10)(model, x, y))
    for point in points:
        logits = model(point)
        assert (logits - logits.gather(1, y[:, None]) <= bound + 1e-4).all()
    if eps == 0:
        logits = model(x)
        torch.testing.assert_close(bound, logits - logits.gather(1, y[:, None]), atol=1e-4, rtol=1e-4)


def test_of_a_linear_model_the_bound_is_reached() -> None:
    model, (x, y) = used(linear), batch()
    weight = model[1].weight  # type: ignore[index]
    bound = worst_margins(model, x, y, THREAT)
    for k in range(10):
        corner = THREAT.moved(x, torch.sign(weight[k] - weight[y]).view(x.shape).detach())
        logits = model(corner)
        torch.testing.assert_close(logits[:, k] - logits.gather(1, y[:, None])[:, 0], bound[:, k], atol=1e-4, rtol=1e-4)


def test_every_example_may_have_its_own_radius() -> None:
    model, (x, y) = used(convolutional), batch(4)
    radii = torch.tensor([0.0, 0.05, 0.1, 0.3])
    together = worst_margins(model, x, y, ThreatModel(radii, SHAPE))
    for i, eps in enumerate(radii.tolist()):
        alone = worst_margins(model, x[i : i + 1], y[i : i + 1], ThreatModel(eps, SHAPE))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_a_batchs_statistics_are_used_and_the_running_ones_left_alone() -> None:
    model, (x, y) = used(convolutional), batch()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    bound = worst_margins(model, x, y, THREAT.at(0.0), batch_statistics=True)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    logits = nn.Sequential(*[part for part in model if not isinstance(part, nn.Dropout2d)]).train()(x)  # type: ignore[attr-defined]
    torch.testing.assert_close(bound, logits - logits.gather(1, y[:, None]), atol=1e-4, rtol=1e-4)


def test_what_is_certified_no_attack_breaks_and_the_looser_bound_certifies_less() -> None:
    train, test = sparring.data.load("digits")
    torch.manual_seed(0)
    model = mlp(train.shape, [64, 32, 10])
    sparring.Game(model, eps=0.25, eps_low=0.05, clean_share=0.0, ibp=0.3).fit(train, epochs=40)
    found = certify(model, test, [0.1, 0.2])
    assert found.accuracy(0.1) > 0.5 > found.accuracy(0.2)
    assert (found.certain[1] <= found.certain[0]).all()
    assert found.interval(0.1).low < found.accuracy(0.1) < found.interval(0.1).high
    assert "certified" in str(found) and f"n = {len(test)}" in str(found)
    threat = ThreatModel(0.1, test.shape)
    attack = Cascade((APGD(threat), APGD(threat, "margin", targets=9), Square(threat, 1000)), threat)
    broken = model(attack(model, test.floats(), test.labels)).argmax(-1) != test.labels
    assert broken.any() and not (broken & found.certain[0]).any()
    plain = mlp(train.shape, [64, 32, 10])
    sparring.Game(plain, eps=0.25, eps_low=0.05, clean_share=0.0).fit(train, epochs=2)
    assert certify(plain, test, [0.1]).accuracy(0.1) < found.accuracy(0.1) - 0.3


def test_an_example_that_is_wrong_is_never_certified() -> None:
    model, (x, y) = used(perceptron), batch(200)
    right = model(x).argmax(-1) == y
    sure = certified(model, x, y, THREAT.at(0.0), batch_size=64)
    assert right.any() and not (sure & ~right).any() and sure.sum() >= right.sum() - 1
    assert certified(model, x[:0], y[:0], THREAT).shape == (0,)


def test_a_model_that_cannot_be_followed_is_refused() -> None:
    x, y = batch(4)
    unknown = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 10))
    with pytest.raises(InputError, match="no rule for GELU"):
        worst_margins(unknown, x, y, THREAT)
    for model, message in (
        (unknown, "no rule for GELU"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.LogSoftmax(-1)), "ends in a Linear layer; got LogSoftmax"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.LeakyReLU(-0.5), nn.Linear(10, 10)),
            "no rule for LeakyReLU",
        ),
        (nn.Sequential(), "got no layer"),
    ):
        with pytest.raises(InputError, match=message):
            check_bounded(model)
        with pytest.raises(InputError, match=message):
            sparring.Game(model, ibp=0.1)
    no_statistics = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 10)
    )
    check_bounded(no_statistics)  # they are enough for training
    assert worst_margins(no_statistics, x, y, THREAT, batch_statistics=True).isfinite().all()
    with pytest.raises(InputError, match="running statistics"):
        certified(no_statistics, x, y, THREAT)
    hooked = used(linear)
    hooked[1].register_forward_hook(lambda module, inputs, out: 2 * out)  # type: ignore[index]
    with pytest.raises(InputError, match="not those of its layers"):
        certified(hooked, x, y, THREAT)
    with pytest.raises(InputError, match="one network"):
        certify(sparring.models.stack([mlp(SHAPE, [4, 10])] * 2), sparring.data.load("digits")[1], [0.1])


def test_balls_grow_over_the_first_half_and_the_share_is_a_share() -> None:
    stream = Stream(0, "radii")
    assurance = Assurance(0.25, steps=40, every=10, stream=stream)
    grown = []
    for position in ((0, 0), (0, 5), (1, 0), (1, 9), (2, 0), (3, 9)):
        stream.seek(*position)
        grown.append(assurance.grown())
    assert grown == [0.0, 0.25, 0.5, 0.95, 1.0, 1.0]
    model, (x, y) = used(perceptron), batch()
    stream.seek(1, 0)
    played = torch.tensor(3.0)
    margins = worst_margins(model, x, y, THREAT.at(0.05), batch_statistics=True)
    expected = 0.75 * played + 0.25 * cross_entropy(margins, y).mean()
    torch.testing.assert_close(assurance.part_of(played, model, x, y, THREAT), expected)


def test_games_with_it_are_played_one_after_another() -> None:
    train = sparring.data.load("digits")[0].take(torch.arange(256))
    games = [sparring.Game(mlp(train.shape, [8, 10]), eps=0.1, ibp=0.1, seed=seed) for seed in (0, 1)]
    told = list[str]()
    sparring.fit_together(games, train, epochs=1, notice=told.append)
    assert told == ["the 2 games are played one after another: interval bounds are of one network at a time"]
    alone = sparring.Game(mlp(train.shape, [8, 10]), eps=0.1, ibp=0.1, seed=1).fit(train, epochs=1)
    x = train.floats()
    assert torch.equal(alone.defender(x), games[1].defender(x))
    with pytest.raises(CannotStack, match="one network at a time"):
        sparring.fit_together(games, train, epochs=1, stacked=True)


@pytest.mark.parametrize("ibp", [-0.1, 1.0, float("nan"), True])
def test_a_share_outside_its_range_is_refused(ibp: float) -> None:
    with pytest.raises(InputError, match="ibp must be in"):
        sparring.Game(mlp(SHAPE, [8, 10]), ibp=ibp)


def test_a_paper_game_has_no_such_part() -> None:
    with pytest.raises(InputError, match="needs a recurrent adversary"):
        sparring.Game(mlp(SHAPE, [8, 10]), adversary="mlp", ibp=0.1)
