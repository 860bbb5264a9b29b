"""The command line: what it prints where, its one-line errors, its exit codes, and that it can be stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytest

pytest.importorskip("torch")

from sparring import cli, errors, faults, recipes
from sparring.cli import COMMANDS, flags, main
from sparring.data import DataNotFound, download
from sparring.game.checkpoint import read_verified
from sparring.measure import Measurement
from sparring.records import OutPaths, ReproductionRecord, RunRecord, read_json, restore, write_json
from sparring.reproduction.tasks import load_once

TINY = ["--defender.hidden", "16", "--training.max-epochs", "2"]
GAME = [*TINY, "--adversary.hidden", "16"]

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """The command in this process, in an empty folder: its exit code, standard output and error output."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("SPARRING_DEBUG", raising=False)

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def refused(result: tuple[int, str, str], code: int = 2) -> str:
    """The one line that a refused call prints, once it is one."""
    got, out, err = result
    assert (got, out) == (code, "") and err.count("\n") == 1 and err.startswith("sparring: "), result
    return err


ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(cli.__file__).parents[2]),
    "SPARRING_DEBUG": "",
    "OMP_NUM_THREADS": "1",
}


def python(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def program(*words: object) -> list[str]:
    return ["-m", "sparring", *map(str, words)]


# Help


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


# Input that cannot be used


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("trian vanilla", "unknown command 'trian'; did you mean 'train'?"),
        ("train", "train needs a recipe: vanilla, noise,"),
        ("train gan_tan", "unknown recipe 'gan_tan'; did you mean 'gan_tanh'?"),
        ("reproduce --recipes vanila --dry-run", "unknown recipe 'vanila'; did you mean 'vanilla'?"),
        ("reproduce --dat mnist", "Unrecognized options: --dat, mnist; did you mean '--data'?"),
        ("train gan_tanh --trainin.max-epochs 3", "did you mean '--training.max-epochs'?"),
        ("train gan_tanh --adversary.optimiser.lr 3", "did you mean '--adversary.optimizer.lr'?"),
        ("train vanilla --data digits", "Unrecognized options: --data, digits; did you mean '--data.name'?"),
        ("train gan_tanh --opponent=fgsm", "Unrecognized options: --opponent=fgsm; did you mean '--opponent.kind'?"),
        ("train vanilla --adversary.bound tanh", "Unrecognized options: --adversary.bound"),
        ("evaluate OUT --pgd-step 3", "did you mean '--pgd-steps'?"),
        ("evaluate", "the following arguments are required: FOLDER (sparring evaluate --help lists all)"),
        ("train vanilla --eps 8", "eps must be in [0, 1] on the pixel scale, got 8.0; did you mean 8/255 = 0.0314?"),
        ("train vanilla --eps=-0.1", "eps must be in [0, 1] on the pixel scale, got -0.1"),
        ("train vanilla --eps nan", "eps must be in [0, 1] on the pixel scale, got nan"),
        ("train vanilla --eps inf", "eps must be in [0, 1] on the pixel scale, got inf"),
        (
            "train gan_tanh --training.clean-share 0.999 --dry-run",
            "training.clean_share 0.999 leaves the adversary none of a minibatch's 128 examples; lower it,",
        ),
        ("train vanilla --eps much", "--eps must be a number, got 'much'"),
        ("train vanilla --eps", "--eps expected one argument"),
        ("train vanilla --seeds 0 one", "--seeds must be a whole number, got 'one'"),
        ("train vanilla --json=3", "--json/--no-json ignored explicit argument '3'"),
        ("train pgd --opponent.steps 0", "opponent.steps must be >= 1; got 0"),
        ("train pgd --opponent.reach 0.5", "PGD cannot reach the boundary"),
        ("train gan_tanh --play.adversary-steps 0", "play.adversary_steps must be >= 1; got 0"),
        ("train gan_tanh --play.first defendr", "play.first cannot be 'defendr'; did you mean 'defender'?"),
        ("train vanilla --training.batch-size 1", "training.batch_size must be >= 2; got 1"),
        ("train vanilla --training.max-epochs 2.5", "--training.max-epochs must be a whole number, got '2.5'"),
        ("train vanilla --defender.optimizer.lr 0", "optimizer.lr must be > 0 and finite; got 0"),
        ("train vanilla --data.name mnits", "data.name cannot be 'mnits'; did you mean 'mnist'?"),
        ("train vanilla --opponent.kind adversary", "opponent.kind='adversary' contradicts adversary=None"),
        ("train vanilla --seeds 1 1", "seeds must be different numbers"),
        ("train vanilla --workers -1", "workers must be >= 0; got -1"),
        ("train vanilla --device gpu", "unknown device 'gpu'; use auto, cpu, cuda or mps"),
        ("reproduce --data digits --device gpu", "unknown device 'gpu'"),
        ("train vanilla --device gpu --dry-run", "unknown device 'gpu'; use auto, cpu, cuda or mps"),
        ("reproduce --data digits --measure-on gpu", "unknown device 'gpu'; use auto, cpu, cuda or mps"),
        ("reproduce --data digits --device gpu --dry-run", "unknown device 'gpu'"),
        ("reproduce --data digits --measure-on gpu --dry-run", "unknown device 'gpu'"),
        ("reproduce --precision fp16 --dry-run", "precision cannot be 'fp16'; did you mean 'bf16'?"),
        ("reproduce --batch-size 1 --dry-run", "training.batch_size must be >= 2; got 1"),
        ("reproduce --max-epochs 0 --dry-run", "training.max_epochs must be >= 1; got 0"),
        ("reproduce --recipes fgsm --dry-run", "a reproduction needs the recipe 'vanilla'"),
        ("demo --workers -1 --dry-run", "workers must be >= 0; got -1"),
        ("reproduce --data digits --recipes fgsm", "a reproduction needs the recipe 'vanilla'"),
        ("reproduce --data digits --seeds 0", "seeds must be different numbers, at least one; got --seeds 0"),
        ("train vanilla --seeds 0", "seeds must be different numbers, at least one; got --seeds 0"),
        ("demo --seeds -2", "seeds must be different numbers, at least one; got --seeds -2"),
        ("demo --seeds 2 3 2 --dry-run", "seeds must be different numbers, at least one; got --seeds 2 3 2"),
        ("train vanilla --seeds", "seeds must be different numbers, at least one; got --seeds"),
        ("train vanilla --seed", "--seed expected 1 argument"),
        ("train vanilla --seed two", "--seed must be a whole number, got 'two'"),
        ("train vanilla --config", "--config needs a TOML file"),
        ("train vanilla --config absent.toml", "there is no config file absent.toml"),
        ("report .", "holds no reproduction.json; make one with: sparring reproduce"),
        ("evaluate .", "holds no finished run"),
        ("evaluate . --pgd-restarts 0", "pgd_restarts must be >= 1; got 0"),
        ("evaluate . --pgd-steps 0", "pgd_steps must be >= 1; got 0"),
        ("evaluate . --fresh-epochs 0", "fresh_epochs must be >= 1; got 0"),
        ("evaluate . --fresh-seeds", "fresh_seeds must be different numbers, at least one; got ()"),
        ("evaluate . --fresh-seeds 1 1", "fresh_seeds must be different numbers, at least one; got (1, 1)"),
    ],
)
def test_wrong_input_is_one_line_that_helps(words: str, expected: str, call: Call) -> None:
    line = refused(call(*words.split()))
    assert expected in line and "─" not in line and "│" not in line
    assert not list(Path.cwd().iterdir()), "nothing was begun"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_line_is_the_same_on_any_terminal(encoding: str, tmp_path: Path) -> None:
    done = python(*program("reproduce", "--dat", "mnist"), cwd=tmp_path, PYTHONIOENCODING=encoding, COLUMNS="60")
    said = "Unrecognized options: --dat, mnist; did you mean '--data'? (sparring reproduce --help lists all)"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"sparring: {said}\n")


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("[trainin]\nmax_epochs = 2\n", "unknown key 'trainin'; did you mean 'training'?"),
        ("[training]\nmax_epoch = 2\n", "unknown key 'max_epoch' in [training]; did you mean 'max_epochs'?"),
        ("[training]\nmax_epochs = '2'\n", "training.max_epochs must be int, got '2'"),
        ("training = 3\n", "training must be a table of settings, got 3"),
        ("eps = 8\n", "did you mean 8/255 = 0.0314?"),
        ("eps = true\n", "eps must be float, got True"),
        ("recipe = 'fgsm'\n", "'recipe' cannot stand in a config file; give it on the command line"),
        ("seed = 3\n", "'seed' cannot stand in a config file"),
        ("out = 3\n", "out must be str, got 3"),
        ("seeds = 3\n", "seeds must be list, got 3"),
        ("seeds = ['a']\n", "seeds must be a list of whole numbers, got ['a']"),
        ("eps = 0.1\neps = 0.2\n", "is not TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "is not TOML"),
        ("\0", "is not TOML"),
    ],
)
def test_a_wrong_config_file_is_refused_by_the_name_of_its_key(toml: str, expected: str, call: Call) -> None:
    Path("run.toml").write_text(toml)
    assert expected in refused(call("train", "vanilla", "--config", "run.toml", "--dry-run"))


def test_a_config_file_goes_over_the_recipe_and_flags_over_both(call: Call) -> None:
    Path("run.toml").write_text(
        'out = "there"\nseeds = [4, 5]\neps = 0.3\n[training]\nmax_epochs = 7\npatience = 9\n[adversary]\nhidden = [32]\n'
    )
    for words in (["--config", "run.toml"], ["--config=run.toml"]):
        code, out, err = call("train", "gan_tanh", *words, "--training.max-epochs", 8, "--dry-run")
        assert code == 0 and err == ""
        head, _, config = out.partition("\n")
        assert head == "would train gan_tanh with seeds 4 5 into there; the resolved config:"
        run = json.loads(config)
        assert (run["eps"], run["training"]["max_epochs"], run["training"]["patience"]) == (0.3, 8, 9)
        assert run["adversary"]["hidden"] == [32] and run["adversary"]["bound"] == "tanh"
        assert run["training"]["min_lr"] == recipes.gan_tanh().training.min_lr
    code, out, _ = call("train", "gan_tanh", "--config", "run.toml", "--out", "else", "--seeds", 1, "--dry-run")
    assert out.startswith("would train gan_tanh with seeds 0 into else")


@pytest.mark.parametrize("words", ["demo", "reproduce", "reproduce --data digits --seeds 4 5", "train gan_tanh_init"])
def test_a_dry_run_writes_nothing(words: str, call: Call) -> None:
    code, out, err = call(*words.split(), "--dry-run")
    assert code == 0 and out.startswith("would train ") and err == ""
    assert not list(Path.cwd().iterdir())
    code, out, err = call(*words.split(), "--dry-run", "--json")
    assert code == 0 and json.loads(out)["would"].startswith("train ") and err == ""


def test_missing_data_are_explained_in_one_line(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*_: object, **__: object) -> NoReturn:
        raise OSError("no network in this test")

    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("SPARRING_DATA", str(empty))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(download.urllib.request, "urlopen", no_network)
    load_once.cache_clear()
    for words in (["reproduce", "--data", "mnist"], ["train", "vanilla", "--data.name", "mnist"]):
        line = refused(call(*words))
        for part in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", str(empty), "SPARRING_DATA", "--data-root"):
            assert part in line
        assert "--data digits" in line and str(tmp_path / ".cache" / "sparring") in line and "no network" in line
    assert not list(empty.iterdir()) and not (Path.cwd() / "out" / "runs").exists()


@pytest.mark.parametrize(
    ("name", "made", "expected"),
    [
        ("for_larger_images", "nn.Linear(784, 10)", "the model fails on inputs (8, 1, 8, 8)"),
        ("in_float64", "nn.Linear(64, 10).double()", "its weights are float64, so give it as .float()"),
        ("for_fewer_classes", "nn.Linear(64, 9)", "the model returned (8, 9)"),
    ],
)
def test_a_model_that_cannot_be_audited_is_one_line(name: str, made: str, expected: str, call: Call) -> None:
    Path(f"{name}.py").write_text(f"from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), {made})\n")
    assert expected in refused(call("audit", f"{name}:net", "--data", "digits", "--eps", "0.1"))


@pytest.mark.parametrize("package", ["altair", "vl_convert", "jinja2"])
def test_a_missing_package_is_named_with_its_command(
    package: str, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    head = tmp_path / "out" / "reproduction.json"
    write_json(
        head, ReproductionRecord("", "", "digits", {}, 1, 1, 2, 0.5, (0,), (), 0.1, (), {}, "", "", 0.0, 0.0, None)
    )
    monkeypatch.setitem(sys.modules, package, None)
    line = refused(call("report", head.parent))
    assert "pip install" in line and package.replace("_", "-") in line


# Exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("a\nb"), 2),
        (errors.MissingExtra("a\nb"), 2),
        (DataNotFound("a\nb"), 2),
        (TypeError("a\nb"), 2),
        (errors.Diverged("a\nb"), 3),
        (errors.NotFinite("a\nb"), 4),
        (errors.CorruptCheckpoint("a\nb"), 5),
        (OSError(28, "No space left on device"), 74),
        (PermissionError(13, "Permission denied", "out"), 74),
        (errors.Busy("a\nb"), 75),
        (errors.Interrupted(signal.SIGINT, "stopped"), 130),
        (errors.Interrupted(signal.SIGTERM, "stopped"), 143),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_error_has_its_exit_code_and_one_line(
    error: BaseException, code: int, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(words: list[str]) -> int:
        raise error

    monkeypatch.setitem(COMMANDS, "info", fails)
    refused(call("info"), code)
    if not isinstance(error, errors.Interrupted | KeyboardInterrupt):
        monkeypatch.setenv("SPARRING_DEBUG", "1")
        got, _, err = call("info")
        assert got == code and err.startswith("Traceback")


def test_a_bug_shows_its_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "info", lambda words: {}["absent"])
    code, _, err = call("info")
    assert code == 1 and err.startswith("Traceback") and "KeyError: 'absent'" in err


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_ctrl_c_ends_reading_commands_with_one_line(command: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparring.reproduction.evaluate_folder", interrupted)
    monkeypatch.setattr("sparring.report.write_report", interrupted)
    refused(call(command, "out"), 130)


def test_ctrl_c_ends_the_audit_of_a_model_of_which_nothing_is_kept(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparring.targets.run_audit", interrupted)
    line = refused(call("audit", "theirs:net", "--data", "digits", "--eps", "0.1"), 130)
    assert "the same command begins it again" in line and "goes on" not in line


def test_a_file_in_place_of_the_folder(call: Call) -> None:
    Path("out").write_text("something else")
    line = refused(call("train", "vanilla", *TINY), 74)
    assert "cannot write to out/runs/vanilla/seed0" in line


def test_a_run_that_diverges_ends_with_3(call: Call) -> None:
    words = ["train", "vanilla", *TINY, "--defender.optimizer.lr", 1e8]
    for _ in range(2):
        code, out, _ = call(*words)
        assert code == 3 and "vanilla seed 0: diverged, diverged in epoch 1, step" in out


def test_another_config_is_refused(call: Call) -> None:
    assert call("train", "vanilla", *TINY)[0] == 0
    line = refused(call("train", "vanilla", *TINY, "--eps", "0.2"))
    assert "(eps: 0.1 -> 0.2)" in line and line.endswith("; choose another --out, or --restart\n")
    assert call("train", "vanilla", *TINY, "--eps", "0.2", "--restart")[0] == 0


def test_commands_without_restart_do_not_advise_it(call: Call) -> None:
    assert call("train", "vanilla", *TINY)[0] == 0
    for words in (["reproduce", "--data", "digits"], ["demo"], ["train", "gan_tanh_init", *GAME, "--data.limit", 500]):
        (Path("out/runs/vanilla/seed0") / "run.json").unlink(missing_ok=True)  # else the game takes what is there
        code, _, err = call(*words, "--out", "out", "--seeds", 1, "--workers", 1)
        line = err.splitlines()[-1]
        assert code == 2 and line.startswith("sparring: out/runs/vanilla/seed0 was made by another config"), err
        assert line.endswith("; choose another --out, or delete that folder")


# Output


def test_results_go_to_the_output_and_progress_to_the_error_output(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = call("train", "vanilla", *TINY, "--seeds", 3, 1, "--workers", 1, "--json", "--out", "pair")
    found = [restore(RunRecord, value) for value in json.loads(out)]
    assert code == 0 and all(line.startswith("[1/1] vanilla seeds 3 1: ") for line in err.splitlines())
    assert [(record.recipe, record.seed, record.status) for record in found] == [
        ("vanilla", 3, "done"),
        ("vanilla", 1, "done"),
    ]
    words = ["train", "gan_tanh_init", *GAME, "--alone.max-epochs", 1, "--seed", 3, "--json"]
    code, out, _ = call(*words)
    assert code == 0 and OutPaths(Path("out")).run("vanilla", 3).done.is_file(), "what the game needs was trained first"
    again = call(*words)
    assert again[0] == 0 and again[1] == out, "the second call reads"
    code, out, _ = call(*words[:-1])
    assert code == 0 and "gan_tanh_init seed 3: done, 2 epochs" in out and "next: sparring evaluate out" in out

    monkeypatch.setattr("sparring.measure.Measurement", partial(Measurement, grid=(0.0, 0.1, 0.5), n_resamples=20))
    fast = ["--pgd-steps", 2, "--pgd-restarts", 1, "--fresh-seeds", 0, "--json"]
    monkeypatch.chdir("out/runs/gan_tanh_init/seed3")
    code, out, err = call("evaluate", ".", *fast)
    monkeypatch.chdir("../../../..")
    assert code == 0 and {row["recipe"] for row in json.loads(out)} == {"vanilla", "gan_tanh_init"}
    assert "measuring vanilla seed 3" in err and Path("out/claims.json").is_file()
    code, out, err = call("report", "out", "--no-figures")
    assert code == 0 and out == f"{Path.cwd() / 'out' / 'report.html'}\n" and Path(out.strip()).is_file()


def test_recipes_for_people_and_for_programs(call: Call) -> None:
    _, out, _ = call("recipes")
    assert [line.split()[0] for line in out.splitlines()] == [*recipes.RECIPES]
    code, out, err = call("recipes", "--json")
    assert code == 0 and err == "" and json.loads(out) == {name: recipes.describe(name) for name in recipes.RECIPES}


def test_info_for_people_and_for_programs(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARRING_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code, out, err = call("info", "--json")
    facts = json.loads(out)
    assert code == 0 and err == "" and facts["data digits"] == "1437 + 360 images"
    assert facts["data mnist"] == "not on this machine" and {"torch", "threads", "commit"} <= set(facts)
    assert "data digits" in call("info")[1]


def test_a_closed_pipe_is_no_error() -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT}
    with subprocess.Popen([sys.executable, *program("recipes")], **pipes) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(timeout=60) == 0


# Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_and_saves_and_the_same_command_goes_on(
    number: signal.Signals, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0]

    def point(name: str) -> None:
        passed[0] += name == "step"
        if name == "step" and passed[0] == 15:
            signal.raise_signal(number)

    words = ["train", "gan_tanh", *GAME]
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(faults, "point", point)
        line = refused(call(*words), 128 + number)
    assert "stopped and saved in out/runs/gan_tanh/seed0" in line and signal.getsignal(number) is before
    assert (Path("out/runs/gan_tanh/seed0") / "checkpoint-000000015.safetensors").is_file()
    code, out, err = call(*words)
    assert code == 0 and "gan_tanh seed 0: done, 2 epochs" in out
    assert "going on from checkpoint-000000015.safetensors: epoch 2, step 4" in err
    assert call(*words, "--out", "whole")[0] == 0
    for name in ("defender.safetensors", "adversary.safetensors"):
        here, there = (read_verified(Path(out) / "runs/gan_tanh/seed0" / name)[0] for out in ("out", "whole"))
        assert all(here[key].numpy().tobytes() == there[key].numpy().tobytes() for key in there)


def test_ctrl_c_in_earnest(tmp_path: Path) -> None:
    epochs, folder = 15, tmp_path / "out" / "runs" / "gan_tanh" / "seed0"
    command = program("train", "gan_tanh", "--training.max-epochs", epochs, "--training.patience", 99, "--seed", 0)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    pipes["env"] = ENVIRONMENT
    deadline = time.monotonic() + 60
    with subprocess.Popen([sys.executable, *command], **pipes) as process:
        log = folder / "epochs.jsonl"
        while not (log.exists() and log.stat().st_size):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == "" and err.count("\n") == 1 and err.startswith("sparring: stopped and saved in out/runs/gan_tanh")
    (saved,) = folder.glob("checkpoint-*.safetensors")
    assert not (folder / "run.json").exists() and len(log.read_text().splitlines()) < epochs
    done = python(*command, cwd=tmp_path)
    assert done.returncode == 0 and f"going on from {saved.name}" in done.stderr
    lines = [json.loads(line)["epoch"] for line in log.read_text().splitlines()]
    assert lines == [*range(1, epochs + 1)] and read_json(folder / "run.json")["status"] == "done"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    command = program("train", "vanilla", *TINY, "--training.checkpoint-seconds", 0)
    killed = python(*command, cwd=tmp_path, SPARRING_FAULT="step:15")
    assert killed.returncode == -signal.SIGKILL
    done = python(*command, cwd=tmp_path)
    assert done.returncode == 0 and "going on from checkpoint-000000011.safetensors: epoch 2, step 0" in done.stderr


@pytest.mark.parametrize("command", ["train vanilla", "demo", "reproduce --data digits"])
@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        ("--seeds 4", "0 1 2 3"),
        ("--seeds=2", "0 1"),
        ("--seeds 1", "0"),
        ("--seeds 7 4", "7 4"),
        ("--seed 7", "7"),
        ("--seed=0", "0"),
    ],
)
def test_one_number_is_how_many_seeds_and_several_are_which(command: str, words: str, seeds: str, call: Call) -> None:
    code, out, _ = call(*command.split(), *words.split(), "--dry-run")
    assert code == 0 and re.search(rf"with seeds {seeds},? into", out)


def test_a_list_in_a_config_file_is_which_seeds(call: Call) -> None:
    Path("run.toml").write_text("seeds = [4]\n")
    assert "with seeds 4 into" in call("train", "vanilla", "--config", "run.toml", "--dry-run")[1]


@pytest.mark.parametrize(
    ("recipe", "settings", "workers", "copies"),
    [
        ("gan_scaled_init", [*GAME, "--alone.max-epochs", 1], 1, [3, 3, 3]),
        ("vanilla", TINY, 2, [2, 1, 2]),  # 0 and 2 with one worker, 1 with the other
    ],
)
def test_seeds_train_in_one_stack_a_worker(
    recipe: str, settings: list[object], workers: int, copies: list[int], call: Call
) -> None:
    words = ["train", recipe, *settings, "--seeds", 3, "--workers", workers, "--json"]
    code, out, _ = call(*words)
    found = [restore(RunRecord, value) for value in json.loads(out)]
    assert code == 0 and [(record.seed, record.status, record.epochs) for record in found] == [
        (seed, "done", 2) for seed in range(3)
    ]
    for name in {"vanilla", recipe}:
        runs = [OutPaths(Path("out")).run(name, seed) for seed in range(3)]
        assert [read_json(paths.environment)["copies"] for paths in runs] == copies
    assert call(*words)[1] == out, "the second call reads"


# Flags


@dataclass(frozen=True)
class Inner:
    """Settings within settings.

    Their second paragraph is not shown.
    """

    rate: float = 0.5
    """how fast, at most 100 %"""
    widths: tuple[int, ...] = (2, 3)
    limit: int | None = None
    fast: bool = True


@dataclass(frozen=True)
class Base:
    """Not shown."""

    out: Path = Path("out")
    """of the base"""


@dataclass(frozen=True)
class Outer(Base):
    """Not shown."""

    name: Literal["one", "two"] = "one"
    """which"""
    inner_part: Inner = field(default_factory=Inner)
    absent: Inner | None = None


@dataclass(frozen=True)
class Placed:
    """Not shown."""

    folder: Path
    """where"""
    json: bool = False


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", Outer()),
        ("--out=here --name two", Outer(Path("here"), "two")),
        ("--inner-part.rate -0.25", Outer(inner_part=Inner(rate=-0.25))),
        ("--inner_part.rate=0.25", Outer(inner_part=Inner(rate=0.25))),
        ("--inner-part.widths 5 6 7", Outer(inner_part=Inner(widths=(5, 6, 7)))),
        ("--inner-part.widths", Outer(inner_part=Inner(widths=()))),
        ("--inner-part.limit 4 --inner-part.no-fast", Outer(inner_part=Inner(limit=4, fast=False))),
        ("--inner-part.limit None --inner-part.no-fast --inner-part.fast", Outer()),
    ],
)
def test_a_flag_for_every_field(words: str, expected: Outer) -> None:
    assert flags.read(words.split(), "test", None, Outer()) == [expected]


def test_a_field_without_a_default_is_positional_and_settings_are_read_together() -> None:
    expected = [Placed(Path("there"), True), Outer(name="two")]
    assert flags.read(["--name", "two", "there", "--json"], "test", None, Placed, Outer()) == expected
    with pytest.raises(errors.InputError, match=r"Unrecognized options: --name, two \(sparring test --help lists all"):
        flags.read(["there", "--name", "two"], "test", None, Placed, Outer(), without=("name",))


def test_help_says_what_stands_below_each_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        flags.read(["--help"], "test", "What it is about.", Placed, Outer(), without=("name",))
    said = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and said.startswith("usage: sparring test FOLDER [options] What it is about.")
    for part in (
        "FOLDER where",
        "--out PATH of the base (default: out)",
        "inner-part: Settings within settings. --inner-part.rate FLOAT how fast, at most 100 % (default: 0.5)",
        "--inner-part.widths [INT ...] (default: 2 3)",
        "--inner-part.limit INT --inner-part.fast, --inner-part.no-fast (default: yes)",
    ):
        assert part in said
    assert "Not shown" not in said and "second paragraph" not in said and "absent" not in said and "--name" not in said
