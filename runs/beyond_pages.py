"""The pages of results/beyond-mnist: what `runs/beyond.py`, `runs/conv.py` and the others there found, in tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from confirmed import ConfirmedRecord, leads

from sparring import recipes
from sparring.config import Data
from sparring.data.batches import stratified_mask
from sparring.evaluation.statistics import mean_interval
from sparring.experiment import load_data
from sparring.records import ComparisonRecord, OutPaths, WorstCaseRecord, read

GAMES = {  # each against its yardsticks, and the shorter game
    "gan_recurrent": ("pgd_drawn", "fgsm_drawn", "pgd_tenth", "fgsm_tenth"),
    "gan_recurrent_long": ("pgd_long", "fgsm_long", "gan_recurrent"),
}
ALPHA = 0.01
LOOKS = 2  # at the leads under the standard suite: after five seeds, and after as many as docs/log.md says
SHOWN = (*recipes.BEYOND, *recipes.ABLATION)
OTHERS = {  # what else lies in the folder, and the script that told it
    "radii.jsonl": "the game and PGD-7, each trained at one radius (`runs/radii.py`)",
    "closing.jsonl": "what closing a recurrent game is worth, by turns (`runs/closing.py`)",
    "schedules.jsonl": "which rate a `Game` should have by default, on training images held out (`runs/schedules.py`)",
    "laws.jsonl": "game, PGD-7 and FGSM under several laws of radii, on training images held out (`runs/laws.py`)",
    "leads.jsonl": "other opponents and other things to minimise, on training images held out (`runs/leads.py`)",
    "x-only.jsonl": "the paper's game, whose adversary sees the input only, brought as far as it goes (`runs/x_only.py`)",
    "attack.jsonl": "the learned attack by itself (`runs/learned_attack.py`)",
    "attack-2000/attack.jsonl": "five and ten gradients, after two rehearsals too, and AutoAttack at 0.2 on 2,000 images "
    "(`--queries 10 5 --alone --official --fitted`)",
    "confirmed.jsonl": "the official AutoAttack on several seeds of the game and of PGD-7 (`runs/confirmed.py`)",
    "confirmed-10000/confirmed.jsonl": "on all test images the standard suite, then AutoAttack (`--after-suite`); certificates",
    "conv-left": "which of 500 test images attacks leave a network of four convolutions, a digit each (`runs/conv.py`)",
    "audits.jsonl": "what `sparring audit` found at 0.1: seeds 5 to 9 of the game, and two of `gan_recurrent_long` from before "
    "games closed",
    "audits-0.3/audits.jsonl": "what it found of the former at 0.3",
    "autoattack.json": "the official AutoAttack on seed 0 (`bench/attack.py`)",
}


def outcomes_of(results: Path, recipe: str, seed: int) -> Path:
    """Which test images of a run withstood what, a bit each: clean, then every radius."""
    return results / "outcomes" / f"{recipe}-{seed}.npz"


def outcomes(results: Path, recipe: str, seed: int) -> npt.NDArray[np.bool_]:
    """Those that were written, (1 + E, n)."""
    kept = np.load(outcomes_of(results, recipe, seed))
    return np.unpackbits(kept["right"], axis=1, count=int(kept["n"])).astype(bool)


def on_fewer(results: Path, rows: Sequence[WorstCaseRecord], name: str, n: int) -> list[list[float]]:
    """What a game keeps of the n images that the others were attacked on: for clean and every radius, over seeds."""
    game = [row for row in rows if row.recipe == name and row.eps == 0]
    if not all(row.n > n and outcomes_of(results, name, row.seed).is_file() for row in game):
        return []
    among = stratified_mask(load_data(Data("mnist"))[1], n, 0).numpy()
    kept = np.stack([outcomes(results, name, row.seed)[:, among].mean(1) for row in game])  # (S, 1 + E)
    return [[float(value) for value in column] for column in kept.T]


def page(
    results: Path,
    rows: Sequence[WorstCaseRecord],
    tests: Sequence[ComparisonRecord],
    grid: Sequence[float],
    call: str,
    more: Sequence[str],
) -> str:
    """The folder's README."""
    head = " | ".join(f"eps {eps:g}" for eps in grid)
    text = [
        "# Beyond the paper",
        "",
        f"`sparring train TRAINING --data.name mnist --seeds SEEDS --out OUT`, then `{call}`. MNIST, the paper's MLP. Images "
        f"that survive every attack, in %: mean over seeds [95 % t interval]. Attacks: {', '.join(rows[-1].attacks)}. Images: n. "
        "Passes: forwards and backwards through the defender for each training example and epoch.",
        "",
        f"| training | clean | {head} | n | seeds | epochs | passes |",
        f"|---|---|{'---|' * (len(grid) + 4)}",
    ]
    few = min(row.n for row in rows)
    for name in [name for name in SHOWN if any(row.recipe == name for row in rows)]:
        own = [row for row in rows if row.recipe == name]
        cells = [cell([row.accuracy for row in own if row.eps == eps]) for eps in (0.0, *grid)]
        seeds, run = len({row.seed for row in own}), recipes.recipe(name)
        text.append(f"| {name} | {' | '.join(cells)} | {own[0].n:,} | {seeds} | {own[0].epochs} | {run.passes:.2f} |")
        if name in GAMES and (some := on_fewer(results, rows, name, few)):
            cells = [cell(values) for values in some]
            text.append(f"| {name}, on the images of the others | {' | '.join(cells)} | {few:,} | {seeds} | | |")
    text += ["", *(f"- `{name}`: {recipes.describe(name)}" for name in SHOWN), ""]
    for game in dict.fromkeys(test.better for test in tests):
        text += [
            f"`{game}` against its yardsticks on the same images: difference in points [95 % interval: bootstrap over images "
            "and seeds where outcomes/ has both, else Student's t over seeds]; p: Student's t over seeds, after Holm over the "
            f"table but its clean column. Bold: p < {ALPHA:g}, ahead in every seed.",
            "",
            f"| against | clean | {head} |",
            f"|---|---|{'---|' * len(grid)}",
        ]
        won = [test for test in tests if test.better == game]
        for name in dict.fromkeys(test.worse for test in won):
            cells = []
            for test in (test for test in won if test.worse == name):
                told = (
                    f"{100 * test.difference:+.1f} [{100 * test.low:.1f}, {100 * test.high:.1f}], p {test.p_value:.2g}"
                )
                cells.append(f"**{told}**" if test.holds and test.eps else told)
            text.append(f"| {name} | {' | '.join(cells)} |")
        text.append("")
    others = [f"- `{name}`: {what}." for name, what in OTHERS.items() if (results / name).exists()]
    return (
        "\n".join(
            [*text, *([] if tests else [""]), *(line for table in more for line in (table, "")), *others]
        ).rstrip()
        + "\n"
    )


def confirmed_rows(results: Path) -> Sequence[ConfirmedRecord]:
    """What `runs/confirmed.py` found on all test images; nothing where it has not run."""
    path = OutPaths(results / "confirmed-10000").records("confirmed")
    return read(path, ConfirmedRecord) if path.is_file() else ()


def under_more(results: Path) -> str:
    """That in a table."""
    if not (rows := confirmed_rows(results)):
        return ""
    n, grid, seeds = rows[0].n, sorted({row.eps for row in rows}), sorted({row.seed for row in rows})
    most = {eps: len({row.seed for row in rows if row.eps == eps}) for eps in grid}
    official = sorted({row.eps for row in rows if row.worst is not None})
    certain = any(row.certified is not None for row in rows)
    how = f"--after-suite{' --certified' * certain} --looks {LOOKS}"
    between = "; what no point of the ball breaks, by certificates, which AutoAttack need not meet, bounds accuracy from below"
    text = [
        f"Two of these under stronger attacks, those of seeds {seeds[0]} to {seeds[-1]} that met them, {n:,} test images, "
        f"by `python runs/confirmed.py OUT results/beyond-mnist/confirmed-10000 --examples {n} --eps {listed(grid)} "
        f"--official {listed(official)} {how}`, several calls: the library's standard suite, and the official AutoAttack on "
        f"what the suite leaves{between * certain}. By how much the first is ahead: Student's t over seeds, "
        f"after Holm over the row and times {LOOKS} for as many looks at a growing number of seeds (docs/log.md); under both "
        "attacks where all met both.",
        "",
        f"| training | attacks | {' | '.join(f'eps {eps:g}, {most[eps]} seeds' for eps in grid)} |",
        f"|---|---|{'---|' * len(grid)}",
    ]
    for recipe in dict.fromkeys(row.recipe for row in rows):
        own = {eps: [row for row in rows if (row.recipe, row.eps) == (recipe, eps)] for eps in grid}
        for title, name in (("the suite", "suite"), ("and AutoAttack", "worst"), ("certified", "certified")):
            left = {eps: [count / n for row in own[eps] if (count := getattr(row, name)) is not None] for eps in grid}
            if any(left.values()):
                text.append(f"| `{recipe}` | {title} | {' | '.join(cell_of(left[eps], most[eps]) for eps in grid)} |")
    found = leads(rows, LOOKS)
    for other in dict.fromkeys(lead.other for lead in found):
        ahead = {lead.eps: f"{points(lead.by_seed)}, p {lead.p:.2g}" for lead in found if lead.other == other}
        text.append(f"| ahead of `{other}` | | {' | '.join(ahead.get(eps, '-') for eps in grid)} |")
    return "\n".join(text)


class ConvGame(NamedTuple):
    """What the seeds have in common that `runs/conv.py` trained alike."""

    network: str
    game: str
    epochs: int
    device: str
    precision: str

    @property
    def shown(self) -> str:
        """The game's name, or what stands in its place."""
        return "none: PGD-7, else as `all`" if self.game == "pgd" else f"`{self.game}`"


def conv_groups(results: Path) -> dict[ConvGame, list[dict[str, Any]]]:
    """What `runs/conv.py` found, seeds that were trained alike together; nothing where it has not run."""
    path, groups = results / "conv.jsonl", dict[ConvGame, list[dict[str, Any]]]()
    for row in map(json.loads, path.read_text().splitlines() if path.is_file() else ()):
        if not row["held_out"]:
            groups.setdefault(ConvGame(*(row[name] for name in ConvGame._fields)), []).append(row)
    return groups


def convolutional(results: Path) -> str:
    """That in a table."""
    if not (groups := conv_groups(results)):
        return ""
    eps = next(iter(groups.values()))[0]["eps"]
    text = [
        f"A small convolutional network at eps {eps:g}, means over seeds, in %, by `python runs/conv.py OUT "
        "results/beyond-mnist --network NETWORK --game GAME --epochs EPOCHS --precision PRECISION --examples OF --official OF`. "
        "Clean and certified accuracy are of all test images; an attack leaves the last two columns of so many. AutoAttack is "
        "the official one.",
        "",
        "| network | game | seeds | epochs | seconds, on | clean | certified | attack | of | leaves | of one seed, at least |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(line for game, own in groups.items() for line in _convolutional(game, own)),
    ]
    return "\n".join(text)


def _convolutional(game: ConvGame, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Seeds that were trained alike: a line for each attack, the first with what holds for all."""
    certain = [row["certified"] for row in rows if "certified" in row]
    lines, own = list[str](), [
        game.network, game.shown, str(len(rows)), str(game.epochs), trained_in(rows, game),
        cell([row["clean"] for row in rows], 2), cell(certain) if len(certain) == len(rows) else "-",
    ]  # fmt: skip
    found = [row["left"] | ({"all of these": row["worst"]} if "worst" in row else {}) for row in rows]
    for name in dict.fromkeys(name for left in found for name in left):
        counts = [left[name] for left in found if name in left]
        shares = [right / n for right, n in counts]
        n = " or ".join(f"{n:,}" for n in sorted({n for _, n in counts}))
        n += f", {len(counts)} of the seeds" if len(counts) < len(rows) else ""
        lines.append(" | ".join([*own, name, n, cell(shares), f"{100 * min(shares):.1f}"]))
        own = [""] * len(own)
    return [f"| {line} |" for line in lines]


def trained_in(rows: Sequence[dict[str, Any]], game: ConvGame) -> str:
    """From the fewest to the most seconds, and on what."""
    seconds = sorted({row["seconds"] for row in rows})
    threads = f"{rows[0]['threads']} thread{'s' * (rows[0]['threads'] > 1)}"
    where = threads if game.device == "cpu" else f"one {game.device}"
    digits = "" if game.precision == "fp32" else f", {game.precision}"
    return f"{' to '.join(map(str, seconds[:1] + seconds[1:][-1:]))}, {where}{digits}"


def cell(values: Sequence[float], digits: int = 1) -> str:
    mean, interval = mean_interval([100 * value for value in values])
    among = f" [{max(0.0, interval.low):.{digits}f}, {min(100.0, interval.high):.{digits}f}]" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{among}"


def cell_of(values: Sequence[float], most: int) -> str:
    if not values:
        return "-"
    return cell(values) + (f", {len(values)} seed{'s' * (len(values) > 1)}" if len(values) < most else "")


def points(values: Sequence[float]) -> str:
    mean, interval = mean_interval([100 * value for value in values])
    return f"{mean:+.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def listed(radii: Sequence[float]) -> str:
    return " ".join(f"{eps:g}" for eps in radii)
