"""Accuracies of two reproductions, paired by seed: what the scripts beside this one share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sparring.evaluation.statistics import holm, mean_interval, t_test_p
from sparring.records import SummaryRecord

ATTACKS = {"clean": "clean", "fgsm": "FGSM", "pgd": "PGD-40", "own": "in-game", "fresh": "fresh adversaries"}
Accuracies = Mapping[tuple[str, str], Mapping[int, float]]  # by recipe and attack, a name of ATTACKS: of each seed


@dataclass(frozen=True)
class Difference:
    """One accuracy of one regime over seeds, on either side, and the second less the first."""

    recipe: str
    attack: str
    n_seeds: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    p_value: float  # of Student's t, not corrected
    corrected: float


def accuracies(summary: Sequence[SummaryRecord], eps: float, seeds: Sequence[int]) -> Accuracies:
    """Those of ATTACKS in a reproduction's summary: on clean images, and under the attacks at `eps`, all in evaluation mode."""
    found = {
        (r.recipe, r.attack): dict(zip(seeds, r.values, strict=True))
        for r in summary
        if r.protocol == "sound"
        and r.metric == ("fresh" if r.attack == "fresh" else "accuracy")
        and r.attack in ATTACKS
        and r.eps == (0.0 if r.attack == "clean" else eps)
    }
    recipes = list(dict.fromkeys(r.recipe for r in summary))
    return {
        (recipe, attack): found[recipe, attack] for recipe in recipes for attack in ATTACKS if (recipe, attack) in found
    }


def differences(before: Accuracies, after: Accuracies) -> list[Difference]:
    """A row for every regime and attack that both sides have, over the seeds of the second; p-values corrected over all rows."""
    rows = []
    for (recipe, attack), values in after.items():
        if (recipe, attack) not in before:
            continue
        each = [(before[recipe, attack][seed], value) for seed, value in values.items()]
        by_seed = [b - a for a, b in each]
        mean, bounds = mean_interval(by_seed)
        first, second = (sum(side) / len(each) for side in zip(*each, strict=True))
        p = t_test_p(by_seed)
        rows.append(Difference(recipe, attack, len(each), first, second, mean, bounds.low, bounds.high, p, p))
    corrected = holm([row.p_value for row in rows])
    return [replace(row, corrected=p) for row, p in zip(rows, corrected, strict=True)]


def table(rows: Sequence[Difference], before: str, after: str) -> Iterator[str]:
    """The rows as Markdown, under the names of the two sides."""
    yield f"| training | accuracy | {before} | {after} | difference | p | corrected |"
    yield "|---|---|---|---|---|---|---|"
    for r in rows:
        change = f"{100 * r.difference:+.2f} [{100 * r.low:+.2f}, {100 * r.high:+.2f}]"
        values = f"{100 * r.before:.2f} | {100 * r.after:.2f} | {change} | {r.p_value:.2g} | {r.corrected:.2g}"
        yield f"| {r.recipe} | {ATTACKS[r.attack]} | {values} |"
