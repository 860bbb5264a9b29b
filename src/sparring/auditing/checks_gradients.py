"""Group II, second half: the gradient, the attack's path, a planted example, the order of information."""

import torch

from sparring.attacks import fgsm
from sparring.auditing.check import Check, Status, graded, percent, skip
from sparring.auditing.evidence import Evidence
from sparring.auditing.gradients import differences, input_gradient, linearity
from sparring.auditing.planted import planted
from sparring.evaluation.accuracy import attacked
from sparring.evaluation.statistics import paired_bootstrap
from sparring.threat import ThreatModel


def s9(e: Evidence) -> Check:
    """Examples whose input gradient of cross-entropy is exactly zero."""
    zero = int((input_gradient(e.target, e.x, e.y).flatten(1) == 0).all(1).sum())
    status = graded(zero, e.images("S9", "pass"), e.images("S9", "warn"))
    advice = (
        ""
        if status == "PASS"
        else "cross-entropy saturates or the gradient is cut: lower the temperature, use the margin"
    )
    threshold = f"<= {e.images('S9', 'pass')} images"
    return Check("S9", status, f"{zero} of {e.n} images", threshold, advice=advice, statistic=e.points(zero))


def s10(e: Evidence) -> Check:
    """Autograd agrees with finite differences in float64."""
    error, cosine = e.thresholds.of("S10", "error"), e.thresholds.of("S10", "cosine")
    try:
        found = differences(e.base, e.x[:32], e.y[:32], seed=e.seed)
    except (RuntimeError, TypeError, ValueError, AttributeError) as problem:
        return skip("S10", f"the model cannot be copied and run in float64: {str(problem).splitlines()[0][:80]}")
    if found.vanishing and not found.moves:
        return skip("S10", "the model is constant around every probe")
    bad = found.vanishing or not (found.error <= error and found.cosine >= cosine)
    value = f"median relative error {found.error:.1e}, cosine {found.cosine:.3f}"
    evidence = (
        "autograd says zero, the outputs move" if found.vanishing else f"at h {found.h:g}, 32 images, 8 directions"
    )
    advice = "a part is detached, quantised or discontinuous: attack through a smooth stand-in" if bad else ""
    threshold, numbers = f"<= {error:g}, >= {cosine:g}", {"cosine": found.cosine}
    return Check("S10", "FAIL" if bad else "PASS", value, threshold, evidence, advice, numbers, found.error)


def s11(e: Evidence) -> Check:
    """No example was broken on the path and returned unbroken."""
    if e.subject.declared_random:
        return skip("S11", "the defender is declared random: a point that broke once may not break again")
    lost = int((e.white.on_path & (e.white.share > 0.5)).sum())
    advice = "return the best point seen, not the last" if lost else ""
    return Check("S11", "FAIL" if lost else "PASS", f"{lost} images", "0", f"{e.white.name}, {_followed(e)}", advice)


def s12(e: Evidence) -> Check:
    """The loss has stopped rising."""
    losses = e.white.losses
    if len(losses) < 20:
        return skip("S12", f"{e.white.name} looks at an image {len(losses)} times; 20 are needed; {_followed(e)}")
    extent = max(losses) - min(losses)
    change = 100 * (losses[-1] - losses[-11]) / extent if extent > 0 else 0.0
    limit = e.thresholds.of("S12", "pass")
    status: Status = "PASS" if change <= limit else "WARN"
    advice = "" if status == "PASS" else f"raise the steps to {2 * len(losses)}"
    value = f"{change:.1f} % of its range over the last 10 steps"
    return Check("S12", status, value, f"<= {limit:g} %", _followed(e), advice, statistic=change)


def s13(e: Evidence) -> Check:
    """The attack finds a point that was planted in each ball."""
    probe = e.x[: e.level.probe]
    found = planted(e.base, probe, e.white_box(e.threat()), e.threat(), inner=100, tries=e.level.restarts, seed=e.seed)
    if found.n < len(probe) // 4:
        return skip("S13", f"a planted point can be told apart on {found.n} of {len(probe)} images only")
    if found.by_noise >= found.found and 2 * found.by_noise >= found.n:
        return skip("S13", f"random noise finds it as often ({found.by_noise} of {found.n})")
    share = 100 * found.found / found.n
    passing, failing = e.thresholds.of("S13", "pass"), e.thresholds.of("S13", "fail")
    status: Status = "PASS" if share >= passing else "FAIL" if share < failing else "WARN"
    value = f"found on {found.found} of {found.n}, by noise on {found.by_noise}"
    advice = "" if status == "PASS" else "the attack cannot find what is there"
    return Check("S13", status, value, f">= {passing:g} %", advice=advice, statistic=share)


def s17(e: Evidence) -> Check:
    """A learned adversary that sees only x should not beat a gradient step by much; on undefended models it may by a little."""
    if not e.learned:
        return skip("S17", "no learned adversary: no training data to train one on", "pass train=")
    best = min(e.learned, key=lambda run: run.survived)
    a, b = (run.share.double().numpy()[None] for run in (e.single, best))
    gap = paired_bootstrap(a, b, seed=e.seed)
    value = f"FGSM {percent(e.single.survived, e.n)}, {best.name} {percent(best.survived, e.n)}"
    limit, low = e.thresholds.of("S17", "warn"), 100 * gap.low
    threshold = f"the difference, in [{low:.1f}, {100 * gap.high:.1f}] points, surely > {limit:g}"
    if low <= limit:
        return Check("S17", "INFO", value, threshold, statistic=low)
    advice = "less information wins: look for batch norm in training mode, softmax twice, another pixel scale"
    return Check("S17", "WARN", value, threshold, _readings(e), advice, statistic=low)


def s18(e: Evidence) -> Check:
    """How far the gradient turns within the ball."""
    found = linearity(e.base, e.x, e.y, e.threat(), e.seed)
    found = found[~found.isnan()]
    if not len(found):
        return skip("S18", "every gradient is zero")
    low = float(torch.quantile(found, 0.05))
    return Check("S18", "INFO", f"cosine {float(found.mean()):.2f} on average, 5th percentile {low:.2f}")


def _followed(e: Evidence) -> str:
    """How much of the white box's path was seen."""
    if not e.white.rows:
        return "no pass over the model was seen"
    if not e.white.lost:
        return f"all {e.white.rows} example passes followed"
    return f"{e.white.lost} of {e.white.rows} example passes could not be followed"


def _readings(e: Evidence) -> str:
    """FGSM in other readings: batch norm, softmax, pixel scale."""
    found = []
    for mode in ("evaluation", "training"):
        for loss in ("cross_entropy", "softmax_twice"):
            for scale in (1.0, 0.3081):
                threat = ThreatModel(e.eps * scale, e.data.shape)
                attack = fgsm(threat, loss=loss, mode=mode)
                left = attacked(e.base, e.data, attack, threat).accuracy
                words = f"{mode} mode" + (", softmax twice" if loss != "cross_entropy" else "")
                found.append(f"{words}{', scaled' if scale != 1 else ''} {100 * left:.1f} %")
    return "FGSM in " + "; ".join(found)
