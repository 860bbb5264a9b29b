"""What the commands say of themselves, and that it loads nothing slow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from called import Call, python

from sparring import recipes
from sparring.cli import COMMANDS


def test_the_usage_names_every_command(call: Call) -> None:
    for words in ([], ["--help"], ["-h"], ["help"]):
        code, out, err = call(*words)
        assert code == 0 and err == ""
        assert set(re.findall(r"^  (\w+) ", out, re.MULTILINE)) == set(COMMANDS)
        assert "130 interrupted" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(command: str, call: Call) -> None:
    code, out, err = call(command, "--help")
    assert code == 0 and err == "" and f"usage: sparring {command}" in out


def test_training_help_shows_the_settings_of_the_recipe(call: Call) -> None:
    _, game, _ = call("train", "gan_tanh", "--help")
    _, plain, _ = call("train", "vanilla", "--help")
    assert "--adversary.bound" in game and "--adversary.bound" not in plain
    assert "--training.batch-size" in game and "--recipe" not in game
    assert recipes.describe("gan_tanh")[:40] in " ".join(game.split())


def test_the_version(call: Call) -> None:
    code, out, _ = call("--version")
    assert code == 0 and re.fullmatch(r"sparring \d+\.\d+\.\d+\S*\n", out)


# What takes long to load, or what only an import of those would bring in: help and plans need none of it.
SLOW = {
    "torch",
    "numpy",
    "safetensors",
    "altair",
    "vl_convert",
    "jinja2",
    "rich",
    "sparring.measure",
    "sparring.reproduction",
}
SLOW |= {"tyro", "typeguard", "docstring_parser", "unittest", "asyncio", "multiprocessing", "importlib.metadata"}


def test_help_and_plans_load_nothing_slow(tmp_path: Path) -> None:
    calls = [["--help"], ["--version"], ["nonsense"], ["recipes"], ["train", "gan_tanh_init", "--help"]]
    calls += [[command, "--help"] for command in COMMANDS]
    calls += [["demo", "--dry-run"], ["reproduce", "--dry-run"], ["train", "gan_tanh", "--dry-run"]]
    code = f"import sys\nfrom sparring.cli import main\nfor words in {calls!r}:\n"
    code += "    try:\n        main(words)\n    except SystemExit:\n        pass\n"
    code += f"    assert not {SLOW!r} & set(sys.modules), (words, {SLOW!r} & set(sys.modules))\n"
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: sparring") == len(COMMANDS) + 2
