"""What a stack leaves in the folders of its seeds, and whom they keep out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from stacked_runs import SEEDS, alone, folder, play, seeds_of, weights

from small_runs import digits, log, small
from sparring import locks, session
from sparring.errors import Busy
from sparring.experiment import load
from sparring.game.checkpoint import read_verified
from sparring.models import MLP


def test_a_seed_of_a_stack_is_loaded_as_a_plain_model_with_the_stacks_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    sound = session.new_player
    monkeypatch.setattr(session, "new_player", lambda *a, **more: made.append(sound(*a, **more)) or made[-1])
    play(seeds_of(small("gan_tanh")), tmp_path)
    defender, adversary = (one.network.eval() for one in made)
    x, y = digits().floats()[:40], digits().labels[:40]
    with torch.no_grad():
        logits, pushed = (network(x.expand(3, *x.shape)) for network in (defender, adversary))
        for s, seed in enumerate(SEEDS):
            trained = load(tmp_path / f"seed{seed}")
            assert isinstance(trained.defender, MLP) and trained.run.seed == seed and trained.adversary is not None
            assert torch.allclose(trained.defender(x), logits[s], atol=1e-4)
            assert torch.allclose(trained.adversary(x), pushed[s], atol=1e-4)
            assert trained.attack()(trained.defender, x, y).shape == x.shape
    assert not torch.allclose(logits[0], logits[1], atol=0.1)


@pytest.mark.parametrize("name", ["noise", "gan_tanh_init"])
def test_a_stacks_files_are_in_form_those_of_a_seed_alone(
    name: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    alone(small(name), tmp_path, SEEDS[:1])
    mine, its = whole(name) / f"seed{SEEDS[0]}", tmp_path / f"seed{SEEDS[0]}"
    names = sorted(path.name for path in its.iterdir())
    assert sorted(path.name for path in mine.iterdir()) == names
    compared = [file for file in names if file.endswith(".safetensors")]
    assert len(compared) > 3
    for file in compared:
        (tensors, header), (own, own_header) = read_verified(mine / file), read_verified(its / file)
        forms = [{k: (v.dtype, v.shape) for k, v in one.items()} for one in (tensors, own)]
        assert forms[0] == forms[1], file
        assert header.keys() == own_header.keys()
        for key in ("phase", "digest", "data", "format", "config", "environment", "steps", "shape"):
            assert header.get(key) == own_header.get(key), key
        if "position" in header:
            position, own_position = (
                {k: type(v) if k in ("best", "seconds") else v for k, v in one["position"].items()}
                for one in (header, own_header)
            )
            assert position == own_position


def test_a_folder_in_use_keeps_all_of_a_call_out(tmp_path: Path) -> None:
    with locks.held(_made(tmp_path / "seed0") / "run.lock"), pytest.raises(Busy, match="seed0 is in use by process"):
        play(seeds_of(small("vanilla")), tmp_path)
    assert not list(tmp_path.rglob("config.json"))
    assert all(record.status == "done" for record in play(seeds_of(small("vanilla", max_epochs=1)), tmp_path))


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("name", ["pgd", "gan_tanh"])
def test_bf16_trains_a_stack_and_keeps_weights_in_fp32(name: str, tmp_path: Path) -> None:
    run = small(name, max_epochs=6)
    play(seeds_of(run), tmp_path / "fp32")
    play(seeds_of(replace(run, precision="bf16")), tmp_path / "bf16")
    for seed in SEEDS:
        mine, its = weights(folder(tmp_path / "bf16", seed)), weights(folder(tmp_path / "fp32", seed))
        assert {name: value.dtype for name, value in mine.items()} == {name: value.dtype for name, value in its.items()}
        assert any(not torch.equal(mine[name], its[name]) for name in mine), "it multiplied in fp32"
        losses = [line["defender_loss"] for line in log(tmp_path / "bf16" / f"seed{seed}")]
        assert losses[-1] < 0.7 * losses[0]
