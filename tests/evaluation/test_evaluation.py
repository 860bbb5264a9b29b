"""evaluate: anyone's model, data and attacks; what cannot be evaluated is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring import WorstCase, evaluate, fgsm
from sparring.attacks import PGD, Cascade, Noise, Square
from sparring.data import Data, as_data
from sparring.errors import InputError, NotFinite
from sparring.evaluation import (
    certify,
    clean,
    exploitability,
    fgsm_curve,
    fresh_adversary,
    overfitting,
    pgd_curve,
    transfer,
    worst_case,
)
from sparring.evaluation.calibration import calibrate
from sparring.models import mlp
from sparring.threat import ThreatModel

SHAPE = (1, 4, 4)
C = 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> nn.Module:
    model = mlp(SHAPE, [16, C], generator=seeded(1)).train()
    model(torch.rand(100, *SHAPE, generator=seeded(2)))
    return model


@pytest.fixture
def batch(model: nn.Module) -> tuple[Tensor, Tensor]:
    x = torch.rand(120, *SHAPE, generator=seeded(3))
    y = model.eval()(x).argmax(-1)
    y[::12] = (y[::12] + 1) % C
    model.train()
    return x, y


def users_attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """FGSM as one writes it in a notebook: backward, no thought of modes."""
    x = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(x), y).backward()
    assert x.grad is not None
    return (x + 0.5 * x.grad.sign()).clamp(0, 1).detach()


def test_the_rows_name_every_attack_and_eps_with_counts_and_intervals(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    found = evaluate(model, batch, eps=[0, 0.1, 0.2], steps=5)
    assert [(r.attack, r.eps) for r in found.rows] == [
        ("clean", 0.0),
        *[(name, eps) for name in ("noise", "fgsm", "pgd") for eps in (0.1, 0.2)],
    ]
    for row in found.rows:
        assert row.n == 120 and row.accuracy == row.correct / 120 == found.accuracy(row.attack, row.eps)
        assert row.interval.low <= row.accuracy <= row.interval.high
        assert row.max_distance <= row.eps + 1e-6
    assert found.accuracy("clean", 0.0) == pytest.approx(110 / 120)
    assert found.accuracy("pgd", 0.2) <= found.accuracy("pgd", 0.1) <= found.accuracy("fgsm", 0.1)
    assert 0 <= found.ece <= 1


def test_the_worst_case_is_who_survives_every_attack(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    def one_sided(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (x + 0.1).clamp(0, 1)

    found = evaluate(model, batch, eps=0.1, steps=5, attacks={"up": one_sided})
    survived = torch.stack([o.correct for (_, e), o in found.outcomes.items() if e == 0.1]).all(0)
    assert found.worst_case(0.1) == pytest.approx(float(survived.double().mean()))
    assert found.worst_case(0.1) <= min(found.accuracy(n, 0.1) for n in ("noise", "fgsm", "pgd", "up"))
    assert found.worst_case(0.0) == found.accuracy("clean", 0.0)
    for missing in (lambda: found.accuracy("up", 0.3), lambda: found.worst_case(0.3)):
        with pytest.raises(KeyError):
            missing()


def test_a_users_callable_is_projected_into_every_ball(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    found = evaluate(model, batch, eps=[0.05, 0.1], steps=2, attacks={"mine": users_attack})
    for eps in (0.05, 0.1):
        assert found.outcomes["mine", eps].max_distance == pytest.approx(eps, abs=1e-6)
        assert torch.equal(found.outcomes["mine", eps].correct, found.outcomes["fgsm", eps].correct)


def test_the_model_is_left_as_it_was_also_by_a_careless_attack(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    model.norms[0].eval()  # type: ignore[index, union-attr]
    model.linears[0].train()  # type: ignore[index, union-attr]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    state = torch.get_rng_state()
    for training in (True, False):
        model.train(training)
        evaluate(model, batch, eps=0.1, steps=2, attacks={"mine": users_attack})
        assert all(m.training is training for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags[1]
    assert all(p.grad is None for p in model.parameters())


def test_the_same_call_gives_the_same_numbers_with_attacks_that_draw(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    threat = ThreatModel(0.1, SHAPE)
    attacks: dict[str, Any] = {
        "pgd2": PGD(threat, steps=1, step_size=0.1),
        "signs": Noise(threat, "sign"),
        "signs, within another": WorstCase((Noise(threat, "sign"),), threat),
        "a search, within another": Cascade((Square(threat, queries=5),), threat),
    }

    def logits() -> list[Tensor]:
        return [o.logits for o in evaluate(model, batch, eps=0.1, steps=2, attacks=attacks).outcomes.values()]

    first = logits()
    assert all(torch.equal(a, b) for a, b in zip(first, logits(), strict=True))
    assert all(
        torch.equal(a, b.logits)
        for a, b in zip(first, evaluate(model, batch, eps=0.1, steps=2, attacks=attacks).outcomes.values(), strict=True)
    )


def test_a_worst_case_can_be_evaluated_at_any_eps(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    threat = ThreatModel(0.1, SHAPE)
    found = evaluate(model, batch, eps=[0.05, 0.2], steps=2, attacks={"worst": WorstCase((fgsm(threat),), threat)})
    for eps in (0.05, 0.2):
        assert found.accuracy("worst", eps) <= found.accuracy("fgsm", eps)


def test_logits_that_are_not_finite_are_an_error_and_no_accuracy(batch: tuple[Tensor, Tensor]) -> None:
    class Nan(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out = x.flatten(1)[:, :C].clone()
            out[(x == batch[0][3]).flatten(1).all(-1)] = float("nan")
            return out

    with pytest.raises(NotFinite, match=r"not finite for 1 of 120 examples \(first: 3\)"):
        evaluate(Nan(), batch)


def test_logits_that_are_not_finite_under_attack_only_are_an_error_too(batch: tuple[Tensor, Tensor]) -> None:
    clean = batch[0]

    class Gated(nn.Module):
        """NaN for whatever it does not know: a model that would look perfectly robust."""

        def forward(self, x: Tensor) -> Tensor:
            known = (x.flatten(1)[:, None] == clean.flatten(1)).all(-1).any(-1, keepdim=True)
            return torch.where(known, x.flatten(1)[:, :C], torch.nan)

    with pytest.raises(NotFinite, match="under Noise"):
        evaluate(Gated(), batch, eps=0.1)


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        (float("nan"), r"eps must be in \[0, 1\]"),
        (-1, r"eps must be in \[0, 1\]"),
        ([0.1, -0.1], r"eps must be in \[0, 1\]"),
        (8, r"did you mean 8/255"),
        ([0, 8], r"did you mean 8/255"),
        (["0.1"], "eps must be a number"),
    ],
)
def test_an_eps_that_cannot_be_is_refused(
    eps: Any, message: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(model, batch, eps=eps)


@pytest.mark.parametrize("eps", [np.float32(0.25), torch.tensor(0.25), np.array([0.25]), torch.tensor([0.25])])
def test_an_eps_of_numpy_or_pytorch_is_one_like_any(eps: Any, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    plain, found = (evaluate(model, batch, eps=value, steps=2) for value in (0.25, eps))
    assert [(row.attack, row.eps, row.correct) for row in found.rows] == [
        (row.attack, row.eps, row.correct) for row in plain.rows
    ]


@pytest.mark.parametrize("name", ["steps", "restarts", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_what_counts_is_a_whole_number_from_one_on(
    name: str, value: Any, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(InputError, match=rf"^{name} must be a whole number >= 1; got {value}$"):
        evaluate(Forbidden(model), batch, **{name: value})


def test_a_seed_is_checked_before_anything_is_asked_and_may_be_numpys(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(InputError, match=r"^seed must be a whole number >= 0; got -1$"):
        evaluate(Forbidden(model), batch, seed=-1)
    plain, found = (evaluate(model, batch, eps=0.1, steps=2, seed=seed) for seed in (3, np.int64(3)))  # type: ignore[arg-type]
    assert [row.correct for row in plain.rows] == [row.correct for row in found.rows]


class Forbidden(nn.Module):
    """A model that nobody may ask."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("asked")


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_no_examples_are_refused_everywhere(
    batch_size: int, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    data = as_data(batch)
    for refuse in (
        lambda: clean(model, data, batch_size=batch_size),
        lambda: fgsm_curve(model, data, [0.1], batch_size=batch_size),
        lambda: certify(model, data, 0.1, batch_size=batch_size),
        lambda: transfer({}, {"model": model}, data, 0.1, batch_size=batch_size),
        lambda: worst_case(model, data, 0.1, lambda threat: [fgsm(threat)], batch_size=batch_size),
    ):
        with pytest.raises(InputError, match=rf"^batch_size must be a whole number >= 1; got {batch_size}$"):
            refuse()
    with pytest.raises(InputError, match=r"^restarts must be a whole number >= 1; got 0$"):
        pgd_curve(model, data, [0.1], restarts=0)


def test_a_seed_below_zero_is_refused_everywhere(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    data = as_data(batch)
    threat = ThreatModel(0.1, data.shape)
    for refuse in (
        lambda: pgd_curve(model, data, [0.1], seed=-1),
        lambda: transfer({}, {"model": model}, data, 0.1, seed=-1),
        lambda: worst_case(model, data, 0.1, lambda threat: [fgsm(threat)], seed=-1),
        lambda: overfitting(model, data, threat, seed=-1),
        lambda: calibrate(torch.rand(9, 3), torch.arange(9) % 3, seed=-1),
        lambda: exploitability(model, data, data, 0.1, seeds=(0, -1)),
        lambda: fresh_adversary(model, data, threat, seed=-1, epochs=1),
    ):
        with pytest.raises(InputError, match=r"^seed must be a whole number >= 0; got -1$"):
            refuse()


def test_a_model_that_writes_to_its_input_and_a_set_of_ours_out_of_range_are_refused(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch

    class InPlace(Forbidden):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x.sub_(0.5).div_(0.2))
            return out

    with pytest.raises(InputError, match="changes its input in place"):
        evaluate(InPlace(model), batch)
    with pytest.raises(InputError, match=r"they look scaled to \[-1, 1\]"):
        evaluate(model, Data(2 * x - 1, y, C, "scaled"))


def test_unsigned_labels_are_labels(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    found = evaluate(model, (x.numpy(), y.numpy().astype(np.uint16)), eps=0.1, steps=2)
    assert [r.correct for r in found.rows] == [r.correct for r in evaluate(model, batch, eps=0.1, steps=2).rows]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x, y: ((x * 255).to(torch.uint8), y),
        lambda x, y: (x * 2 - 1, y),
        lambda x, y: (x * torch.nan, y),
        lambda x, y: (x, y.float()),
        lambda x, y: (x, y[:-1]),
        lambda x, y: x,
    ],
)
def test_data_that_cannot_be_is_refused(spoil: Any, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError):
        evaluate(model, spoil(*batch))


def test_a_test_set_that_lacks_the_last_class_can_be_evaluated(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    few = y < C - 1
    found = evaluate(model, (x[few], y[few]), eps=0.1, steps=2)
    assert found.rows[0].n == int(few.sum())


def test_a_set_of_ours_is_evaluated_as_arrays_are_whatever_it_says_of_its_classes(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    few = y < C - 1
    arrays = evaluate(model, (x[few], y[few]), eps=0.1, steps=2)
    for n_classes in (C - 1, C, C + 1):
        own = evaluate(model, Data(x[few], y[few], n_classes, "few"), eps=0.1, steps=2)
        assert [row.correct for row in own.rows] == [row.correct for row in arrays.rows] and own.ece == arrays.ece


@pytest.mark.parametrize("own", [False, True])
def test_labels_that_the_model_does_not_know_are_refused(
    own: bool, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    y = y + 1
    with pytest.raises(InputError, match=rf"returned \(8, {C}\) .*expected logits \(8, {C + 1}\)"):
        evaluate(model, Data(x, y, C + 1, "more") if own else (x, y))


@pytest.mark.parametrize("name", ["clean", "noise", "fgsm", "pgd"])
def test_an_attack_named_as_a_row_of_every_evaluation_is_refused(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(InputError, match=rf"names that differ from clean, noise, fgsm, pgd; got {name}$"):
        evaluate(model, batch, attacks={"mine": users_attack, name: users_attack})


def test_channels_last_are_refused_by_name() -> None:
    x, y = torch.rand(20, 6, 6, 1, generator=seeded(0)), torch.arange(20) % 2
    convolution = nn.Sequential(nn.Conv2d(1, 2, 6), nn.Flatten())
    with pytest.raises(InputError, match=r"fails on inputs \(8, 6, 6, 1\): .*x\.permute\(0, 3, 1, 2\)$"):
        evaluate(convolution, (x, y))
    assert evaluate(convolution, (x.permute(0, 3, 1, 2), y), eps=0.1, steps=1).rows[0].n == 20


def test_the_public_names_are_there() -> None:
    for name in sparring.__all__:
        if name != "load":
            assert getattr(sparring, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Sparring'"):
        _ = sparring.Sparring
