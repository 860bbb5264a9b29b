"""A training that is killed and resumed, however often, ends bit for bit where one ends that never stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import game_harness as harness
import torch

from sparring.errors import CorruptCheckpoint
from sparring.game import checkpoint

EPOCHS = 10  # of ten steps each
Torture = Callable[..., dict[str, Any]]

needs_fork = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="kills forked children; Linux only")


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Torture]:
    """Runs scenarios in a server process that has torch imported and one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment.pop("SPARRING_FAULT", None)
    command = [sys.executable, str(Path(harness.__file__))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdin is not None and server.stdout is not None
        stdin, stdout = server.stdin, server.stdout

        def scenario(kind: str, **settings: Any) -> dict[str, Any]:
            folder = tmp_path_factory.mktemp(kind)
            print(json.dumps({"kind": kind, "folder": str(folder), **settings}), file=stdin, flush=True)
            result: dict[str, Any] = json.loads(stdout.readline())
            return result

        yield scenario
        stdin.close()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], str]:
    """What a kind of run becomes when nothing stops it."""
    known: dict[tuple[str, int], str] = {}

    def end(kind: str, epochs: int) -> str:
        if (kind, epochs) not in known:
            folder = tmp_path_factory.mktemp("whole")
            known[kind, epochs] = harness.run(kind, folder, epochs=epochs, data=harness.digits())
        return known[kind, epochs]

    return end


def complaints(result: dict[str, Any], expected: str) -> list[str]:
    """Why a scenario does not show a sound trainer; none where it does."""
    wrong = []
    if result["status"] != 0:
        wrong.append(f"the last attempt ended with {result['status']}")
    if result["damaged"]:
        wrong.append(f"a kill left a damaged checkpoint: {result['damaged'][0]}")
    if result["left"]:
        wrong.append(f"temporary files were left: {result['left']}")
    if result["end"] != expected:
        wrong.append("it did not end where an uninterrupted run ends")
    return wrong


def resumed_share(result: dict[str, Any]) -> float:
    """Of the attempts that followed a kill, the share that went on from a step above 0."""
    assert len(result["starts"]) == result["kills"] + 1
    return sum(start > 0 for start in result["starts"][1:]) / result["kills"]


@pytest.mark.parametrize(
    ("kind", "stop_at", "epochs"),
    [
        *(("vanilla", 100, 20), ("noise", 100, 20), ("duel", 100, 20)),  # 100 + 100 steps
        *(
            ("adam", 50, 10),
            ("vanilla", 47, 10),
            ("duel", 47, 10),
            ("duel", 49, 10),
            ("duel", 3, 10),
        ),  # inside an epoch
    ],
)
def test_resume_equals_going_on(
    kind: str, stop_at: int, epochs: int, tmp_path: Path, uninterrupted: Callable[[str, int], str]
) -> None:
    data = harness.digits()
    starts: list[dict[str, Any]] = []
    with pytest.raises(harness.Stop):
        harness.run(kind, tmp_path, epochs=epochs, data=data, stop_at=stop_at)
    end = harness.run(kind, tmp_path, epochs=epochs, data=data, report=starts.append)
    assert starts == [{"from": stop_at, "damaged": [], "swept": []}]
    assert end == uninterrupted(kind, epochs)


def test_a_run_that_stops_by_itself_resumes_to_the_same_end(tmp_path: Path) -> None:
    data, ends = harness.digits(), []
    for stop_at in (None, 25):
        folder = tmp_path / str(stop_at)
        folder.mkdir()
        if stop_at:
            with pytest.raises(harness.Stop):
                harness.run("duel", folder, epochs=EPOCHS, data=data, patience=4, stop_at=stop_at)
        ends.append(harness.run("duel", folder, epochs=EPOCHS, data=data, patience=4))
        assert len((folder / "epochs.jsonl").read_text().splitlines()) < EPOCHS
    assert ends[0] == ends[1]


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    data = harness.digits()
    ends = [harness.run("duel", tmp_path, epochs=3, data=data) for _ in range(3)]
    assert len(set(ends)) == 1


def test_other_runs_have_other_fingerprints(uninterrupted: Callable[[str, int], str]) -> None:
    assert len({uninterrupted(kind, 10) for kind in harness.KINDS}) == len(harness.KINDS)


@needs_fork
def test_a_run_killed_eight_times_ends_bit_identical(
    torture: Torture, uninterrupted: Callable[[str, int], str]
) -> None:
    epochs = 2 * EPOCHS  # a fast machine must not come to the end before the eighth kill
    result = torture("duel", epochs=epochs, kills=8, seed=1)
    assert not complaints(result, uninterrupted("duel", epochs)), result
    assert result["kills"] == 8
    assert resumed_share(result) >= 0.9, result
    assert all(result["hits"].values()), result
    assert result["swept"], "no kill fell into the writing of a checkpoint"


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["duel", "adam", "noise"])
def test_a_run_killed_fifty_times_ends_bit_identical(
    kind: str, torture: Torture, uninterrupted: Callable[[str, int], str]
) -> None:
    epochs = 100  # a fast machine must not come to the end before the fiftieth kill
    result = torture(kind, epochs=epochs, kills=50, seed=2)
    assert not complaints(result, uninterrupted(kind, epochs)), result
    assert result["kills"] == 50
    assert resumed_share(result) >= 0.9, result
    assert min(result["hits"].values()) >= 3, result
    assert epochs * harness.STEPS // harness.EVERY >= 20


@needs_fork
@pytest.mark.parametrize(
    "mutation",
    [
        *("momentum", "batch_norm", "adversary_optimizer", "progress", "previous_loss", "in_place"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("rate", "sums", "position", "log")),
    ],
)
def test_the_harness_notices_a_broken_trainer(
    mutation: str, torture: Torture, uninterrupted: Callable[[str, int], str]
) -> None:
    result = torture("duel", epochs=6, kills=8, seed=1, mutation=mutation, outside=0)
    assert result["kills"] > 0
    wrong = complaints(result, uninterrupted("duel", 6))
    assert wrong, f"a trainer with a broken {mutation} passed: {result}"
    if mutation == "in_place":
        assert "damaged" in wrong[0]


@pytest.fixture(scope="module")
def cut_at_97(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a duel that was stopped after 97 steps."""
    folder = tmp_path_factory.mktemp("cut")
    with pytest.raises(harness.Stop):
        harness.run("duel", folder, epochs=EPOCHS, data=harness.digits(), stop_at=97)
    assert [path.name[-14:-12] for path in sorted(folder.glob("checkpoint-*"))] == ["93", "96", "97"]
    return folder


@pytest.fixture
def cut(cut_at_97: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return shutil.copytree(cut_at_97, tmp_path / "cut")


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_newest_checkpoint_is_named_and_the_older_one_used(
    share: float, cut: Path, uninterrupted: Callable[[str, int], str]
) -> None:
    starts: list[dict[str, Any]] = []
    newest = cut / "checkpoint-000000097.safetensors"
    os.truncate(newest, int(share * newest.stat().st_size))
    end = harness.run("duel", cut, epochs=10, data=harness.digits(), report=starts.append)
    assert end == uninterrupted("duel", 10)
    (start,) = starts
    assert start["from"] == 96
    assert len(start["damaged"]) == 1 and newest.name in start["damaged"][0]
    assert not newest.exists(), "the damaged file was never pruned"


def test_where_all_are_damaged_nothing_starts_afresh(cut: Path) -> None:
    for path in cut.glob("checkpoint-*"):
        os.truncate(path, 1000)
    before = {path.name: path.read_bytes() for path in cut.iterdir()}
    with pytest.raises(CorruptCheckpoint, match="all 3 checkpoints"):
        harness.run("duel", cut, epochs=EPOCHS, data=harness.digits())
    checkpoint.prune(cut)
    assert {path.name: path.read_bytes() for path in cut.iterdir()} == before


def test_checkpoints_written_after_a_fallback_outlive_newer_damaged_ones(cut: Path) -> None:
    for step in (96, 97):
        os.truncate(cut / f"checkpoint-{step:09d}.safetensors", 1000)
    with pytest.raises(harness.Stop):
        harness.run("duel", cut, epochs=EPOCHS, data=harness.digits(), stop_at=95)
    found = checkpoint.latest(cut, pytest.fail)
    assert found is not None and found[0].name == "checkpoint-000000095.safetensors"


def test_leftovers_of_dead_writers_are_swept_and_never_read(cut: Path) -> None:
    newest = cut / "checkpoint-000000097.safetensors"
    names = ["checkpoint-000000200.safetensors.tmp-4711", "results.jsonl.tmp-x1y2"]
    for name in names:
        shutil.copy(newest, cut / name)
    found = checkpoint.latest(cut, pytest.fail)
    assert found is not None and found[0] == newest
    assert checkpoint.sweep(cut) == names
    assert checkpoint.sweep(cut) == [] and newest.exists() and (cut / "epochs.jsonl").exists()


def test_the_global_generator_is_not_part_of_a_run(tmp_path: Path, uninterrupted: Callable[[str, int], str]) -> None:
    torch.manual_seed(12345)
    assert harness.run("noise", tmp_path, epochs=10, data=harness.digits()) == uninterrupted("noise", 10)
