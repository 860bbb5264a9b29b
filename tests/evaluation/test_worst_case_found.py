"""The worst case over a suite and a grid of eps: what it says, what it draws, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from worst_cases import GRID, SHAPE, N, same, suite

from sparring.attacks import PGD, Attack, Noise, fgsm
from sparring.data.batches import Data
from sparring.data.synthetic import linear_problem
from sparring.errors import InputError
from sparring.evaluation import attacked, clean, named, worst_case
from sparring.randomness import Stream
from sparring.threat import ThreatModel


def test_on_a_linear_classifier_it_is_exact() -> None:
    known = linear_problem(200, 6, seed=0)
    model = nn.Linear(6, 2).double().requires_grad_(False)
    model.weight.copy_(known.weight)
    model.bias.copy_(known.bias)

    class Single(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = model(x.double())
            return out

    grid = [0.02 * k for k in range(1, 21)]
    found = worst_case(Single(), known.data, grid, lambda threat: [("fgsm", fgsm(threat))], candidates=False)
    for eps in grid:
        assert found.accuracy(eps) == known.robust_accuracy(eps)


def test_what_is_returned_breaks_the_model_from_inside_the_ball_and_nothing_else_does(
    setting: tuple[nn.Module, Data],
) -> None:
    model, data = setting
    found = worst_case(model, data, GRID, suite, batch_size=40)
    assert found.eps == GRID and found.names == ("noise", "fgsm", "pgd", "clean", "grey image", "swap image")
    assert found.accuracy(0) == clean(model, data).accuracy == 0.9
    for e, eps in enumerate(GRID):
        x_adv = found.x_adv[e]
        assert float((x_adv.double() - data.images.double()).abs().max()) <= eps + 1e-6
        assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
        with torch.no_grad():
            assert torch.equal(model(x_adv).argmax(-1) == data.labels, found.robust[e])
        assert torch.equal(found.broken_by[e] == -1, found.robust[e])
        assert torch.equal(x_adv[found.robust[e]], data.images[found.robust[e]])
        assert torch.equal(x_adv[::10], data.images[::10]) and (found.broken_by[e][::10] == 3).all()
        interval = found.interval(eps)
        assert interval.low <= found.accuracy(eps) <= interval.high
    assert not found.invalid.any()
    assert found.accuracy(1.0) == 0
    for smaller, larger in zip(found.robust, found.robust[1:], strict=False):
        assert not bool((larger & ~smaller).any())


def test_it_is_at_most_what_each_attack_leaves_alone_and_costs_less(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    found = worst_case(model, data, [0.1], suite, candidates=False)
    threat = ThreatModel(0.1, SHAPE)
    assert found.accuracy(0.1) <= attacked(model, data, fgsm(threat), threat).accuracy
    by_name = {s.attack: s for s in found.stages}
    assert [s.attacked for s in found.stages][:2] == [N, 81]
    assert by_name["fgsm"].attacked == by_name["noise"].attacked - by_name["noise"].broken
    assert by_name["clean"].forwards == N and by_name["clean"].backwards == 0
    assert (by_name["fgsm"].forwards, by_name["fgsm"].backwards) == tuple(k * by_name["fgsm"].attacked for k in (2, 1))
    assert int(found.robust.sum()) == N - sum(s.broken for s in found.stages)
    assert by_name["fgsm"].attack_repr == repr(fgsm(threat)) and by_name["fgsm"].max_distance <= 0.1 + 1e-6


def test_what_a_smaller_eps_broke_is_not_attacked_again(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    found = worst_case(model, data, [0.2, 0.1], lambda threat: [("fgsm", fgsm(threat))], candidates=False)
    _, first, second = found.stages
    assert (first.eps, second.eps) == (0.1, 0.2) and second.attacked == first.attacked - first.broken


def test_an_adversarial_example_counts_from_its_own_distance_on(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting

    def lazy(threat: ThreatModel) -> list[tuple[str, Attack]]:
        """Does nothing but at the largest eps, where it goes exactly 0.15 far."""
        near = fgsm(ThreatModel(0.15, SHAPE))
        return [("lazy", near if threat.eps == 0.4 else lambda model, x, y: x)]

    found = worst_case(model, data, [0.1, 0.2, 0.4], lazy, candidates=False)
    assert found.accuracy(0.2) == found.accuracy(0.4) < found.accuracy(0.1) == 0.9
    assert torch.equal(found.x_adv[1], found.x_adv[2]) and torch.equal(found.x_adv[0], data.images)


def test_the_grey_image_joins_at_its_distance_and_another_image_at_one() -> None:
    bright = torch.tensor([[0.0], [0.05], [0.9], [1.0]])
    data = Data(bright, torch.tensor([0, 0, 1, 1]), 2, "brightness")

    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat((0.7 - x, x - 0.7), -1)

    nothing: Callable[[ThreatModel], list[tuple[str, Attack]]] = lambda threat: [("nothing", lambda m, x, y: x)]  # noqa: E731
    found = worst_case(Bright(), data, [0.3, 0.4, 0.5, 0.86, 1.0], nothing)
    left = [[i for i in range(4) if r[i]] for r in found.robust]
    # grey (class 0) reaches 0.9 at 0.4 and 1.0 at 0.5; the swap image of class 0 is 0.9, that of class 1 is 0.0
    assert left == [[0, 1, 2, 3], [0, 1, 3], [0, 1], [0], []]
    assert [found.names[k] for k in found.broken_by[-1]] == ["swap image", "swap image", "grey image", "grey image"]
    alone = worst_case(Bright(), data, [0.5, 1.0], nothing, candidates=False)
    assert alone.accuracy(1.0) == 1


def test_a_constant_classifier_keeps_its_class_at_every_eps() -> None:
    data = Data(torch.rand(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2, 2, "two")

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack((x.sum(-1) * 0 + 1, x.sum(-1) * 0), -1)

    found = worst_case(Constant(), data, [0.5, 1.0], lambda threat: [("fgsm", fgsm(threat))])
    assert found.accuracy(0) == found.accuracy(0.5) == found.accuracy(1.0) == 0.5


def test_a_non_finite_logit_is_flagged_and_never_robust() -> None:
    data = Data(torch.tensor([[0.1], [0.2], [0.5], [0.9]]), torch.tensor([0, 0, 0, 0]), 2, "zeros")

    class Fragile(nn.Module):  # class 0 everywhere; NaN above 0.6
        def forward(self, x: Tensor) -> Tensor:
            out = torch.cat((x * 0 + 1, x * 0), -1)
            return torch.where(x > 0.6, torch.nan, out)

    def up(threat: ThreatModel) -> list[tuple[str, Attack]]:
        return [("up", lambda model, x, y: threat.project(x + threat.radius(x), x))]

    found = worst_case(Fragile(), data, [0.2, 0.45], up, candidates=False)
    assert found.robust.tolist() == [[True, True, False, False], [True, False, False, False]]
    assert torch.equal(found.invalid, ~found.robust) and found.accuracy(0) == 0.75
    assert found.names[found.broken_by[0, 3]] == "clean" and found.names[found.broken_by[0, 2]] == "up"


def test_the_model_is_frozen_meanwhile_and_left_as_found(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    model.train()
    model.norms[0].eval()  # type: ignore[index, union-attr]
    next(model.parameters()).requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    seen: list[bool] = []

    def spy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(any(m.training for m in model.modules()) or any(p.requires_grad for p in model.parameters()))
        x.zero_()  # careless: the engine compares with the images, not with what the attack made of them
        if len(seen) == 3:
            raise RuntimeError("broken attack")
        return fgsm(ThreatModel(1.0, SHAPE))(model, x, y)

    with pytest.raises(RuntimeError, match="broken attack"):
        worst_case(model, data, [1.0], lambda threat: [("spy", spy)], batch_size=10, candidates=False)
    assert seen == [False] * 3
    assert ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]) == flags
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model._forward_hooks and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda model, x, y: (x + 0.11).clamp(0, 1), "left the ball: distance 0.11"),
        (lambda model, x, y: x + 0.05, "left the pixel range"),
        (lambda model, x, y: x[1:], "returned shape"),
        (lambda model, x, y: x * float("nan"), "left the ball"),
    ],
)
def test_an_attack_that_leaves_the_threat_model_is_refused(
    attack: Any, message: str, setting: tuple[nn.Module, Data]
) -> None:
    with pytest.raises(InputError, match=message):
        worst_case(*setting, [0.1], lambda threat: [("bad", attack)], candidates=False)


@pytest.mark.parametrize(
    ("grid", "names", "message"),
    [([], "ab", "radii > 0"), ([0.0, 0.1], "ab", "radii > 0"), ([1.1], "ab", "eps must be"), ([0.1], "aa", "names")],
)
def test_grids_and_suites_that_make_no_sense_are_refused(
    grid: list[float], names: str, message: str, setting: tuple[nn.Module, Data]
) -> None:
    with pytest.raises(InputError, match=message):
        worst_case(*setting, grid, lambda threat: [(n, fgsm(threat)) for n in names])
    found = worst_case(*setting, [0.1], suite)
    with pytest.raises(InputError, match=r"0\.3 was not measured; measured: 0\.1"):
        found.accuracy(0.3)


@pytest.mark.parametrize("candidates", [False, True])
@pytest.mark.parametrize("bare", [{0.1, 0.2}, {0.2}])
def test_a_suite_without_an_attack_at_some_eps_is_refused(
    candidates: bool, bare: set[float], setting: tuple[nn.Module, Data]
) -> None:
    def some(threat: ThreatModel) -> list[tuple[str, Attack]]:
        return [] if threat.eps in bare else [("fgsm", fgsm(threat))]

    with pytest.raises(InputError, match=r"a suite needs at least one attack, as \(name, attack\); got none"):
        worst_case(*setting, [0.1, 0.2], some, candidates=candidates)


def test_attacks_are_named_after_what_they_are() -> None:
    threat = ThreatModel(0.1, SHAPE)
    attacks: list[Attack] = [
        PGD(threat),
        PGD(threat, loss="margin"),
        PGD(threat, steps=9),
        Noise(threat),
        PGD(threat),
        lambda m, x, y: x,
    ]
    names = ["PGD cross_entropy", "PGD margin", "PGD cross_entropy 2", "Noise", "PGD cross_entropy 3", "<lambda>"]
    assert named(attacks) == list(zip(names, attacks, strict=True))


def test_the_table_names_what_broke_how_many(setting: tuple[nn.Module, Data]) -> None:
    text = str(worst_case(*setting, GRID, suite))
    assert "n = 90" in text and "clean 9" in text and len(text.splitlines()) == 6


def test_the_same_seed_gives_the_same_and_another_seed_other_draws(setting: tuple[nn.Module, Data]) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    results = [worst_case(*setting, [0.05], suite, seed=seed) for seed in (0, 0, 1)]
    assert same(results[0], results[1]) and not same(results[0], results[2])
    assert torch.equal(torch.get_rng_state(), state)


@dataclass
class Drawing:
    """Changes nothing, and notes what it drew."""

    stream: Stream
    drawn: list[float]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.drawn.append(float(torch.rand((), generator=self.stream.generator())))
        return x


def test_each_attack_eps_and_batch_has_draws_of_its_own(setting: tuple[nn.Module, Data]) -> None:
    drawn: list[float] = []
    shared = Stream(0, "shared")

    def drawing(threat: ThreatModel) -> list[tuple[str, Attack]]:
        return [(name, Drawing(shared, drawn)) for name in "ab"]

    worst_case(*setting, [0.1, 0.2], drawing, batch_size=30, candidates=False)
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 3
    worst_case(*setting, [0.2], drawing, batch_size=30, candidates=False)
    assert drawn[12:] == drawn[6:12]  # whatever else is in the grid


def test_arrays_one_radius_and_attacks_without_names_do(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    attacks: Any = lambda threat: [fgsm(threat), PGD(threat, steps=3, random_start=False)]  # noqa: E731
    expected = worst_case(model, data, [0.1], lambda threat: named(attacks(threat)))
    found = worst_case(model, (data.floats().numpy(), data.labels.numpy()), 0.1, attacks)
    assert found.names == expected.names and torch.equal(found.x_adv, expected.x_adv)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"suite": [fgsm(ThreatModel(0.1, (1,)))]}, "suite is a list; expected a function of the threat model"),
        ({"suite": fgsm}, "suite returned a PGD; expected a function of the threat model"),
        ({"suite": lambda threat: [("a", 3)]}, r"suite returned \('a', 3\) among its attacks"),
        ({"model": nn.Linear(3, 2)}, "the model fails on inputs"),
        ({"data": 3}, "expected"),
    ],
)
def test_what_makes_no_sense_is_refused_before_an_attack(
    wrong: dict[str, Any], message: str, setting: tuple[nn.Module, Data]
) -> None:
    given: dict[str, Any] = dict(zip(("model", "data"), setting, strict=True)) | {"suite": suite} | wrong
    with pytest.raises(InputError, match=message):
        worst_case(eps=[0.1], **given)
