"""Accuracy under attack, measured from outside: who is still right, and what is refused."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.adversaries import Adversary
from sparring.attacks import APGD, PGD, Cascade, LearnedAttack, Noise, WorstCase, fgsm, identity
from sparring.data.batches import Data
from sparring.errors import InputError
from sparring.evaluation import attacked, clean, curve, fgsm_curve, pgd_curve, transfer
from sparring.evaluation.accuracy import averaged_over_passes, inside
from sparring.models import mlp
from sparring.randomness import Stream
from sparring.threat import ThreatModel

SHAPE = (1, 4, 4)
C = 4
THREAT = ThreatModel(0.1, SHAPE)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> nn.Module:
    model = mlp(SHAPE, [16, C], generator=seeded(1)).train()
    model(torch.rand(100, *SHAPE, generator=seeded(2)))
    return model.eval()


@pytest.fixture
def data(model: nn.Module) -> Data:
    x = torch.rand(150, *SHAPE, generator=seeded(3))
    y = model(x).argmax(-1)
    y[::10] = (y[::10] + 1) % C  # one in ten is wrong from the start
    return Data(x, y, C, "random")


def test_correct_examples_logits_and_distance_are_what_the_model_gives(model: nn.Module, data: Data) -> None:
    x_adv = fgsm(THREAT)(model, data.images, data.labels)
    outcome = attacked(model, data, fgsm(THREAT), THREAT, batch_size=40)
    assert torch.allclose(outcome.logits, model(x_adv), atol=1e-5)
    assert torch.equal(outcome.correct, model(x_adv).argmax(-1) == data.labels)
    assert outcome.accuracy == pytest.approx(float(outcome.correct.float().mean()))
    assert outcome.max_distance == pytest.approx(0.1, abs=1e-6) and not outcome.invalid.any()
    assert clean(model, data).accuracy == 0.9


def test_the_cost_is_counted_in_example_passes(model: nn.Module, data: Data) -> None:
    n = len(data)
    costs = {
        "clean": attacked(model, data, identity, THREAT, batch_size=40).cost,
        "fgsm": attacked(model, data, fgsm(THREAT), THREAT, batch_size=40).cost,
        "pgd": attacked(model, data, PGD(THREAT, steps=5), THREAT, batch_size=40).cost,
    }
    assert (costs["clean"].forwards, costs["clean"].backwards) == (n, 0)
    assert (costs["fgsm"].forwards, costs["fgsm"].backwards) == (2 * n, n)
    assert (costs["pgd"].forwards, costs["pgd"].backwards) == (7 * n, 5 * n)
    assert not model._forward_hooks and costs["pgd"].seconds > 0


@pytest.mark.parametrize("batch_size", [1, 7, 150, 1000])
def test_the_batch_size_does_not_matter(batch_size: int, model: nn.Module, data: Data) -> None:
    expected = attacked(model, data, PGD(THREAT, steps=3, random_start=False), THREAT, batch_size=50)
    found = attacked(model, data, PGD(THREAT, steps=3, random_start=False), THREAT, batch_size=batch_size)
    assert torch.equal(found.correct, expected.correct)
    order = torch.randperm(150, generator=seeded(0))
    shuffled = attacked(model, data, fgsm(THREAT), THREAT, batch_size=batch_size, order=order)
    assert torch.equal(shuffled.correct, attacked(model, data, fgsm(THREAT), THREAT).correct)


def test_examples_that_are_skipped_count_as_wrong_and_are_not_attacked(model: nn.Module, data: Data) -> None:
    skip = torch.arange(150) % 3 == 0
    outcome = attacked(model, data, identity, THREAT, skip=skip)
    assert torch.equal(outcome.correct, clean(model, data).correct & ~skip)
    assert outcome.cost.forwards == 100
    nothing = attacked(model, data, identity, THREAT, skip=torch.ones(150, dtype=torch.bool))
    assert nothing.accuracy == 0 and nothing.cost.forwards == 0


def test_a_curve_never_rises_where_what_is_broken_is_kept(model: nn.Module, data: Data) -> None:
    grid = [0.3, 0.0, 0.05, 0.1]
    for outcomes in (
        curve(model, data, lambda t: fgsm(t), grid, reuse=True),
        pgd_curve(model, data, grid, steps=5),
    ):
        assert list(outcomes) == sorted(grid)
        for smaller, larger in zip(sorted(grid), sorted(grid)[1:], strict=False):
            assert not bool((outcomes[larger].correct & ~outcomes[smaller].correct).any())
        assert torch.equal(outcomes[0.0].correct, clean(model, data).correct)
    strict = pgd_curve(model, data, grid, steps=5)
    loose = fgsm_curve(model, data, grid)
    assert strict[0.1].accuracy <= loose[0.1].accuracy and strict[0.1].cost.backwards > 0


@pytest.mark.parametrize("name", ["fgsm", "pgd", "learned", "worst case", "noise"])
def test_the_worst_case_over_attacks_is_at_most_each_attack(name: str, model: nn.Module, data: Data) -> None:
    singles: dict[str, Any] = {
        "fgsm": fgsm(THREAT),
        "pgd": PGD(THREAT, steps=5, random_start=False),
        "learned": LearnedAttack(Adversary(mlp(SHAPE, [8, 16])), THREAT),
        "noise": Noise(THREAT, "sign", Stream(0, "n")),
    }
    singles["worst case"] = WorstCase((singles["fgsm"], singles["pgd"]), THREAT)
    together = attacked(model, data, WorstCase((fgsm(THREAT), singles[name]), THREAT), THREAT)
    if name == "noise":
        singles[name].stream.seek()
    assert together.accuracy <= attacked(model, data, singles[name], THREAT).accuracy


class Changed(nn.Module):
    """A model before or behind which something happens."""

    def __init__(self, inner: nn.Module, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.inner(self.before(x)))


def plain(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    "after", [lambda z: 3.7 * z, lambda z: z + z.square().sum(-1, keepdim=True).detach(), lambda z: z - 100]
)
def test_robust_accuracy_does_not_change_with_scale_or_a_shift_common_to_all_classes(
    after: Callable[[Tensor], Tensor], model: nn.Module, data: Data
) -> None:
    attack = PGD(THREAT, steps=10, loss="margin", random_start=False)
    expected = attacked(model, data, attack, THREAT)
    found = attacked(Changed(model, plain, after), data, attack, THREAT)
    assert abs(found.accuracy - expected.accuracy) <= 0.01


def test_robust_accuracy_does_not_change_when_classes_or_pixels_are_permuted(model: nn.Module, data: Data) -> None:
    attack = PGD(THREAT, steps=10, random_start=False)
    expected = attacked(model, data, attack, THREAT)
    classes, pixels = torch.randperm(C, generator=seeded(0)), torch.randperm(16, generator=seeded(1))
    permuted = Data(data.images, classes.argsort()[data.labels], C, "classes")
    found = attacked(Changed(model, plain, lambda z: z[..., classes]), permuted, attack, THREAT)
    assert torch.equal(found.correct, expected.correct)
    shuffled = Data(data.images.flatten(1)[:, pixels].view(-1, *SHAPE), data.labels, C, "pixels")
    back = Changed(model, lambda x: x.flatten(1)[:, pixels.argsort()].view(-1, *SHAPE), plain)
    found = attacked(back, shuffled, attack, THREAT)
    assert abs(found.accuracy - expected.accuracy) <= 0.01


def test_a_non_finite_logit_never_counts_as_correct(data: Data) -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            right = nn.functional.one_hot(data.labels[: x.shape[0]], C).float() * 9
            right[: x.shape[0] // 2, -1] = float("nan")
            right[0] = torch.tensor([float("inf"), 0, 0, 0])
            return right + 0 * x.flatten(1).sum(-1, keepdim=True)

    outcome = clean(Half(), data)
    assert outcome.invalid[:75].all() and not outcome.invalid[75:].any()
    assert not outcome.correct[:75].any() and outcome.correct[75:].all()


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda model, x, y: (x + 0.101).clamp(0, 1), "left the ball: distance 0.10"),
        (lambda model, x, y: x * 0 + 1, "left the ball"),
        (lambda model, x, y: x + 0.05, "left the pixel range"),
        (lambda model, x, y: x - 0.05, "left the pixel range"),
        (lambda model, x, y: x[1:], "returned shape"),
        (lambda model, x, y: x.flatten(1), "returned shape"),
        (lambda model, x, y: x * float("nan"), "left the ball"),
    ],
)
def test_an_attack_that_leaves_the_threat_model_is_refused(
    attack: Any, message: str, model: nn.Module, data: Data
) -> None:
    with pytest.raises(InputError, match=message):
        attacked(model, data, attack, THREAT)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda z: (z,), "returned a tuple; return logits"),
        (lambda z: z.argmax(-1), "expected logits"),
        (lambda z: z[..., :2], r"expected logits \(\d+, 4\)"),
        (lambda z: z[:-1], "expected logits"),
        (lambda z: z.sum(), "expected logits"),
    ],
)
def test_a_model_that_returns_no_logits_is_refused(after: Any, message: str, model: nn.Module, data: Data) -> None:
    with pytest.raises(InputError, match=message):
        clean(Changed(model, plain, after), data)


def test_an_attack_with_a_threat_is_aimed_and_any_other_is_projected(model: nn.Module, data: Data) -> None:
    x, y = data.images, data.labels
    small = THREAT.at(0.02)
    aimed = inside(PGD(THREAT, steps=3), small)
    assert isinstance(aimed, PGD) and (aimed.threat, aimed.steps) == (small, 3)
    found = inside(lambda model, x, y: x + 1, small)(model, x, y)
    assert torch.allclose(found, (x + 0.02).clamp(0, 1))


def test_a_worst_case_is_aimed_with_all_its_attacks(model: nn.Module, data: Data) -> None:
    worst = partial(inside, WorstCase((fgsm(THREAT), lambda model, x, y: (x + 0.1).clamp(0, 1)), THREAT))
    for eps in (0.05, 0.3):
        threat = THREAT.at(eps)
        found = attacked(model, data, worst(threat), threat)
        assert found.accuracy <= attacked(model, data, fgsm(threat), threat).accuracy


@pytest.mark.parametrize("outer", [WorstCase, Cascade])
@pytest.mark.parametrize("inner", [WorstCase, Cascade])
def test_attacks_within_attacks_are_aimed_too(outer: Any, inner: Any, model: nn.Module, data: Data) -> None:
    small, wide = THREAT.at(0.01), THREAT.at(0.3)
    nested = outer((inner((APGD(small, steps=10),), small),), small)
    alone = attacked(model, data, APGD(wide, steps=10), wide)
    for aimed in (inside(nested, wide), nested if outer is WorstCase else outer(nested.attacks, wide)):
        found = attacked(model, data, aimed, aimed.threat)
        assert torch.equal(found.correct, alone.correct) == (aimed.threat == wide)
    assert alone.accuracy < attacked(model, data, APGD(small, steps=10), small).accuracy - 0.2


def test_an_attack_that_writes_to_its_input_is_seen_through(model: nn.Module, data: Data) -> None:
    before = data.images.clone(), data.labels.clone()

    def far(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        y.zero_()
        return x.copy_(torch.rand(x.shape, generator=seeded(5)))

    with pytest.raises(InputError, match="left the ball"):
        attacked(model, data, far, THREAT)
    projected = attacked(model, data, inside(far, THREAT), THREAT)
    assert projected.max_distance == pytest.approx(0.1, abs=1e-6)
    assert torch.equal(data.images, before[0]) and torch.equal(data.labels, before[1])


def test_the_logits_of_a_pgd_curve_are_those_that_decided(model: nn.Module, data: Data) -> None:
    for eps, found in pgd_curve(model, data, [0.0, 0.05, 0.1, 0.3], steps=5).items():
        assert torch.equal(found.logits.argmax(-1) == data.labels, found.correct), eps
        assert 0 < found.accuracy < 1 and bool(found.logits.abs().sum(-1).all())


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_measuring_leaves_the_model_as_it_was(mode: Any, model: nn.Module, data: Data) -> None:
    model.train()
    model.norms[0].eval()  # type: ignore[index, union-attr]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [m.training for m in model.modules()]
    attacked(model, data, fgsm(THREAT, mode=mode), THREAT, mode=mode, batch_size=50)
    averaged_over_passes(model, data, fgsm(THREAT, mode="training"), THREAT)
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_training_mode_averages_over_orders(model: nn.Module, data: Data) -> None:
    mean, first = averaged_over_passes(model, data, identity, THREAT, passes=2, batch_size=10)
    again, _ = averaged_over_passes(model, data, identity, THREAT, passes=2, batch_size=10)
    assert mean == again
    single, _ = averaged_over_passes(model, data, identity, THREAT, passes=1, batch_size=10)
    assert single == first.accuracy


def test_transfer_measures_every_adversary_and_noise_against_every_defender(model: nn.Module, data: Data) -> None:
    adversaries = {"a": Adversary(mlp(SHAPE, [8, 16], generator=seeded(5))), "b": Adversary(mlp(SHAPE, [16]))}
    defenders = {"d": model, "e": mlp(SHAPE, [C], generator=seeded(9))}
    cells = transfer(adversaries, defenders, data, 0.1)
    assert set(cells) == {(a, d) for a in ("a", "b", "uniform noise", "sign noise") for d in "de"}
    for name, adversary in adversaries.items():
        for key, defender in defenders.items():
            own = attacked(defender, data, LearnedAttack(adversary, THREAT), THREAT)
            assert torch.equal(cells[name, key], own.correct)
    again = transfer(adversaries, defenders, data, 0.1, batch_size=500)
    assert all(torch.equal(cells[key], again[key]) for key in cells)
