"""What cannot be used is refused in one line; every error has its exit code."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import NoReturn

import pytest

pytest.importorskip("torch")

from called import GAME, TINY, Call, program, python, refused

from sparring import errors, recipes
from sparring.cli import COMMANDS
from sparring.data import DataNotFound, download
from sparring.records import ReproductionRecord, write_json
from sparring.reproduction.tasks import load_once


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
        (
            "reproduce --data digits --seeds 0",
            "seeds must be different numbers, at least one; got --seeds 0; one number says how many",
        ),
        ("train vanilla --seeds 0", "seeds must be different numbers, at least one; got --seeds 0"),
        ("demo --seeds -2", "seeds must be different numbers, at least one; got --seeds -2"),
        ("demo --seeds 2 3 2 --dry-run", "seeds must be different numbers, at least one; got --seeds 2 3 2"),
        ("train vanilla --seeds", "seeds must be different numbers, at least one; got --seeds"),
        ("train vanilla --seed", "--seed expected 1 argument"),
        ("train vanilla --seed two", "--seed must be a whole number, got 'two'"),
        ("train vanilla --seed -1", "seeds must be >= 0; got --seed -1"),
        ("train vanilla --seeds 0 -1 --dry-run", "seeds must be >= 0; got --seeds 0 -1"),
        ("demo --seed -1 --dry-run", "seeds must be >= 0; got --seed -1"),
        ("train --out vanilla", "train needs a recipe: vanilla, noise,"),
        ("train --out vanilla gan_tan", "unknown recipe 'gan_tan'; did you mean 'gan_tanh'?"),
        ("train vanilla --training.checkpoint-seconds inf", "checkpoint_seconds must be >= 0 and finite; got inf"),
        ("train vanilla --defender.slope nan", "slope must be finite; got nan"),
        ("train vanilla --config", "--config needs a TOML file"),
        ("train vanilla --config absent.toml", "there is no config file absent.toml"),
        ("report .", "holds no reproduction.json; make one with: sparring reproduce"),
        ("evaluate .", "holds no finished run"),
        ("exploit . --kinds x xy x", "name each kind of adversary once; got x, xy, x"),
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
        ("seeds = ['a']\n", "seeds must be a list of whole numbers >= 0, got ['a']"),
        ("seeds = [0, -1]\n", "seeds must be a list of whole numbers >= 0, got [0, -1]"),
        ("[training]\nmin_lr = inf\n", "training.min_lr must be >= 0 and finite; got inf"),
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


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--out vanilla pgd", "pgd with seeds 0 into vanilla"),
        ("--out pgd pgd", "pgd with seeds 0 into pgd"),
        ("--out=vanilla pgd", "pgd with seeds 0 into vanilla"),
        ("pgd --out vanilla", "pgd with seeds 0 into vanilla"),
        ("--data.root vanilla --data_root.x=1 pgd", None),
        ("--training.max_epochs 3 --data.root vanilla pgd", "pgd with seeds 0 into out"),
        ("--config vanilla pgd", "pgd with seeds 0 into of-the-file"),
        ("--seeds 4 5 pgd", "pgd with seeds 4 5 into out"),
        ("--seed 4 pgd --restart", "pgd with seeds 4 into out"),
        ("--restart pgd", "pgd with seeds 0 into out"),
        ("--data.no-allow-unknown pgd --out vanilla", "pgd with seeds 0 into vanilla"),
    ],
)
def test_the_recipe_is_no_options_value_wherever_it_stands(words: str, expected: str | None, call: Call) -> None:
    Path("vanilla").write_text('out = "of-the-file"\n')
    result = call("train", *words.split(), "--dry-run")
    if expected is None:
        assert "Unrecognized options: --data-root.x=1" in refused(result)
    else:
        assert (result[0], result[1].partition(";")[0]) == (0, f"would train {expected}")


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
