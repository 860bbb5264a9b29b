"""A stack goes on bit for bit wherever it stopped, and past damage."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from stacked_runs import SEEDS, STOPPING, came_all, folder, play, poisoned, seeds_of

from small_runs import MAIN, STEPS, after, damage, small
from sparring import copies, session
from sparring.config import Run
from sparring.errors import CorruptCheckpoint, Interrupted
from sparring.game.checkpoint import read_verified
from sparring.losses import LOSSES


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("gan_tanh_init", [3]),  # the adversaries alone, amid an epoch
        ("gan_tanh_init", [STEPS, 1, STEPS - 1]),  # after an epoch's last step, and after that of the adversaries alone
        ("gan_scaled_init", [2, 5, 5, 3]),  # again and again, in both phases
        ("gan_tanh", [6, 1, 2]),
        ("noise", [5, 3]),
        ("pgd", [7]),
        ("pgd2_drawn", [5]),
        ("gan_recurrent", [3, 2, 6]),
        ("gan_recurrent_cold", [6]),
        ("vanilla", [MAIN * STEPS]),
    ],
)
def test_interrupted_and_continued_equals_uninterrupted(
    name: str, stops: list[int], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    done = 0
    for steps in stops:
        with pytest.raises(Interrupted, match=r"stopped and saved in .*/seed4 and 2 others") as stopped:
            play(seeds_of(small(name)), tmp_path, interrupted=after(steps))
        assert stopped.value.signal_number == signal.SIGINT
        done += steps
        for seed in SEEDS:
            assert folder(tmp_path, seed).checkpoint(done).is_file() and not folder(tmp_path, seed).done.exists()
    notices: list[str] = []
    play(seeds_of(small(name)), tmp_path, notice=notices.append)
    assert notices[0].startswith(f"going on from checkpoint-{done:09d}.safetensors of 3 seeds: ")
    assert came_all(tmp_path) == came_all(whole(name))


class Killed(BaseException):
    """Ends the training at once, as a kill would."""


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the n-th write of a checkpoint, of weights or of a record kill the training, before it is made; 0: none."""
    left = [0]

    def dying(write: Callable[..., Any]) -> Callable[..., Any]:
        def dies(*given: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return write(*given, **more)

        return dies

    for module, name in (
        (session, "save_checkpoint"),
        (session, "save_weights"),
        (copies, "save_weights"),
        (copies, "write_json"),
    ):
        monkeypatch.setattr(module, name, dying(getattr(module, name)))
    return lambda n: left.__setitem__(0, n)


def uneven(name: str) -> Run:
    """A run whose seeds end in different epochs, and its adversaries alone in different ones too."""
    run = small(name, **(STOPPING | {"max_epochs": 12, "checkpoint_seconds": 0.0}))
    return replace(run, alone=run.alone and replace(run.alone, max_epochs=5, patience=1, flat=0.2))


@pytest.mark.parametrize(
    ("name", "stride"), [("vanilla", 1), ("gan_tanh", 2), ("gan_scaled_init", 3), ("gan_recurrent", 2)]
)
def test_killed_between_any_two_writes_and_continued_equals_uninterrupted(
    name: str, stride: int, kill: Callable[[int], None], tmp_path: Path
) -> None:
    run = uneven(name)
    epochs = {record.epochs for record in play(seeds_of(run), tmp_path / "whole")}
    assert len(epochs) > 1, "no seed outlived another"
    n, killed = 1, 0
    while True:
        kill(n)
        try:
            play(seeds_of(run), tmp_path / "killed")
            break
        except Killed:
            killed, n = killed + 1, n + stride
    kill(0)
    assert killed > 5 and came_all(tmp_path / "killed") == came_all(tmp_path / "whole")


def test_a_kill_between_the_checkpoints_of_two_seeds_costs_the_one_that_is_ahead_a_step_back(
    kill: Callable[[int], None], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    configs, saves = 2 * len(SEEDS), len(SEEDS)
    for n, step in ((configs + 2, 0), (2 * saves + 3, 8)):  # in the first save of all; then in the third
        kill(n)
        with pytest.raises(Killed):
            play(seeds_of(small("gan_tanh")), tmp_path)
        newest = [max((path.name for path in (tmp_path / f"seed{s}").glob("checkpoint-*")), default="") for s in SEEDS]
        assert newest[0] > newest[-1]
        notices: list[str] = []
        kill(1)
        with pytest.raises(Killed):
            play(seeds_of(small("gan_tanh")), tmp_path, notice=notices.append)
        froms = [f"going on from checkpoint-{step:09d}.safetensors of 3 seeds: epoch 3, step 0"] if step else []
        assert notices == froms
    kill(0)
    play(seeds_of(small("gan_tanh")), tmp_path)
    assert came_all(tmp_path) == came_all(whole("gan_tanh"))


def test_an_epochs_end_and_the_next_ones_start_are_not_taken_for_one_place(
    kill: Callable[[int], None], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        play(seeds_of(small("gan_tanh")), tmp_path, interrupted=after(STEPS + 1))
    with pytest.raises(Interrupted):
        play(seeds_of(small("gan_tanh")), tmp_path, interrupted=after(STEPS - 1))  # step 8, the epoch not closed
    kill(2)
    with pytest.raises(Killed):
        play(seeds_of(small("gan_tanh")), tmp_path)  # the first has its epoch closed, under the same number
    places = {str(read_verified(folder(tmp_path, seed).checkpoint(8))[1]["position"]["epoch"]) for seed in SEEDS}
    assert places == {"1", "2"}
    kill(0)
    notices: list[str] = []
    play(seeds_of(small("gan_tanh")), tmp_path, notice=notices.append)
    assert notices == ["going on from checkpoint-000000005.safetensors of 3 seeds: epoch 2, step 1"]
    assert came_all(tmp_path) == came_all(whole("gan_tanh"))


def test_a_divergence_is_not_forgotten_by_an_interruption_in_the_same_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small("gan_tanh")
    monkeypatch.setitem(LOSSES, "cross_entropy", poisoned("infinite gradient", 2 * STEPS + 1, copy=2))
    with pytest.raises(Interrupted):  # the gradients of the steps after the bad one are finite again
        play(seeds_of(run), tmp_path, interrupted=after(STEPS + 3))
    steps = [sorted(int(path.stem[-9:]) for path in (tmp_path / f"seed{s}").glob("checkpoint-*")) for s in SEEDS]
    assert steps == [[4, 7], [4, 7], [4]], "a frozen copy was saved as if it were sound"
    monkeypatch.setitem(LOSSES, "cross_entropy", poisoned("infinite gradient", 1, copy=2))
    assert [record.status for record in play(seeds_of(run), tmp_path)] == ["done", "done", "diverged"]


def test_damage_in_one_folder_takes_all_to_the_newest_sound_step(whole: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(seeds_of(small("gan_tanh")), tmp_path, interrupted=after(2 * STEPS + 2))
    damage(folder(tmp_path, SEEDS[1]).checkpoint(2 * STEPS + 2))
    notices: list[str] = []
    play(seeds_of(small("gan_tanh")), tmp_path, notice=notices.append)
    assert "seed0/checkpoint-000000010.safetensors is damaged" in notices[0]
    assert notices[1:] == ["going on from checkpoint-000000008.safetensors of 3 seeds: epoch 3, step 0"]
    assert came_all(tmp_path) == came_all(whole("gan_tanh"))


def test_where_all_checkpoints_of_a_seed_are_damaged_nothing_starts_afresh(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(seeds_of(small("vanilla")), tmp_path, interrupted=after(2))
    damage(folder(tmp_path, SEEDS[1]).checkpoint(2))
    with pytest.raises(CorruptCheckpoint, match=r"all 1 checkpoints in .*seed0 are damaged; --restart"):
        play(seeds_of(small("vanilla")), tmp_path)
    assert folder(tmp_path, SEEDS[0]).checkpoint(2).is_file()
