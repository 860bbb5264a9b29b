"""What README.md shows of results/beyond-mnist: the game and PGD-7 under the strongest attacks, and convolutional games."""

from collections.abc import Iterable
from pathlib import Path

from beyond_pages import LOOKS, cell, confirmed_rows, conv_groups, points, trained_in
from confirmed import Lead, leads

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
        f"What survives of {rows[0].n:,} test images, in %: mean over seeds [95 % t interval], and of how many seeds. Under the "
        "library's standard suite, then under the official AutoAttack too, which fewer seeds have met. By how many points "
        f"`{first}` is ahead: {_attacks(found.values())}; Student's t over seeds, p corrected for radii and looks. The figure is "
        "under Auto-PGD and FGSM alone, which leave five points too many at 0.3. "
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
            for left in (
                [row.suite / row.n for row in own],
                [row.worst / row.n for row in own if row.worst is not None],
            ):
                cells.append(f"{cell(left)}, of {len(left)}" if left else "-")
        for other in others:
            lead = found.get((other, eps))
            cells += [points(lead.by_seed), f"{lead.p:.2g}"] if lead else ["-", "-"]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def _attacks(found: Iterable[Lead]) -> str:
    """Under which attacks the leads are: under both only where AutoAttack has met every seed."""
    both = [f"{lead.eps:g}" for lead in found if lead.attacks == "worst"]
    return f"under the suite, at {', '.join(both)} under both" if both else "under the suite"


def _convolutional(results: Path) -> str:
    """What the official AutoAttack leaves of each game that it met."""
    groups = conv_groups(results)
    met = {key: own for key, own in groups.items() if any(OFFICIAL in row["left"] for row in own)}
    if not met:
        return ""
    text = [
        f"[A small convolutional network](docs/game.md#a-convolutional-network) at eps {next(iter(met.values()))[0]['eps']:g} "
        "(`runs/conv.py`), in %; clean and certified accuracy of all test images. Of a minibatch `all` perturbs every example, "
        "at radii from 0.2 to 0.36; `half` half of them, 0.1 to 0.33; `bounded` every one, 0.1 to 0.33, with a hundredth of the "
        "objective for certificates:",
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
