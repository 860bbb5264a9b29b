"""Audits of finished runs: each run's own audit.json and payoffs.jsonl, and the folder's records made from them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from sparring.auditing.levels import level_of
from sparring.auditing.selftest import self_test
from sparring.auditing.thresholds import shipped
from sparring.auditing.verdict import SelfTest
from sparring.claims.summary import Key, Value, averaged
from sparring.evaluation.memory import kept_epochs, read_watch
from sparring.process import on_one_thread
from sparring.randomness import check_seed
from sparring.records import (
    AuditRecord,
    CheckRecord,
    HeadlineRecord,
    OutPaths,
    PayoffRecord,
    RunPaths,
    SummaryRecord,
    plain,
    read,
    read_json,
    restore,
    write,
    write_json,
)
from sparring.reproduction.finished import each, finished
from sparring.reproduction.workers import duration
from sparring.targets import best_response_stamps, has_past, neighbours, payoffs_of_run, run_audit
from sparring.threat import check_grid


@dataclass(frozen=True)
class AuditPlan:
    """How to audit; `full` takes the headline at the claimed eps over the whole test set, the checks over fewer examples."""

    level: str = "standard"
    eps: tuple[float, ...] = ()  # the claimed one first; empty: the radius each run was trained at
    full: bool = False
    strict: bool = False
    seed: int = 0
    data_root: str | None = None


def audit_runs(
    folder: str | Path,
    plan: AuditPlan,
    *,
    workers: int = 1,
    notice: Callable[[str], None] = lambda text: None,
) -> list[AuditRecord]:
    """Audit the run in `folder`, or every run of an output folder, `workers` at a time; what is audited already is kept.

    Writes audit.json beside each run's weights and, for an output folder, audits.jsonl in it; of games that kept a history
    also payoffs.jsonl, their past players against each other. Raises InputError where there is no finished run and for a plan
    that cannot be, Interrupted after a signal: finished attacks and audits are kept, and the same call goes on.
    """
    folder, plan = Path(folder), replace(plan, seed=check_seed(plan.seed), eps=tuple(check_grid(plan.eps)))
    found = finished(folder)
    left = sorted((run for run in found if not _audited(run, plan)), key=lambda run: run.name)  # a seed after the other
    tested = self_test() if level_of(plan.level).self_test and left else None
    one = partial(_one, plan=plan, tested=tested)
    if RunPaths(folder).config.is_file():  # the steps of a single audit are told; those of many would mix
        one = partial(one, notice=notice)
    try:
        each(one, left, workers, lambda record: notice(_told(record)))
    finally:  # what is finished is gathered, also after a signal
        records = _gathered(folder, [run for run in found if _audited(run, plan)])
    return records


def _gathered(folder: Path, runs: list[Path]) -> list[AuditRecord]:
    """The audits of these runs, written to an output folder's files where `folder` is one."""
    records = [restore(AuditRecord, read_json(RunPaths(run).audit)["record"]) for run in runs]
    if records and not (folder / "config.json").is_file():
        paths = OutPaths(folder)
        write(paths.records("audits"), records)
        write(paths.records("robust"), over_seeds(records))
        payoffs = [record for run in runs for record in read(RunPaths(run).payoffs, PayoffRecord)]
        _keep(paths.records("payoffs"), payoffs)
    return records


def over_seeds(records: Sequence[AuditRecord]) -> list[SummaryRecord]:
    """Robust accuracy of each recipe at each eps over seeds; a recipe of which a seed's number is withheld has none."""
    seeds = Counter(record.recipe for record in records)
    found = averaged(
        Value(Key(record.recipe, "worst_case", "audit", h.eps, "sound"), record.seed, h.accuracy, h.n)
        for record in records
        for h in record.headlines
    )
    return [summary for summary in found if summary.n_seeds == seeds[summary.recipe]]


def _one(
    run: Path, plan: AuditPlan, tested: SelfTest | None, notice: Callable[[str], None] = lambda text: None
) -> AuditRecord:
    """Audit one run on one thread and write its audit.json."""
    on_one_thread()
    config = read_json(RunPaths(run).config)
    stamp = _stamp(run, plan)  # before the audit: what comes meanwhile is not in it
    audit = run_audit(
        str(run),
        eps=plan.eps or None,
        level=plan.level,
        full=plan.full,
        tested=tested,
        strict=plan.strict,
        seed=plan.seed,
        root=plan.data_root,
        store=run / "audit",
        notice=notice,
    )
    told = audit.to_json()
    named = {f.name for f in fields(AuditRecord)} - {"recipe", "seed", "headlines", "checks"}
    record = AuditRecord(
        recipe=config["recipe"],
        seed=config["seed"],
        headlines=tuple(HeadlineRecord(**_of(HeadlineRecord, one)) for one in told["headlines"]),
        checks=tuple(CheckRecord(**_of(CheckRecord, one)) for one in told["checks"]),
        **{name: told[name] for name in named},
    )
    eps = plan.eps[0] if plan.eps else None
    past = payoffs_of_run(run, eps=eps, level=plan.level, seed=plan.seed, root=plan.data_root)
    _keep(RunPaths(run).payoffs, past)
    content = {"stamp": stamp, "record": record, "audit": told, "printed": str(audit)}
    write_json(RunPaths(run).audit, content)
    return record


def _keep(path: Path, records: Sequence[PayoffRecord]) -> None:
    """Replace a file of payoffs; without any there is no file."""
    if records:
        write(path, records)
    else:
        path.unlink(missing_ok=True)


def _of(kind: type[Any], told: dict[str, Any]) -> dict[str, Any]:
    """The part of a JSON object that a record of this kind holds."""
    return {f.name: told[f.name] for f in fields(kind)}


def _audited(run: Path, plan: AuditPlan) -> bool:
    path = RunPaths(run).audit
    if not path.is_file() or (has_past(run) and not RunPaths(run).payoffs.is_file()):
        return False
    return bool(read_json(path).get("stamp") == plain(_stamp(run, plan)))


def _stamp(run: Path, plan: AuditPlan) -> dict[str, Any]:
    """What an audit depends on beside the code: the run, its past where it kept any, its best responses and its neighbours."""
    settings = {f.name: getattr(plan, f.name) for f in fields(plan) if f.name != "data_root"}
    stamp = {
        "plan": settings,
        "defender": read_json(RunPaths(run).done)["defender_sha256"],
        "thresholds": shipped().version,
    }
    stamp["neighbours"] = neighbours(run)
    stamp["best_responses"] = best_response_stamps(run)
    if has_past(run):
        stamp["history"] = kept_epochs(run)
    if looks := len(read_watch(run)):
        stamp["watch"] = looks
    return stamp


def _told(record: AuditRecord) -> str:
    worst = "; ".join(f"eps {h.eps:g}: {100 * h.accuracy:.1f} %" for h in record.headlines) or "withheld"
    return f"{record.recipe} seed {record.seed}: {record.verdict}; {worst} ({duration(record.seconds)})"
