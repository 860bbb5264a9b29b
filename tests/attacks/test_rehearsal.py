"""A search on one's own models, in which the model attacked only says how near it is to failing."""

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD, Rehearsal
from sparring.errors import InputError
from sparring.models import mlp
from sparring.threat import ThreatModel

SHAPE = (1, 6, 6)
DRAWS = torch.Generator().manual_seed(0)
X, Y = torch.rand(8, *SHAPE, generator=DRAWS), torch.randint(0, 3, (8,), generator=DRAWS)


def network(seed: int) -> nn.Module:
    return mlp(SHAPE, [16, 3], generator=torch.Generator().manual_seed(seed)).eval()


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


def test_a_rehearsal_asks_for_no_gradient_and_keeps_the_end_the_model_is_nearest_to_failing_at() -> None:
    (x, y), model, threat = (X, Y), Answered(network(2)), ThreatModel(0.1, SHAPE)
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


def test_a_rehearsal_takes_the_passes_it_says() -> None:
    (x, y), sources = (X, Y), [Counted(network(0)), Counted(network(1))]
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


def test_a_rehearsal_returns_to_the_best_ends_and_never_to_worse() -> None:
    (x, y), threat, ahead = (X, Y), ThreatModel(0.1, SHAPE), list[Tensor]()
    for returns in (0, 1, 6):
        model = Answered(network(2))
        found = Rehearsal([network(0), network(1)], threat, starts=2, returns=returns)(model, x, y)
        assert len(model.asked) == 2 * 2 + returns
        with torch.no_grad():
            ahead.append(nearest(model.inner(found), y))
    assert (
        bool((ahead[1] >= ahead[0]).all()) and bool((ahead[2] >= ahead[1]).all()) and bool((ahead[2] > ahead[0]).any())
    )


def test_a_rehearsal_trusts_the_source_that_foretells_the_model() -> None:
    """With the model itself among strangers, its ends are nearly as good as on the model alone, and better than on strangers."""
    x, model, threat = X, network(0), ThreatModel(0.1, SHAPE)
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


def test_a_rehearsal_on_a_model_that_answers_no_number_ends_inside_the_ball() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 3), torch.nan)

    (x, y), threat = (X, Y), ThreatModel(0.1, SHAPE)
    found = Rehearsal([network(0)], threat, starts=2, returns=2, steps=2)(Broken(), x, y)
    assert bool(found.isfinite().all()) and float((found - x).abs().max()) <= 0.1 + 1e-6


def test_a_rehearsal_raises_each_wrong_class_on_its_own_models() -> None:
    (x, y), model, source = (X, Y), Answered(network(2)), network(0)
    Rehearsal([source], ThreatModel(0.3, SHAPE), starts=1, returns=0, steps=10)(model, x, y)
    with torch.no_grad():
        for k, end in enumerate(model.asked):
            target = (y + 1 + k) % 3
            gained = margin_of(source(end), target, y) - margin_of(source(x), target, y)
            assert float(gained.min()) > 0.1


def test_on_the_model_itself_a_rehearsal_breaks_what_pgd_breaks() -> None:
    x, model, threat = X, network(0), ThreatModel(0.1, SHAPE)
    y = model(x).argmax(-1)
    found, pgd = Rehearsal([model], threat)(model, x, y), PGD(threat, steps=40, restarts=5)(model, x, y)
    broken, expected = ((model(x_adv).argmax(-1) != y) for x_adv in (found, pgd))
    assert expected.any() and bool((broken | ~expected).all())


@pytest.mark.parametrize("settings", [{"sources": []}, {"starts": 0}, {"steps": 0}, {"returns": -1}])
def test_a_rehearsal_of_nothing_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match="got"):
        Rehearsal(**{"sources": [network(0)], "threat": ThreatModel(0.1, SHAPE)} | settings)  # type: ignore[arg-type]
