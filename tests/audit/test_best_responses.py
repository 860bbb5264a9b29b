"""`sparring exploit`: best responses to finished runs, their records, and what an audit makes of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring import recipes
from sparring.auditing import CHECKS, LEVELS, Check, audit_subject, opponents
from sparring.auditing.checks_game import g1
from sparring.auditing.evidence import Evidence
from sparring.auditing.responses import Response, respond
from sparring.auditing.selftest import SELF
from sparring.auditing.thresholds import shipped
from sparring.config import Opponent, Recurrent
from sparring.errors import InputError
from sparring.evaluation import attacked
from sparring.experiment import load, load_data
from sparring.records import BestResponseRecord, OutPaths, RunPaths, SummaryRecord, read, read_json, write_json
from sparring.reproduction.audits import AuditPlan, _stamp, audit_runs
from sparring.reproduction.responses import ResponsePlan, exploit_runs, over_seeds
from sparring.session import train_run
from sparring.targets import co_trained_examples, of_run, run_audit

PLAN = ResponsePlan(kinds=("x", "xg"), fresh_seeds=2, epochs=4, precision="fp32")


@pytest.fixture(scope="module")
def exploited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A game and an FGSM training, each with best responses."""
    out = tmp_path_factory.mktemp("exploited")
    for name in ("gan_tanh", "fgsm"):
        run = recipes.recipe(name)
        run = replace(
            run,
            defender=replace(run.defender, hidden=(16,)),
            adversary=run.adversary and replace(run.adversary, hidden=(16,)),
            training=replace(run.training, max_epochs=3, patience=9, checkpoint_seconds=0.0),
        )
        train_run(run, OutPaths(out).run(name, 0), load_data(run.data)[0])
    exploit_runs(out, PLAN)
    return out


def test_every_run_has_a_record_a_kind_and_only_a_game_has_a_gap(exploited: Path) -> None:
    records = read(OutPaths(exploited).records("responses"), BestResponseRecord)
    assert [(r.recipe, r.kind) for r in records] == [(n, k) for n in ("fgsm", "gan_tanh") for k in ("x", "xg")]
    for r in records:
        assert len(r.left) == 2 and r.low <= r.worst <= min(r.left) and r.gain_low <= r.gain <= r.gain_high
        assert r.epochs == 4 and r.examples == 4 * 2 * 512 and r.n == 360
        assert (r.gap is None) == (r.recipe == "fgsm") == (r.co_trained_examples is None)
    game = records[2]
    assert game.in_game is not None and game.gap == pytest.approx(game.in_game - game.worst)


def test_what_a_record_says_is_what_the_kept_adversaries_leave(exploited: Path) -> None:
    paths = OutPaths(exploited).run("gan_tanh", 0)
    trained = load(paths.folder)
    test = load_data(trained.run.data)[1]
    subject = of_run(paths.folder)
    record = read(paths.responses, BestResponseRecord)[0]
    longest = [r for r in subject.fresh if r.kind == "x" and r.examples == record.examples]
    left = [attacked(trained.defender, test, replace(trained.attack(), adversary=r.adversary), trained.attack().threat)
            for r in longest]  # fmt: skip
    assert tuple(outcome.accuracy for outcome in left) == record.left
    assert float(torch.stack([o.correct for o in left]).all(0).double().mean()) == pytest.approx(record.worst)


def test_an_audit_takes_them_instead_of_training_its_own(exploited: Path) -> None:
    subject = of_run(OutPaths(exploited).run("gan_tanh", 0).folder)
    assert sorted((r.kind, r.steps) for r in subject.fresh) == [(k, s) for k in ("x", "xg") for s in (4, 4, 8, 8)]
    level = replace(SELF, n=100, steps=5, queries=20, noise_draws=5, fresh_steps=10**9)
    found = audit_subject(subject, level=level)
    assert "4,096 examples seen in training, its own adversary 2,112" in found["G1"].evidence
    assert "seeing x" in found["G2"].value and "seeing the gradient" in found["G2"].value
    assert "fresh adversary 1, half as long" in found["G3"].evidence
    assert {"best response xg 0", "best response xg 1"} <= {row.attack for row in found.attacks}
    whole = audit_subject(subject, level=level, full=True).headlines[0]
    assert whole.n == 360 and whole.survived <= found.headlines[0].survived + 300


@pytest.mark.parametrize("seed", [0, 1])
def test_an_audit_trains_the_seeds_that_its_level_lacks_and_no_seed_twice(
    seed: int, exploited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = of_run(OutPaths(exploited).run("gan_tanh", 0).folder)
    one = [r for r in subject.fresh if r.kind == "x" and r.seed == 1]
    made: list[int] = []

    def noted(*given: Any, seed: int, **more: Any) -> Response:
        made.append(seed)
        return respond(*given, seed=seed, **more)

    monkeypatch.setattr(opponents, "respond", noted)
    level = replace(SELF, n=100, steps=5, queries=20, noise_draws=5, fresh=3, fresh_steps=7)
    found = audit_subject(replace(subject, fresh=one), level=level, full=True, seed=seed)
    assert made == ([0, 2] if seed == 0 else [2, 3])
    assert "3 fresh seeds" in found["G1"].evidence and "896 to 4,096 examples seen" in found["G1"].evidence
    assert {f"fresh adversary {k}" for k in (1, 2, 3)} <= {row.attack for row in found.attacks}
    left = {row.attack: row.survived for row in found.attacks}
    assert found["G1"].numbers["best_response"] <= min(left[f"fresh adversary {k}"] for k in (1, 2, 3))
    assert "fresh adversary 1, half as long" in found["G3"].evidence


def test_without_data_to_train_on_an_audit_takes_what_is_at_hand(exploited: Path) -> None:
    subject = of_run(OutPaths(exploited).run("gan_tanh", 0).folder)
    level = replace(SELF, n=200, fresh=3)
    few = Evidence(replace(subject, train=None), level, shipped())
    assert few.training_data is None and len(few.responses) == 2


def test_g1_passes_only_where_three_seeds_saw_as_much_as_the_games_own(exploited: Path) -> None:
    subject = of_run(OutPaths(exploited).run("gan_tanh", 0).folder)
    level = replace(SELF, n=60, fresh=4, fresh_steps=7)
    needed = subject.provenance.co_trained_examples
    assert needed is not None

    def judged(enough: int) -> Check:
        whole = [r for r in subject.fresh if (r.kind, r.seed, r.steps) == ("x", 0, 8)]
        seeds = [replace(whole[0], seed=k, examples=needed if k < enough else needed - 1) for k in range(4)]
        weak = Evidence(replace(subject, fresh=[*seeds, replace(whole[0], steps=4)]), level, shipped())
        weak.own = weak.fresh[0]  # no gap
        return g1(weak)

    assert judged(4).status == judged(3).status == "PASS" and judged(2).status == "INFO"


def test_they_are_used_at_the_eps_they_were_trained_at_and_for_the_runs_own_data_only(exploited: Path) -> None:
    folder = OutPaths(exploited).run("gan_tanh", 0).folder
    subject = of_run(folder)
    level = replace(SELF, n=60, steps=5, queries=20, noise_draws=5, fresh_steps=7)
    found = audit_subject(replace(subject, eps=(0.2,)), level=level, checks={"G1": CHECKS["G1"], "G2": CHECKS["G2"]})
    assert f"{7 * 128} examples seen" in found["G1"].evidence and "the gradient" not in found["G2"].value
    test = load_data(load(folder).run.data)[1]
    LEVELS["tiny"] = level
    try:
        other = run_audit(str(folder), data=(test, test), level="tiny")
    finally:
        del LEVELS["tiny"]
    assert f"{7 * 128} examples seen" in other["G1"].evidence


def test_those_at_another_radius_stand_beside_the_runs_own_and_an_audit_there_takes_them(
    exploited: Path, tmp_path: Path
) -> None:
    shutil.copytree(exploited / "runs", tmp_path / "runs")
    paths = OutPaths(tmp_path).run("gan_tanh", 0)
    before = read(paths.responses, BestResponseRecord)
    made = exploit_runs(tmp_path, replace(PLAN, kinds=("x",), eps=0.2))
    game = next(r for r in made if r.recipe == "gan_tanh")
    assert read(paths.responses, BestResponseRecord) == [*before, game] and {r.eps for r in before} == {0.1}
    trained = load(paths.folder)
    there = replace(trained.attack(), threat=replace(trained.attack().threat, eps=0.2))
    own = attacked(trained.defender, load_data(trained.run.data)[1], there, there.threat)
    assert (game.eps, game.in_game) == (0.2, own.accuracy) and game.gap == pytest.approx(own.accuracy - game.worst)
    gaps = read(OutPaths(tmp_path).records("gaps"), SummaryRecord)
    assert {(s.attack, s.eps) for s in gaps if s.recipe == "gan_tanh"} == {("x", 0.1), ("xg", 0.1), ("x", 0.2)}
    subject, level = of_run(paths.folder), replace(SELF, n=60, steps=5, queries=20, noise_draws=5, fresh_steps=7)
    found = audit_subject(replace(subject, eps=(0.2,)), level=level, checks={"G1": CHECKS["G1"]})
    assert f"{game.examples:,} examples seen" in found["G1"].evidence
    again = exploit_runs(tmp_path, replace(PLAN, kinds=("x",), eps=0.2))
    assert next(r for r in again if r.recipe == "gan_tanh").left == game.left
    assert len(list(paths.best_responses.rglob("*.safetensors"))) == 12
    assert len(_stamp(paths.folder, AuditPlan())["best_responses"]) == 12


def test_half_as_long_is_half_as_long(exploited: Path) -> None:
    subject = of_run(OutPaths(exploited).run("gan_tanh", 0).folder)
    odd = [replace(r, steps=7) if r.steps == 4 else r for r in subject.fresh]
    level = replace(SELF, n=60, steps=5, queries=20, noise_draws=5)
    found = audit_subject(replace(subject, fresh=odd), level=level, checks={"G1": CHECKS["G1"], "G3": CHECKS["G3"]})
    assert found["G3"].status == "SKIP" and "only one length" in found["G3"].evidence
    more = replace(level, fresh=3, fresh_steps=7)
    found = audit_subject(replace(subject, fresh=odd), level=more, checks={"G1": CHECKS["G1"], "G3": CHECKS["G3"]})
    assert "fresh adversary 3, twice as long" in found["G3"].evidence


def test_a_call_for_one_kind_keeps_the_records_of_the_others(exploited: Path, tmp_path: Path) -> None:
    shutil.copytree(exploited / "runs" / "fgsm", tmp_path / "runs" / "fgsm")
    exploit_runs(tmp_path, replace(PLAN, kinds=("xy",), fresh_seeds=1))
    assert {r.kind for r in read(OutPaths(tmp_path).records("responses"), BestResponseRecord)} == {"x", "xg", "xy"}


def test_a_run_that_is_not_finished_is_refused_before_anything_is_done(
    exploited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exploited / "runs" / "fgsm" / "seed0", tmp_path / "seed0")
    paths = RunPaths(tmp_path / "seed0")
    record = read_json(paths.done)
    monkeypatch.setattr("sparring.reproduction.audits.self_test", lambda: pytest.fail("it went on"))
    write_json(paths.done, record | {"status": "diverged", "message": "loss is not finite"})
    with pytest.raises(InputError, match="diverged and has no weights: loss is not finite"):
        audit_runs(str(paths.folder), AuditPlan())
    paths.done.unlink()
    for call in (lambda: audit_runs(str(paths.folder), AuditPlan()), lambda: exploit_runs(paths.folder, PLAN)):
        with pytest.raises(InputError, match="is not finished; `sparring train` continues it"):
            call()


@pytest.mark.parametrize(
    ("wrong", "said"), [({"seed": -1}, "seed must be"), ({"eps": (8.0,)}, "8/255"), ({"level": "x"}, "level")]
)
def test_a_wrong_plan_of_an_audit_is_refused_before_the_self_test(
    wrong: dict[str, Any], said: str, exploited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.reproduction.audits.self_test", lambda: pytest.fail("it went on"))
    with pytest.raises(InputError, match=said):
        audit_runs(exploited, replace(AuditPlan(), **wrong))


def test_responses_to_other_weights_are_not_taken(exploited: Path, tmp_path: Path) -> None:
    paths = OutPaths(tmp_path).run("gan_tanh", 0)
    shutil.copytree(exploited / "runs" / "gan_tanh", paths.folder.parent)
    other = OutPaths(exploited).run("fgsm", 0)
    shutil.rmtree(paths.best_responses)
    shutil.copytree(other.best_responses, paths.best_responses)
    assert of_run(paths.folder).fresh == []


def test_trained_ones_are_kept_and_more_seeds_join_them(exploited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = OutPaths(exploited).run("fgsm", 0).folder
    before = {path: path.stat().st_mtime_ns for path in (folder / "best-responses").iterdir()}
    (x, _) = exploit_runs(folder, replace(PLAN, fresh_seeds=3))
    assert len(x.left) == 3
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())


def test_without_epochs_they_see_as_many_examples_as_the_games_own(exploited: Path) -> None:
    trained = load(OutPaths(exploited).run("gan_tanh", 0).folder)
    assert co_trained_examples(trained, 1437) == 3 * 11 * 64
    assert co_trained_examples(trained, 1437, alone=2) == 3 * 11 * 64 + 2 * 11 * 128
    twice = replace(trained, run=replace(trained.run, play=replace(trained.run.play, adversary_steps=2)))
    assert co_trained_examples(twice, 1437) == 3 * 11 * 128
    both = replace(trained, run=replace(trained.run, training=replace(trained.run.training, mix="both")))
    assert co_trained_examples(both, 1437) == 3 * 11 * 128
    assert co_trained_examples(both, 100) == 3 * 100  # fewer than a minibatch are one
    for every, turns in ((16, 1), (4, 3), (0, 0)):  # of the 11 steps of an epoch
        game = {"opponent": Opponent("recurrent"), "adversary": None, "recurrent": Recurrent(every=every)}
        asking = replace(both, run=replace(both.run, **game))
        assert co_trained_examples(asking, 1437) == 3 * turns * 128


def test_a_game_whose_adversary_asks_for_gradients_is_answered_by_such_too(tmp_path: Path) -> None:
    run = recipes.recipe("gan_recurrent")
    run = replace(run, defender=replace(run.defender, hidden=(16,)), training=replace(run.training, max_epochs=2))
    folder = OutPaths(tmp_path).run("gan_recurrent", 0).folder
    train_run(run, OutPaths(tmp_path).run("gan_recurrent", 0), load_data(run.data)[0])
    records = exploit_runs(folder, ResponsePlan(fresh_seeds=2, epochs=2, precision="fp32"))
    assert [r.kind for r in records] == ["x", "xy", "xg", "recurrent"]
    own, blind = records[3], records[0]
    assert own.parameters == 9 and own.worst < blind.worst - 0.05 and own.examples == 2 * 11 * 128
    subject = of_run(folder)
    at_hand = Evidence(subject, replace(SELF, n=60, fresh=2, fresh_steps=10**9), shipped())
    assert len(at_hand.equals) == 2 and not [run for run, _ in at_hand.informed_adversaries if "recurrent" in run.name]
    judged = g1(at_hand)
    assert "2 equally informed seeds" in judged.evidence and f"{2 * 11 * 128:,} examples seen" in judged.evidence
    assert CHECKS["G3"](at_hand).evidence.startswith("fresh adversary 1, seeing as much, beside")
    assert CHECKS["G3"](at_hand).evidence.endswith("half as long")
    more = Evidence(subject, replace(SELF, n=60, fresh=3, fresh_steps=7), shipped())
    assert [r.examples for r in more.equal_responses] == [2 * 11 * 128, 2 * 11 * 128, 7 * 128]


def test_a_copy_of_a_run_under_another_name_is_no_other_seed(exploited: Path, tmp_path: Path) -> None:
    shutil.copytree(exploited / "runs" / "fgsm", tmp_path / "runs" / "fgsm")
    folder = OutPaths(tmp_path).run("fgsm", 0).folder
    for name in ("seed3", "seed3.bak", "seed-old"):
        shutil.copytree(folder, folder.with_name(name))
    subject = of_run(folder)
    assert set(subject.siblings) == {"seed3"} and subject.provenance.seeds == (0, 3)


def test_over_seeds_a_kind_has_a_mean_and_a_gap_only_in_games(exploited: Path) -> None:
    records = read(OutPaths(exploited).records("responses"), BestResponseRecord)
    made = over_seeds([*records, *(replace(r, seed=1, worst=r.worst / 2) for r in records)])
    assert {(s.recipe, s.metric) for s in made if "gap" in s.metric} == {("gan_tanh", "best_response_gap")}
    first = next(s for s in made if (s.recipe, s.attack, s.metric) == ("fgsm", "x", "best_response"))
    mixed = over_seeds([*records, *(replace(r, seed=1, epochs=9) for r in records)])
    assert mixed == []
    assert first.mean == pytest.approx(0.75 * records[0].worst) and first.n_seeds == 2
    assert read(OutPaths(exploited).records("gaps"), SummaryRecord)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kinds": ("y",)}, "no kind 'y'"),
        ({"kinds": ()}, "at least one kind"),
        ({"precision": "fp8"}, "auto, fp32 or bf16"),
        ({"fresh_seeds": 0}, "fresh seeds must be >= 1"),
        ({"eps": 0.0}, "eps must be above 0"),
        ({"eps": 8.0}, "did you mean 8/255"),
    ],
)
def test_a_wrong_plan_is_refused_before_any_training(wrong: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        exploit_runs(tmp_path, replace(PLAN, **wrong))
    with pytest.raises(InputError, match="no finished run"):
        exploit_runs(tmp_path, PLAN)


def test_an_audit_is_made_again_once_there_are_best_responses_or_other_neighbours(
    exploited: Path, tmp_path: Path
) -> None:
    shutil.copytree(exploited / "runs", tmp_path / "runs")
    game, plan = OutPaths(tmp_path).run("gan_tanh", 0), AuditPlan()
    stamps = [_stamp(game.folder, plan)]
    assert list(stamps[0]["neighbours"]) == ["fgsm/seed0"] and len(set(stamps[0]["best_responses"].values())) == 8
    next(game.best_responses.iterdir()).unlink()
    stamps.append(_stamp(game.folder, plan))
    shutil.rmtree(OutPaths(tmp_path).run("fgsm", 0).folder)
    stamps.append(_stamp(game.folder, plan))
    assert stamps[0] != stamps[1] != stamps[2]
