"""What is printed where, for people and for programs; several seeds are one command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from called import ENVIRONMENT, GAME, TINY, Call, program

from sparring import recipes
from sparring.auditing.verdict import Audit
from sparring.measure import Measurement
from sparring.records import OutPaths, RunRecord, read_json, restore


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


def test_the_audit_of_a_model_ends_with_its_verdict(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Audit("theirs:net", "digits", 360, "0" * 64, "quick", "v1", 0.9, False, checks=(), attacks=(), headlines=())
    monkeypatch.setattr("sparring.targets.run_audit", lambda *_, **__: found)
    code, out, _ = call("audit", "theirs:net", "--data", "digits", "--eps", "0.1")
    head, *_, verdict = out.splitlines()
    assert code == 0 and head.startswith("attack ") and verdict.startswith("VERDICT  ")


def test_a_closed_pipe_is_no_error() -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT}
    with subprocess.Popen([sys.executable, *program("recipes")], **pipes) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(timeout=60) == 0


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
