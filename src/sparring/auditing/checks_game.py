"""Group III: the game. Does the defender hold out only against the adversary that it trained with?"""

import re

import torch

from sparring.attacks import LearnedAttack
from sparring.auditing.check import Check, Status, graded, percent, skip
from sparring.auditing.evidence import Evidence
from sparring.auditing.runs import judge
from sparring.evaluation.statistics import wilson

IN_GAME = "call it in-game accuracy, or by its attack"
NO_GAME = "no co-trained adversary given"
NO_DATA = "no training data to train fresh adversaries on"
_WEAK = re.compile(r"co-?trained|in-game|its (own )?adversary|single[- ]step|one[- ]step|\bfgsm\b", re.IGNORECASE)
_ROBUST = re.compile(r"robust(ness)? (accuracy|to its)|\brobust:", re.IGNORECASE)


def g1(e: Evidence) -> Check:
    """In-game accuracy against best responses: fresh adversaries against the frozen defender."""
    if e.own is None:
        return skip("G1", NO_GAME)
    if not e.fresh:
        return skip("G1", NO_DATA, "pass train=")
    worst = torch.stack([run.share for run in e.fresh]).amin(0)
    left = float(worst.sum())
    gap = e.own.survived - left
    status = graded(gap, e.images("G1", "pass"), e.images("G1", "warn"))
    each = sorted(100 * run.survived / e.n for run in e.fresh)
    seeds = f"{len(each)} fresh {'seed' if len(each) == 1 else 'seeds'} {each[0]:.1f}-{each[-1]:.1f}"
    low, high = wilson(round(left), e.n).low, wilson(round(left), e.n).high
    value = f"in-game {percent(e.own.survived, e.n)}, best response {percent(left, e.n)} [{100 * low:.1f}, {100 * high:.1f}]"
    needed = e.subject.provenance.co_trained_steps or e.level.fresh_steps
    short = len(each) < 3 or min(r.steps for r in e.responses) < needed
    steps = "/".join(str(r.steps) for r in e.responses)
    evidence = f"({seeds}; {steps} steps), gap {100 * gap / e.n:.1f} points"
    if status == "PASS" and short:
        status, evidence = "INFO", evidence + "; a short best response can fail this check, never pass it"
    advice = "say 'in-game accuracy'; report the worst case" if status in ("WARN", "FAIL") else ""
    return Check("G1", status, value, f"<= {e.images('G1', 'pass')} images", evidence, advice,
                 {"in_game": e.own.survived, "best_response": left})  # fmt: skip


def g2(e: Evidence) -> Check:
    """Learned against gradient attacks."""
    if not e.fresh:
        return skip("G2", NO_DATA, "pass train=")
    left = float(torch.stack([run.share for run in e.fresh]).amin(0).sum())
    value = f"best response {percent(left, e.n)}, strongest gradient attack {percent(float(e.white_worst.sum()), e.n)}"
    return Check("G2", "INFO", value, "", "the headline takes the minimum")


def g3(e: Evidence) -> Check:
    """Training the best response twice as long gains nothing."""
    if e.longer is None:
        return skip("G3", NO_DATA, "pass train=")
    gain = e.fresh[0].survived - e.longer.survived
    limit = e.images("G3", "pass")
    status: Status = "PASS" if gain <= limit else "WARN"
    value = f"{percent(e.fresh[0].survived, e.n)}, then {percent(e.longer.survived, e.n)}"
    advice = "" if status == "PASS" else "train longer: this is a lower bound on the adversary's strength"
    return Check("G3", status, value, f"<= {limit} images", f"{e.responses[0].steps} steps, doubled", advice)


def g4(e: Evidence) -> Check:
    """Adversaries of the past, and the payoff of every checkpoint against every other."""
    past = e.subject.past
    if len(past) < 2 or e.own is None:
        return skip("G4", f"{len(past)} past adversaries given; 5 show cycling", "train the game with --history 5")
    known = len(e.subject.past_epochs) == len(past)
    names = [f"of epoch {k}" for k in e.subject.past_epochs] if known else [str(i + 1) for i in range(len(past))]
    runs = [
        e.run(f"past adversary {name}", "learned", LearnedAttack(a.adversary, e.threat()))
        for name, a in zip(names, past, strict=True)
    ]
    worst = min(run.survived for run in runs)
    cycling = e.own.survived - worst > e.images("G4", "cycling")
    rows = [f"{len(runs)} of them, worst: {min(runs, key=lambda run: run.survived).name}"]
    for number, defender in enumerate(e.subject.past_defenders):
        against = [float(judge(defender, r.x_adv, e.y, draws=1, batch_size=500).share.mean()) for r in runs]
        rows.append(f"defender {number + 1}: " + " ".join(f"{100 * v:.0f}" for v in against))
    value = f"worst past adversary {percent(worst, e.n)}, current {percent(e.own.survived, e.n)}"
    status: Status = "WARN" if cycling else "PASS"
    advice = "cycling: train against a pool of past adversaries" if cycling else ""
    return Check("G4", status, value, f"<= {e.images('G4', 'cycling')} images", "; ".join(rows), advice)


def g5(e: Evidence) -> Check:
    """The adversary against other models, beside random noise."""
    others = {**({"the twin": e.subject.twin} if e.subject.twin is not None else {}), **e.subject.siblings}
    if e.own is None:
        return skip("G5", NO_GAME)
    if not others:
        return skip("G5", "no twin and no other seed given")
    found = []
    for name, model in others.items():
        own, noise = (
            float(judge(model, x, e.y, draws=1, batch_size=500).share.sum()) for x in (e.own.x_adv, e.noise.x_adv)
        )
        found.append(f"{name} {percent(own, e.n)} (noise {percent(noise, e.n)})")
    return Check("G5", "INFO", "; ".join(found))


def g6(e: Evidence) -> Check:
    """Whether FGSM accuracy ran away from PGD accuracy during training."""
    history = e.subject.history
    if not history:
        return skip("G6", "no FGSM and PGD-10 accuracies of the training given", "train with --watch")
    worst = max(history, key=lambda look: look.fgsm - look.pgd)
    gap = 100 * (worst.fgsm - worst.pgd)
    limit = e.thresholds.of("G6", "drop")
    status: Status = "WARN" if gap > limit else "PASS"
    value = f"largest gap {gap:.1f} points at step {worst.step}"
    over = [look.step for look in history if 100 * (look.fgsm - look.pgd) > limit]
    evidence = f"{len(history)} looks" + (
        f", {len(over)} over the limit, the first at step {min(over)}" if over else ""
    )
    return Check("G6", status, value, f"<= {limit:g} points", evidence,
                 "catastrophic overfitting: train with more steps" if status == "WARN" else "")  # fmt: skip


def g7(e: Evidence, printed: str = "") -> Check:
    """'Robust accuracy' labels no in-game and no single-step number."""
    bad = [text for text in [*e.subject.statements, *printed.splitlines()] if misnamed(text)]
    if bad:
        return Check("G7", "FAIL", f"{len(bad)} statements", "0", f"'{bad[0][:90]}'", IN_GAME)
    return Check(
        "G7", "PASS", f"{len(e.subject.statements)} statements, {len(printed.splitlines())} printed lines", "0"
    )


def misnamed(text: str) -> bool:
    """Whether a sentence calls an in-game or a single-step number robust, without denying it."""
    withheld = "NOT CREDIBLE" in text or "withheld" in text
    return bool(_ROBUST.search(text) and _WEAK.search(text)) and not withheld
