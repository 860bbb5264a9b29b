"""Audits of runs that kept their past: what they measure of it, and when they are made again."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring import recipes
from sparring.auditing import LEVELS, Drop
from sparring.auditing.ground import chosen
from sparring.auditing.selftest import SELF
from sparring.config import Run
from sparring.evaluation import attacked, memory
from sparring.experiment import history, load, load_data
from sparring.game.checkpoint import write_verified
from sparring.records import OutPaths, PayoffRecord, RunPaths, read, read_json, write_json
from sparring.reproduction import audits
from sparring.reproduction.audits import AuditPlan, audit_runs
from sparring.session import train_run
from sparring.targets import of_run, payoffs_of_run, recorded_evaluations, spread
from sparring.threat import ThreatModel

TINY = replace(SELF, name="tiny", n=40, steps=5, queries=10, noise_draws=5, fresh_steps=5, surrogate_steps=5)
PLAN = AuditPlan(level="tiny")


@pytest.fixture(autouse=True, scope="module")
def tiny() -> Any:
    """A level that takes a second."""
    LEVELS["tiny"] = TINY
    yield
    del LEVELS["tiny"]


def train(out: Path, name: str = "gan_tanh", **settings: Any) -> RunPaths:
    run: Run = recipes.recipe(name)
    run = replace(
        run,
        defender=replace(run.defender, hidden=(16,)),
        adversary=run.adversary and replace(run.adversary, hidden=(16,)),
        training=replace(run.training, max_epochs=3, patience=9, checkpoint_seconds=0.0),
        **settings,
    )
    paths = OutPaths(out).run(name, 0)
    train_run(run, paths, load_data(run.data)[0])
    return paths


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with a game that kept every epoch and a watch, and a run that kept nothing, audited."""
    out = tmp_path_factory.mktemp("audited")
    train(out, history=1, watch=True)
    train(out, "fgsm")
    audit_runs(out, PLAN)
    return out


def status(paths: RunPaths) -> dict[str, dict[str, Any]]:
    return {check["id"]: check for check in read_json(paths.audit)["record"]["checks"]}


def test_the_steps_of_a_single_audit_are_told_and_those_of_many_are_not(tmp_path: Path) -> None:
    paths, told = train(tmp_path, "fgsm"), list[str]()
    audit_runs(paths.folder, PLAN, notice=told.append)
    assert "PGD-5 margin" in told and told[-1].startswith("fgsm seed 0")
    paths.audit.unlink()
    told.clear()
    audit_runs(tmp_path, PLAN, notice=told.append)
    assert [line.split(":")[0] for line in told] == ["fgsm seed 0"]


def test_the_past_is_attacked_with_and_measured_whole(audited: Path) -> None:
    paths = OutPaths(audited).run("gan_tanh", 0)
    checks = status(paths)
    assert checks["G4"]["status"] in ("PASS", "WARN") and "past adversary of epoch " in checks["G4"]["evidence"]
    assert checks["G6"]["status"] in ("PASS", "WARN") and "3 looks" in checks["G6"]["evidence"]
    cells = read(paths.payoffs, PayoffRecord)
    assert [(c.adversary_epoch, c.defender_epoch) for c in cells] == [(a, d) for a in (1, 2, 3) for d in (1, 2, 3)]
    assert {(c.recipe, c.seed, c.eps, c.n) for c in cells} == {("gan_tanh", 0, 0.1, 40)}
    assert all(c.accuracy == c.correct / 40 and c.low <= c.accuracy <= c.high for c in cells)
    assert read(OutPaths(audited).records("payoffs"), PayoffRecord) == cells
    assert cells == payoffs_of_run(paths.folder, level="tiny")


def test_the_matrix_is_on_the_audited_examples(audited: Path) -> None:
    paths = OutPaths(audited).run("gan_tanh", 0)
    trained = load(paths.folder)
    test = load_data(trained.run.data)[1]
    index = chosen(test, 40, 0)
    record = read_json(paths.audit)["record"]
    assert record["indices_sha256"] == hashlib.sha256(index.numpy().tobytes()).hexdigest()
    left = attacked(trained.defender, test.take(index), trained.attack(), ThreatModel(0.1, test.shape)).correct
    assert read(paths.payoffs, PayoffRecord)[-1].correct == int(left.sum())


def test_a_subject_has_its_past_but_not_its_present(audited: Path) -> None:
    folder = OutPaths(audited).run("gan_tanh", 0).folder
    subject = of_run(folder)
    assert list(subject.past_epochs) == [1, 2] and len(subject.past) == 2 and len(history(folder)) == 3
    assert list(subject.history) == [Drop(look.step, look.fgsm, look.pgd) for look in memory.read_watch(folder)]


def test_what_a_runs_records_asked_of_the_test_set_is_counted(audited: Path, tmp_path: Path) -> None:
    shutil.copytree(OutPaths(audited).run("fgsm", 0).folder, tmp_path / "seed0")
    paths = RunPaths(tmp_path / "seed0")
    rows = len(read_json(paths.audit)["audit"]["attacks"])
    assert rows > 5 and recorded_evaluations(paths.folder) == rows
    write_verified(paths.outcomes, {"clean@0/sound": torch.ones(3, dtype=torch.bool)}, {"n": 3})
    assert recorded_evaluations(paths.folder) == rows  # an evaluation that was stopped reports nothing
    write_json(paths.evaluated, {})
    assert recorded_evaluations(paths.folder) == of_run(paths.folder).provenance.test_evaluations == rows + 1
    paths.audit.unlink()
    paths.evaluated.unlink()
    assert recorded_evaluations(paths.folder) is None


def test_a_run_without_a_past_is_stamped_as_ever_and_has_no_payoffs(audited: Path) -> None:
    paths = OutPaths(audited).run("fgsm", 0)
    settings = {"level": "tiny", "eps": [], "full": False, "strict": False, "seed": 0}
    digest = load(paths.folder).record.defender_sha256
    stamp = read_json(paths.audit)["stamp"]
    around = {"neighbours": stamp["neighbours"], "best_responses": {}}
    assert stamp == {"plan": settings, "defender": digest, "thresholds": stamp["thresholds"]} | around
    assert not paths.payoffs.exists() and status(paths)["G4"]["status"] == status(paths)["G6"]["status"] == "SKIP"


def test_only_what_changed_is_audited_again(audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    shutil.copytree(audited, out)
    paths, made = OutPaths(out).run("gan_tanh", 0), list[str]()
    one = audits._one

    def counted(run: Path, **rest: Any) -> Any:
        made.append(run.parent.name)
        return one(run, **rest)

    monkeypatch.setattr(audits, "_one", counted)
    audit_runs(out, PLAN)
    assert made == []
    paths.payoffs.unlink()
    audit_runs(out, PLAN)
    assert made == ["gan_tanh"] and paths.payoffs.is_file()
    shutil.rmtree(paths.history)
    paths.watch.unlink()
    audit_runs(out, PLAN)
    assert made == ["gan_tanh"] * 2 and not paths.payoffs.exists()
    assert not OutPaths(out).records("payoffs").exists() and status(paths)["G4"]["status"] == "SKIP"
    shutil.copytree(OutPaths(audited).run("gan_tanh", 0).history, paths.history)
    audit_runs(out, PLAN)
    assert made == ["gan_tanh"] * 3 and OutPaths(out).records("payoffs").is_file()


def test_many_past_adversaries_are_thinned_evenly() -> None:
    assert spread(3, 10) == [0, 1, 2] and spread(0, 10) == []
    found = spread(41, 10)
    assert len(set(found)) == 10 and found[0] == 0 and found[-1] == 40 and found == sorted(found)
