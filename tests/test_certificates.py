"""Interval and linear bounds: exact for a linear network, never below what a point of the ball gives, and a game with them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring import crown
from sparring.attacks import APGD, Cascade, Square
from sparring.crown import certified, linear_margins
from sparring.errors import CannotStack, InputError
from sparring.evaluation import certify
from sparring.game.assured import Assurance
from sparring.ibp import check_bounded, worst_margins
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


def rectified() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(36, 12),
        nn.LeakyReLU(0.2),
        nn.Linear(12, 12),
        nn.LeakyReLU(1.5),
        nn.Linear(12, 10),
    )


@pytest.mark.parametrize("make", [convolutional, rectified, perceptron, linear])
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("margins", [worst_margins, linear_margins])
def test_no_point_of_the_ball_exceeds_the_bound(make: Made, eps: float, margins: Callable[..., Tensor]) -> None:
    model, (x, y) = used(make), batch()
    threat = ThreatModel(eps, SHAPE)
    bound = margins(model, x, y, threat)
    generator = torch.Generator().manual_seed(2)
    points = [threat.random_start(x, generator) for _ in range(50)]
    points += [threat.moved(x, torch.sign(torch.randn(x.shape, generator=generator))) for _ in range(50)]
    points.append(APGD(threat, steps=10)(model, x, y))
    for point in points:
        logits = model(point)
        assert (logits - logits.gather(1, y[:, None]) <= bound + 1e-4).all()
    if eps == 0:  # no longer a bound
        logits = model(x)
        torch.testing.assert_close(bound, logits - logits.gather(1, y[:, None]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("margins", [worst_margins, linear_margins])
def test_of_a_linear_model_the_bound_is_reached(margins: Callable[..., Tensor]) -> None:
    model, (x, y) = used(linear), batch()
    weight = model[1].weight  # type: ignore[index]
    bound = margins(model, x, y, THREAT)
    for k in range(10):
        corner = THREAT.moved(x, torch.sign(weight[k] - weight[y]).view(x.shape).detach())
        logits = model(corner)
        torch.testing.assert_close(logits[:, k] - logits.gather(1, y[:, None])[:, 0], bound[:, k], atol=1e-4, rtol=1e-4)


def test_where_no_unit_bends_linear_bounds_are_exact_and_interval_bounds_are_not() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).eval()
    with torch.no_grad():
        model[1].bias += 10.0  # type: ignore[operator]
    x, y = batch()
    merged = model[3].weight @ model[1].weight  # type: ignore[operator]
    loose, tight = worst_margins(model, x, y, THREAT), linear_margins(model, x, y, THREAT)
    for k in range(10):
        logits = model(THREAT.moved(x, torch.sign(merged[k] - merged[y]).view(x.shape).detach()))
        torch.testing.assert_close(logits[:, k] - logits.gather(1, y[:, None])[:, 0], tight[:, k], atol=1e-4, rtol=1e-4)
    assert (loose >= tight - 1e-4).all() and loose.mean() > tight.mean() + 0.1


def test_lines_above_and_below_a_bent_unit_are_where_they_belong() -> None:
    """Of a unit a in [-1, 1] and of a + 10: relu(a) - 0.9 a is below 0.9, and for 0.5 a - relu(a) the lines say 0.5."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 3)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [2.0]]))
        model[0].bias.copy_(torch.tensor([-1.0, 9.0]))
        model[2].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, -0.9], [-1.0, 0.5]]))
        model[2].bias.copy_(torch.tensor([0.0, 9.0, -5.0]))
    x, y = torch.tensor([[0.5]]), torch.tensor([0])
    torch.testing.assert_close(linear_margins(model, x, y, ThreatModel(0.5, (1,))), torch.tensor([[0.0, 0.9, 0.5]]))
    narrow = linear_margins(
        model, torch.tensor([[0.3]]), y, ThreatModel(0.3, (1,))
    )  # a in [-1, 0.2]: the lower line is 0
    torch.testing.assert_close(narrow, torch.tensor([[0.0, 0.9, 0.1]]))


def test_hidden_units_are_bounded_linearly_where_layers_are_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the difference of two equal units, less 0.1, intervals allow 0.9; linear bounds know that it is below zero."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(10.0)
        model[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
        model[2].bias.fill_(-0.1)
        model[4].weight.copy_(torch.tensor([[0.0], [1.0]]))
        model[4].bias.zero_()
    x, y, threat = torch.tensor([[0.5]]), torch.tensor([0]), ThreatModel(0.5, (1,))
    torch.testing.assert_close(linear_margins(model, x, y, threat), torch.zeros(1, 2))
    torch.testing.assert_close(worst_margins(model, x, y, threat), torch.tensor([[0.0, 0.9]]))
    monkeypatch.setattr(
        crown, "NARROW", 1
    )  # two inputs of the first activation are too many: then the second one's are too
    assert linear_margins(model, x, y, threat)[0, 1] > 0.4


@pytest.mark.parametrize("make", [convolutional, rectified, perceptron])
def test_what_units_are_bounded_in_pieces_does_not_matter_and_it_is_worth_it(
    make: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (x, y) = used(make).double(), batch()
    tight = linear_margins(model, x.double(), y, THREAT)
    monkeypatch.setattr(crown, "ROWS", 5)
    torch.testing.assert_close(linear_margins(model, x.double(), y, THREAT), tight)
    monkeypatch.setattr(crown, "NARROW", 0)
    assert (linear_margins(model, x.double(), y, THREAT) - tight).mean() > 0.01


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0, 1.7])
def test_on_a_line_no_point_exceeds_the_bound(slope: float) -> None:
    generator = torch.Generator().manual_seed(0)
    y, x = torch.zeros(1, dtype=torch.long), torch.tensor([[0.5]], dtype=torch.float64)
    gaps = []
    for _ in range(100):
        layers = [nn.Linear(1, 3), nn.LeakyReLU(slope), nn.Linear(3, 3), nn.LeakyReLU(slope), nn.Linear(3, 2)]
        model = nn.Sequential(*layers).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            values = model(torch.linspace(0.1, 0.9, 401, dtype=torch.float64).unsqueeze(-1))
        most = (values[:, 1] - values[:, 0]).max()
        for margins in (worst_margins, linear_margins):
            gaps.append(margins(model, x, y, ThreatModel(0.4, (1,)))[0, 1] - most)
    assert min(gaps) > -1e-9
    assert slope > 1 or min(gaps[1::2]) < 0.2  # and here and there it is nearly reached


def test_every_example_may_have_its_own_radius() -> None:
    model, (x, y) = used(convolutional), batch(4)
    radii = torch.tensor([0.0, 0.05, 0.1, 0.3])
    for margins in (worst_margins, linear_margins):
        together = margins(model, x, y, ThreatModel(radii, SHAPE))
        for i, eps in enumerate(radii.tolist()):
            alone = margins(model, x[i : i + 1], y[i : i + 1], ThreatModel(eps, SHAPE))
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
    from_arrays = certify(model, (test.floats().numpy(), test.labels.numpy()), 0.1)
    assert torch.equal(from_arrays.certain[0], found.certain[0])
    with pytest.raises(InputError, match="was not asked for"):
        found.accuracy(0.3)
    assert found.interval(0.1).low < found.accuracy(0.1) < found.interval(0.1).high
    assert "certified" in str(found) and f"n = {len(test)}" in str(found)
    threat = ThreatModel(0.1, test.shape)
    attack = Cascade((APGD(threat), APGD(threat, "margin", targets=9), Square(threat, 1000)), threat)
    broken = model(attack(model, test.floats(), test.labels)).argmax(-1) != test.labels
    assert broken.any() and not (broken & found.certain[0]).any()
    by_intervals = (worst_margins(model, test.floats(), test.labels, threat) < 0).sum(-1) == 9
    assert (found.certain[0] & ~by_intervals).sum() > 5  # what linear bounds add
    plain = mlp(train.shape, [64, 32, 10])
    sparring.Game(plain, eps=0.25, eps_low=0.05, clean_share=0.0).fit(train, epochs=2)
    assert certify(plain, test, [0.1]).accuracy(0.1) < found.accuracy(0.1) - 0.3


def test_an_example_that_is_wrong_is_never_certified() -> None:
    model, (x, y) = used(perceptron), batch(200)
    right = model(x).argmax(-1) == y
    sure = certified(model, x, y, THREAT.at(0.0), batch_size=64)
    assert right.any() and not (sure & ~right).any() and sure.sum() >= right.sum() - 1
    assert certified(model, x[:0], y[:0], THREAT).shape == (0,)


class Bump(nn.ReLU):
    """Called a ReLU, and no such thing."""

    def forward(self, x: Tensor) -> Tensor:
        return -x.square()


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
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ELU(-1.0), nn.Linear(10, 10)), "no rule for ELU"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Bump(), nn.Linear(10, 10)), "no rule for Bump"),
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
    for ask in (certified, linear_margins):
        with pytest.raises(InputError, match="running statistics"):
            ask(no_statistics, x, y, THREAT)
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
