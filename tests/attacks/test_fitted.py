"""A rehearsal on copies that have learned what the model attacked said of a first one."""

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import FittedRehearsal, Rehearsal
from sparring.attacks.fitted import PASSES
from sparring.errors import InputError
from sparring.losses import margin
from sparring.models import mlp
from sparring.randomness import Stream
from sparring.threat import ThreatModel

SHAPE = (1, 6, 6)
DRAWS = torch.Generator().manual_seed(0)
X = torch.rand(96, *SHAPE, generator=DRAWS)
THREAT = ThreatModel(0.1, SHAPE)


def network(seed: int) -> nn.Module:
    return mlp(SHAPE, [16, 3], generator=torch.Generator().manual_seed(seed)).eval()


MODEL = network(2)
Y = MODEL(X).argmax(-1)


def stream() -> Stream:
    return Stream(3, "rehearsal")


class Asked(nn.Module):
    """Counts the examples that it answers, and of which it is differentiated."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.answers, self.gradients = inner, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            self.gradients += len(x)
        else:
            self.answers += len(x)
        out: Tensor = self.inner(x)
        return out


def test_it_asks_for_one_gradient_and_the_answers_it_says_and_leaves_its_sources_alone() -> None:
    sources, model = [network(0), network(1)], Asked(MODEL)
    before = [{name: value.clone() for name, value in source.state_dict().items()} for source in sources]
    attack = FittedRehearsal(sources, THREAT, starts=2, returns=3, steps=2, epochs=2)
    attack(model, X, Y)
    assert (model.gradients, model.answers) == (len(X), attack.forwards(3) * len(X))
    assert attack.forwards(3) == 2 * (2 * 2 + 3)
    for source, state in zip(sources, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in source.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in source.parameters())


def test_a_copy_passes_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"points": 0, "ends": 0}

    class Source(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            if any(p.requires_grad for p in self.parameters()):
                seen["points" if x.requires_grad else "ends"] += len(x)
            out: Tensor = self.inner(x)
            return out

    FittedRehearsal([Source(network(0))], THREAT, starts=1, returns=0, steps=1, epochs=3)(MODEL, X, Y)
    assert 2 * seen["points"] + seen["ends"] == 3 * len(X) * PASSES


def test_what_the_copies_learned_finds_more_than_as_many_answers_on_the_sources() -> None:
    sources = [network(seed) for seed in range(3, 9)]
    plain = Rehearsal(sources, THREAT, starts=2, returns=4, stream=stream())
    twice = Rehearsal(sources, THREAT, starts=4, returns=8, stream=stream())
    fitted = FittedRehearsal(sources, THREAT, starts=2, returns=4, stream=stream(), copies=6)
    first, second, after = (margin(MODEL(attack(MODEL, X, Y)), Y).detach() for attack in (plain, twice, fitted))
    assert fitted.forwards(3) == twice.forwards(3)
    assert bool((after >= first).all())  # it begins as the first one does, and goes back behind nothing
    assert float(after.mean()) > float(second.mean()) + 0.1 * float((second - first).mean().abs())
    assert int((after > second).sum()) > 2 * int((after < second).sum())


def test_copies_are_of_the_sources_that_foretell_the_model_best() -> None:
    learned = list[int]()

    class Named(nn.Module):
        def __init__(self, inner: nn.Module, name: int) -> None:
            super().__init__()
            self.inner, self.name = inner, name

        def forward(self, x: Tensor) -> Tensor:
            if any(p.requires_grad for p in self.parameters()) and torch.is_grad_enabled():
                learned.append(self.name)
            out: Tensor = self.inner(x)
            return out

    sources = [Named(network(0), 0), Named(MODEL, 1), Named(network(1), 2)]
    FittedRehearsal(sources, THREAT, starts=1, returns=0, steps=1, copies=1, epochs=1)(network(2), X, Y)
    assert set(learned) == {1}


def test_each_model_of_a_stack_is_attacked_as_alone() -> None:
    class Two(nn.Module):
        def __init__(self, one: nn.Module, other: nn.Module) -> None:
            super().__init__()
            self.each = nn.ModuleList([one, other])

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([each(part) for each, part in zip(self.each, x, strict=True)])

    def attack(*sources: nn.Module) -> FittedRehearsal:
        return FittedRehearsal(sources, THREAT, starts=1, returns=2, steps=2, epochs=2, stream=stream())

    x, y = torch.stack((X[:40], X[40:80])), torch.stack((Y[:40], Y[40:80]))
    models = (MODEL, network(9))
    found = attack(Two(network(0), network(4)), Two(network(1), network(5)))(Two(*models), x, y)
    for k, own in enumerate(((0, 1), (4, 5))):
        alone = attack(*[network(seed) for seed in own])(models[k], x[k], y[k])
        assert torch.allclose(found[k], alone, atol=1e-5)


def test_a_gradient_or_an_answer_that_is_no_number_teaches_nothing() -> None:
    class Rough(nn.Module):
        """Its gradient is infinite for the first example; of the second it answers no number."""

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = MODEL(x)
            out[0] = out[0] + (x[0].sum() - x[0].sum()).sqrt()
            out[1] = torch.nan
            return out

    found = FittedRehearsal([network(0)], THREAT, starts=1, returns=1, steps=2, epochs=2)(Rough(), X[:20], Y[:20])
    assert bool(found.isfinite().all()) and float(THREAT.distance(found, X[:20]).max()) <= 0.1 + 1e-6


def test_models_that_cannot_be_differentiated_or_have_nothing_to_learn_are_rehearsed_on_as_they_are() -> None:
    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = MODEL(x)
            return (8 * out).round().detach() / 8

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3]

    found = FittedRehearsal([Fixed()], THREAT, starts=1, returns=1, steps=2, epochs=2)(Steps(), X, Y)
    assert found.shape == X.shape and float(THREAT.distance(found, X).max()) <= 0.1 + 1e-6


def test_no_examples_are_no_examples() -> None:
    found = FittedRehearsal([network(0)], THREAT)(MODEL, X[:0], Y[:0])
    assert found.shape == (0, *SHAPE)


@pytest.mark.parametrize("settings", [{"copies": 0}, {"epochs": 0}, {"sources": []}, {"returns": -1}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match="got"):
        FittedRehearsal(**{"sources": [network(0)], "threat": THREAT} | settings)  # type: ignore[arg-type]


def test_its_name_tells_its_settings() -> None:
    text = repr(FittedRehearsal([network(0)], THREAT, copies=3, epochs=7))
    assert text.startswith("FittedRehearsal(from=[MLP]") and "copies=3, epochs=7)" in text
