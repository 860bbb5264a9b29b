"""The whole pipeline on the embedded digits: plan, runs, measurement, gathering, ledger, report; stopped, continued, spread."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

pytest.importorskip("torch")

import sparring
from sparring import cli, measure, recipes
from sparring.config import Data
from sparring.errors import CorruptCheckpoint, InputError, Interrupted, NotFinite
from sparring.measure import Measurement
from sparring.records import (
    AccuracyRecord,
    CalibrationRecord,
    ClaimRecord,
    ComparisonRecord,
    EpochRecord,
    ExampleRecord,
    ExploitabilityRecord,
    OutPaths,
    ReadingRecord,
    ReproductionRecord,
    RunRecord,
    SummaryRecord,
    SweepRecord,
    TransferRecord,
    read,
    read_json,
    restore,
)
from sparring.reproduction import Plan, evaluate_folder, reproduce
from sparring.reproduction.plan import plan_tasks
from sparring.reproduction.reproduce import train_seeds

KINDS: dict[str, type[Any]] = {
    "results": AccuracyRecord,
    "calibration": CalibrationRecord,
    "exploitability": ExploitabilityRecord,
    "transfer": TransferRecord,
    "readings": ReadingRecord,
    "sweeps": SweepRecord,
    "summary": SummaryRecord,
    "comparisons": ComparisonRecord,
    "examples": ExampleRecord,
    "epochs": EpochRecord,
    "runs": RunRecord,
}
CLAIMS = [f"N{i}" for i in range(1, 12)] + [f"F{i}" for i in range(1, 4)] + [f"D{i}" for i in range(1, 4)]
QUICK = Measurement(
    grid=(0.0, 0.1, 0.5), pgd_steps=3, fresh_seeds=(0,), fresh_epochs=1, n_resamples=20, passes=2, pgd_restarts=2
)
SEEDS = (0, 1)
RECIPES = ("vanilla", "fgsm", "gan_tanh", "gan_tanh_init")
MODULE = sys.modules["sparring.reproduction.reproduce"]  # the function of this name hides it
TIMES = ("seconds", "peak_memory_mb", "started", "training_seconds")


def plan(out: Path, **changes: Any) -> Plan:
    whole = Plan(out, Data("digits"), SEEDS, RECIPES, QUICK, sweeps=False, max_epochs=2)
    return replace(whole, **changes)


def run(plan: Plan) -> tuple[bool, list[str]]:
    """Whether there was anything to do, and what was said."""
    notices: list[str] = []
    return reproduce(plan, notice=notices.append), notices


def lines(path: Path, keep: Callable[[dict[str, Any]], bool] = lambda line: True) -> list[dict[str, Any]]:
    """The records of a file without their times."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in found if keep(line)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> OutPaths:
    """A reproduction that nothing stopped, played in this process; not to be written to."""
    out = tmp_path_factory.mktemp("whole") / "out"
    changed, notices = run(plan(out))
    assert changed and notices[0] == f"14 tasks over 2 seeds on digits, 1 at a time, in {out}"
    return OutPaths(out)


# What it writes


@pytest.mark.parametrize("name", KINDS)
def test_every_record_file_holds_records_of_its_kind(name: str, whole: OutPaths) -> None:
    found = read(whole.records(name), KINDS[name])
    assert bool(found) == (name != "sweeps")
    assert len(found) == len(whole.records(name).read_text().splitlines())


def test_accuracies_are_shares_and_attacks_stay_in_their_balls(whole: OutPaths) -> None:
    found = read(whole.records("results"), AccuracyRecord)
    expected = {
        (recipe, seed, attack, eps)
        for recipe in RECIPES
        for seed in SEEDS
        for attack in ("fgsm", "pgd", "noise", "sign_noise", *(["own"] if recipe.startswith("gan") else []))
        for eps in QUICK.grid
    } | {(recipe, seed, "clean", 0.0) for recipe in RECIPES for seed in SEEDS}
    sound = {(r.recipe, r.seed, r.attack, r.eps): r for r in found if r.protocol == "sound"}
    assert set(sound) == expected and len(sound) == sum(r.protocol == "sound" for r in found)
    for record in found:
        assert abs(record.accuracy - record.correct / record.n) <= (
            1e-12 + (0.0 if record.protocol == "sound" else 0.5 / record.n)  # two passes may differ by one image: a tie
        )
        assert record.n == 360 and record.invalid == 0 and 0 <= record.low <= record.accuracy <= record.high <= 1
        assert record.max_distance <= record.eps + 1e-6
        assert (record.max_distance > 0.5 * record.eps) == (record.eps > 0), "and they use them"
    for (recipe, seed, attack, eps), record in sound.items():
        clean = sound[recipe, seed, "clean", 0.0].accuracy
        assert eps > 0 or record.accuracy == clean, f"{attack} at eps 0"
        if attack == "pgd":
            assert record.accuracy <= min(clean, sound[recipe, seed, "pgd", 0.0].accuracy)
    assert {r.attack for r in found if r.protocol == "paper"} == {"clean", "fgsm", "own"}


def test_the_ledger_has_a_verdict_on_every_claim(whole: OutPaths) -> None:
    claims = [restore(ClaimRecord, value) for value in read_json(whole.claims)]
    assert len({claim.id for claim in claims}) == len(claims) == 22
    assert {re.sub(r"[^NFD0-9].*", "", claim.id) for claim in claims} == set(CLAIMS)
    for claim in claims:
        assert claim.verdict in ("reproduced", "explained", "refuted", "undecided")
        assert claim.claim and claim.paper and claim.sentence and claim.n_seeds in (0, 1, 2)


def test_the_head_says_what_was_run(whole: OutPaths) -> None:
    head = restore(ReproductionRecord, read_json(whole.reproduction))
    assert (head.data, head.seeds, head.recipes, head.grid) == ("digits", SEEDS, RECIPES, QUICK.grid)
    assert (head.n_train, head.n_test, head.n_classes, head.eps) == (1437, 360, 10, 0.1)
    assert 0.1 <= head.majority_rate < 0.15 and head.machine["torch"] and head.seconds > 0
    runs = [(r.recipe, r.seed, r.status, r.epochs) for r in read(whole.runs_done, RunRecord)]
    assert runs == [(recipe, seed, "done", 2) for seed in SEEDS for recipe in RECIPES]


def test_the_summary_is_the_mean_of_the_results(whole: OutPaths) -> None:
    results = read(whole.records("results"), AccuracyRecord)
    checked = 0
    for record in read(whole.records("summary"), SummaryRecord):
        if record.metric == "accuracy":
            same = [
                r.accuracy
                for r in results
                if (r.recipe, r.attack, r.eps, r.protocol)
                == (record.recipe, record.attack, record.eps, record.protocol)
            ]
            assert record.values == tuple(same) and abs(record.mean - sum(same) / 2) < 1e-12
            checked += 1
    assert checked > 50


def test_transfer_holds_every_pair_of_a_seed(whole: OutPaths) -> None:
    found = read(whole.records("transfer"), TransferRecord)
    learned = {(r.adversary, r.adversary_kind, r.defender, r.seed) for r in found if r.adversary_kind != "noise"}
    attackers = [("gan_tanh", "co-trained"), ("gan_tanh_init", "co-trained"), ("gan_tanh_init", "trained alone")]
    assert learned == {(*a, defender, seed) for a in attackers for defender in RECIPES for seed in SEEDS}
    results = read(whole.records("results"), AccuracyRecord)
    own = {(r.recipe, r.seed): r.correct for r in results if (r.attack, r.eps, r.protocol) == ("own", 0.1, "sound")}
    for r in found:
        if (r.adversary, r.adversary_kind, r.protocol) == (r.defender, "co-trained", "sound"):
            assert r.correct == own.pop((r.defender, r.seed)), "in-game accuracy, measured twice"
    assert not own


def test_the_report_is_written_from_the_records(whole: OutPaths, tmp_path: Path) -> None:
    for package in ("jinja2", "altair", "vl_convert"):
        pytest.importorskip(package)
    from sparring.report import write_report

    page = write_report(whole.folder, html=tmp_path / "report.html", figures=False)
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "report.html" and all(f"{claim}" in text for claim in CLAIMS) and len(text) > 20_000
    assert all(name in text for name in RECIPES)


# Again, stopped, spread, joined


def test_a_second_call_has_nothing_to_do_and_starts_no_worker(whole: OutPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def written() -> dict[Path, int]:
        files = (path for path in whole.folder.rglob("*") if path.is_file() and path.name != "run.lock")
        return {path: path.stat().st_mtime_ns for path in files}

    def no_workers(n: int) -> NoReturn:
        raise AssertionError("workers were started")

    before = written()
    monkeypatch.setattr("sparring.reproduction.workers.Workers", no_workers)
    changed, notices = run(plan(whole.folder, workers=2))
    assert not changed and notices[-1] == f"{whole.folder} is complete; nothing to do"
    assert len(before) > 50 and written() == before


def test_stopped_while_training_and_while_measuring_it_ends_the_same(
    whole: OutPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = plan(tmp_path, recipes=("vanilla", "gan_tanh_init"))  # as many seeds: a narrower stack rounds otherwise
    steps = [0]

    def stop_in_training(name: str) -> None:
        steps[0] += name == "step"
        if name == "step" and steps[0] == 15:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped and saved in") as stopped:
        patch.setattr("sparring.faults.point", stop_in_training)
        run(small)
    assert stopped.value.signal_number == signal.SIGINT and steps[0] == 15
    assert len(list(tmp_path.rglob("checkpoint-000000015.safetensors"))) == len(SEEDS)
    assert not list(tmp_path.rglob("run.json"))

    sound = measure._paper

    def stop_in_measuring(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return sound(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped while measuring") as stopped:
        patch.setattr(measure, "_paper", stop_in_measuring)
        run(small)
    assert stopped.value.signal_number == signal.SIGTERM
    assert len(list(tmp_path.rglob("run.json"))) == 2 * len(SEEDS) and not list(tmp_path.rglob("evaluation.json"))

    assert run(small)[0]
    same_as(whole, OutPaths(tmp_path), small)


def same_as(whole: OutPaths, part: OutPaths, small: Plan) -> None:
    """The records of a smaller plan are those of the larger one, line by line."""

    def ours(line: dict[str, Any]) -> bool:
        return line.get("recipe") in small.recipes and line["seed"] in small.seeds

    for name in ("results", "calibration", "exploitability", "readings", "epochs"):
        expected = sorted(
            map(json.dumps, lines(whole.records(name), ours if name != "readings" else lambda line: True))
        )
        expected = [line for line in expected if json.loads(line)["seed"] in small.seeds]
        assert sorted(map(json.dumps, lines(part.records(name)))) == expected and expected


@pytest.mark.slow
def test_two_workers_measure_what_one_does(whole: OutPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[2]))
    small = plan(tmp_path, recipes=("vanilla", "gan_tanh_init"), workers=2)
    assert run(small)[0]
    same_as(whole, OutPaths(tmp_path), small)
    for seed in SEEDS:
        for name in ("defender", "adversary", "adversary-alone"):
            here, there = (
                sparring.game.checkpoint.read_verified(out.run("gan_tanh_init", seed).folder / f"{name}.safetensors")[0]
                for out in (OutPaths(tmp_path), whole)
            )
            assert all(here[key].numpy().tobytes() == there[key].numpy().tobytes() for key in there)


@pytest.fixture
def copy(whole: OutPaths, tmp_path: Path) -> OutPaths:
    """A copy of the reproduction, to be written to."""
    return OutPaths(Path(shutil.copytree(whole.folder, tmp_path / "out")))


def test_a_recipe_that_joins_later_is_in_every_table(whole: OutPaths, copy: OutPaths) -> None:
    for seed in SEEDS:  # as if gan_tanh had not been asked for at first
        shutil.rmtree(copy.run("gan_tanh", seed).folder)
    fewer = tuple(name for name in RECIPES if name != "gan_tanh")
    assert run(plan(copy.folder, recipes=fewer))[0]
    assert "gan_tanh" not in {r.defender for r in read(copy.records("transfer"), TransferRecord)}
    assert run(plan(copy.folder))[0]
    for name in ("results", "transfer", "exploitability"):
        assert lines(copy.records(name)) == lines(whole.records(name))


def test_another_measurement_is_made_and_gathered(whole: OutPaths, copy: OutPaths) -> None:
    weaker = replace(QUICK, pgd_steps=1)
    assert run(plan(copy.folder, measurement=weaker))[0]
    before, now = (
        {r.attack_repr for r in read(out.records("results"), AccuracyRecord) if r.attack == "pgd"}
        for out in (whole, copy)
    )
    assert before.isdisjoint(now)


def test_another_plan_for_the_same_folder_is_refused(copy: OutPaths) -> None:
    with pytest.raises(InputError, match=r"training.max_epochs: 2 -> 1.*choose another --out, or delete that folder"):
        run(plan(copy.folder, max_epochs=1))


def test_batch_size_and_cap_reach_every_training(tmp_path: Path) -> None:
    tasks = plan_tasks(plan(tmp_path, sweeps=True, batch_size=512, max_epochs=3))
    runs = [run for task in tasks if task.run is not None for run in task.runs]
    trainings = [training for run in runs for training in (run.training, run.alone) if training is not None]
    assert any(run.alone for run in runs) and any(task.kind == "sweep" for task in tasks)
    assert {training.batch_size for training in trainings} == {512}
    assert {training.max_epochs for training in trainings} == {3}
    with pytest.raises(InputError, match="batch_size must be >= 2"):
        plan_tasks(plan(tmp_path, batch_size=0))


def test_damaged_weights_stop_a_measurement(copy: OutPaths) -> None:
    path = copy.run("gan_tanh", 0).defender
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match="is damaged"):
        run(plan(copy.folder))


# evaluate


def test_evaluating_trained_runs_needs_no_plan(whole: OutPaths, copy: OutPaths) -> None:
    for path in copy.folder.glob("*.json*"):
        path.unlink()
    shutil.rmtree(copy.run("fgsm", 1).folder)
    for name in ("results.jsonl", "evaluation.json"):
        (copy.run("gan_tanh", 0).folder / name).unlink()
    notices: list[str] = []
    out = evaluate_folder(copy.folder, QUICK, data_root=None, device="auto", command="here", notice=notices.append)
    assert out == copy.folder and "fgsm is left out: it lacks some of the seeds (0, 1)" in notices
    found = lines(copy.records("results"))
    assert found == lines(whole.records("results"), lambda line: line["recipe"] != "fgsm")
    assert restore(ReproductionRecord, read_json(copy.reproduction)).command == "here"


def test_an_evaluation_that_is_not_finite_reports_no_accuracy(copy: OutPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    paths = copy.run("vanilla", 0)
    for path in (paths.results, paths.evaluated):
        path.unlink()
    trained = sparring.load(paths.folder)
    with torch.no_grad():
        next(iter(trained.defender.parameters())).fill_(torch.nan)
    train_on, test = sparring.data.load("digits")
    with pytest.raises(NotFinite, match="no accuracy is reported"):
        measure.measure_run(trained, paths, train_on, test, QUICK)
    assert not paths.results.exists() and not paths.evaluated.exists()


def test_a_run_that_diverged_is_left_out_of_the_means(copy: OutPaths) -> None:
    paths = copy.run("gan_tanh", 1)
    record = read_json(paths.done) | {"status": "diverged", "message": "diverged in epoch 1", "defender_sha256": ""}
    paths.done.write_text(json.dumps(record))
    copy.transfer(1).unlink()
    assert run(plan(copy.folder))[0]
    assert ("gan_tanh", 1, "diverged") in {(r.recipe, r.seed, r.status) for r in read(copy.runs_done, RunRecord)}
    results = read(copy.records("results"), AccuracyRecord)
    assert {r.seed for r in results if r.recipe == "gan_tanh"} == {0}
    (clean,) = (
        r
        for r in read(copy.records("summary"), SummaryRecord)
        if (r.recipe, r.metric, r.attack, r.protocol) == ("gan_tanh", "accuracy", "clean", "sound")
    )
    assert clean.n_seeds == 1 and len(read_json(copy.claims)) == 22


# The real thing


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_runs_through_to_its_report(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    command = [sys.executable, "-m", "sparring", "demo", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stderr
    named = json.loads(done.stdout)
    out = OutPaths(tmp_path / named["out"])
    assert (tmp_path / named["report"]).stat().st_size > 50_000 and len(read_json(out.claims)) == 22
    assert {path.suffix for path in out.figures.iterdir()} >= {".svg", ".png", ".pdf", ".csv"}
    summary = {
        (r.recipe, r.metric, r.attack, r.eps, r.protocol): r.mean for r in read(out.records("summary"), SummaryRecord)
    }
    clean = summary["vanilla", "accuracy", "clean", 0.0, "sound"]
    assert clean > 0.9 and summary["vanilla", "accuracy", "pgd", 0.1, "sound"] < clean - 0.2


def test_what_a_killed_call_finished_is_gathered_by_the_next(copy: OutPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copy.run("fgsm", 1).folder)

    def killed(*_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MODULE, "gather", killed)
        run(plan(copy.folder))
    assert not copy.reproduction.exists()
    changed, notices = run(plan(copy.folder))
    assert changed and "complete" not in notices[-1]
    assert run(plan(copy.folder))[1][-1] == f"{copy.folder} is complete; nothing to do"


def test_what_was_made_of_another_defender_or_is_damaged_is_made_again(copy: OutPaths, whole: OutPaths) -> None:
    transfer, results = copy.transfer(0), copy.run("fgsm", 0).results
    told = read_json(transfer.with_suffix(".json"))
    assert told == {name: read_json(copy.run(name, 0).done)["defender_sha256"] for name in RECIPES}
    transfer.with_suffix(".json").write_text(json.dumps(told | {"fgsm": "another"}))
    transfer.write_text("")
    results.write_text("")
    assert run(plan(copy.folder))[0]
    assert lines(copy.records("transfer")) == lines(whole.records("transfer"))
    assert lines(copy.records("results")) == lines(whole.records("results"))


def test_vanilla_models_that_an_initialised_game_needs_go_on_in_the_stack_that_they_began_in(
    copy: OutPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy.run("vanilla", 1).done.unlink()
    planned = list[Any]()

    def stop(plan: Plan, tasks: Any, *_: Any) -> NoReturn:
        planned.extend(tasks)
        raise KeyboardInterrupt

    monkeypatch.setattr(MODULE, "play", stop)
    run = recipes.recipe("gan_tanh_init")
    with pytest.raises(KeyboardInterrupt):
        train_seeds(
            replace(run, data=Data("digits")), SEEDS, copy.folder, workers=1, device="cpu", restart=False, notice=print
        )
    assert [(task.name, task.seeds) for task in planned] == [("vanilla", SEEDS), ("gan_tanh_init", SEEDS)]
    assert planned[1].needs == (planned[0].key,)
