"""A recurrent game's past adversaries meet its past defenders as those of the paper's games do."""

from dataclasses import replace
from pathlib import Path

from small_runs import play, small
from sparring.targets import has_past, payoffs_of_run


def test_a_recurrent_game_that_kept_its_players_has_payoffs(tmp_path: Path) -> None:
    for name, expected in (("gan_recurrent", 9), ("gan_tanh", 9), ("fgsm", 0)):
        folder = tmp_path / name
        play(replace(small(name, max_epochs=3), history=1), folder)
        found = payoffs_of_run(folder)
        assert len(found) == expected and has_past(folder) == bool(expected), name
        assert {(p.adversary_epoch, p.defender_epoch) for p in found} == {
            (adversary, defender) for adversary in range(1, 4) for defender in range(1, 4) if expected
        }
