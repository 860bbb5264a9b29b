"""The end of a recurrent game: the adversary learns in all its rounds, the defender not at all, however the game was played."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from small_runs import digits, play, small
from sparring import recipes, session
from sparring.adversaries import RecurrentAdversary
from sparring.attacks import LearnedAttack
from sparring.experiment import load
from sparring.game import closing
from sparring.game.closing import CLOSING, close, closing_turns
from sparring.game.game import Game, fit_together
from sparring.game.unrolled import learns_at
from sparring.losses import log_odds
from sparring.models import mlp
from sparring.records import RunPaths
from sparring.session import train_runs
from sparring.targets import co_trained_examples
from sparring.threat import ThreatModel

TRAIN, TEST = sparring.data.load("digits")
THREAT = ThreatModel(0.2, TRAIN.shape)


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def model_of(seed: int = 0) -> nn.Module:
    return mlp(TRAIN.shape, [32, 10], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("most", "epochs", "steps", "every", "turns"),
    [(60, 30, 468, 16, 60), (60, 20, 11, 16, 20), (60, 1, 17, 16, 2), (0, 30, 468, 16, 0), (60, 30, 468, 0, 0)],
)
def test_it_has_as_many_turns_as_the_game_had_and_no_more_than_asked(
    most: int, epochs: int, steps: int, every: int, turns: int
) -> None:
    assert closing_turns(most, epochs, steps, every) == turns
    had = epochs * sum(learns_at(step, every) for step in range(steps))
    assert turns == min(most, had)


def test_regimes_and_games_close_alike_and_one_that_never_learns_does_not() -> None:
    asking = recipes.recipe("gan_recurrent").recurrent
    assert asking is not None and asking.closing == CLOSING
    never = recipes.recipe("gan_recurrent_fixed").recurrent
    assert never is not None and closing_turns(never.closing, 30, 468, never.every) == 0


def test_step_sizes_too_long_for_ten_rounds_become_shorter_and_the_attack_stronger() -> None:
    defender = Game(model_of(), eps=0.3, eps_low=0.01).fit(TRAIN, epochs=20).defender
    adversary = RecurrentAdversary(TRAIN.shape, step=2.0, rounds=10)
    attack, (x, y), steps = LearnedAttack(adversary, THREAT), (TEST.floats(), TEST.labels), adversary.log_step.tolist()
    before = log_odds(defender(attack(defender, x, y)), y).mean()
    close(adversary, defender, TRAIN, ThreatModel(0.3, TRAIN.shape), turns=CLOSING, seed=0, low=0.01)
    assert all(now < then - 0.1 for now, then in zip(adversary.log_step.tolist(), steps, strict=True))
    assert log_odds(defender(attack(defender, x, y)), y).mean() > before + 0.005


def test_a_games_defender_is_the_same_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = list[Game]()
    for most in (0, CLOSING):
        monkeypatch.setattr("sparring.game.game.CLOSING", most)
        ended.append(Game(model_of(), eps=0.3, eps_low=0.01).fit(TRAIN, epochs=10))
        assert not ended[-1].defender.training
    without, closed = ended
    assert torch.equal(flat(without.defender), flat(closed.defender))
    assert not torch.equal(flat(without.attack.adversary), flat(closed.attack.adversary))


def test_nothing_but_the_adversary_changes_and_the_seed_decides() -> None:
    model = model_of().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.random.get_rng_state()

    def closed(seed: int, turns: int = 5, **how: Any) -> Tensor:
        adversary = RecurrentAdversary(TRAIN.shape, rounds=3)
        close(adversary, model, TRAIN, THREAT, turns=turns, seed=seed, **how)
        return flat(adversary)

    once = closed(0)
    assert (
        torch.equal(once, closed(0)) and not torch.equal(once, closed(1)) and not torch.equal(once, closed(0, low=0.0))
    )
    assert torch.equal(closed(0, turns=0), flat(RecurrentAdversary(TRAIN.shape, rounds=3)))
    assert model.training and all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_it_has_its_turns_in_every_round() -> None:
    asked = list[int]()
    model = model_of()
    model.register_forward_hook(lambda *_: asked.append(1))
    counts = []
    for turns in range(1, 5):
        asked.clear()
        close(RecurrentAdversary(TRAIN.shape, queries=1, rounds=3), model, TRAIN, THREAT, turns=turns, seed=0)
        counts.append(len(asked))
    assert [b - a for a, b in zip([0, *counts], counts, strict=False)] == [
        2,
        3,
        4,
        2,
    ]  # rounds before, its own, the end


def test_where_a_step_is_not_finite_the_adversary_stays() -> None:
    model = model_of()
    with torch.no_grad():
        model.linears[-1].weight[0, 0] = torch.nan  # type: ignore[union-attr, operator, index]
    adversary = RecurrentAdversary(TRAIN.shape, rounds=2)
    before = flat(adversary)
    close(adversary, model, TRAIN, THREAT, turns=3, seed=0)
    assert torch.equal(flat(adversary), before)


def test_games_played_together_are_closed_as_each_alone() -> None:
    together = [Game(model_of(seed), eps=0.2, seed=seed) for seed in (0, 1)]
    fit_together(together, TRAIN, epochs=4, stacked=True)
    for seed, game in enumerate(together):
        alone = Game(model_of(seed), eps=0.2, seed=seed).fit(TRAIN, epochs=4)
        torch.testing.assert_close(flat(game.attack.adversary), flat(alone.attack.adversary), atol=1e-3, rtol=1e-3)


def test_runs_are_closed_in_stacks_as_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [small("gan_recurrent", seed, max_epochs=12) for seed in (0, 1)]
    monkeypatch.setattr(session, "stack_sizes", lambda n, *_: [n])
    stacked = [RunPaths(tmp_path / f"stacked{seed}") for seed in (0, 1)]
    train_runs(runs, stacked, digits())
    for run, paths in zip(runs, stacked, strict=True):
        play(run, tmp_path / f"alone{run.seed}")
        plain = replace(run, recurrent=replace(run.recurrent, closing=0))  # type: ignore[type-var]
        play(plain, tmp_path / f"plain{run.seed}")
        one, other, unclosed = (
            load(folder) for folder in (paths.folder, tmp_path / f"alone{run.seed}", tmp_path / f"plain{run.seed}")
        )
        assert torch.equal(flat(other.defender), flat(unclosed.defender))
        torch.testing.assert_close(flat(one.adversary), flat(other.adversary), atol=1e-3, rtol=1e-3)  # type: ignore[arg-type]
        assert not torch.equal(flat(other.adversary), flat(unclosed.adversary))  # type: ignore[arg-type]


def test_a_run_that_is_killed_while_it_closes_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small("gan_recurrent", max_epochs=12)
    play(run, tmp_path / "whole")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "close", killed)
        with pytest.raises(KeyboardInterrupt):
            play(run, tmp_path / "killed")
    assert not RunPaths(tmp_path / "killed").done.is_file()
    play(run, tmp_path / "killed")
    for name in ("adversary.safetensors", "defender.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_an_audit_says_that_the_adversary_saw_counts_them(tmp_path: Path) -> None:
    play(small("gan_recurrent", max_epochs=12), tmp_path / "run")
    trained = load(tmp_path / "run")
    n = len(digits())
    game, turns = 12 * 64, 12  # one step an epoch, of every example; then as many closing ones
    assert co_trained_examples(trained, n) == game + turns * closing.BATCH
