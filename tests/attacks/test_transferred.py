"""Attacks on one's own models, shown to another; and the learned attack that goes on from where they end."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sparring.adversaries import RecurrentAdversary
from sparring.attacks import PGD, LearnedAttack, Rehearsal, Together, Transferred, fgsm
from sparring.attacks.learned import end_of, pursue
from sparring.data import Data
from sparring.errors import InputError
from sparring.evaluation.accuracy import aimed, counted, curve
from sparring.losses import log_odds, margin
from sparring.models import mlp
from sparring.threat import ThreatModel

SHAPE = (1, 6, 6)


def network(seed: int) -> nn.Module:
    return mlp(SHAPE, [16, 3], generator=torch.Generator().manual_seed(seed)).eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(8, *SHAPE, generator=generator), torch.randint(0, 3, (8,), generator=generator)


class Silent(nn.Module):
    """A model that may not be asked."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model was asked")


def test_a_transferred_attack_is_that_on_its_source_and_asks_the_model_nothing(batch: tuple[Tensor, Tensor]) -> None:
    source, attack = network(0), PGD(ThreatModel(0.1, SHAPE), steps=3, random_start=False)
    source.train()
    found = Transferred(source, attack)(Silent(), *batch)
    assert source.training and all(p.requires_grad and p.grad is None for p in source.parameters())
    torch.testing.assert_close(found, attack(source.eval(), *batch))


def test_classifiers_together_answer_with_the_mean_of_their_log_probabilities(batch: tuple[Tensor, Tensor]) -> None:
    one, two = network(0), network(1)
    expected = (one(batch[0]).log_softmax(-1) + two(batch[0]).log_softmax(-1)) / 2
    torch.testing.assert_close(Together([one, two])(batch[0]), expected)
    with pytest.raises(ValueError, match="at least one"):
        Together([])


def test_a_rehearsed_attack_goes_on_from_where_the_rehearsal_ends_at_no_query_more(
    batch: tuple[Tensor, Tensor],
) -> None:
    model, threat = network(2), ThreatModel(0.1, SHAPE)
    adversary = RecurrentAdversary(SHAPE, queries=2, step=0.4).eval()
    rehearsal = Transferred(Together([network(0), network(1)]), fgsm(threat))
    start = end_of(rehearsal, threat, model, *batch)
    with counted(model) as cost:
        found = LearnedAttack(adversary, threat, start=rehearsal)(model, *batch)
    assert (cost.forwards, cost.backwards) == (2 * len(batch[0]), 2 * len(batch[0]))
    with torch.no_grad():
        expected = threat.moved(batch[0], pursue(adversary, model, threat, *batch, start))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, LearnedAttack(adversary, threat)(model, *batch))
    assert "start=Transferred(from=Together" in repr(LearnedAttack(adversary, threat, start=rehearsal))


def test_an_end_is_told_over_each_examples_radius_and_is_nothing_where_that_is_zero(
    batch: tuple[Tensor, Tensor],
) -> None:
    model, x = network(0), batch[0] * 0.4 + 0.3  # no pixel is clipped
    radii = torch.tensor([0.0, 0.1, 0.2, 0.0, 0.3, 0.05, 0.1, 0.2])
    u = end_of(fgsm(ThreatModel(radii, SHAPE)), ThreatModel(radii, SHAPE), model, x, batch[1])
    assert torch.equal(u[radii == 0], torch.zeros_like(u[radii == 0]))
    torch.testing.assert_close(u[radii > 0].abs(), torch.ones_like(u[radii > 0]))


def test_a_rehearsal_is_aimed_where_its_attack_is(batch: tuple[Tensor, Tensor]) -> None:
    model, adversary = network(2), RecurrentAdversary(SHAPE, queries=1, step=1e-6).eval()  # ends where it starts
    rehearsal = Transferred(network(0), fgsm(ThreatModel(0.05, SHAPE)))
    data = Data(batch[0] * 0.4 + 0.3, batch[1], 3, "none")
    wide = replace(LearnedAttack(adversary, ThreatModel(0.05, SHAPE), start=rehearsal), threat=ThreatModel(0.2, SHAPE))
    for attack in (wide, replace(rehearsal, threat=ThreatModel(0.2, SHAPE))):
        x = data.floats()
        assert float((attack(model, x, data.labels).detach() - x).abs().max()) == pytest.approx(0.2, rel=1e-4)
    curves = curve(model, data, aimed(rehearsal), [0.1, 0.3])
    assert [outcome.max_distance for outcome in curves.values()] == pytest.approx([0.1, 0.3], rel=1e-4)


class Answered(nn.Module):
    """Keeps every input that the model is asked about, and refuses to be differentiated."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.asked = inner, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        assert not x.requires_grad and not torch.is_grad_enabled()
        self.asked.append(x.clone())
        out: Tensor = self.inner(x)
        return out


def test_a_rehearsal_asks_for_no_gradient_and_keeps_the_end_the_model_is_nearest_to_failing_at(
    batch: tuple[Tensor, Tensor],
) -> None:
    (x, y), model, threat = batch, Answered(network(2)), ThreatModel(0.1, SHAPE)
    sources = [network(0), network(1)]
    sources[0].train()
    rehearsal = Rehearsal(sources, threat, starts=3, returns=0, steps=4)
    found = rehearsal(model, x, y)
    assert (
        len(model.asked) == rehearsal.forwards(3) == 3 * 2 and rehearsal.passes(3) == 3 * 2 * 4 and sources[0].training
    )
    assert all(p.requires_grad and p.grad is None for source in sources for p in source.parameters())
    with torch.no_grad():
        ends = torch.stack(model.asked)
        ahead = torch.stack([margin_of(model.inner(end), (y + 1 + k % 2) % 3, y) for k, end in enumerate(ends)])
    for i in range(len(y)):
        assert torch.equal(found[i], ends[int(ahead[:, i].argmax()), i])
    assert len({int(k) for k in ahead.argmax(0)}) > 1 and float((ends[0] - ends[2]).abs().max()) > 0.05


def margin_of(logits: Tensor, target: Tensor, y: Tensor) -> Tensor:
    of = torch.arange(len(y))
    return logits[of, target] - logits[of, y]


class Counted(nn.Module):
    """How many examples it was differentiated and not differentiated for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.forwards, self.passes = inner, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            self.passes += len(x)
        else:
            self.forwards += len(x)
        out: Tensor = self.inner(x)
        return out


def test_a_rehearsal_takes_the_passes_it_says(batch: tuple[Tensor, Tensor]) -> None:
    (x, y), sources = batch, [Counted(network(0)), Counted(network(1))]
    rehearsal = Rehearsal(sources, ThreatModel(0.1, SHAPE), starts=2, returns=3, steps=5)
    rehearsal(network(2), x, y)
    assert (
        [source.passes for source in sources]
        == [rehearsal.passes(3) * len(x)] * 2
        == [(2 * 2 * 5 + 3 * 3) * len(x)] * 2
    )
    asked_once = [len(x), 0]  # how many classes there are
    told = [source.forwards - once for source, once in zip(sources, asked_once, strict=True)]
    assert told == [rehearsal.forwards(3) * len(x)] * 2 == [7 * len(x)] * 2


def test_a_rehearsal_returns_to_the_best_ends_and_never_to_worse(batch: tuple[Tensor, Tensor]) -> None:
    (x, y), threat, ahead = batch, ThreatModel(0.1, SHAPE), list[Tensor]()
    for returns in (0, 1, 6):
        model = Answered(network(2))
        found = Rehearsal([network(0), network(1)], threat, starts=2, returns=returns)(model, x, y)
        assert len(model.asked) == 2 * 2 + returns
        with torch.no_grad():
            ahead.append(nearest(model.inner(found), y))
    assert (
        bool((ahead[1] >= ahead[0]).all()) and bool((ahead[2] >= ahead[1]).all()) and bool((ahead[2] > ahead[0]).any())
    )


def test_a_rehearsal_trusts_the_source_that_foretells_the_model(batch: tuple[Tensor, Tensor]) -> None:
    """With the model itself among strangers, its ends are as good as on the model alone, and better than on the strangers."""
    x, model, threat = batch[0], network(0), ThreatModel(0.1, SHAPE)
    y, strangers = model(x).argmax(-1), [network(seed) for seed in range(3, 9)]
    left = [
        nearest(model(Rehearsal(sources, threat)(model, x, y)), y).mean()
        for sources in (strangers, [*strangers, model], [model])
    ]
    assert left[0] < left[1] and left[2] - left[1] < 0.2 * (left[2] - left[0])


def nearest(logits: Tensor, y: Tensor) -> Tensor:
    """By how much the best wrong class is ahead."""
    there = logits.gather(-1, y[:, None])[:, 0]
    return logits.scatter(-1, y[:, None], -torch.inf).amax(-1) - there


def test_a_rehearsal_on_a_model_that_answers_no_number_ends_inside_the_ball(batch: tuple[Tensor, Tensor]) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 3), torch.nan)

    (x, y), threat = batch, ThreatModel(0.1, SHAPE)
    found = Rehearsal([network(0)], threat, starts=2, returns=2, steps=2)(Broken(), x, y)
    assert bool(found.isfinite().all()) and float((found - x).abs().max()) <= 0.1 + 1e-6


def test_a_rehearsal_raises_each_wrong_class_on_its_own_models(batch: tuple[Tensor, Tensor]) -> None:
    (x, y), model, source = batch, Answered(network(2)), network(0)
    Rehearsal([source], ThreatModel(0.3, SHAPE), starts=1, returns=0, steps=10)(model, x, y)
    with torch.no_grad():
        for k, end in enumerate(model.asked):
            target = (y + 1 + k) % 3
            gained = margin_of(source(end), target, y) - margin_of(source(x), target, y)
            assert float(gained.min()) > 0.1


def test_on_the_model_itself_a_rehearsal_breaks_what_pgd_breaks(batch: tuple[Tensor, Tensor]) -> None:
    x, model, threat = batch[0], network(0), ThreatModel(0.1, SHAPE)
    y = model(x).argmax(-1)
    found, pgd = Rehearsal([model], threat)(model, x, y), PGD(threat, steps=40, restarts=5)(model, x, y)
    broken, expected = ((model(x_adv).argmax(-1) != y) for x_adv in (found, pgd))
    assert expected.any() and bool((broken | ~expected).all())


@pytest.mark.parametrize("settings", [{"sources": []}, {"starts": 0}, {"steps": 0}, {"returns": -1}])
def test_a_rehearsal_of_nothing_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match="got"):
        Rehearsal(**{"sources": [network(0)], "threat": ThreatModel(0.1, SHAPE)} | settings)  # type: ignore[arg-type]


def test_a_learned_attack_is_shown_the_gradient_that_it_asks_for(batch: tuple[Tensor, Tensor]) -> None:
    (x, y), model, threat = batch, network(2), ThreatModel(0.1, SHAPE)
    adversary, starts = RecurrentAdversary(SHAPE, queries=1, step=1.0, follow=1e6).eval(), x * 0.4 + 0.3
    for name, loss in (("log_odds", log_odds), ("margin", margin)):
        point = starts.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(point), y).sum(), point)
        found = LearnedAttack(adversary, threat, asks=name)(model, starts, y)  # type: ignore[arg-type]
        torch.testing.assert_close(found, threat.moved(starts, gradient.sign()))
        assert ("asks='margin'" in repr(LearnedAttack(adversary, threat, asks=name))) == (name == "margin")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="asks must be"):
        LearnedAttack(adversary, threat, asks="cross_entropy")  # type: ignore[arg-type]
