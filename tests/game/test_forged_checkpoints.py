"""Checkpoints whose checksum is right: what does not fit, or is not finite, is refused by name, and nothing half loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import forge, players, position, same, states
from torch import Tensor, nn

from sparring.errors import CorruptCheckpoint, Diverged, InputError
from sparring.game import Progress, checkpoint
from sparring.game.checkpoint import (
    load_weights,
    read_verified,
    restore_checkpoint,
    save_checkpoint,
    save_weights,
    write_verified,
)

POSITION = {"epoch": 1, "step": 2, "best": "inf", "stale": 0, "stopped": "", "seconds": 0.5, "sums": []}


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "{", "", "[" * 100_000, "NaN", '{"format": }'])
def test_a_header_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    forge(tmp_path / "c", {"a": torch.zeros(2)}, {"sparring": text})
    with pytest.raises(CorruptCheckpoint):
        read_verified(tmp_path / "c")


def test_a_file_without_our_header_is_refused(tmp_path: Path) -> None:
    forge(tmp_path / "c", {"a": torch.zeros(2)}, {})
    with pytest.raises(CorruptCheckpoint):
        read_verified(tmp_path / "c")


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        "text",
        7,
        {},
        {"epoch": 1},
        POSITION | {"more": 1},
        *(POSITION | {name: None} for name in POSITION),
        *(POSITION | {name: {}} for name in POSITION),
        *(POSITION | {name: "?"} for name in POSITION if name != "stopped"),
        *(POSITION | {name: True} for name in POSITION),
        *(POSITION | {name: -1} for name in ("epoch", "step", "stale")),
        POSITION | {"epoch": 1.5},
        POSITION | {"best": "nan"},
        POSITION | {"best": "0x1p99999"},
        POSITION | {"seconds": float("nan")},
        POSITION | {"seconds": float("inf")},
        POSITION | {"sums": ["a"]},
        POSITION | {"sums": [[]]},
    ],
    ids=str,
)
def test_a_position_of_the_wrong_types_is_refused(wrong: Any, saved: Path) -> None:
    tensors, header = read_verified(saved)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("sums.")}
    both = players(seed=1)
    forge(saved, tensors, {"sparring": json.dumps(header | {"position": wrong})})
    with pytest.raises(CorruptCheckpoint, match="the checkpoint"):
        restore_checkpoint(*read_verified(saved), both)
    assert same(states(both), states(players(seed=1)))
    forge(saved, tensors, {"sparring": json.dumps(header | {"position": POSITION})})
    assert restore_checkpoint(*read_verified(saved), both).step == 2


@pytest.mark.parametrize("version", [None, "0", "2", 1, [], {"a": 1}])
def test_an_unknown_format_is_refused(version: Any, saved: Path) -> None:
    tensors, header = read_verified(saved)
    both = players(seed=1)
    with pytest.raises(InputError, match="format"):
        restore_checkpoint(tensors, header | {"format": version}, both)
    assert same(states(both), states(players(seed=1)))


def changed(tensors: dict[str, Tensor], how: str, name: str) -> dict[str, Tensor]:
    others = {key: tensor for key, tensor in tensors.items() if key != name}
    return {
        "missing": others,
        "extra": tensors | {f"{name}.more": torch.zeros(2)},
        "renamed": others | {f"{name}_": tensors[name]},
        "other type": others | {name: tensors[name].to(torch.int32)},
        "other shape": others | {name: torch.zeros(2, 3)},
    }[how]


@pytest.mark.parametrize("how", ["missing", "extra", "renamed", "other type", "other shape"])
@pytest.mark.parametrize(
    "name",
    [
        "adversary.network.network.linears.0.weight",
        "defender.network.linears.1.weight",
        "defender.network.norms.0.num_batches_tracked",
        "defender.optimizer.buffer.0",
        "defender.rule.previous",
        "defender.lr",
        "defender.grad_norm",
    ],
)
def test_a_state_that_does_not_fit_is_named_and_nothing_is_loaded(name: str, how: str, saved: Path) -> None:
    tensors, header = read_verified(saved)
    both = players(seed=1)
    owner, _, key = name.partition(".")
    with pytest.raises(InputError, match=re.escape(key)) as error:
        restore_checkpoint(changed(tensors, how, name), header, both)
    assert owner in str(error.value)
    assert same(states(both), states(players(seed=1))), "a refused checkpoint was loaded in part"


def test_another_architecture_is_refused_whole(saved: Path) -> None:
    tensors, header = read_verified(saved)
    both = players(seed=1, hidden=5)
    with pytest.raises(InputError, match=r"defender has 'network.*shape"):
        restore_checkpoint(tensors, header, both)
    assert same(states(both), states(players(seed=1, hidden=5)))


def test_a_player_too_many_or_too_few_is_refused(saved: Path, tmp_path: Path) -> None:
    both = players(seed=1)
    with pytest.raises(InputError, match="adversary"):
        restore_checkpoint(*read_verified(saved), both[1:])
    save_checkpoint(tmp_path / "alone", both[1:], position(), {})
    with pytest.raises(InputError, match="adversary"):
        restore_checkpoint(*read_verified(tmp_path / "alone"), both)
    assert same(states(both), states(players(seed=1)))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", nn.Linear(3, 2), {"recipe": "x"})
    other = nn.Linear(3, 4)
    before = other.weight.detach().clone()
    with pytest.raises(InputError, match="shape"):
        load_weights(tmp_path / "w", other)
    assert torch.equal(other.weight, before)
    assert load_weights(tmp_path / "w", nn.Linear(3, 2)) == {"recipe": "x"}


# Values


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["network.linears.0.weight", "network.norms.0.running_var", "optimizer.buffer.1", "lr", "rule.previous"]
)
def test_what_is_not_finite_is_neither_saved_nor_loaded(name: str, value: float, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "new"
    both = players()
    if name == "rule.previous" and value == float("inf"):
        pytest.skip("the rule starts there")
    with torch.no_grad():
        both[1].state()[name].view(-1)[-1] = value
    with pytest.raises(Diverged, match=re.escape(name)):
        save_checkpoint(path, both, position(), {})
    assert sorted(tmp_path.iterdir()) == [saved]
    tensors, header = read_verified(saved)
    tensors[f"defender.{name}"].view(-1)[-1] = value
    forge(path, tensors, {"sparring": json.dumps(header)})
    with pytest.raises(CorruptCheckpoint, match=re.escape(name)):
        read_verified(path)


def test_sums_and_complex_numbers_must_be_finite(tmp_path: Path) -> None:
    sums = Progress(sums={"loss": torch.tensor(float("nan"))})
    with pytest.raises(Diverged, match=r"sums\.loss"):
        save_checkpoint(tmp_path / "c", players(), sums, {})
    with pytest.raises(Diverged, match="z has"):
        write_verified(tmp_path / "c", {"z": torch.tensor(complex("nan"))}, {})
    with pytest.raises(Diverged, match="previous"):
        write_verified(tmp_path / "c", {"defender.network.rule.previous": torch.tensor(torch.inf)}, {})
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_that_could_not_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("LARGEST", "LARGEST_HEADER"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, limit, 100)
            with pytest.raises(InputError, match="more than can be read"):
                save_checkpoint(tmp_path / "c", players(), position(), {})
    assert not list(tmp_path.iterdir())


def test_a_file_larger_than_any_checkpoint_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "c").open("wb") as file:
        file.truncate(checkpoint.LARGEST + 1)  # sparse
    with pytest.raises(CorruptCheckpoint, match="larger than any"):
        read_verified(tmp_path / "c")
