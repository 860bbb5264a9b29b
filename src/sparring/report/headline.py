"""The first screen: what was found, in sentences whose every number is a record's, and the table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sparring.records import ReadingRecord, SummaryRecord
from sparring.report import words
from sparring.report.source import Source

COLUMNS = (
    # key, metric, attack (None: any), header, what it is
    ("clean", "accuracy", "clean", "Clean", "no attack"),
    ("fgsm", "accuracy", "fgsm", "FGSM", "one gradient step"),
    ("pgd", "accuracy", "pgd", "PGD", "many gradient steps"),
    ("in_game", "in_game", None, "In the game", "the adversary it trained with"),
    ("fresh", "fresh", None, "Fresh", "new adversaries, trained against it"),
    ("worst", "worst_case", None, "Worst case", "every attack of the audit"),
)


@dataclass(frozen=True)
class Cell:
    """One number of a table: the value, its interval, and whatever must be said with it."""

    value: str
    interval: str = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One recipe of the headline table."""

    recipe: str
    label: str
    cells: tuple[Cell, ...]
    seeds: str
    note: str


def found(source: Source, key: str, recipe: str) -> SummaryRecord | None:
    """The summary behind one cell of the headline table."""
    _, metric, attack, _, _ = next(column for column in COLUMNS if column[0] == key)
    return source.one(metric, recipe, attack=attack, eps=None if key == "clean" else source.head.eps)


def columns(source: Source) -> list[tuple[str, str, str | None, str, str]]:
    """The columns of the headline table; the audit's only where there is one."""
    return [column for column in COLUMNS if column[0] != "worst" or source.audits]


def table(source: Source) -> list[Row]:
    """A row a recipe; a cell is a dash where the records have no such number."""
    return [_row(source, recipe) for recipe in source.recipes]


def sentences(source: Source) -> list[str]:
    """What was found: the game, what is left after the audit, N8; a sentence without its records is left out."""
    papers = [game for game in source.games if game not in words.BEYOND]
    beyond = [game for game in source.games if game in words.BEYOND]
    made = [_game(source, papers), _game(source, beyond), _audited(source) or _strongest(source), _readings(source)]
    return [sentence.replace(" %", "\u00a0%") for sentence in made if sentence]


def verdicts(source: Source) -> list[tuple[str, str, int]]:
    """Verdict, symbol and count, every verdict of the ledger once."""
    counts = Counter(claim.verdict for claim in source.claims)
    return [(verdict, symbol, counts[verdict]) for verdict, symbol in words.VERDICTS.items()]  # type: ignore[index]


def cell(record: SummaryRecord | None, digits: int = 1, *, seeds: int | None = None) -> Cell:
    """A summary in per cent, without interval for one seed, with its seeds where they are not `seeds`."""
    if record is None:
        return Cell("–")
    note = "" if seeds in (None, record.n_seeds) else words.seeds(record.n_seeds)
    return Cell(words.percent(record.mean, digits), words.interval(record.low, record.high, digits), note)


def same_modes(reading: ReadingRecord, gradient: str, verdict: str) -> bool:
    return (reading.gradient_mode, reading.verdict_mode, reading.loss) == (gradient, verdict, "logits")


def _row(source: Source, recipe: str) -> Row:
    shown = columns(source)
    records = [found(source, key, recipe) for key, *_ in shown]
    n_seeds = max((r.n_seeds for r in records if r), default=0)
    diverged = len(source.diverged(recipe))
    cells = tuple(
        cell(r, 2 if key == "clean" else 1, seeds=n_seeds) for r, (key, *_) in zip(records, shown, strict=True)
    )
    if withheld(source, recipe):
        cells = (*cells[:-1], Cell("withheld"))
    return Row(
        recipe=recipe,
        label=words.label(recipe),
        cells=cells,
        seeds=str(n_seeds) if n_seeds else "–",
        note=f"{words.seeds(diverged)} diverged" if diverged else "",
    )


def _game(source: Source, games: Sequence[str]) -> str:
    eps = source.head.eps
    pairs = [(found(source, "in_game", g), found(source, "fresh", g)) for g in games]
    whole = [(a, b) for a, b in pairs if a and b]
    if not whole:
        return ""
    lower = all(b.mean < a.mean for a, b in whole)
    start = f"The defender of {words.label(games[0])}"
    if len(whole) > 1:
        beyond = [words.label(game) for game in games if game in words.BEYOND]
        start = f"Each defender of {words.listing(beyond)}" if beyond else "Each defender of the paper's games"
    text = f"{start} keeps {_range([a for a, _ in whole])} against the adversary it trained with, "
    text += f"{'but' if lower else 'and'} {_range([b for _, b in whole])} against the worst of fresh adversaries"
    attacked = [r for g in games if (r := found(source, "pgd", g))]
    if len(attacked) == len(whole):
        text += f" and {_range(attacked)} under PGD"
    return text + f", all at eps {words.eps(eps)}."


def withheld(source: Source, recipe: str) -> bool:
    """Whether the audit withholds this recipe's robust accuracy, in any seed."""
    return any(audit.withheld for audit in source.audits if audit.recipe == recipe)


def _audited(source: Source) -> str:
    under = [r for recipe in source.recipes if (r := found(source, "worst", recipe))]
    if not under:
        return ""
    most = _not_told_apart(under)
    named = words.listing([f"{words.label(r.recipe)} training {_value(r)}" for r in most])
    text = f"The worst case of the audit's attacks leaves {named}"
    if games := [r for r in under if r.recipe in source.games and r not in most]:
        text += f", of the games {_range(games)}"
    stopped = [words.label(recipe) for recipe in source.recipes if withheld(source, recipe)]
    return text + (f"; withheld for {words.listing(stopped)}." if stopped else ".")


def _not_told_apart(records: Sequence[SummaryRecord]) -> list[SummaryRecord]:
    """The largest mean, and those whose interval reaches its interval: no order is claimed among them."""
    best = max(records, key=lambda r: r.mean)
    low = best.mean if best.low is None else best.low
    return sorted((r for r in records if (r.mean if r.high is None else r.high) >= low), key=lambda r: -r.mean)


def _strongest(source: Source) -> str:
    under = [r for recipe in source.recipes if (r := found(source, "pgd", recipe))]
    if len(under) < 2:
        return ""
    most = _not_told_apart(under)
    named = words.listing([f"{words.label(r.recipe)} training {_value(r)}" for r in most])
    text = f"PGD at eps {words.eps(source.head.eps)} leaves {named}"
    vanilla = found(source, "pgd", "vanilla")
    return text + (f", of vanilla training {_value(vanilla)}." if vanilla and vanilla not in most else ".")


def _readings(source: Source) -> str:
    plain = _reading(source, "evaluation", "evaluation")
    paper = _reading(source, "training", "training")
    if plain is None or paper is None:
        return ""
    claim = source.claim("N8")
    where = "" if source.head.data == "mnist" else ", on MNIST,"
    said = f" (the paper{where} has {claim.paper})" if claim else ""
    return (
        f"FGSM at eps {words.eps(plain.eps)} leaves the vanilla model at {_value(plain)} with batch norm in "
        f"evaluation mode, and at {_value(paper)} with batch norm in training mode throughout{said}."
    )


def _reading(source: Source, gradient: str, verdict: str) -> SummaryRecord | None:
    fitting = [r for r in source.readings if same_modes(r, gradient, verdict)]
    fitting.sort(key=lambda r: r.batch_size != 128)  # the paper's protocol, batches of 128, first
    return source.one("reading", "vanilla", attack=fitting[0].reading, protocol=None) if fitting else None


def _value(record: SummaryRecord) -> str:
    bounds = words.interval(record.low, record.high)
    return f"{words.percent(record.mean)} % " + (bounds or f"({words.seeds(record.n_seeds)})")


def _range(records: Sequence[SummaryRecord]) -> str:
    if len(records) == 1:
        return _value(records[0])
    low, high = (words.percent(pick(r.mean for r in records)) for pick in (min, max))
    return f"{low} %" if low == high else f"{low} to {high} %"
