"""A run's folder: what is written to it, what is loaded from it, and whom it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

import sparring
from small_runs import ALONE, MAIN, STEPS, after, digits, play, small
from sparring import copies, recipes
from sparring.errors import InputError, Interrupted
from sparring.experiment import load
from sparring.records import EpochRecord, RunPaths, RunRecord, read, read_json, restore, write_json
from sparring.session import train_run
from sparring.settings import to_dict

GAMES = tuple(name for name, made in recipes.RECIPES.items() if made().learner)

INPUTS = ["config.json", "environment.json", "epochs.jsonl", "defender.safetensors", "run.json"]


# What a run writes


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_writes_the_files_of_its_contract(name: str, whole: Callable[[str], Path]) -> None:
    folder = whole(name)
    expected = {*INPUTS, "run.lock"}
    expected |= {"adversary.safetensors"} if name in GAMES else set()
    expected |= {"adversary-alone.safetensors"} if name.endswith("_init") else set()
    names = {path.name for path in folder.iterdir()}
    checkpoints = {name for name in names if name.startswith("checkpoint-")}
    assert names - checkpoints == expected and len(checkpoints) == 3
    record = restore(RunRecord, read_json(folder / "run.json"))
    assert (record.recipe, record.seed, record.status, record.epochs) == (name, 0, "done", MAIN)
    assert record.stopped == f"{MAIN} epochs" and record.message == ""
    assert record.defender_parameters == sum(p.numel() for p in load(folder).defender.parameters())
    phases = [(line.phase, line.epoch, line.steps) for line in read(folder / "epochs.jsonl", EpochRecord)]
    alone = [("adversary", epoch, STEPS) for epoch in range(1, ALONE + 1)] if name.endswith("_init") else []
    assert phases == alone + [("main", epoch, STEPS) for epoch in range(1, MAIN + 1)]
    assert read_json(folder / "config.json") == to_dict(small(name))
    assert read_json(folder / "environment.json")["data"] == digits().fingerprint


@pytest.mark.parametrize("name", ["vanilla", "gan_tanh", "gan_scaled_init"])
def test_load_gives_the_players_ready_for_use(name: str, whole: Callable[[str], Path]) -> None:
    one, other = load(whole(name)), sparring.load(str(whole(name)))
    networks = [n for n in (one.defender, one.adversary, one.trained_alone) if n is not None]
    assert len(networks) == {"vanilla": 1, "gan_tanh": 2, "gan_scaled_init": 3}[name]
    assert (one.adversary is not None) == (name in GAMES)
    for network in networks:
        assert not any(module.training for module in network.modules())
        assert all(tensor.device.type == "cpu" for tensor in network.state_dict().values())
    x, y = digits().floats()[:20], digits().labels[:20]
    assert torch.equal(one.defender(x), other.defender(x))
    if one.adversary is not None:
        assert torch.equal(one.attack()(one.defender, x, y), other.attack()(other.defender, x, y))
    else:
        with pytest.raises(ValueError, match="has no adversary"):
            one.attack()


def test_load_says_what_a_folder_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not the folder of a run: it has no config\.json"):
        load(tmp_path)
    with pytest.raises(Interrupted):
        play(small("vanilla"), tmp_path, interrupted=after(2))
    with pytest.raises(InputError, match="is not finished"):
        load(tmp_path)


def test_a_finished_run_is_only_read(whole: Callable[[str], Path]) -> None:
    folder = whole("gan_tanh_init")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    record = play(small("gan_tanh_init"), folder, interrupted=lambda: pytest.fail("it trained"))
    assert record == restore(RunRecord, read_json(folder / "run.json"))
    now = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    lock = now.pop("run.lock"), before.pop("run.lock")
    assert now == before and len(lock) == 2  # the lock says who looked last


# Whom a folder refuses


@pytest.mark.parametrize("finished", [True, False])
def test_another_config_is_refused_by_the_name_of_its_key(finished: bool, tmp_path: Path) -> None:
    run = small("gan_tanh")
    if finished:
        play(run, tmp_path)
    else:
        with pytest.raises(Interrupted):
            play(run, tmp_path, interrupted=after(2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.lock"}
    for other, named in (
        (replace(run, eps=0.2), "eps: 0.1 -> 0.2"),
        (replace(run, seed=1), "seed: 0 -> 1"),
        (small("gan_tanh", patience=14), "training.patience: 15 -> 14"),
        (replace(run, defender=replace(run.defender, slope=0.1)), "defender.slope: 0.01 -> 0.1"),
    ):
        with pytest.raises(InputError, match=f"made by another config .{named}.; choose another --out, or --restart"):
            play(other, tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.lock"}


def test_what_cannot_change_the_result_is_no_other_config(tmp_path: Path) -> None:
    run = small("vanilla")
    with pytest.raises(Interrupted):
        play(run, tmp_path, interrupted=after(5))
    moved = replace(run, data=replace(run.data, root="/elsewhere"))
    moved = replace(moved, training=replace(run.training, checkpoint_seconds=99.0))
    assert play(moved, tmp_path).status == "done"


def test_other_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(small("vanilla"), tmp_path, interrupted=after(2))
    labels = digits().labels.clone()
    labels[0] = (labels[0] + 1) % 10
    with pytest.raises(InputError, match="was trained on other data"):
        train_run(small("vanilla"), RunPaths(tmp_path), replace(digits(), labels=labels))


def test_an_initialised_game_says_that_it_needs_vanilla(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train `vanilla` first"):
        train_run(small("gan_tanh_init"), RunPaths(tmp_path), digits())


def test_a_resume_on_another_machine_says_that_it_is_not_bit_exact(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        play(small("vanilla"), tmp_path, interrupted=after(5))
    there = read_json(tmp_path / "environment.json") | {"threads": 77}
    write_json(tmp_path / "environment.json", there)
    notices: list[str] = []
    assert play(small("vanilla"), tmp_path, notice=notices.append).status == "done"
    assert any(text.startswith("resume is valid but not bit-exact: threads 77 -> ") for text in notices)


def test_a_run_killed_before_it_wrote_its_config_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    for nth in (1, 2):  # the first writes of a run, cut off before either
        folder, calls = tmp_path / str(nth), [0]

        def dies(path: Path, value: Any, nth: int = nth, calls: list[int] = calls) -> None:
            calls[0] += 1
            if calls[0] == nth:
                raise Killed
            write_json(path, value)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(copies, "write_json", dies)
            play(small("vanilla", max_epochs=1), folder)
        assert play(small("vanilla", max_epochs=1), folder).status == "done"
