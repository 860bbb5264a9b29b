"""Group IV: is the difference real, and was the test set kept apart?"""

from sparring.auditing.check import Check, Status, skip
from sparring.auditing.evidence import Evidence
from sparring.environment import commit
from sparring.evaluation.calibration import calibrate, thin
from sparring.evaluation.statistics import wilson


def t1(e: Evidence) -> Check:
    """Wilson's interval beside every rate."""
    left = e.standing(e.eps)
    interval = wilson(round(float(left.sum())), e.n)
    inside = interval.low - 1e-9 <= float(left.sum()) / e.n <= interval.high + 1e-9
    return Check(
        "T1", "PASS" if inside else "FAIL", f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]", "", "Wilson, 95 %"
    )


def t2(e: Evidence) -> Check:
    """Comparisons need a test; an audit makes none."""
    return Check(
        "T2", "INFO", evidence="one model is audited; compare models with sparring.evaluation.statistics.verdicts"
    )


def t3(e: Evidence) -> Check:
    """Training seeds: at least three, all listed."""
    seeds = e.subject.provenance.seeds
    if not seeds:
        return skip("T3", "the training seeds are not stated")
    need = int(e.thresholds.of("T3", "seeds"))
    status: Status = "PASS" if len(seeds) >= need else "WARN"
    words = f"{len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'} ({', '.join(map(str, seeds))})"
    return Check(
        "T3", status, words, f">= {need}", "", "" if status == "PASS" else "train more seeds; give mean and t interval"
    )


def t4(e: Evidence) -> Check:
    """The test set chose nothing."""
    known = e.subject.provenance
    if known.selection is None:
        return skip("T4", "it is not stated how the model was chosen")
    asked = known.test_evaluations
    evidence = "test-set evaluations not counted" if asked is None else f"{asked} evaluations on the test set"
    if known.selection == "test":
        return Check(
            "T4", "FAIL", "selected on the test set", "validation split", evidence, "select on a validation split"
        )
    words = {"none": "nothing was selected", "training": "stopped by the training loss"}
    return Check("T4", "PASS", words.get(known.selection, f"selected on {known.selection}"), "not on test", evidence)


def t5(e: Evidence) -> Check:
    """Calibration on clean images, with an interval and the bins that are too thin to show."""
    if not bool(e.logits.isfinite().all()):
        return skip("T5", "logits are not finite")
    found = calibrate(e.logits.cpu(), e.y.cpu(), n_resamples=100, seed=e.seed)
    hidden = sum(thin(found.bins, int(e.thresholds.of("T5", "bin"))))
    interval = found.ece_interval
    value = f"ECE {found.ece:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
    return Check(
        "T5", "INFO", value, "", f"{hidden} of {len(found.bins)} bins hold fewer than 30 images and show nothing"
    )


def t6(e: Evidence) -> Check:
    """One decimal, and an interval beside it; attack, eps, N, seed and commit beside every number."""
    interval = wilson(round(float(e.standing(e.eps).sum())), e.n)
    width = 100 * (interval.high - interval.low)
    missing = [run.name for run in e.runs.values() if not run.attack or not run.name]
    known = e.subject.provenance.commit or commit()
    evidence = f"N {e.n}, eps {e.eps:g}, seed {e.seed}, commit {known or 'unknown'}"
    value = (
        f"one decimal, interval {width:.1f} points wide" if width >= 0.1 else "one decimal, the interval is narrower"
    )
    return Check("T6", "FAIL" if missing else "PASS", value, "every attack named", evidence)
