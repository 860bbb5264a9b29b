"""Best responses to runs of one recipe that were not trained alike: each is attacked at its own radius."""

from dataclasses import replace
from pathlib import Path

import pytest

from small_runs import play, small
from sparring.errors import InputError
from sparring.reproduction.responses import ResponsePlan, exploit_group, exploit_runs


def test_seeds_at_other_radii_are_attacked_at_their_own_together_as_alone(tmp_path: Path) -> None:
    plan, folders = ResponsePlan(kinds=("recurrent",), fresh_seeds=1, epochs=2), list[Path]()
    for seed, eps in enumerate((0.1, 0.3)):
        folders.append(tmp_path / "gan_recurrent" / f"seed{seed}")
        play(replace(small("gan_recurrent", seed, max_epochs=2), eps=eps, eps_low=None), folders[-1])
    together = exploit_group(folders, plan)
    found = [(r.eps, r.worst, r.in_game) for folder in folders for r in together[folder]]
    alone = [(r.eps, r.worst, r.in_game) for folder in folders for r in exploit_group([folder], plan)[folder]]
    assert [eps for eps, *_ in found] == [0.1, 0.3] and found == alone


def test_a_run_that_was_trained_at_no_radius_is_not_exploited_there(tmp_path: Path) -> None:
    folder = tmp_path / "gan_recurrent" / "seed0"
    play(replace(small("gan_recurrent", max_epochs=1), eps=0.0, eps_low=None), folder)
    with pytest.raises(
        InputError, match="was trained at eps 0, where no adversary does anything; name another by --eps"
    ):
        exploit_runs(folder, ResponsePlan(kinds=("recurrent",), fresh_seeds=1, epochs=2))
