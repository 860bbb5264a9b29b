"""Verdicts on the paper's figures, F1 to F3 (section 4.6): one example, the rankings, and likeness at a large eps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from sparring.claims.comparisons import AREA_PAIRS, ECE_PAIRS, GAMES
from sparring.claims.evidence import (
    EPS,
    SHORT,
    Claim,
    Evidence,
    Judge,
    between,
    listing,
    not_measured,
    percent,
    points,
)
from sparring.evaluation.statistics import Interval
from sparring.records import ClaimRecord, ComparisonRecord, Protocol, Verdict

ALIKE = 0.02  # F2d: how close counts as "almost similar"


def example(claim: Claim, evidence: Evidence) -> ClaimRecord:
    """F1: some recorded FGSM panel turns a right answer into a wrong one."""
    panels = [e for e in evidence.examples if e.attack == "fgsm"]
    if not panels:
        return not_measured(claim, "FGSM examples (Figure 1)")
    flips = [e for e in panels if e.prediction == e.label != e.perturbed_prediction]
    clean, fgsm = (evidence.find("vanilla", "accuracy", name, eps) for name, eps in (("clean", 0.0), ("fgsm", EPS)))
    verdict: Verdict
    if flips:
        first = min(flips, key=lambda e: e.eps)
        verdict = "reproduced"
        said = f"At eps {first.eps:g} FGSM makes the {first.recipe} model read a {first.label} as a {first.perturbed_prediction};"
        said += " whether the change can be seen is for the eye to judge, in Figure 1."
    else:
        harmless = clean is not None and fgsm is not None and fgsm.mean >= clean.mean
        verdict = "refuted" if harmless else "undecided"
        said = "No recorded example changes its label."
    if clean and fgsm:
        said += f" Over all test images FGSM at {EPS:g} takes the vanilla model "
        said += f"from {percent(clean.mean)} to {percent(fgsm.mean)}."
    return ClaimRecord(
        id=claim.id,
        claim=claim.text,
        paper=claim.paper,
        measured=f"{len(flips)} of {len(panels)} flip",
        interval="",
        n_seeds=len({e.seed for e in panels}),
        verdict=verdict,
        sentence=evidence.on_data + said,
    )


@dataclass(frozen=True)
class _Tally:
    """The comparisons of one claim in one protocol."""

    found: Sequence[ComparisonRecord]
    n_wanted: int

    @property
    def holds(self) -> bool:
        return len(self.found) >= self.n_wanted and all(c.holds for c in self.found)

    @property
    def reversed(self) -> list[ComparisonRecord]:
        """Those whose interval lies clear on the wrong side."""
        return [c for c in self.found if c.high < 0]

    def __str__(self) -> str:
        return f"{sum(c.holds for c in self.found)} of {len(self.found)} hold"


def ranking(claim: Claim, n_wanted: int, evidence: Evidence) -> ClaimRecord:
    """F2a to F2c, F2e, F3: all comparisons hold, under the sound protocol or the paper's."""
    sound, paper = (
        _Tally([c for c in evidence.comparisons if (c.claim, c.protocol) == (claim.id, protocol)], n_wanted)
        for protocol in _PROTOCOLS
    )
    if not sound.found:
        return not_measured(claim, "the models that this claim compares")
    verdict: Verdict = "undecided"
    said = _tally_in_words(sound)
    if sound.holds:
        verdict = "reproduced"
    elif paper.holds:
        verdict = "explained"
        said += " With batch norm left in training mode, as the paper may have measured, all hold."
    else:
        if sound.reversed and (paper.reversed or not paper.found):
            verdict = "refuted"
        if paper.found:
            said += f" With batch norm in training mode {paper}."
    one = sound.found[0] if len(sound.found) == 1 else None
    return ClaimRecord(
        id=claim.id,
        claim=claim.text,
        paper=claim.paper,
        measured=_difference(one) if one else str(sound),
        interval=between(Interval(one.low, one.high)) if one else "",
        n_seeds=max(len(c.per_seed) for c in sound.found),
        verdict=verdict,
        sentence=evidence.on_data + said,
        protocol_values=_both(sound, paper),
    )


def alike(claim: Claim, evidence: Evidence) -> ClaimRecord:
    """F2d: from which eps on all four games are within 2 points of FGSM training; "high" is the upper half of the grid."""
    sound, paper = (
        [c for c in evidence.comparisons if (c.claim, c.protocol) == (claim.id, protocol)] for protocol in _PROTOCOLS
    )
    if len({c.worse for c in sound}) < len(GAMES):
        return not_measured(claim, "FGSM training and all four games under FGSM")
    start, of_paper = _alike_from(sound), _alike_from(paper) if paper else None
    high = max(_eps(c) for c in sound) / 2
    said = f"A game and FGSM training differ by at most 2 points {_from(start)}"
    verdict: Verdict
    if start is not None and start <= high:
        verdict = "reproduced"
    elif of_paper is not None and of_paper <= high:
        verdict = "explained"
    else:
        verdict = "refuted" if _unlike(sound, high) and (_unlike(paper, high) or not paper) else "undecided"
    if paper:
        said += f"; with batch norm in training mode, {_from(of_paper)}"
    far = max((c for c in sound if _eps(c) >= high), key=lambda c: abs(c.difference))
    said += f". The largest difference at eps {high:g} or more is {points(abs(far.difference)).lstrip('+')}, "
    said += f"{SHORT[far.worse]} at {_eps(far):g}. From 0.5 on one grey image is in reach of every image, "
    said += "so likeness there says little."
    return ClaimRecord(
        id=claim.id,
        claim=claim.text,
        paper=claim.paper,
        measured=_from(start),
        interval="",
        n_seeds=max(len(c.per_seed) for c in sound),
        verdict=verdict,
        sentence=evidence.on_data + said,
        protocol_values={"sound": _from(start), "paper": _from(of_paper)} if paper else {},
    )


_PROTOCOLS: tuple[Protocol, Protocol] = ("sound", "paper")


def _alike_from(found: Sequence[ComparisonRecord]) -> float | None:
    """The smallest eps from which every difference is within 2 points, or None."""
    start = None
    for eps in sorted({_eps(c) for c in found}, reverse=True):
        if any(abs(c.difference) > ALIKE + 1e-12 for c in found if _eps(c) == eps):
            break
        start = eps
    return start


def _unlike(found: Sequence[ComparisonRecord], high: float) -> bool:
    """Whether some interval at a high eps lies clear of 2 points."""
    return any(c.low > ALIKE or c.high < -ALIKE for c in found if _eps(c) >= high)


def _from(start: float | None) -> str:
    return "at no eps up to the largest" if start is None else f"from eps {start:g} on"


def _eps(comparison: ComparisonRecord) -> float:
    assert comparison.eps is not None
    return comparison.eps


def _tally_in_words(tally: _Tally) -> str:
    """Which comparisons hold, which fail and how, and how many are missing."""
    missing = tally.n_wanted - len(tally.found)
    if tally.holds:
        said = f"{_all(len(tally.found))} in every seed, with an interval clear of zero."
    elif len(tally.found) == 1:
        (one,) = tally.found
        said = "The other way round: " if one.high < 0 else "No difference shown: "
        said += f"{_sides(tally.found)}."
    else:
        unclear = [c for c in tally.found if not c.holds and c not in tally.reversed]
        parts = [f"{sum(c.holds for c in tally.found)} of {len(tally.found)} comparisons hold"]
        parts += [f"the other way round: {_sides(tally.reversed)}"] if tally.reversed else []
        parts += [f"no difference shown: {_sides(unclear)}"] if unclear else []
        said = "; ".join(parts) + "."
    if missing > 0:
        said += f" {missing} more could not be made; `sparring reproduce` trains all the models."
    return said


def _all(n: int) -> str:
    return "The comparison holds" if n == 1 else f"All {n} comparisons hold"


def _sides(found: Sequence[ComparisonRecord]) -> str:
    """Each with its difference, or, where they are many, gathered by the better side."""
    if len(found) <= 3:
        return listing(f"{SHORT[c.better]} over {SHORT[c.worse]}{_place(c)} ({_difference(c)})" for c in found)
    gathered: dict[tuple[str, str], list[str]] = {}
    for c in found:
        gathered.setdefault((c.better, c.worse), []).extend([place] if (place := _place(c).strip()) else [])
    over: dict[tuple[str, str], list[str]] = {}
    for (better, worse), places in gathered.items():
        over.setdefault((better, listing(places)), []).append(SHORT[worse])
    return "; ".join(
        f"{SHORT[better]} over {listing(worse)}{f' ({places})' if places else ''}"
        for (better, places), worse in over.items()
    )


def _place(comparison: ComparisonRecord) -> str:
    if comparison.metric != "ece":
        return ""
    return " pooled" if comparison.eps is None else f" at {comparison.eps:g}"


def _difference(comparison: ComparisonRecord) -> str:
    """In points, areas and calibration errors too: all are fractions of one."""
    return points(comparison.difference)


def _both(sound: _Tally, paper: _Tally) -> dict[str, str]:
    if not (sound.found and paper.found):
        return {}
    if len(sound.found) == len(paper.found) == 1:
        return {"sound": _difference(sound.found[0]), "paper": _difference(paper.found[0])}
    return {"sound": str(sound), "paper": str(paper)}


def judges() -> Iterator[Judge]:
    """F1 to F3b in order, each as the function that judges it."""
    claim = Claim("F1", "An FGSM perturbation too small to see flips a label (Figure 1)", "one example")
    yield partial(example, claim)
    pairs = [name for name, _, _ in AREA_PAIRS + ECE_PAIRS]
    texts = {
        "F2a": "FGSM training does best almost throughout, under FGSM (Figure 2)",
        "F2b": "The games do better than vanilla and noise training, under FGSM",
        "F2c": "Initialised games do better than the others, under FGSM",
        "F2d": "At a high eps the games and FGSM training are almost alike",
        "F2e": "At 0.1 the initialised scaled game beats FGSM training",
        "F3a": "FGSM training is closest to linear calibration (Figure 3)",
        "F3b": "The games are calibrated more linearly than vanilla and noise training",
    }
    for name, text in texts.items():
        claim = Claim(name, text, {"F2d": "alike", "F2e": "better"}.get(name, "ranking"))
        n_wanted = pairs.count(name) * (2 if name.startswith("F3") else 1)  # F3 at 0.1 and pooled
        yield partial(alike, claim) if name == "F2d" else partial(ranking, claim, n_wanted or 1)
