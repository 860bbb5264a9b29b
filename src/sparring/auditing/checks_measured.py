"""Group I: was the thing measured that we say was measured?"""

import dataclasses
import math
from contextlib import suppress

import torch
from torch import Tensor, nn

from sparring import modes
from sparring.attacks import Attack
from sparring.auditing.check import Check, Status, percent, skip
from sparring.auditing.evidence import BATCH, Evidence, kind_of_output
from sparring.auditing.gradients import input_gradient
from sparring.auditing.probe import Stop, by_the_batch, failing, flags, state_digest
from sparring.auditing.runs import NotImages, images_of
from sparring.auditing.verifier import Verified, verify
from sparring.errors import InputError
from sparring.randomness import derive, own_draws
from sparring.threat import ThreatModel

ALONE = "an example's answer must depend on that example alone"


def i1(e: Evidence) -> Check:
    """Evaluation mode throughout; parameters, buffers, modes and requires_grad as before, also after an exception."""
    faults = []
    if names := by_the_batch(e.model):
        faults.append(f"{', '.join(names[:3])} normalise by the batch even in evaluation mode")
    before, state = flags(e.model), state_digest(e.model)
    attack, x, y = e.white_box(e.threat()), e.x[:8], e.y[:8]
    with modes.evaluation(e.model):
        in_evaluation = flags(e.model)
        with suppress(Stop), failing(e.target):
            attack(e.target, x.clone(), y.clone())
        if flags(e.model) != in_evaluation:
            faults.append("an attack that is interrupted leaves other modes or requires_grad behind")
    if flags(e.model) != before:
        faults.append("modes or requires_grad are not put back")
    e.white  # noqa: B018  it runs now
    for run in e.runs.values():
        if run.in_training:
            faults.append(f"{run.name}: {', '.join(sorted(run.in_training)[:3])} ran in training mode")
        if run.changed:
            faults.append(f"{run.name} changed parameters or buffers")
    if state_digest(e.model) != state:
        faults.append("parameters or buffers changed")
    n = len(list(e.model.modules()))
    if faults:
        advice = "call model.eval(), and let the attack put back what it changes"
        return Check("I1", "FAIL", f"{len(faults)} faults", "none", "; ".join(faults[:4]), advice)
    return Check("I1", "PASS", f"{n} modules in evaluation mode", "exact", f"state {state[:12]} before and after")


def i2(e: Evidence) -> Check:
    """Batches of N, 1, 7 and shuffled give the same predictions."""
    if e.subject.declared_random:
        return skip("I2", "the defender is declared random, so batches cannot be compared")
    whole = _logits(e.model, e.x, e.n)
    order = torch.randperm(e.n, generator=torch.Generator().manual_seed(derive(e.seed, "audit.shuffle")))
    try:
        others = {
            "1": (_logits(e.model, e.x[:200], 1), whole[:200]),
            "7": (_logits(e.model, e.x, 7), whole),
            "shuffled": (_logits(e.model, e.x[order.to(e.device)], e.n), whole[order]),
        }
    except (ValueError, RuntimeError) as error:  # batch norm that normalises by the batch refuses a batch of one
        said = str(error).splitlines()[0][:100]
        return Check("I2", "FAIL", "the model refuses small batches", "none refused", said, ALONE)
    limit = e.thresholds.of("I2", "relative")
    changed = {name: int((a.argmax(-1) != b.argmax(-1)).sum()) for name, (a, b) in others.items()}
    moved = max(_relative(a, b) for a, b in others.values())
    bad = sum(changed.values()) > 0 or not moved <= limit
    return Check(
        "I2",
        "FAIL" if bad else "PASS",
        f"{max(changed.values())} labels change, logits by {moved:.1e}",
        f"0, {limit:g}",
        ", ".join(f"batches of {name}: {n}" if name != "shuffled" else f"shuffled: {n}" for name, n in changed.items()),
        ALONE if bad else "",
        statistic=moved,
    )


def i3(e: Evidence) -> Check:
    """The same pass again gives the same answers."""
    passes = int(e.thresholds.of("I3", "passes"))
    found = [_logits(e.model, e.x, BATCH) for _ in range(passes)]
    changed = int(torch.stack([(f.argmax(-1) != found[0].argmax(-1)) for f in found]).any(0).sum())
    moved = max(_relative(f, found[0]) for f in found[1:])
    limit = e.thresholds.of("I3", "relative")
    same = changed == 0 and moved <= limit
    value = f"{changed} labels change over {passes} passes, logits by {moved:.1e}"
    if e.subject.declared_random:
        enough = e.draws >= e.thresholds.of("I3", "draws")
        evidence = f"declared random: attacks average {e.draws} draws, and so do the verdicts"
        return Check(
            "I3", "PASS" if enough else "FAIL", value, f">= {e.thresholds.of('I3', 'draws'):g} draws", evidence
        )
    advice = "" if same else "if the model is random on purpose, pass declared_random=True"
    return Check("I3", "PASS" if same else "FAIL", value, f"0, {limit:g}", advice=advice, statistic=moved)


def i4(e: Evidence) -> Check:
    """Finite logits, losses, gradients and images."""
    found = {"clean logits": int(e.clean.invalid.sum())}
    probe = min(e.n, 8 * e.level.probe)
    grads = input_gradient(e.target, e.x[:probe], e.y[:probe])
    found["gradients"] = int((~grads.isfinite()).flatten(1).any(1).sum())
    for run in e.runs.values():
        found[f"logits under {run.name}"] = int(run.invalid.sum())
        found[f"images of {run.name}"] = int((~run.x_adv.isfinite()).flatten(1).any(1).sum())
    bad = {name: n for name, n in found.items() if n}
    if bad:
        evidence = ", ".join(f"{n} {name}" for name, n in list(bad.items())[:3])
        advice = "mend the model; such examples are never counted as robust"
        return Check("I4", "FAIL", f"{sum(bad.values())} non-finite", "0", evidence, advice)
    return Check("I4", "PASS", "all finite", "0", f"in {len(found)} measurements")


def i5(e: Evidence) -> Check:
    """The verifier re-reads the saved images of every attack and of the headline, and of a claimed evaluation."""
    e.white  # noqa: B018  it runs now
    tolerance, faults = e.thresholds.of("I5", "tolerance"), []
    farthest = 0.0
    items: list[tuple[str, Tensor, Tensor, float]] = [
        (run.name, run.x_adv, run.share > 0.5, run.eps) for run in e.runs.values()
    ]
    items += [
        (f"the worst case at {eps:g}", e.worst.x_adv[k].to(e.device), e.worst.robust[k], eps)
        for k, eps in enumerate(e.worst.eps if e.level.headline else ())
    ]
    for name, x_adv, robust, eps in items:
        found = verify(e.model, e.x, e.y, x_adv, eps, tolerance)
        farthest = max(farthest, found.distance)
        faults += _faults(name, found, robust, e, exact=not e.subject.declared_random)
    if (claim := e.subject.claimed) is not None:
        n = min(len(claim.robust), e.n)  # of more images the others are not at hand
        found = verify(e.model, e.x[:n], e.y[:n], claim.x_adv[:n].to(e.device), claim.eps, tolerance)
        faults += _faults(
            "the claimed evaluation", found, claim.robust[:n].cpu(), e, exact=not e.subject.declared_random
        )
    if faults:
        advice = "report what the verifier finds: true labels, saved images, every example counted"
        return Check("I5", "FAIL", f"{len(faults)} faults", "0", "; ".join(faults[:3]), advice)
    used = verify(e.model, e.x, e.y, e.white.x_adv, e.eps, tolerance).distance
    value = f"{len(items)} sets of images, largest distance {farthest:.6f}"
    if used < e.thresholds.of("I5", "budget_used") * e.eps:
        evidence = f"budget unused: {e.white.name} goes no farther than {used:.4f} of {e.eps:g}"
        return Check(
            "I5", "WARN", value, "counts equal, >= 0.99 eps used", evidence, "attack with the eps that is claimed"
        )
    return Check("I5", "PASS", value, "counts equal, >= 0.99 eps used")


def i6(e: Evidence) -> Check:
    """At eps 0 the attack gives the clean predictions, one by one."""
    zero = ThreatModel(0.0, e.data.shape)
    try:
        attack = e.white_box(zero)
        x_adv = torch.cat([images_of(attack(e.target, x.clone(), y.clone()), x) for x, y in _batches(e)])
    except NotImages:
        raise
    except InputError as error:
        return skip("I6", f"the attack refuses eps 0: {error}")
    answers = []
    with own_draws(e.device) as draw_from:
        for images in (e.x, x_adv):
            if e.subject.declared_random:
                draw_from(derive(e.seed, "audit.zero"))
            answers.append(_logits(e.model, images, BATCH).argmax(-1))
    different = int((answers[0] != answers[1]).sum())
    advice = "" if different == 0 else "the model is random, or the attack moves what it may not"
    return Check("I6", "FAIL" if different else "PASS", f"{different} predictions differ", "0", advice=advice)


def i7(e: Evidence) -> Check:
    """Adversarial images rounded to n/255 inside the ball, against the attack at the largest eps that is so many levels."""
    levels = math.floor(e.eps * 255 + 1e-6)
    if levels < 1:
        return Check(
            "I7", "WARN", f"eps {e.eps:g} is less than one of 255 levels", "", "", "name the precision of the input"
        )
    eps = e.eps if abs(e.eps * 255 - levels) < 1e-6 else levels / 255
    before, images = e.at(eps), [e.white.x_adv, e.at(eps).x_adv]
    attack = e.white_box(e.threat(eps))
    if (
        dataclasses.is_dataclass(attack) and getattr(attack, "keep", None) == "best"
    ):  # the first hit is near the boundary
        last: Attack = dataclasses.replace(attack, keep="last", restarts=1)
        images.append(e.run(f"{e.white.name}, last iterate", "cross-entropy", last, eps=eps, again=True).x_adv)
    shares = [e.verdict(_rounded(x_adv, e.x, eps), e.y, f"rounded {k}").share for k, x_adv in enumerate(images)]
    after = float(torch.stack([e.clean.share, *shares]).amin(0).sum())
    limit = e.images("I7", "warn")
    status: Status = "WARN" if after - before.survived > limit else "INFO"
    value = f"{percent(after, e.n)} after rounding, {percent(before.survived, e.n)} before, at {levels} levels"
    advice = "the attack lives between grey levels: name the precision of the input" if status == "WARN" else ""
    change = e.points(after - before.survived)
    return Check("I7", status, value, f"change <= {limit} images", advice=advice, statistic=change)


def i8(e: Evidence) -> Check:
    """Outputs are logits, not probabilities."""
    kind = kind_of_output(e.logits, e.thresholds.of("I8", "sum"))
    if kind == "logits":
        return Check("I8", "PASS", "logits", "no rows that sum to 1")
    advice = "return what comes before the softmax; the margin loss is used instead of cross-entropy"
    return Check("I8", "WARN", kind, "logits", "rows sum to 1", advice)


def _faults(name: str, found: Verified, robust: Tensor, e: Evidence, *, exact: bool) -> list[str]:
    faults = []
    if found.out_of_range:
        faults.append(f"{name}: {found.out_of_range} images outside [0, 1]")
    if found.out_of_ball:
        faults.append(f"{name}: {found.out_of_ball} images farther than eps, up to {found.distance:.4f}")
    survived = found.correct & (e.clean.share[: found.n] > 0.5)
    if exact and not torch.equal(survived, robust.bool().cpu()):
        faults.append(f"{name}: {int(robust.sum())} said to be robust, {int(survived.sum())} are")
    return faults


def _rounded(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    low, high = ((x - eps).clamp(0, 1) * 255 - 1e-3).ceil(), ((x + eps).clamp(0, 1) * 255 + 1e-3).floor()
    levels = torch.minimum(torch.maximum((x_adv * 255).round(), low), high) / 255
    return torch.where(low <= high, levels, x)


def _logits(model: nn.Module, x: Tensor, size: int) -> Tensor:
    with torch.no_grad(), modes.evaluation(model):
        return torch.cat([model(part) for part in x.split(size)]).cpu()


def _relative(a: Tensor, b: Tensor) -> float:
    scale = b.abs().amax(-1).clamp(min=1e-12)
    return float(((a - b).abs().amax(-1) / scale).max())


def _batches(e: Evidence) -> list[tuple[Tensor, Tensor]]:
    return list(zip(e.x.split(BATCH), e.y.split(BATCH), strict=True))
