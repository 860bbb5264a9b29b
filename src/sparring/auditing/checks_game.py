"""Group III: the game. Does the defender hold out only against the adversary that it trained with?"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.attacks.contract import aimed
from sparring.auditing.check import Check, Status, graded, percent, skip
from sparring.auditing.evidence import Evidence
from sparring.auditing.runs import AttackRun, judge
from sparring.evaluation.statistics import wilson

IN_GAME = "call it in-game accuracy, or by its attack"
SEEING = {
    "x": "x",
    "xy": "the label",
    "xg": "the gradient",
    "xyg": "label and gradient",
    "recurrent": "the gradient again and again",
    "as its own": "as much as its own",
}
SEEDS = 3  # of best responses that saw enough, for a PASS of G1
NO_PROOF = "best responses of too few seeds or examples, or that still gain, can fail this check, never pass it"
NO_GAME = "no co-trained adversary given"
NO_DATA = "no training data to train fresh adversaries on"
_WEAK = re.compile(r"co-?trained|in-game|its (own )?adversary|single[- ]step|one[- ]step|\bfgsm\b", re.IGNORECASE)
_ROBUST = re.compile(r"robust(ness)? (accuracy|to its)|\brobust:", re.IGNORECASE)
_NOT = r"\b(not(?! (only|just|merely))|never|no(?! (less|doubt))|nor|cannot|\w+n['’]t)"
_CALL = r"(call|name|label|report|quote|claim|describ|mistak|take|tak|mean)\w*"
_FILL = r"(a|an|any|the|its|our|be|as|of|yet|real|really|true|truly|to|called|named|labell?ed|reported|quoted|claimed|evidence)"
_ON = r"(?:(?! (?:but|and|while|without|yet|which|that|from|reach))[^.,;:!?]){0,60}"  # the same clause goes on
_DENIED = (
    re.compile(  # "not robust accuracy", "never call in-game accuracy robust accuracy"; it ends where the phrase begins
        rf"{_NOT}( {_FILL})*[ \"'“*_]*$|{_NOT}( \w+){{0,2}} {_CALL}\b{_ON}$", re.IGNORECASE
    )
)


def g1(e: Evidence) -> Check:
    """In-game accuracy against best responses: fresh adversaries against the frozen defender, that see as much as its own."""
    if e.own is None:
        return skip("G1", NO_GAME)
    if not e.fresh:
        return skip("G1", NO_DATA, "pass train=")
    left = float(worst_of([*e.fresh, *e.equals]).sum())
    gap = e.own.survived - left
    status = graded(gap, e.images("G1", "pass"), e.images("G1", "warn"))
    seeds = _spread(e, e.fresh, "fresh")
    if e.equals:
        seeds += f", {_spread(e, e.equals, 'equally informed')}"
    low, high = wilson(round(left), e.n).low, wilson(round(left), e.n).high
    value = f"in-game {percent(e.own.survived, e.n)}, best response {percent(left, e.n)} [{100 * low:.1f}, {100 * high:.1f}]"
    equal = e.responses if e.network is not None and e.network.sees == ("x",) else e.equal_responses
    seen, needed = sorted(r.examples for r in equal or e.responses), e.subject.provenance.co_trained_examples
    enough = needed is not None and sum(r.examples >= needed for r in equal) >= SEEDS and _converged(e)
    own = "" if needed is None else f", its own adversary {needed:,}"
    examples = " to ".join(f"{count:,}" for count in dict.fromkeys((seen[0], seen[-1])))
    evidence = f"({seeds}; {examples} examples seen in training{own}), gap {100 * gap / e.n:.1f} points"
    if status == "PASS" and not enough:
        status, evidence = "INFO", evidence + f"; {NO_PROOF}"
    advice = "say 'in-game accuracy'; report the worst case" if status in ("WARN", "FAIL") else ""
    return Check("G1", status, value, f"<= {e.images('G1', 'pass')} images", evidence, advice,
                 {"in_game": e.own.survived, "best_response": left}, e.points(gap))  # fmt: skip


def _spread(e: Evidence, runs: Sequence[AttackRun], kind: str) -> str:
    """How many seeds of a kind, and what they leave, in percent."""
    each = sorted(100 * run.survived / e.n for run in runs)
    return f"{len(each)} {kind} {'seed' if len(each) == 1 else 'seeds'} {each[0]:.1f}-{each[-1]:.1f}"


def _converged(e: Evidence) -> bool:
    """Whether twice the training of a best response gained no more than G3 allows; False where nobody knows."""
    if "G3" in e.level.leaves_out or e.doubling is None:
        return False
    once, twice = e.doubling
    return once.survived - twice.survived <= e.images("G3", "pass")


def g2(e: Evidence) -> Check:
    """Learned against gradient attacks."""
    if not e.fresh:
        return skip("G2", NO_DATA, "pass train=")
    kinds = {"x": e.fresh, **e.informed, **({"as its own": e.equals} if e.equals else {})}
    left = {SEEING[kind]: worst_of(runs) for kind, runs in kinds.items()}
    said = ", ".join(f"seeing {what} {percent(float(share.sum()), e.n)}" for what, share in left.items())
    value = f"best response {said}; strongest gradient attack {percent(float(e.white_worst.sum()), e.n)}"
    return Check("G2", "INFO", value, "", "the headline takes the minimum")


def g3(e: Evidence) -> Check:
    """Training the best response twice as long gains nothing."""
    if e.doubling is None:
        return skip("G3", NO_DATA if not e.fresh else "only one length of training is at hand", "pass train=")
    once, twice = e.doubling
    gain = once.survived - twice.survived
    limit = e.images("G3", "pass")
    status: Status = "PASS" if gain <= limit else "WARN"
    value = f"{percent(once.survived, e.n)}, then {percent(twice.survived, e.n)}"
    advice = "" if status == "PASS" else "train longer: this is a lower bound on the adversary's strength"
    evidence = f"{twice.name}, beside {once.name}"
    return Check("G3", status, value, f"<= {limit} images", evidence, advice, statistic=e.points(gain))


def g4(e: Evidence) -> Check:
    """Adversaries of the past, and the payoff of every checkpoint against every other."""
    past = e.subject.past
    if len(past) < 2 or e.own is None:
        return skip("G4", f"{len(past)} past adversaries given; 5 show cycling", "train the game with --history 5")
    known = len(e.subject.past_epochs) == len(past)
    names = [f"of epoch {k}" for k in e.subject.past_epochs] if known else [str(i + 1) for i in range(len(past))]
    runs = [
        e.run(f"past adversary {name}", "learned", aimed(a, e.threat())) for name, a in zip(names, past, strict=True)
    ]
    worst = min(run.survived for run in runs)
    cycling = e.own.survived - worst > e.images("G4", "cycling")
    rows = [f"{len(runs)} of them, worst: {min(runs, key=lambda run: run.survived).name}"]
    for number, defender in enumerate(e.subject.past_defenders):
        against = [
            float(judge(defender, r.x_adv, e.y, draws=1, batch_size=500, seed=e.seed).share.mean()) for r in runs
        ]
        rows.append(f"defender {number + 1}: " + " ".join(f"{100 * v:.0f}" for v in against))
    value = f"worst past adversary {percent(worst, e.n)}, current {percent(e.own.survived, e.n)}"
    status: Status = "WARN" if cycling else "PASS"
    advice = "cycling: train against a pool of past adversaries" if cycling else ""
    threshold = f"<= {e.images('G4', 'cycling')} images"
    return Check("G4", status, value, threshold, "; ".join(rows), advice, statistic=e.points(e.own.survived - worst))


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
            float(judge(model, x, e.y, draws=1, batch_size=500, seed=e.seed).share.sum())
            for x in (e.own.x_adv, e.noise.x_adv)
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
    advice = "catastrophic overfitting: train with more steps" if status == "WARN" else ""
    return Check("G6", status, value, f"<= {limit:g} points", evidence, advice, statistic=gap)


def g7(e: Evidence, printed: str = "") -> Check:
    """'Robust accuracy' labels no in-game and no single-step number."""
    given = e.subject.statements
    given = [given] if isinstance(given, str) else [str(text) for text in given or ()]
    bad = [text for text in [*given, *printed.splitlines()] if misnamed(text)]
    if bad:
        return Check("G7", "FAIL", f"{len(bad)} statements", "0", f"'{bad[0][:90]}'", IN_GAME)
    return Check("G7", "PASS", f"{len(given)} statements, {len(printed.splitlines())} printed lines", "0")


def worst_of(runs: Sequence[AttackRun]) -> Tensor:
    """What survives all of them, (N,)."""
    return torch.stack([run.share for run in runs]).amin(0)


def misnamed(text: str) -> bool:
    """Whether a sentence calls an in-game or a single-step number robust, without denying it."""
    text = " ".join(text.split())
    if "NOT CREDIBLE" in text or "withheld" in text or not _WEAK.search(text):
        return False
    return any(not _DENIED.search(text[: found.start()]) for found in _ROBUST.finditer(text))
