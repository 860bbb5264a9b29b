"""A model in TorchScript, whose own methods refuse hooks, is measured like the one it was made of."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring import modes
from sparring.auditing.probe import watching
from sparring.data.batches import stratified

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")

TEST = stratified(sparring.data.load("digits")[1], 60)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10)
        )
    return made.eval()


def scripted(model: nn.Module) -> nn.Module:
    made: nn.Module = torch.jit.script(model)
    return made


def frozen(model: nn.Module) -> nn.Module:
    made: nn.Module = torch.jit.freeze(torch.jit.script(model))
    return made


def traced(model: nn.Module) -> nn.Module:
    made: nn.Module = torch.jit.trace(model, torch.rand(4, *TEST.shape))
    return made


@pytest.mark.parametrize("form", [scripted, frozen, traced])
def test_it_is_evaluated_and_audited_at_the_same_cost(form: Callable[[nn.Module], nn.Module]) -> None:
    plain, made = network(), form(network())
    expected, found = (sparring.evaluate(model, TEST, eps=[0.05]) for model in (plain, made))
    assert {key: outcome.accuracy for key, outcome in found.outcomes.items()} == {
        key: outcome.accuracy for key, outcome in expected.outcomes.items()
    }
    for key, outcome in found.outcomes.items():
        assert outcome.cost.forwards == expected.outcomes[key].cost.forwards > 0
        assert outcome.cost.backwards == expected.outcomes[key].cost.backwards
    assert sum(outcome.cost.backwards for outcome in found.outcomes.values()) > 0
    audited = sparring.audit(made, TEST, eps=0.05, level="quick")
    assert not [check for check in audited.checks if check.status == "FAIL"]


@pytest.mark.parametrize("block", [modes.evaluation, modes.training])
def test_its_modes_are_set_and_undone(block: object) -> None:
    made = scripted(network())
    made[2].train()  # type: ignore[index]
    before = [module.training for module in made.modules()]
    with block(made):  # type: ignore[operator]
        assert {module.training for module in made.modules()} == {block is modes.training}
    assert [module.training for module in made.modules()] == before
    with block(frozen(network())):  # type: ignore[operator]
        pass


class Forgetful(nn.Module):
    """Puts a part of itself into training mode on the way."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        self.inner.train()
        out: Tensor = self.inner(x)
        return out


def test_the_auditor_sees_what_runs_in_training_mode_inside_it() -> None:
    made = scripted(network())
    with watching(made) as seen:
        made(torch.rand(4, *TEST.shape))
    assert (seen.forwards, seen.in_training) == (4, set())
    forgetful = Forgetful(made).eval()
    with watching(forgetful) as seen:
        forgetful(torch.rand(4, *TEST.shape))
    assert seen.in_training >= {"inner.2", "inner.4"}
