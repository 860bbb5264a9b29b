"""What README.md shows of results/beyond-mnist: the game and PGD-7 under the strongest attacks, and convolutional games."""

from collections.abc import Iterable
from pathlib import Path

from beyond_pages import LOOKS, cell, cell_of, confirmed_rows, conv_groups, points, trained_in
from confirmed import ConfirmedRecord, leads

OFFICIAL = "AutoAttack, standard"


def in_short(results: Path) -> str:
    """Both, under the figure of all regimes."""
    figure = f"![Images that survive every attack, over the radius]({results}/figures/robustness.svg)"
    shown = [figure, _confirmed(results), _convolutional(results)]
    return "".join(f"\n{part}\n" for part in shown if part)


def _confirmed(results: Path) -> str:
    rows = confirmed_rows(results)
    if not rows:
        return ""
    grid, recipes = sorted({row.eps for row in rows}), list(dict.fromkeys(row.recipe for row in rows))
    found = {(lead.other, lead.eps): lead for lead in leads(rows, LOOKS)}
    first, *others = recipes
    text = [
        f"What survives of {rows[0].n:,} test images, in %: mean over seeds [95 % t interval]. Under the library's standard "
        f"suite, {_seeds(rows)}, and the official AutoAttack after it, {_seeds(row for row in rows if row.worst is not None)}. "
        f"By how many points `{first}` is ahead: Student's t over seeds, p corrected for radii and looks. "
        f"[Every regime, test, cost and command]({results}/README.md).",
        "",
        f"| eps | {' | '.join(f'`{recipe}` | and AutoAttack' for recipe in recipes)} | "
        f"{' | '.join(f'ahead of `{other}` | p' for other in others)} |",
        f"|---|{'---|' * (2 * len(recipes) + 2 * len(others))}",
    ]
    for eps in grid:
        cells = [f"{eps:g}"]
        for recipe in recipes:
            own = [row for row in rows if (row.recipe, row.eps) == (recipe, eps)]
            cells.append(cell([row.suite / row.n for row in own]))
            left = [row.worst / row.n for row in own if row.worst is not None]
            cells.append(cell_of(left, 2))  # one seed alone says so
        for other in others:
            lead = found.get((other, eps))
            cells += [points(lead.by_seed), f"{lead.p:.2g}"] if lead else ["-", "-"]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def _seeds(rows: Iterable[ConfirmedRecord]) -> str:
    """How many of a recipe, at the radius with the fewest and the most."""
    seeds: dict[tuple[str, float], int] = {}
    for row in rows:
        seeds[row.recipe, row.eps] = seeds.get((row.recipe, row.eps), 0) + 1
    least, most = min(seeds.values()), max(seeds.values())
    return f"{most} seeds" if least == most else f"{least} to {most} seeds"


def _convolutional(results: Path) -> str:
    """What the official AutoAttack leaves of each game that it met."""
    groups = conv_groups(results)
    met = {key: own for key, own in groups.items() if any(OFFICIAL in row["left"] for row in own)}
    if not met:
        return ""
    text = [
        f"[A small convolutional network](docs/game.md#a-convolutional-network) at eps {next(iter(met.values()))[0]['eps']:g} "
        "(`runs/conv.py`), in %; clean and certified accuracy of all test images:",
        "",
        "| convolutions | game | seconds, on | seeds | clean | certified | the official AutoAttack leaves | seeds | of images |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for game, own in met.items():
        certain = [row["certified"] for row in own if "certified" in row]
        counts = [row["left"][OFFICIAL] for row in own if OFFICIAL in row["left"]]
        cells = [
            game.network,
            game.shown,
            trained_in(own, game),
            str(len(own)),
            cell([row["clean"] for row in own], 2),
        ]
        cells += [cell(certain) if certain else "-", cell([right / n for right, n in counts]), str(len(counts))]
        text.append(f"| {' | '.join([*cells, ' or '.join(f'{n:,}' for n in sorted({n for _, n in counts}))])} |")
    return "\n".join(text)
