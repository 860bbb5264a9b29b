"""Group II, first half: attacks against each other. Was the attack any good?"""

import math
from dataclasses import replace
from statistics import NormalDist

import torch

from sparring.auditing.check import Check, Status, graded, percent, skip
from sparring.auditing.evidence import Evidence
from sparring.auditing.suite import KINDS, kind_of
from sparring.evaluation.statistics import mcnemar, wilson

STRONGER = "use more steps, another step size, the margin loss, or another start"


def s1(e: Evidence) -> Check:
    """Many steps are at least as strong as one."""
    gap = e.white.survived - e.single.survived
    status = graded(gap, e.images("S1", "pass"), e.images("S1", "warn"))
    return _pair(
        "S1", status, e, e.white.survived, "PGD", e.single.survived, "FGSM", f"<= {e.images('S1', 'pass')} images",
        statistic=e.points(gap),
    )  # fmt: skip


def s2(e: Evidence) -> Check:
    """Twice the steps gain nothing over T with its restarts, and alone lose nothing."""
    before, after = e.converged
    gain = float((before - after).sum())
    if e.subject.declared_random:  # the smaller of two noisy shares is too small
        gain = max(0, math.floor(e.white.survived - e.doubled.survived - e.spread(e.white, e.doubled)))
    lost = e.doubled.survived - e.white.survived
    status = graded(gain, e.images("S2", "pass"), e.images("S2", "warn"))
    if lost > e.images("S2", "reverse") and _surely_worse(e):
        status = "FAIL"
    threshold = f"gain <= {e.images('S2', 'pass')} images, loss <= {e.images('S2', 'reverse')}"
    check = _pair("S2", status, e, e.white.survived, "T steps", e.doubled.survived, "2T", threshold)
    value = f"{check.value}: gain {gain:.3g} images beyond the restarts, raw {-lost:+.3g}"
    return replace(check, value=value, statistic=e.points(gain))


def _surely_worse(e: Evidence) -> bool:
    """Whether chance alone would hardly leave that many more images to twice the steps: two raw runs start at random."""
    if e.subject.declared_random:
        return e.doubled.survived - e.white.survived > e.spread(e.white, e.doubled)
    before, after = (run.share.numpy() > 0.5 for run in (e.white, e.doubled))
    return mcnemar(before, after).p_value < 1 - e.thresholds.of("S2", "confidence")


def s3(e: Evidence) -> Check:
    """More restarts gain nothing; if they do, they are raised and asked again."""
    if e.subject.declared_random:
        return skip("S3", "the defender is declared random: the best of noisy restarts is the luckiest")
    limit, first, n = e.images("S3", "pass"), e.white.survived, e.level.restarts
    before, after = first, float(e.restarts(n).sum())
    gains = [before - after]
    while gains[-1] > limit and n < 4 * e.level.restarts:
        n *= 2
        before, after = after, float(torch.minimum(e.restarts(n // 2), e.restarts(n)).sum())
        gains.append(before - after)
    status: Status = "PASS" if gains[-1] <= limit else "WARN"
    value = f"{percent(first, e.n)} after 1, {percent(after, e.n)} after {n}"
    advice = "" if status == "PASS" else f"raise the restarts above {n}"
    evidence = f"last doubling gained {gains[-1]:g} images"
    return Check("S3", status, value, f"<= {limit} images", evidence, advice, statistic=e.points(gains[-1]))


def s4(e: Evidence) -> Check:
    """Raw robust accuracy never rises with eps."""
    grid = budget_grid(e.eps)
    curve = [float(e.clean.share.sum()), *(e.at(eps).survived for eps in grid)]
    lowest, rise, where = curve[0], 0.0, 0.0
    for eps, survived in zip(grid, curve[1:], strict=True):
        if survived - lowest > rise:
            rise, where = survived - lowest, eps
        lowest = min(lowest, survived)
    status = graded(rise, e.images("S4", "pass"), e.images("S4", "warn"))
    evidence = ", ".join(f"{eps:g}: {percent(v, e.n)}" for eps, v in zip((0.0, *grid), curve, strict=True))
    value = f"largest rise {rise:g} images" + (f" at {where:g}" if rise else "")
    advice = STRONGER if status != "PASS" else ""
    threshold = f"<= {e.images('S4', 'pass')} images"
    return Check("S4", status, value, threshold, evidence, advice, statistic=e.points(rise))


def s5(e: Evidence) -> Check:
    """At eps 0.5 and 1 no attack may be survived: grey and swap images lie in every ball."""
    half, full = e.at(0.5).survived, e.at(1.0).survived
    rate = int(e.y.bincount().max()) / e.n
    z = NormalDist().inv_cdf(e.thresholds.of("S5", "confidence"))
    limit = int((rate + z * (rate * (1 - rate) / e.n) ** 0.5) * e.n)
    several = len(set(e.clean.labels.tolist())) > 1
    bad = half > limit or (several and full > e.images("S5", "full"))
    value = f"{percent(half, e.n)} at 0.5, {percent(full, e.n)} at 1"
    threshold = f"<= {percent(limit, e.n)}" + (
        f", <= {e.images('S5', 'full')} images" if several else ", one class only"
    )
    advice = "the gradient is masked: attack without it, or through a smooth stand-in" if bad else ""
    statistic = e.points(full if several else half)  # at eps 1, unless one class is all there is
    return Check("S5", "FAIL" if bad else "PASS", value, threshold, "without grey and swap images", advice,
                 {"half": half, "full": full, "limit": limit}, statistic)  # fmt: skip


def s6(e: Evidence) -> Check:
    """What attacks without the gradient break that the white box did not, image by image."""
    runs = e.black_box
    lowest = torch.stack([run.share for run in runs]).amin(0)
    alone = int((e.insisted - lowest >= 0.5).sum())
    beyond = int((e.white_worst - lowest >= 0.5).sum()) if e.level.headline else None
    beside = "" if beyond is None else f", {beyond} beside all gradient attacks"
    by = {run.name: int((e.insisted - run.share >= 0.5).sum()) for run in runs}
    passing, beside_all = (max(1, e.images("S6", name)) for name in ("pass", "all_pass"))  # a single image is chance
    every = [graded(alone, passing, e.images("S6", "warn"))]
    if beyond is not None:
        every.append(graded(beyond, beside_all, e.images("S6", "all_warn")))
    status = max(every, key=("PASS", "WARN", "FAIL").index)
    evidence = ", ".join(f"{name}: {n}" for name, n in by.items() if n) or "none of " + ", ".join(by)
    value = f"{alone} images ({percent(alone, e.n)}) broken only without the gradient{beside}"
    advice = "the gradient misleads: " + STRONGER if status != "PASS" else ""
    numbers = {"by": by, "beyond_white_box": alone, "beyond_all_gradient_attacks": beyond}
    threshold = f"<= {passing} images, beside all <= {beside_all}"
    return Check("S6", status, value, threshold, evidence, advice, numbers, e.points(alone))


def s7(e: Evidence) -> Check:
    """Random noise is weaker than the white box."""
    runs = [e.noise, *([] if e.subject.declared_random else e.more_noise)]  # of noisy shares the least is too small
    left = float(torch.stack([run.share for run in runs]).amin(0).sum())
    bad = left < e.white.survived
    check = _pair(
        "S7", "FAIL" if bad else "PASS", e, left, "noise", e.white.survived, "white box", "noise >= PGD",
        statistic=e.points(e.white.survived - left),
    )  # fmt: skip
    return replace(check, evidence=f"{check.evidence}; {' and '.join(run.name for run in runs)}")


def s8(e: Evidence) -> Check:
    """Cross-entropy is not much weaker than the margin."""
    gap = e.white.survived - e.margin.survived
    status = graded(gap, e.images("S8", "pass"), e.images("S8", "warn"))
    check = _pair(
        "S8",
        status,
        e,
        e.white.survived,
        "cross-entropy",
        e.margin.survived,
        "margin",
        f"<= {e.images('S8', 'pass')} images",
        statistic=e.points(gap),
    )
    advice = "cross-entropy saturates: use the margin or DLR loss"
    return check if status == "PASS" else replace(check, advice=advice)


def s14(e: Evidence) -> Check:
    """The undefended twin breaks under the same attack."""
    if e.subject.twin is None:
        return skip("S14", "no twin given: same architecture and budget, clean training", "pass twin=")
    left = e.twin_survives
    limit = e.images("S14", "pass")
    status: Status = "PASS" if left <= limit else "WARN"
    advice = "" if status == "PASS" else "eps is too small to tell defences apart, or the attack is too weak"
    value = f"the twin keeps {percent(left, e.n)}"
    return Check("S14", status, value, f"<= {limit} images", advice=advice, statistic=e.points(left))


def s15(e: Evidence) -> Check:
    """At least one attack of every kind ran."""
    kinds = {run.kind for run in [*e.runs.values(), *e.black_box]}
    if e.level.headline:
        kinds |= {kind_of(stage.attack) for stage in e.worst.stages}
    if missing := [kind for kind in KINDS if kind not in kinds]:
        advice = "pass train=, from which sources and adversaries are trained" if e.training_data is None else ""
        return Check("S15", "WARN", f"missing: {', '.join(missing)}", "every kind", "", advice)
    return Check("S15", "PASS", f"{len(KINDS)} kinds", "every kind", ", ".join(KINDS))


def s16(e: Evidence) -> Check:
    """AutoAttack, where it is installed, is no stronger than the worst case here."""
    left = e.autoattack
    if left is None:
        return skip("S16", 'AutoAttack not installed: pip install "pyautoattack>=0.2"')
    ours, slack = float(e.standing(e.eps).sum()), e.images("S16", "slack")
    bad = ours > left + slack
    value = f"ours {percent(ours, e.n)}, AutoAttack {percent(left, e.n)}"
    return Check(
        "S16", "FAIL" if bad else "PASS", value, f"<= {slack} images more", advice="our suite is weaker" if bad else "",
        statistic=e.points(ours - left),
    )  # fmt: skip


def budget_grid(eps: float) -> tuple[float, ...]:
    """eps times 0.25, 0.5, 1, 1.5, 2, 4, ... up to 1, and 1."""
    factors = [0.25, 0.5, 1.0, 1.5]
    factor = 2.0
    while factor * eps < 1:
        factors.append(factor)
        factor *= 2
    return tuple(round(f * eps, 10) if f != 1 else eps for f in factors if f * eps < 1) + (1.0,)


def _pair(
    id: str,
    status: Status,
    e: Evidence,
    a: float,
    of_a: str,
    b: float,
    of_b: str,
    threshold: str,
    statistic: float | None = None,
) -> Check:
    """Two counts beside each other, with their intervals."""
    value = f"{of_a} {percent(a, e.n)}, {of_b} {percent(b, e.n)}"
    low, high = (wilson(round(v), e.n) for v in (a, b))
    evidence = f"[{100 * low.low:.1f}, {100 * low.high:.1f}] and [{100 * high.low:.1f}, {100 * high.high:.1f}]"
    advice = STRONGER if status in ("WARN", "FAIL") else ""
    return Check(id, status, value, threshold, evidence, advice, {of_a: a, of_b: b}, statistic)
