"""Best responses of several kinds: what they see, what twice the training gains, the gap to the game."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparring.adversaries import RecurrentAdversary
from sparring.attacks import LearnedAttack
from sparring.config import Adversary as AdversaryConfig
from sparring.config import Optimizer
from sparring.data.batches import Data
from sparring.data.synthetic import linear_problem
from sparring.errors import CorruptCheckpoint, InputError
from sparring.evaluation import (
    KINDS,
    BestResponses,
    attacked,
    best_responses,
    exploitability,
    fresh_adversary,
    load_adversary,
    save_adversary,
    transfer,
)
from sparring.evaluation.exploitability import RECURRENT, fresh_adversaries
from sparring.models import mlp
from sparring.threat import ThreatModel

SMALL = AdversaryConfig(hidden=(16,), loss="margin", optimizer=Optimizer(lr=0.1, rate="every", every=2))
D = 8


@pytest.fixture
def setting() -> tuple[nn.Module, Data]:
    """A linear defender that is always right, and the points it is right on."""
    problem = linear_problem(128, D, seed=0)
    model = mlp((D,), [2])
    with torch.no_grad():
        model.linears[0].weight.copy_(problem.weight)  # type: ignore[operator, union-attr]
        model.linears[0].bias.copy_(problem.bias)  # type: ignore[operator, union-attr]
    return model, problem.data


def found(setting: tuple[nn.Module, Data], **settings: object) -> BestResponses:
    model, data = setting
    arguments: dict[str, object] = {"seeds": (0, 1), "epochs": 2, "settings": SMALL} | settings
    return best_responses(model, data, data, 0.2, **arguments)  # type: ignore[arg-type]


def test_what_knows_more_gets_further_and_nothing_gets_too_far(setting: tuple[nn.Module, Data]) -> None:
    responses = found(setting, kinds=KINDS, double=False)
    exact = linear_problem(128, D, seed=0).robust_accuracy(0.2)
    left = {kind: responses.accuracy(kind) for kind in KINDS}
    assert exact <= responses.accuracy() <= min(left.values())
    assert left["xg"] <= exact + 0.1 and left["xg"] < left["x"] and left["recurrent"] == pytest.approx(exact, abs=0.01)
    assert [(r.kind, r.seed) for r in responses.responses] == [(k, s) for k in left for s in (0, 1)]
    assert all(r.parameters > 0 and r.training.forwards > 0 for r in responses.responses)
    assert responses.gains == ()


def test_the_kind_that_sees_the_input_only_is_that_of_exploitability_bit_for_bit(
    setting: tuple[nn.Module, Data],
) -> None:
    model, data = setting
    before = exploitability(model, data, data, 0.2, seeds=(0, 1), epochs=2, settings=SMALL)
    after = found(setting, kinds=("x",), double=False)
    for old, new in zip(before.fresh, after.responses, strict=True):
        assert torch.equal(old.logits, new.outcome.logits) and old.attack == new.outcome.attack
    assert torch.equal(before.survived, after.survived("x"))


def test_twice_the_training_goes_on_at_half_the_rate_and_its_gain_has_an_interval(
    setting: tuple[nn.Module, Data],
) -> None:
    model, data = setting
    responses = found(setting, kinds=("x",))
    assert [(r.seed, r.epochs) for r in responses.responses] == [(0, 2), (0, 4), (1, 2), (1, 4)]
    threat, again = ThreatModel(0.2, (D,)), replace(SMALL, optimizer=replace(SMALL.optimizer, lr=0.05))
    start = fresh_adversary(model, data, threat, seed=1, epochs=2, settings=SMALL)
    kept = {name: value.clone() for name, value in start.state_dict().items()}
    adversary = fresh_adversary(model, data, threat, seed=1, epochs=2, settings=again, start=start)
    assert all(torch.equal(value, kept[name]) for name, value in start.state_dict().items())
    by_hand = attacked(model, data, LearnedAttack(adversary, threat), threat)
    assert torch.equal(by_hand.correct, responses.responses[3].outcome.correct)
    (gain,) = responses.gains
    accuracies = [r.outcome.accuracy for r in responses.responses]
    assert gain.gain == pytest.approx((sum(accuracies[::2]) - sum(accuracies[1::2])) / 2)
    assert gain.interval.low <= gain.gain <= gain.interval.high and (gain.kind, gain.epochs) == ("x", 2)
    assert responses.accuracy("x") <= min(accuracies)


def test_the_gap_is_paired_with_the_in_game_outcomes(setting: tuple[nn.Module, Data]) -> None:
    in_game = torch.arange(128) % 8 != 0
    responses = found(setting, kinds=("x", "xg"), double=False, in_game=in_game)
    for kind in ("x", "xg", None):
        gap, interval = responses.gap(kind)
        assert gap == pytest.approx(112 / 128 - responses.accuracy(kind)) and interval.low < gap < interval.high
    with pytest.raises(InputError, match="a gap needs the in-game outcomes"):
        replace(responses, in_game=None).gap()
    with pytest.raises(InputError, match="no best response of kind 'xy'; did you mean"):
        responses.gap("xy")
    with pytest.raises(InputError, match=r"in_game has shape \(5,\); expected .* \(128,\)"):
        found(setting, in_game=in_game[:5])
    with pytest.raises(InputError, match="there is no kind 'y' of adversary"):
        found(setting, kinds=("y",))


def test_adversaries_that_are_kept_are_not_trained_again(setting: tuple[nn.Module, Data], tmp_path: Path) -> None:
    epochs: list[object] = []
    runs = [
        found(setting, kinds=("x", "xy"), double=False, folder=tmp_path, on_epoch=lambda e, p: epochs.append(e))
        for _ in range(2)
    ]
    assert len(epochs) == 8 and len(list(tmp_path.iterdir())) == 4
    for a, b in zip(runs[0].responses, runs[1].responses, strict=True):
        assert torch.equal(a.outcome.logits, b.outcome.logits) and a.training == b.training
    path = sorted(tmp_path.iterdir())[0]
    path.write_bytes(path.read_bytes()[:-1])
    with torch.no_grad():
        setting[0].linears[0].bias.add_(1e-3)  # type: ignore[operator, union-attr]
    found(setting, kinds=("x", "xy"), double=False, folder=tmp_path, on_epoch=lambda e, p: epochs.append(e))
    assert len(epochs) == 16


def test_bf16_casts_the_weights_anew_at_every_step_and_leaves_about_as_much(setting: tuple[nn.Module, Data]) -> None:
    left = {
        name: found(setting, kinds=("x",), double=False, epochs=20, batch_size=32, precision=name).accuracy()
        for name in ("fp32", "bf16")
    }
    untrained = found(setting, kinds=("x",), double=False, epochs=1, batch_size=128).accuracy()
    assert left["bf16"] == pytest.approx(left["fp32"], abs=0.1) and left["bf16"] < untrained - 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_adversary_comes_back_as_it_was(kind: str, setting: tuple[nn.Module, Data], tmp_path: Path) -> None:
    model, data = setting
    threat = ThreatModel(0.2, (D,))
    like = RecurrentAdversary((D,), queries=3, hidden=4, rounds=2, begin=0.5) if kind == "recurrent" else None
    adversary = fresh_adversary(model, data, threat, seed=0, epochs=1, settings=SMALL, sees=KINDS[kind], like=like)
    save_adversary(tmp_path / "a.safetensors", adversary, SMALL, kind)
    again = load_adversary(tmp_path / "a.safetensors")
    assert again.sees == adversary.sees and not again.training and repr(again) == repr(adversary)
    x, y = data.images, data.labels
    assert torch.equal(LearnedAttack(again, threat)(model, x, y), LearnedAttack(adversary, threat)(model, x, y))


def test_recurrent_ones_are_like_the_games_own_and_trained_together_as_alone(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    like, threat = RecurrentAdversary((D,), queries=3, hidden=4), ThreatModel(0.2, (D,))
    how: dict[str, Any] = {"epochs": 3, "settings": RECURRENT, "like": like, "batch_size": 32}
    together = fresh_adversaries(model, data, threat, seeds=(0, 1), **how)
    weights = [torch.cat([p.detach().flatten() for p in a.parameters()]) for a in (like, *together)]
    assert all(isinstance(a, RecurrentAdversary) and a.settings == like.settings for a in together)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(weights, 2))
    for seed, adversary in enumerate(together):
        alone = fresh_adversary(model, data, threat, seed=seed, **how)
        for a, b in zip(alone.parameters(), adversary.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)
    responses = found(setting, kinds=("recurrent",), like=like)
    assert [(r.epochs, r.parameters) for r in responses.responses] == 2 * [(2, len(weights[0])), (4, len(weights[0]))]


def test_a_folder_may_be_a_word_and_seeds_and_eps_numbers_of_numpy(
    setting: tuple[nn.Module, Data], tmp_path: Path
) -> None:
    folder, how = tmp_path / "kept", {"kinds": ("x",), "epochs": 1}
    kept = found(setting, folder=str(folder), seeds=np.arange(2), **how)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"best-response-x-seed{seed}-epochs{epochs}.safetensors" for seed in (0, 1) for epochs in (1, 2)
    ]
    model, data = setting
    again = best_responses(model, data, data, torch.tensor(0.25), seeds=(0,), settings=SMALL, **how)  # type: ignore[arg-type]
    assert again.eps == 0.25 and type(again.eps) is float
    plain = found(setting, seeds=(0, 1), **how)
    assert [r.outcome.correct.tolist() for r in kept.responses] == [r.outcome.correct.tolist() for r in plain.responses]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": ()}, "seeds must be at least one whole number"),
        ({"seeds": 3}, "seeds must be a sequence of whole numbers"),
        ({"seeds": (0, -1)}, "seed must be a whole number >= 0; got -1"),
        ({"kinds": ("x", "xy", "x")}, "name each kind of adversary once; got x, xy, x"),
    ],
)
def test_none_and_the_same_again_are_refused(
    wrong: dict[str, Any], message: str, setting: tuple[nn.Module, Data]
) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        found(setting, **wrong)
    if "seeds" in wrong:
        with pytest.raises(InputError, match=f"^{message}"):
            exploitability(setting[0], setting[1], setting[1], 0.2, **wrong)


def test_a_file_of_something_else_is_refused(setting: tuple[nn.Module, Data], tmp_path: Path) -> None:
    from sparring.game.checkpoint import save_weights

    save_weights(tmp_path / "a.safetensors", setting[0], {"config": {}})
    with pytest.raises(CorruptCheckpoint, match="is no adversary's file"):
        load_adversary(tmp_path / "a.safetensors")


def test_transfer_shows_each_defender_s_own_gradient_to_what_sees_it(setting: tuple[nn.Module, Data]) -> None:
    model, data = setting
    other = mlp((D,), [6, 2], generator=torch.Generator().manual_seed(3)).eval()
    threat = ThreatModel(0.2, (D,))
    adversary = fresh_adversary(model, data, threat, seed=0, epochs=1, settings=SMALL, sees=("x", "gradient"))
    cells = transfer({"a": adversary}, {"d": model, "e": other}, data, 0.2)
    for name, defender in (("d", model), ("e", other)):
        expected = attacked(defender, data, LearnedAttack(adversary, threat), threat)
        assert torch.equal(cells["a", name], expected.correct)


def test_the_defender_is_left_as_it_was(setting: tuple[nn.Module, Data]) -> None:
    data = setting[1]
    model = mlp((D,), [6, 2]).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found((model, data), epochs=1, double=False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules()) and not model._forward_hooks
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
