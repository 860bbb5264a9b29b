"""Verdicts on the paper's discussion, D1 to D3: does the adversary learn, is it like noise, is it too large."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from sparring.claims.comparisons import ALPHA, GAMES, PAPER
from sparring.claims.evidence import Claim, Evidence, Judge, between, listing, not_measured, percent, points
from sparring.claims.summary import attacker
from sparring.evaluation.statistics import Interval, holm, mean_interval, t_test_p
from sparring.records import ClaimRecord, SweepRecord, Verdict

HOLDS_OUT = 0.02  # D1: the defender's loss against its own adversary, at most
HELPS = 0.05  # D1: what a variant must gain against a fresh adversary to refute the claim
LIKE_NOISE = 0.01  # D2
MATTERS = 0.02  # D3
BASE = "base"
ONE_SEED = "with one seed there is no interval"


@dataclass(frozen=True)
class _Change:
    """What a variant changes against the base, seed by seed: positive is better for the defender's robustness."""

    variant: str
    metric: Literal["fresh", "in_game"]
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        return mean_interval(self.differences)[0]

    @property
    def interval(self) -> Interval:
        return mean_interval(self.differences)[1]

    def __str__(self) -> str:
        return f"{points(self.mean)} {between(self.interval)}".rstrip() + f" ({self.variant})"


def learning(claim: Claim, evidence: Evidence) -> ClaimRecord:
    """D1: no rates or steps teach the adversary to fool its defender, or the defender to stand a fresh one."""
    sweep = _of_claim(evidence, "D1")
    changes = _changes(sweep, "fresh")
    if not changes:
        nothing = not_measured(claim, "a sweep over rates and steps of the game, with its base")
        return replace(nothing, sentence=nothing.sentence + _gap(evidence))
    lost = max(s.clean - s.in_game for s in sweep)
    holds_out, several = lost <= HOLDS_OUT + 1e-12, all(len(c.differences) > 1 for c in changes)
    best = max(changes, key=lambda c: c.mean)
    helping = [c for c in changes if c.interval.low > 0]
    much = [c for c in changes if c.interval.low > HELPS]
    verdict: Verdict = "undecided"
    if much:
        verdict = "refuted"
    elif holds_out and several and not helping:
        verdict = "reproduced"
    said = (
        f"Against its own adversary the defender loses at most {points(lost).removeprefix('+')} in any variant and seed"
    )
    said += "" if holds_out else ", more than the 2 allowed"
    said += f"; against a fresh adversary the best of {len(changes)} variants changes what is left by {best}"
    said += "" if helping else ", which is not clear of zero"
    said += "." if several else f" ({ONE_SEED})."
    return ClaimRecord(
        id=claim.id,
        claim=claim.text,
        paper=claim.paper,
        measured=f"{percent(min(s.in_game for s in sweep))} at least, in the game",
        interval="",
        n_seeds=_n_seeds(sweep),
        verdict=verdict,
        sentence=evidence.on_data + said + _gap(evidence),
    )


def like_noise(claim: Claim, evidence: Evidence) -> ClaimRecord:
    """D2: the games' adversaries against defenders other than their own, beside noise of the same size."""
    differences = {noise: _against_noise(evidence, noise) for noise in ("uniform noise", "sign noise")}
    if not all(differences.values()):
        return not_measured(claim, "the games' adversaries and noise against other defenders")
    means = {noise: mean_interval(tuple(by_seed.values())) for noise, by_seed in differences.items()}
    verdict: Verdict = "undecided"
    if any(abs(mean) <= LIKE_NOISE + 1e-12 for mean, _ in means.values()):
        verdict = "reproduced"
    elif all(interval.high < -LIKE_NOISE for _, interval in means.values()):
        verdict = "refuted"
    parts = [
        f"{points(mean)} {between(interval)}".rstrip() + f" against {noise}"
        for noise, (mean, interval) in means.items()
    ]
    said = f"Other defenders keep, on average, {listing(parts)} of the same size; a minus means that the adversary is stronger."
    sign_mean, sign_interval = means["sign noise"]
    return ClaimRecord(
        id=claim.id,
        claim=claim.text,
        paper=claim.paper,
        measured=f"{points(sign_mean)} against sign noise",
        interval=between(sign_interval),
        n_seeds=len(differences["sign noise"]),
        verdict=verdict,
        sentence=evidence.on_data + said,
    )


def capacity(claim: Claim, evidence: Evidence) -> ClaimRecord:
    """D3: players of more equal size raise the accuracy against a fresh adversary, or lower the one in the game."""
    sweep = _of_claim(evidence, "D3")
    matched = _matched(sweep)
    fresh = [c for c in _changes(sweep, "fresh") if c.variant in matched]
    in_game = [c for c in _changes(sweep, "in_game") if c.variant in matched]
    if not fresh:
        return not_measured(claim, "games whose players are closer in size than the base's")
    tests = fresh + in_game
    adjusted = holm([t_test_p(c.differences) for c in tests])
    clear = [c for c, p in zip(tests, adjusted, strict=True) if c.interval.low > 0 and p < ALPHA]
    verdict: Verdict = "undecided"
    if clear:
        verdict = "reproduced"
    elif all(c.interval.high <= MATTERS for c in tests):
        verdict = "refuted"
    best, most = max(fresh, key=lambda c: c.mean), max(in_game, key=lambda c: c.mean)
    said = (
        f"Of {len(fresh)} games with players closer in size the best changes what a fresh adversary leaves by {best}; "
    )
    said += f"the adversary in the game takes at most {most} more. After correction "
    shown = listing(f"{c.variant}, {'fresh' if c.metric == 'fresh' else 'in the game'}" for c in clear)
    said += f"clear of zero: {shown}" if clear else "no change is clear of zero"
    said += "." if all(len(c.differences) > 1 for c in tests) else f" ({ONE_SEED})."
    return ClaimRecord(
        id=claim.id,
        claim=claim.text,
        paper=claim.paper,
        measured=f"{points(best.mean)} fresh",
        interval=between(best.interval),
        n_seeds=len(best.differences),
        verdict=verdict,
        sentence=evidence.on_data + said,
    )


def _of_claim(evidence: Evidence, claim: Literal["D1", "D3"]) -> list[SweepRecord]:
    """The claim's variants and the base, which both claims share."""
    return [s for s in evidence.sweeps if s.claim == claim or s.variant == BASE]


def _changes(sweep: Sequence[SweepRecord], metric: Literal["fresh", "in_game"]) -> list[_Change]:
    """Each variant against the base on the seeds that both have; accuracy gained (fresh), or taken (in the game)."""
    by_variant: dict[str, dict[int, float]] = {}
    for s in sweep:
        by_variant.setdefault(s.variant, {})[s.seed] = s.fresh if metric == "fresh" else -s.in_game
    base = by_variant.pop(BASE, {})
    paired = {
        name: [found[k] - base[k] for k in sorted(found.keys() & base.keys())] for name, found in by_variant.items()
    }
    return [_Change(name, metric, tuple(differences)) for name, differences in paired.items() if differences]


def _matched(sweep: Sequence[SweepRecord]) -> set[str]:
    """The variants whose adversary is fewer times the size of the defender than in the base."""
    ratios = {s.variant: s.adversary_parameters / s.defender_parameters for s in sweep}
    return {name for name, ratio in ratios.items() if ratio < ratios.get(BASE, 0)}


def _against_noise(evidence: Evidence, noise: str) -> dict[int, float]:
    """Seed -> mean accuracy under the games' adversaries less that under noise, on the same foreign defenders."""
    found: dict[int, dict[tuple[str, str], float]] = {}
    for t in evidence.transfer:
        if t.protocol == "sound" and t.defender in PAPER:
            found.setdefault(t.seed, {})[attacker(t), t.defender] = t.accuracy
    by_seed = {seed: _mean_difference(accuracy, noise) for seed, accuracy in sorted(found.items())}
    return {seed: difference for seed, difference in by_seed.items() if difference is not None}


def _mean_difference(accuracy: Mapping[tuple[str, str], float], noise: str) -> float | None:
    differences = [
        accuracy[game, defender] - accuracy[noise, defender]
        for game in GAMES
        for defender in PAPER
        if game != defender and (game, defender) in accuracy and (noise, defender) in accuracy
    ]
    return sum(differences) / len(differences) if differences else None


def _gap(evidence: Evidence) -> str:
    """What a fresh adversary finds in the tanh game's defender that its own did not."""
    found = [(e.in_game, e.worst) for e in evidence.exploitability if e.recipe == "gan_tanh" and e.in_game is not None]
    if not found:
        return " How exploitable the tanh game's defender is was not measured."
    in_game, worst = (sum(side) / len(found) for side in zip(*found, strict=True))
    return (
        f" The tanh game's defender keeps {percent(in_game)} against its own adversary and {percent(worst)} against fresh ones: "
        f"a gap of {points(in_game - worst).removeprefix('+')}."
    )


def _n_seeds(sweep: Sequence[SweepRecord]) -> int:
    return len({s.seed for s in sweep})


def judges() -> Iterator[Judge]:
    """D1 to D3 in order, each as the function that judges it."""
    claim = Claim(
        "D1", "The adversary does not learn to fool its own defender; other rates or steps do not help", "no help"
    )
    yield partial(learning, claim)
    claim = Claim("D2", "Against defenders other than its own an adversary may be like random noise", "like noise")
    yield partial(like_noise, claim)
    claim = Claim("D3", "Conjectured cause: the adversary has many more parameters than the defender", "conjecture")
    yield partial(capacity, claim)
