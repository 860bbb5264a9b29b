"""Verdicts on the paper's numbers, N1 to N11 (sections 4.1 to 4.6)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sparring.claims.comparisons import GAMES, PAPER
from sparring.claims.evidence import (
    EPS,
    Claim,
    Evidence,
    Judge,
    both_protocols,
    bounds,
    not_measured,
    percent,
    seeds,
    spread,
)
from sparring.records import ClaimRecord, Protocol, SummaryRecord, Verdict

CLEAN_TOLERANCE = 0.003
ALONE_TOLERANCE = 0.10
READING_TOLERANCE = 0.02  # N8: how close a reading must come for the question to stay open
UNDER_FGSM = 0.8542  # section 4.5
LEAST = 0.96  # N11: "about 97"

NAMES = {
    "vanilla": "the vanilla model",
    "noise": "the noise-trained model",
    "fgsm": "the FGSM-trained model",
    "gan_tanh": "the tanh game",
    "gan_scaled": "the scaled game",
    "gan_tanh_init": "the initialised tanh game",
    "gan_scaled_init": "the initialised scaled game",
}
# sections 4.1 to 4.5, in the order of PAPER
CLEAN_TARGETS = (0.9826, 0.9844, 0.9850, 0.9823, 0.9829, 0.9823, 0.9819)


def clean(claim: Claim, recipe: str, target: float, evidence: Evidence) -> ClaimRecord:
    """N1 to N7: clean accuracy within 0.3 points of the paper's."""
    sound = evidence.find(recipe, "accuracy", "clean", 0.0)
    paper = evidence.find(recipe, "accuracy", "clean", 0.0, "paper")
    if sound is None:
        return not_measured(claim, f"the clean accuracy of {NAMES[recipe]}")
    verdict: Verdict = _within(sound, target, CLEAN_TOLERANCE)
    away = f"{100 * abs(sound.mean - target):.2f} points from the paper's {percent(target, 2)}"
    if verdict == "reproduced":
        said = f"{_capital(NAMES[recipe])} is {away}, inside the 0.3 allowed."
    elif paper and _within(paper, target, CLEAN_TOLERANCE) == "reproduced":
        verdict = "explained"
        said = f"It is {away}, but with batch norm left in training mode it has {percent(paper.mean, 2)}, inside the 0.3 allowed."
    elif verdict == "refuted":
        said = f"{_capital(NAMES[recipe])} is {away}, and its interval lies clear of the 0.3 allowed."
    else:
        said = f"{_capital(NAMES[recipe])} is {away}, but its interval reaches into the 0.3 allowed."
    return _record(claim, evidence, sound, verdict, said, digits=2, protocols=both_protocols(sound, paper, 2))


def fgsm_on_vanilla(claim: Claim, evidence: Evidence) -> ClaimRecord:
    """N8: which reading of the paper explains 85.42 %, asked in the order batch norm, softmax twice, pixel scale."""
    sound = evidence.find("vanilla", "accuracy", "fgsm", EPS)
    paper = evidence.find("vanilla", "accuracy", "fgsm", EPS, "paper")
    readings = sorted((s for s in evidence.summary if s.metric == "reading"), key=_preference)
    sound = sound or next((s for s in readings if _letters(s) == ""), None)
    if sound is None:
        return not_measured(claim, "FGSM on the vanilla model")
    plain = f"A sound FGSM leaves {percent(sound.mean)}"
    others = [s for s in readings if _letters(s)]
    fitting = [s for s in others if _covers(s)]
    verdict: Verdict = "refuted"
    if _covers(sound):
        verdict, said = "reproduced", f"{plain}, and its interval covers the paper's 85.42 %."
    elif fitting:
        verdict, named = "explained", fitting[0]
        said = f'{plain}; the reading "{named.attack}" gives {percent(named.mean, 2)} {spread(named, 2)}, '
        said += f"which covers the paper's 85.42 % ({len(fitting)} of {len(others)} other readings do)."
    elif not others:
        verdict, said = "undecided", f"{plain}; no other reading of the paper was measured."
    else:
        closest = min(others, key=lambda s: abs(s.mean - UNDER_FGSM))
        trained = [s for s in others if "training mode" in s.attack]
        near = [s for s in trained if abs(s.mean - UNDER_FGSM) <= READING_TOLERANCE]
        closest = min(near, key=lambda s: abs(s.mean - UNDER_FGSM)) if near else closest
        verdict = "undecided" if near else "refuted"
        said = f"{plain}, and no reading's interval covers the paper's 85.42 %; closest comes "
        said += f'"{closest.attack}" with {percent(closest.mean, 2)}.'
    return _record(claim, evidence, sound, verdict, said, digits=1, protocols=both_protocols(sound, paper))


@dataclass(frozen=True)
class _Alone:
    """One reading of N9 and N10: how the adversary trained, and how its effect and FGSM's were measured."""

    words: str  # empty for the defaults
    suffix: str
    protocol: Protocol
    fgsm: Protocol


@dataclass(frozen=True)
class _AloneJudged:
    """What one reading gives; per condition whether it is met ("yes", "no", "open") and the reason in words."""

    reading: _Alone
    found: SummaryRecord
    states: tuple[str, ...]
    reasons: tuple[str, ...]


_ALONE = (
    _Alone("", "(alone)", "sound", "sound"),
    _Alone("FGSM judged with batch norm in training mode (readings a and t)", "(alone)", "sound", "paper"),
    _Alone("the adversary trained with Adam (reading r)", "(alone, Adam)", "sound", "sound"),
    _Alone(
        "the adversary trained with Adam (reading r), FGSM judged with batch norm in training mode (readings a and t)",
        "(alone, Adam)",
        "sound",
        "paper",
    ),
    _Alone("batch norm in training mode for both attacks (readings a and t)", "(alone)", "paper", "paper"),
    _Alone(
        "the adversary trained with Adam (reading r), batch norm in training mode for both attacks (readings a and t)",
        "(alone, Adam)",
        "paper",
        "paper",
    ),
)


def alone(claim: Claim, adversary: str, target: float, evidence: Evidence) -> ClaimRecord:
    """N9 and N10: value within 10 points, tanh below scaled in every seed, and (N10) below FGSM."""
    judged = [judged for reading in _ALONE if (judged := _judge_alone(evidence, adversary, target, reading))]
    if not judged or judged[0].reading.words:
        return not_measured(claim, f"the adversary of {NAMES[adversary]} trained alone, against the vanilla model")
    found = judged[0].found
    paper = evidence.find("vanilla", "transfer", f"{adversary} (alone)", EPS, "paper")
    fitting = next((entry for entry in judged if set(entry.states) == {"yes"}), None)
    verdict: Verdict
    said = f"It leaves {percent(found.mean)} of the vanilla model: {'; '.join(judged[0].reasons)}."
    if fitting is judged[0]:
        verdict = "reproduced"
    elif fitting is not None:
        verdict = "explained"
        said += f" With {fitting.reading.words} it leaves {percent(fitting.found.mean)}: {'; '.join(fitting.reasons)}."
    else:
        verdict = "refuted" if "no" in judged[0].states else "undecided"
    return _record(claim, evidence, found, verdict, said, digits=1, protocols=both_protocols(found, paper))


def _judge_alone(evidence: Evidence, adversary: str, target: float, reading: _Alone) -> _AloneJudged | None:
    """N9 or N10 in one reading, None where it was not measured."""
    found = evidence.find("vanilla", "transfer", f"{adversary} {reading.suffix}", EPS, reading.protocol)
    if found is None:
        return None
    inside = {"reproduced": "yes", "refuted": "no"}.get(_within(found, target, ALONE_TOLERANCE), "open")
    away = f"{100 * abs(found.mean - target):.1f} points from the paper's {percent(target, 2)}"
    states, reasons = [inside], [f"{away}, {'inside' if inside == 'yes' else 'outside'} the 10 allowed"]
    tanh, scaled = (
        evidence.transferred(f"{name} {reading.suffix}", "vanilla", reading.protocol)
        for name in ("gan_tanh_init", "gan_scaled_init")
    )
    state, reason = _in_order([(tanh[s], scaled[s]) for s in sorted(tanh.keys() & scaled.keys())])
    states.append(state)
    reasons.append(f"tanh below scaled {reason}")
    if adversary == "gan_scaled_init":
        fgsm = evidence.find("vanilla", "accuracy", "fgsm", EPS, reading.fgsm)
        pairs = _paired_values(found, fgsm)
        state, reason = _in_order(pairs)
        states.append(state)
        reasons.append(f"below FGSM{f', which leaves {percent(fgsm.mean)},' if fgsm else ''} {reason}")
    return _AloneJudged(reading, found, tuple(states), tuple(reasons))


def matrix(claim: Claim, evidence: Evidence) -> ClaimRecord:
    """N11: every game's adversary leaves every model at 96 % or more."""
    entries = _entries(evidence, "sound")
    if not entries:
        return not_measured(claim, "the games' adversaries against the seven models")
    least, of_paper = min(entries, key=lambda s: s.mean), _entries(evidence, "paper")
    other = min(of_paper, key=lambda s: s.mean, default=None)
    noise = [n for d in PAPER if (n := evidence.find(d, "transfer", "uniform noise", EPS))]
    verdict, n_all = _least_verdict(entries), len(GAMES) * len(PAPER)
    said = (
        f"The strongest of {len(entries)} pairs, the adversary of {NAMES[least.attack]} against {NAMES[least.recipe]}, "
    )
    said += f"leaves {percent(least.mean)}"
    if noise:
        said += f"; uniform noise of the same size leaves at least {percent(min(n.mean for n in noise))}"
    said += "."
    if verdict == "undecided" and len(entries) < n_all and least.mean >= LEAST:
        said += f" The other {n_all - len(entries)} pairs were not measured; `sparring reproduce` measures them all."
    if verdict != "reproduced" and other and _least_verdict(of_paper) == "reproduced":
        verdict = "explained"
        said += f" With batch norm in training mode every pair keeps at least {percent(other.mean)}."
    return _record(claim, evidence, least, verdict, said, digits=1, protocols=both_protocols(least, other))


def _entries(evidence: Evidence, protocol: Protocol) -> list[SummaryRecord]:
    found = (evidence.find(d, "transfer", a, EPS, protocol) for a in GAMES for d in PAPER)
    return [entry for entry in found if entry]


def _least_verdict(entries: Sequence[SummaryRecord]) -> Verdict:
    least = min(entries, key=lambda s: s.mean)
    if least.mean >= LEAST:
        return "reproduced" if len(entries) == len(GAMES) * len(PAPER) else "undecided"
    return "refuted" if bounds(least).high < LEAST else "undecided"


def _within(found: SummaryRecord, target: float, tolerance: float) -> Verdict:
    """Reproduced by the mean; refuted where the interval lies clear of the zone around the target."""
    if abs(found.mean - target) <= tolerance + 1e-12:
        return "reproduced"
    interval = bounds(found)
    clear = interval.low > target + tolerance or interval.high < target - tolerance
    return "refuted" if clear else "undecided"


def _in_order(pairs: Sequence[tuple[float, float]]) -> tuple[str, str]:
    """Whether the first is below the second in every seed: "yes", in none: "no", else "open"; and that in words."""
    n_right = sum(a < b for a, b in pairs)
    if not pairs:
        return "open", "was not measured"
    state = "yes" if n_right == len(pairs) else "no" if n_right == 0 else "open"
    return state, f"in {n_right} of {seeds(len(pairs))}"


def _paired_values(a: SummaryRecord, b: SummaryRecord | None) -> list[tuple[float, float]]:
    """Seed by seed where both have as many, else the means."""
    if b is None:
        return []
    return list(zip(a.values, b.values, strict=True)) if a.n_seeds == b.n_seeds else [(a.mean, b.mean)]


def _covers(found: SummaryRecord) -> bool:
    interval = bounds(found)
    return interval.low <= UNDER_FGSM <= interval.high


def _letters(reading: SummaryRecord) -> str:
    """The ambiguities in which a reading departs from the defaults, in the order in which they are preferred."""
    words = {"a": "training mode", "b": "softmax twice", "c": "standardised", "j": "initial weights"}
    return "".join(letter for letter, word in words.items() if word in reading.attack)


def _preference(reading: SummaryRecord) -> tuple[str, bool]:
    """Readings in one ambiguity before those in two; batches of 128, our default, before other sizes."""
    letters = _letters(reading)
    return f"{len(letters)}{letters}", "training mode" in reading.attack and "batches of 128" not in reading.attack


def _record(
    claim: Claim,
    evidence: Evidence,
    found: SummaryRecord,
    verdict: Verdict,
    sentence: str,
    *,
    digits: int,
    protocols: dict[str, str],
) -> ClaimRecord:
    if not evidence.papers_data:
        verdict = "undecided"
        sentence = f"The paper's number is for MNIST and this run used {evidence.data_name}: it neither confirms nor refutes it."
    return ClaimRecord(
        id=claim.id,
        claim=claim.text,
        paper=claim.paper,
        measured=percent(found.mean, digits),
        interval=spread(found, digits),
        n_seeds=found.n_seeds,
        verdict=verdict,
        sentence=sentence,
        protocol_values=protocols,
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def judges() -> Iterator[Judge]:
    """N1 to N11 in order, each as the function that judges it."""
    for number, (recipe, target) in enumerate(zip(PAPER, CLEAN_TARGETS, strict=True), start=1):
        claim = Claim(f"N{number}", f"Clean accuracy of {NAMES[recipe]}", percent(target, 2))
        yield partial(clean, claim, recipe, target)
    claim = Claim("N8", "The vanilla model under FGSM at 0.1", "85.42 %")
    yield partial(fgsm_on_vanilla, claim)
    text = "The vanilla model under an adversary trained alone against it, {}, at 0.1"
    claim = Claim("N9", text.format("tanh"), "20.41 %")
    yield partial(alone, claim, "gan_tanh_init", 0.2041)
    claim = replace(claim, id="N10", text=text.format("scaled"), paper="46.28 %")
    yield partial(alone, claim, "gan_scaled_init", 0.4628)
    claim = Claim("N11", "Each game's adversary leaves every kind of defender at about 97 %", "about 97 %")
    yield partial(matrix, claim)
