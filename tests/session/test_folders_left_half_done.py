"""Folders that were left half done, or hold more than runs: what is there counts for what it is."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from small_runs import play, small
from sparring import copies
from sparring.records import OutPaths, RunPaths, seed_folders
from sparring.reproduction.finished import finished


def test_a_backup_beside_the_runs_is_none_of_them_and_seeds_are_in_order(tmp_path: Path) -> None:
    recipe = tmp_path / "runs" / "fgsm"
    for name in ("seed10", "seed2"):
        play(small("fgsm", max_epochs=1), recipe / name)
    shutil.copytree(recipe / "seed2", recipe / "seed2-old")
    expected = [recipe / "seed2", recipe / "seed10"]
    assert seed_folders(recipe) == OutPaths(tmp_path).runs("fgsm") == finished(tmp_path) == expected


def test_a_run_that_is_forgotten_is_not_finished_from_the_first_file_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(small("fgsm", max_epochs=1), tmp_path)
    removed, unlink = list[str](), Path.unlink

    def noted(path: Path, **options: Any) -> None:
        removed.append(path.name)
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", noted)
    copies.clear(RunPaths(tmp_path))
    assert removed[0] == "run.json" and removed[-1] == "config.json" and len(removed) > 3
