"""Seeds of one stack go on in two, and seeds of several go on in one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from stacked_runs import SEEDS, SELDOM, alike, alone, folder, play, seeds_of, weights

from small_runs import ALONE, MAIN, STEPS, after, log, small
from sparring.errors import Interrupted
from sparring.models import stack_sizes
from sparring.reproduction.reproduce import stacks_of

FOUR = (0, 1, 2, 3)


@pytest.mark.parametrize("name", ["gan_tanh", "gan_recurrent"])
def test_seeds_interrupted_together_may_go_on_in_two_calls(name: str, tmp_path: Path) -> None:
    run = small(name, **SELDOM)
    play(seeds_of(run, FOUR), tmp_path / "whole")
    with pytest.raises(Interrupted):
        play(seeds_of(run, FOUR), tmp_path / "split", interrupted=after(7))
    for pair in ((0, 1), (3, 2)):
        notices: list[str] = []
        play(seeds_of(run, pair), tmp_path / "split", notice=notices.append)
        assert notices == [
            *["resume is valid but not bit-exact: copies 4 -> 2"] * 2,
            "going on from checkpoint-000000007.safetensors of 2 seeds: epoch 2, step 3",
        ]
    for seed in FOUR:
        alike(folder(tmp_path / "split", seed), folder(tmp_path / "whole", seed), 0.02)


@pytest.mark.parametrize("name", ["gan_scaled_init", "gan_recurrent"])
def test_seeds_interrupted_alone_may_go_on_together(name: str, tmp_path: Path) -> None:
    run = small(name, **SELDOM)
    play(seeds_of(run), tmp_path / "whole")
    for seed in SEEDS:
        with pytest.raises(Interrupted):
            alone(run, tmp_path / "merged", [seed], interrupted=after(7))
    notices: list[str] = []
    play(seeds_of(run), tmp_path / "merged", notice=notices.append)
    assert notices == [
        *["resume is valid but not bit-exact: copies 1 -> 3"] * 3,
        "going on from checkpoint-000000007.safetensors of 3 seeds: epoch 2, step 3",
    ]
    for seed in SEEDS:
        alike(folder(tmp_path / "merged", seed), folder(tmp_path / "whole", seed), 0.02)


def test_seeds_that_stand_far_apart_go_on_one_group_after_another(tmp_path: Path) -> None:
    run = small("vanilla", max_epochs=5)
    with pytest.raises(Interrupted):
        alone(run, tmp_path, [4], interrupted=after(4 * STEPS + 1))  # its beginning has been pruned
    notices: list[str] = []
    assert {record.epochs for record in play(seeds_of(run, (0, 4, 7)), tmp_path, notice=notices.append)} == {5}
    assert notices[1:] == [
        "seeds stand at 2 different steps; they go on one group after another, not bit-exact",
        "going on from checkpoint-000000017.safetensors of 1 seed: epoch 5, step 1",
    ]


def test_adversaries_that_are_done_alone_wait_for_the_others(tmp_path: Path) -> None:
    run = small("gan_tanh_init")
    play(seeds_of(run), tmp_path / "whole")
    with pytest.raises(Interrupted):
        alone(run, tmp_path / "apart", [SEEDS[0]], interrupted=after(ALONE * STEPS + 1))
    notices: list[str] = []
    play(seeds_of(run), tmp_path / "apart", notice=notices.append)
    assert not any("group" in text for text in notices)
    assert [len(log(tmp_path / "apart" / f"seed{seed}")) for seed in SEEDS] == [ALONE + MAIN] * 3
    for seed in SEEDS:
        alike(folder(tmp_path / "apart", seed), folder(tmp_path / "whole", seed), 0.02)


def test_large_networks_train_a_few_at_a_time_and_come_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small("gan_tanh", **SELDOM)
    play(seeds_of(run, FOUR), tmp_path / "whole")
    monkeypatch.setitem(stack_sizes.__globals__, "LARGE", 1)
    play(seeds_of(run, FOUR), tmp_path / "parts")
    for seed in FOUR:
        alike(folder(tmp_path / "parts", seed), folder(tmp_path / "whole", seed), 0.02)
    with pytest.raises(Interrupted):  # in the second pair, before its first checkpoint
        play(seeds_of(run, FOUR), tmp_path / "again", interrupted=after(MAIN * STEPS + 7))
    assert [folder(tmp_path / "again", seed).done.is_file() for seed in FOUR] == [True, True, False, False]
    notices: list[str] = []
    play(seeds_of(run, FOUR), tmp_path / "again", notice=notices.append)
    assert notices == ["going on from checkpoint-000000007.safetensors of 2 seeds: epoch 2, step 3"]
    for seed in FOUR:
        assert same_weights(tmp_path / "again", tmp_path / "parts", seed)


def same_weights(one: Path, other: Path, seed: int) -> bool:
    mine, its = (weights(folder(out, seed)) for out in (one, other))
    return bool(mine) and mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)


def test_stacks_are_large_on_a_gpu_and_where_networks_are_small() -> None:
    cpu = torch.device("cpu")
    assert stack_sizes(10, 110_000, cpu) == [10] and stack_sizes(10, 1_180_000, torch.device("cuda")) == [10]
    assert stack_sizes(10, 1_180_000, cpu) == [2] * 5 and stack_sizes(5, 1_180_000, cpu) == [3, 2]
    assert stack_sizes(11, 800_000, cpu) == [4, 4, 3] and stack_sizes(1, 10**9, cpu) == [1]
    for n in range(1, 30):  # once the first is done, the rest are split as before
        sizes = stack_sizes(n, 800_000, cpu)
        assert sum(sizes) == n and sizes[1:] == (stack_sizes(n - sizes[0], 800_000, cpu) if n > sizes[0] else [])


def test_seeds_are_spread_over_workers_on_a_processor_and_stay_together_on_a_gpu() -> None:
    assert stacks_of([0, 1, 2, 3, 4], 2, "cpu") == [(0, 2, 4), (1, 3)]
    assert stacks_of([3, 4], 16, "cpu") == [(3,), (4,)]
    assert stacks_of([0, 1, 2], 16, "cuda") == stacks_of([0, 1, 2], 16, "cuda:1") == [(0, 1, 2)]
