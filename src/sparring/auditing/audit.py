"""The audit: group by group, group I first, and early to stop."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparring import modes
from sparring.adversaries import AnyAdversary
from sparring.attacks import LearnedAttack
from sparring.auditing import checks_game as game
from sparring.auditing import checks_gradients as gradients
from sparring.auditing import checks_measured as measured
from sparring.auditing import checks_recorded as recorded
from sparring.auditing import checks_statistics as statistics
from sparring.auditing import checks_strength as strength
from sparring.auditing.check import TITLES, Check, skip
from sparring.auditing.everything import NOT_RANDOM, over_all
from sparring.auditing.evidence import Evidence
from sparring.auditing.given import checked
from sparring.auditing.levels import Level, level_of
from sparring.auditing.subject import Subject
from sparring.auditing.suite import distinct
from sparring.auditing.thresholds import Thresholds, shipped
from sparring.auditing.verdict import AttackRow, Audit, Headline, SelfTest
from sparring.data import as_data
from sparring.environment import commit
from sparring.errors import InputError
from sparring.models import check_single
from sparring.precision import full_fp32
from sparring.randomness import check_seed, derive, own_draws
from sparring.threat import ThreatModel, check_grid

CHECKS: dict[str, Callable[[Evidence], Check]] = {
    **{f"I{k}": getattr(measured, f"i{k}") for k in range(1, 9)},
    **{f"I{k}": getattr(recorded, f"i{k}") for k in (9, 10)},
    **{f"S{k}": getattr(strength, f"s{k}") for k in (1, 2, 3, 4, 5, 6, 7, 8, 14, 15, 16)},
    **{f"S{k}": getattr(gradients, f"s{k}") for k in (9, 10, 11, 12, 13, 17, 18)},
    **{f"G{k}": getattr(game, f"g{k}") for k in range(1, 8)},
    **{f"T{k}": getattr(statistics, f"t{k}") for k in range(1, 7)},
}
FIRST = (("I4",), ("I3", "I2", "I8", "I9"), ("I1", "I6"))  # each stage must hold before the next is worth its time
AGAIN = ("I1", "I4", "I5", "I7", "I10")  # once more, or only now, over every attack that ran
ENOUGH = 100  # examples for a headline


def audit(
    model: nn.Module,
    data: Any,
    eps: float | Sequence[float] | ThreatModel,
    *,
    level: str | Level = "quick",
    train: Any = None,
    adversary: AnyAdversary | LearnedAttack | None = None,
    twin: nn.Module | None = None,
    store: str | Path | None = None,
    strict: bool = False,
    declared_random: bool = False,
    full: bool = False,
    seed: int = 0,
    name: str = "model",
    **more: Any,
) -> Audit:
    """Audit a classifier's robust accuracy: is the number that an evaluation would report one to believe?

    `data` are test data in whatever form `sparring.evaluate` takes, `eps` the radius that is claimed, or several, the claimed
    one first. `train`, `adversary` (the co-trained one) and `twin` (the same architecture, trained on clean data) each allow
    more checks; what is missing is listed as skipped. `more` are other fields of `Subject`, among them `attack`, your own white
    box. `strict` counts what warned or was skipped as failed. `store` keeps finished pieces of the worst case. The model is left
    as it was, and so are PyTorch's own generators, which draw the same under one seed. Raises InputError before the first
    attack where the model or what was given beside it does not fit the data.
    """
    check_single(model, "audit")
    subject = Subject(
        model=model,
        data=as_data(data),
        eps=tuple(check_grid(eps.eps if isinstance(eps, ThreatModel) else eps)),
        name=name,
        train=None if train is None else as_data(train),
        adversary=adversary,
        twin=twin,
        declared_random=declared_random,
        **more,
    )
    return audit_subject(subject, level=level, store=store, strict=strict, seed=seed, full=full)


def audit_subject(
    subject: Subject,
    *,
    level: str | Level = "quick",
    store: str | Path | None = None,
    strict: bool = False,
    seed: int = 0,
    thresholds: Thresholds | None = None,
    keep_going: bool = False,
    checks: Mapping[str, Callable[[Evidence], Check]] | None = None,
    self_test: Callable[[], SelfTest] | None = None,
    full: bool = False,
    notice: Callable[[str], None] = lambda text: None,
) -> Audit:
    """Audit a subject. `keep_going` makes the attacks although group I failed; `checks` stands in for `CHECKS`.

    `full` takes the headline at the claimed eps over all test examples, unless it is withheld. A `self_test` that does not pass
    withholds it, and so do fewer than 100 examples, or examples of one class only. Raises InputError as `audit` does.
    """
    started = time.perf_counter()
    chosen, seed, subject = level_of(level), check_seed(seed), replace(subject, eps=_grid(subject.eps))
    if full and subject.declared_random:
        raise InputError(NOT_RANDOM)
    with own_draws(_device(subject)) as draw_from:
        draw_from(derive(seed, "audit"))
        subject = checked(subject)
        evidence = Evidence(
            subject,
            chosen,
            thresholds or shipped(),
            seed=seed,
            store=Path(store) if store is not None else None,
            notice=notice,
        )
        result = _made(evidence, dict(CHECKS if checks is None else checks), keep_going, strict, full, self_test)
    return replace(result, seconds=time.perf_counter() - started)


def _made(
    evidence: Evidence,
    known: Mapping[str, Callable[[Evidence], Check]],
    keep_going: bool,
    strict: bool,
    full: bool,
    self_test: Callable[[], SelfTest] | None,
) -> Audit:
    """The audit of a subject that was checked."""
    subject, chosen = evidence.subject, evidence.level
    with modes.evaluation(subject.model), full_fp32():
        found, attacked = _checked(evidence, known, keep_going)
        headlines = _headlines(evidence) if attacked else ()
    result = Audit(
        subject=subject.name,
        data=f"{subject.data.name} test",
        n=evidence.n,
        indices=evidence.digest,
        level=chosen.name,
        thresholds=evidence.thresholds.version,
        clean=float(evidence.clean.share.mean()),
        declared_random=subject.declared_random,
        checks=tuple(found[id] for id in TITLES if id in found),
        attacks=_table(evidence, worst=attacked),
        headlines=headlines,
        strict=strict,
        self_test=self_test() if self_test is not None else None,
        seed=evidence.seed,
        commit=commit(),
        threat=recorded.recorded(evidence) if evidence.runs else {"eps": ", ".join(f"{v:g}" for v in subject.eps)},
        too_little=_too_little(evidence),
    )
    if full and headlines and not result.withheld:
        with modes.evaluation(subject.model), full_fp32():
            whole = over_all(evidence)
        result = replace(result, headlines=tuple(whole if h.eps == whole.eps else h for h in headlines))
    if "G7" in found and found["G7"].status == "PASS":
        found["G7"] = game.g7(evidence, str(result))
    return replace(result, checks=tuple(found[id] for id in TITLES if id in found))


def _checked(
    e: Evidence, known: Mapping[str, Callable[[Evidence], Check]], keep_going: bool
) -> tuple[dict[str, Check], bool]:
    """All checks, and whether the attacks were made."""
    found: dict[str, Check] = {}

    def make(id: str) -> None:
        if id in known:
            found[id] = skip(id, e.level.leaves_out[id]) if id in e.level.leaves_out else known[id](e)

    stopped = ""
    for stage in FIRST:
        for id in stage:
            make(id)
        failed = [id for id in stage if id in found and found[id].status == "FAIL"]
        if failed and not keep_going:
            stopped = f"not worth running after {', '.join(failed)} failed"
            break
    if not stopped:
        for id in [*(id for id in known if id[0] == "S"), *(id for id in known if id[0] == "G")]:
            make(id)
        if e.level.headline:
            e.worst  # noqa: B018  before the verifier reads its images
        for id in AGAIN:
            make(id)
    for id in (id for id in known if id[0] == "T"):
        if stopped and id in ("T1", "T6"):
            found[id] = skip(id, stopped)
        else:
            make(id)
    for id in known:
        if id not in found:
            found[id] = known[id](e) if id == "G7" else skip(id, stopped)
    return found, e.level.headline and not stopped


def _headlines(e: Evidence) -> tuple[Headline, ...]:
    def attacks(eps: float) -> int:
        return len(distinct(e.runs.values(), eps) | {stage.attack for stage in e.worst.stages if stage.eps == eps})

    return tuple(Headline(eps, e.n, float(e.standing(eps).sum()), attacks(eps)) for eps in e.subject.eps)


def _table(e: Evidence, *, worst: bool) -> tuple[AttackRow, ...]:
    rows = [
        AttackRow(r.name, r.kind, r.eps, int(r.attacked.sum()), float(r.share[r.attacked].sum()), r.forwards, r.backwards,
                  round(r.seconds, 3), r.attack)
        for r in e.runs.values()
    ]  # fmt: skip
    for s in e.worst.stages if worst else ():
        rows.append(
            AttackRow(f"worst case: {s.attack}", "worst case", s.eps, s.attacked, s.attacked - s.broken, s.forwards,
                      s.backwards, round(s.seconds, 3), s.attack_repr)
        )  # fmt: skip
    return tuple(rows)


def _too_little(e: Evidence) -> str:
    """In what the audited examples are too few for a headline; empty where they are enough."""
    if e.n < ENOUGH:
        return f"N={e.n}, fewer than {ENOUGH} examples"
    classes = e.y.unique().tolist()
    return f"all N={e.n} examples are of class {classes[0]}" if len(classes) == 1 else ""


def _device(subject: Subject) -> torch.device:
    """Where the model is; one that is no module is refused later."""
    parameters = subject.model.parameters() if isinstance(subject.model, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), subject.data.images.device)


def _grid(eps: Any) -> tuple[float, ...]:
    grid = tuple(dict.fromkeys(check_grid(eps)))
    if not grid or 0.0 in grid:
        raise InputError(f"eps must be one or more radii > 0, got {list(grid)}")
    return grid
