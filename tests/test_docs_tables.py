"""The tables that were copied by hand into the pages on the game and the learned attack say what the records hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytest

pytest.importorskip("torch")

from sparring import recipes
from sparring.evaluation.statistics import mean_interval

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "beyond-mnist"
GAME, STUDIES, ATTACK = "docs/game.md", "docs/game-studies.md", "docs/learned-attack.md"

RADII = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
GRID = (0.0, *RADII)
HEADS = ["clean", *(f"{eps:g}" for eps in RADII)]
OF_OTHERS = "gan_recurrent, on the images of the others"
NUMBER = re.compile(r"-?\d+\.\d+")
TIE = 1e-9  # on either side of it a number may be rounded up or down


class Numbers(NamedTuple):
    """Several numbers in one cell, and what stands about them."""

    form: str
    values: tuple[float, ...]


Cell = str | float | Numbers
Rows = list[list[Cell]]


class Table(NamedTuple):
    """A table of a page, header first."""

    page: str
    section: str
    rows: list[list[str]]

    @property
    def place(self) -> tuple[str, str, str]:
        """Page, section and the first row's label, which tell it from all others."""
        return self.page, self.section, self.rows[1][0]


def tables(page: str, text: str) -> list[Table]:
    """All tables of a page's text, in their order."""
    made, section, lines = list[Table](), "", list[str]()
    for line in [*re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines(), ""]:
        if line.lstrip().startswith("|"):
            lines.append(line)
            continue
        if lines:
            rows = [[cell.strip() for cell in row.strip()[1:-1].split("|")] for row in lines]
            assert set("".join(rows[1])) == {"-"}, f"{page}, {section}: a table has no header"
            made.append(Table(page, section, [rows[0], *rows[2:]]))
            lines = []
        if line.startswith("#"):
            section = line.lstrip("#").strip()
    return made


@cache
def on_page(page: str) -> list[Table]:
    """Those of a page as it is."""
    return tables(page, (ROOT / page).read_text(encoding="utf-8"))


def says(cell: str, value: Cell) -> bool:
    """Whether a cell is this text, or these numbers rounded to as many digits as it shows."""
    if isinstance(value, str):
        return cell == value
    form, values = value if isinstance(value, Numbers) else ("{}", (value,))
    shown = NUMBER.findall(cell)
    return NUMBER.sub("{}", cell) == form and all(
        abs(float(number) - held) <= 0.5 * 10.0 ** -len(number.partition(".")[2]) + TIE
        for number, held in zip(shown, values, strict=True)
    )


def wrong(table: Table, held: Rows) -> list[str]:
    """Every cell of a table that does not say what the records hold, its header's among them."""
    sizes, expected = [len(row) for row in table.rows], [len(row) for row in held]
    place = ", ".join(table.place)
    if sizes != expected:
        return [f"{place}: rows of {sizes} cells, where the records fill {expected}"]
    return [
        f"{place}: row {' '.join(shown[:2]).strip()!r}, column {j + 1} {name!r}: "
        f"the page says {shown[j]!r}, the records hold {value!r}"
        for shown, row in zip(table.rows, held, strict=True)
        for j, (name, value) in enumerate(zip(table.rows[0], row, strict=True))
        if not says(shown[j], value)
    ]


@cache
def records(file: str) -> list[dict[str, Any]]:
    """All that a file of the results holds."""
    return [json.loads(line) for line in (RESULTS / file).read_text(encoding="utf-8").splitlines()]


def only(file: str, **of: Any) -> list[dict[str, Any]]:
    """The records of a file that have these values; there are some."""
    found = [record for record in records(file) if of.items() <= record.items()]
    assert found, f"{file} has no record of {of}"
    return found


def by_seed(found: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Per cent that is right; every seed is there once."""
    found = list(found)
    made = {record["seed"]: 100 * record["correct"] / record["n"] for record in found}
    assert len(made) == len(found), f"a seed is there twice: {found}"
    return made


def seeds_and_means(file: str, grid: Iterable[float], **of: Any) -> list[Cell]:
    """Over how many seeds, and the mean of what is left at every radius."""
    left = [by_seed(only(file, eps=eps, **of)) for eps in grid]
    assert len({tuple(one) for one in left}) == 1, f"{file} has not the same seeds at every radius of {of}"
    return [str(len(left[0])), *(fmean(one.values()) for one in left)]


def regime(recipe: str, grid: Iterable[float] = GRID, n: int = 10_000) -> list[Cell]:
    """What worst.jsonl has of a recipe that was attacked on n images."""
    return seeds_and_means("worst.jsonl", grid, recipe=recipe, n=n)


def ahead(better: str, worse: str) -> list[Cell]:
    """By how many points, paired by seed."""
    made: list[Cell] = []
    for eps in GRID:
        one, other = (by_seed(only("worst.jsonl", recipe=recipe, eps=eps, n=10_000)) for recipe in (better, worse))
        made.append(fmean(one[seed] - other[seed] for seed in one.keys() & other.keys()))
    return made


def on_the_images_of_the_others(*heads: str) -> list[Cell]:
    """What the generated page says of the game there: which images these are, only the labels of MNIST would tell."""
    generated, *_ = tables("README.md", (RESULTS / "README.md").read_text(encoding="utf-8"))
    (row,) = (dict(zip(generated.rows[0], row, strict=True)) for row in generated.rows if row[0] == OF_OTHERS)
    assert row["n"] == "2,000"
    return [row[head].split(" ")[0] for head in heads]


def regimes() -> Rows:
    """Games and yardsticks on all test images, and the lead over PGD-7."""
    whole = {
        "`gan_recurrent`": "gan_recurrent",
        "`pgd_drawn`, PGD-7": "pgd_drawn",
        "`fgsm_drawn`, FGSM": "fgsm_drawn",
        "`pgd_tenth`, PGD-7 at 0.1": "pgd_tenth",
        "`fgsm_tenth`, FGSM at 0.1": "fgsm_tenth",
    }
    rows: Rows = [[label, *regime(recipe)] for label, recipe in whole.items()]
    rows.insert(2, ["the game is ahead by", "", *ahead("gan_recurrent", "pgd_drawn")])
    return [["", "seeds", *HEADS], *rows]


def parts() -> Rows:
    """The game without each of its parts, and with each alone."""
    without = {
        "two queries at every radius": "gan_recurrent_all",
        "one query at every radius": "gan_recurrent_once",
        "without learning": "gan_recurrent_fixed",
        "without the warm start": "gan_recurrent_cold",
        "without drawn radii": "gan_recurrent_tenth",
        "drawn radii alone (PGD-2)": "pgd2_drawn",
        "the warm start alone": "warm_alone",
        "learning alone": "learning_alone",
        "none (PGD-2 at 0.1)": "pgd2_tenth",
    }
    whole = on_the_images_of_the_others("seeds", "clean", "eps 0.1", "eps 0.2", "eps 0.3")
    rows: Rows = [["the whole game", whole[0], recipes.recipe("gan_recurrent").passes, *whole[1:]]]
    for label, recipe in without.items():
        seeds, *left = regime(recipe, (0.0, 0.1, 0.2, 0.3), n=2_000)
        rows.append([label, seeds, recipes.recipe(recipe).passes, *left])
    return [["", "seeds", "passes", "clean", "0.1", "0.2", "0.3"], *rows]


def fresh_ones() -> Rows:
    """What its own adversary leaves of each seed, what three fresh ones leave between them, and the mean gap."""
    rows: Rows = [["eps", "its own adversary", "three fresh ones", "gap, points"]]
    for eps in (0.1, 0.2, 0.3):
        found = only("responses.jsonl", recipe="gan_recurrent", kind="recurrent", eps=eps, n=10_000)
        found.sort(key=lambda record: int(record["seed"]))
        assert [(record["seed"], len(record["left"])) for record in found] == [(seed, 3) for seed in range(5, 10)]
        own, fresh, gaps = ([100 * record[name] for record in found] for name in ("in_game", "worst", "gap"))
        gap, interval = mean_interval(gaps)
        five = ", ".join(["{}"] * 5)
        rows.append(
            [
                f"{eps:g}",
                Numbers(five, tuple(own)),
                Numbers(five, tuple(fresh)),
                Numbers("{} [{}, {}]", (gap, interval.low, interval.high)),
            ]
        )
    return rows


def one_radius_or_many() -> Rows:
    """Game and PGD-7 where each trained at one radius, beside games of several."""
    rows: Rows = [["trained at", "", "seeds", *HEADS]]
    for eps in (0.15, 0.2):
        for label, who, recipe in ((f"{eps:g}", "game", "gan_recurrent_tenth"), ("", "PGD-7", "pgd_tenth")):
            of = {"recipe": recipe, "trained_low": eps, "trained_eps": eps, "n": 2_000}
            rows.append([label, who, *seeds_and_means("radii.jsonl", GRID, **of)])
    default = on_the_images_of_the_others("seeds", "clean", *(f"eps {eps:g}" for eps in RADII))
    rows.append(["0.01 to 0.3, the default", "game", *default])
    for low, high in ((0.1, 0.25), (0.1, 0.3)):
        of = {"recipe": "gan_recurrent", "trained_low": low, "trained_eps": high, "n": 2_000}
        rows.append([f"{low:g} to {high:g}", "game", *seeds_and_means("radii.jsonl", GRID, **of)])
    return rows


def laws() -> Rows:
    """Game and PGD-7 by the radii that they draw, on training images held out."""
    shown = {
        "0.01 to 0.3, the default": (0.01, 0.3),
        "0.05 to 0.3": (0.05, 0.3),
        "0.1 to 0.25": (0.1, 0.25),
        "0.18": (0.18, 0.18),
    }
    rows: Rows = [["radii", "", *HEADS, "mean"]]
    for law, (low, high) in shown.items():
        for label, who, recipe in ((law, "game", "gan_recurrent"), ("", "PGD-7", "pgd_drawn")):
            of = {"recipe": recipe, "low": low, "high": high, "n": 2_000}
            seeds, *left = seeds_and_means("laws.jsonl", GRID, **of)
            assert seeds == "3", "the page has three seeds each"
            _, *attacked = left
            rows.append([label, who, *left, fmean(value for value in attacked if isinstance(value, float))])
    return rows


def longer() -> Rows:
    """The longer game beside its yardsticks and the shorter game."""
    rows: Rows = [["", "seeds", "epochs", *HEADS]]
    for recipe in ("gan_recurrent_long", "pgd_long", "fgsm_long", "gan_recurrent"):
        (epochs,) = {record["epochs"] for record in only("worst.jsonl", recipe=recipe)}
        seeds, *left = regime(recipe)
        rows.append([f"`{recipe}`", seeds, str(epochs), *left])
    return rows


def leads() -> Rows:
    """Other losses and opponents for the recurrent game, and PGD-7 with another activation."""
    shown = {
        "the game": ("recurrent", "the game"),
        "clean cross-entropy, KL for the perturbed (TRADES), weight 1": ("recurrent", "KL, weight 1"),
        "the same, weight 3": ("recurrent", "KL, weight 3"),
        "MART, weight 5": ("recurrent", "MART, weight 5"),
        "weights averaged over steps (0.999)": ("recurrent", "weights averaged"),
        "two adversaries, the worse of them": ("recurrent", "two adversaries"),
        "Softplus for leaky ReLU": ("recurrent", "Softplus"),
        "PGD-7, Softplus for leaky ReLU": ("PGD-7", "Softplus"),
    }
    rows: Rows = [["", "seeds", *HEADS, "seconds"]]
    for label, (game, lead) in shown.items():
        of = {"game": game, "lead": lead, "n": 2_000}
        seconds = fmean(record["seconds"] for record in only("leads.jsonl", eps=0.0, **of))
        rows.append([label, *seeds_and_means("leads.jsonl", GRID, **of), str(round(seconds))])
    return rows


BLIND_HEADS: list[Cell] = ["", "seeds", "clean", "in-game", "a fresh one", "FGSM", "worst case"]


def blind_as_far_as_it_goes() -> Rows:
    """The game whose adversary sees x only, by what was changed of it."""
    shown = {
        "the paper's settings": "the paper's",
        "every example clean and perturbed, rate from 0.3 to 0": "every example twice",
        "and the adversary raises the log odds": "log odds",
        "and it steps by Adam": "Adam",
    }
    rows: Rows = [BLIND_HEADS]
    for label, variant in shown.items():
        found = only("x-only.jsonl", variant=variant, n=2_000)
        left = [100 * fmean(one[name] for one in found) for name in ("clean", "in_game", "fresh", "fgsm", "worst")]
        rows.append([label, str(len({record["seed"] for record in found})), *left])
    return rows


def blind_with_others() -> Rows:
    """The same game by whom the adversary plays with."""
    shown = ("the game", "simultaneous", "extragradient", "past selves", "begun anew", "four, each a share")
    rows: Rows = [BLIND_HEADS]
    for lead in (*shown, "four, the worst, one begun anew"):
        by = ("clean", "its own", "a fresh one", "FGSM", "worst case")
        left = [by_seed(only("leads.jsonl", game="blind", lead=lead, by=one, n=2_000)) for one in by]
        assert len({tuple(one) for one in left}) == 1
        rows.append([lead, str(len(left[0])), *(fmean(one.values()) for one in left)])
    return rows


def left_at_02(file: str, n: int, queries: int, attack: str) -> dict[str, float]:
    """What the attack that is so called leaves of each of the six defenders, in per cent."""
    found = [r for r in only(file, eps=0.2, n=n, queries=queries) if re.fullmatch(attack, r["attack"])]
    made = {record["recipe"]: 100 * record["correct"] / record["n"] for record in found}
    assert len(made) == len(found) == 6, f"{attack}, {queries} gradients: {found}"
    return made


def less_than_rivals(attack: str, all_queries: Iterable[int]) -> Rows:
    """By how many points an attack leaves less at 0.2 than PGD, the strongest setting, and Auto-PGD: means over six."""
    rows: Rows = [["gradients", "less than PGD", "less than Auto-PGD"]]
    for queries in all_queries:
        ours, *rivals = (left_at_02("attack.jsonl", 1_000, queries, one) for one in (attack, "PGD, .*", "APGD-CE"))
        rows.append([str(queries), *(fmean(rival[name] - ours[name] for name in ours) for rival in rivals)])
    return rows


def after_two_rehearsals() -> Rows:
    """By how many points two attacks leave more of each defender than AutoAttack does."""
    file, n = "attack-2000/attack.jsonl", 2_000
    official = left_at_02(file, n, 0, "AutoAttack, standard")
    once, twice = (left_at_02(file, n, 10, attack) for attack in ("learned, rehearsed", "learned, fitted"))
    rows: Rows = [["defender", "ten gradients after one rehearsal", "nine, and one for the copies"]]
    for name in ("gan_recurrent", "pgd_drawn", "fgsm_tenth", "pgd2_drawn", "gan_recurrent_fixed", "pgd_tenth"):
        rows.append([f"`{name}`", once[name] - official[name], twice[name] - official[name]])
    return rows


CHECKED: dict[tuple[str, str, str], Callable[[], Rows]] = {
    (GAME, "What came of it", "`gan_recurrent`"): regimes,
    (GAME, "What each part is worth", "the whole game"): parts,
    (GAME, "Is its adversary a real one?", "0.1"): fresh_ones,
    (STUDIES, "One radius, or many", "0.15"): one_radius_or_many,
    (STUDIES, "One radius, or many", "0.01 to 0.3, the default"): laws,
    (STUDIES, "Longer, and each example once", "`gan_recurrent_long`"): longer,
    (STUDIES, "Other losses, other opponents", "the game"): leads,
    (STUDIES, "The paper's game, as far as it goes", "the paper's settings"): blind_as_far_as_it_goes,
    (STUDIES, "The paper's game, as far as it goes", "the game"): blind_with_others,
    (ATTACK, "On its own", "2"): lambda: less_than_rivals("learned", (2, 5, 10)),
    (ATTACK, "After a rehearsal", "1"): lambda: less_than_rivals("learned, rehearsed", (1, 2, 5, 10)),
    (ATTACK, "After two rehearsals", "`gan_recurrent`"): after_two_rehearsals,
}

of_every_table = pytest.mark.parametrize("place", CHECKED, ids=lambda place: f"{place[1]}, {place[2]}")


def at(place: tuple[str, str, str]) -> Table:
    """The one table there."""
    (table,) = (table for table in on_page(place[0]) if table.place == place)
    return table


@of_every_table
def test_a_table_of_the_pages_says_what_the_records_hold(place: tuple[str, str, str]) -> None:
    assert not (found := wrong(at(place), CHECKED[place]())), "\n".join(found)


@pytest.mark.parametrize("page", [GAME, STUDIES, ATTACK])
def test_every_table_of_a_page_is_checked(page: str) -> None:
    assert [table.place for table in on_page(page)] == [place for place in CHECKED if place[0] == page]


@of_every_table
def test_a_wrong_number_in_any_cell_of_a_table_is_noticed(place: tuple[str, str, str]) -> None:
    table, held = at(place), CHECKED[place]()
    if wrong(table, held):
        pytest.skip("it is wrong already, which another test tells")
    for i, row in enumerate(table.rows):
        for j, cell in enumerate(row):
            for digit in re.finditer(r"\d(?![\d.]*\d)", cell):
                other = cell[: digit.start()] + str((int(digit[0]) + 5) % 10) + cell[digit.end() :]
                altered = [list(cells) for cells in table.rows]
                altered[i][j] = other
                (told,) = wrong(table._replace(rows=altered), held)
                assert f"the page says {other!r}" in told


def test_a_page_with_other_text_is_read_and_its_wrong_cells_are_named() -> None:
    text = "# Page\n\n## Part\n\n| | 0.1 |\n|---|---|\n| a game | 92.7 |\n| another | 1.25 [0.50, 2.00] |\n"
    (table,) = tables("page.md", text)
    interval = Numbers("{} [{}, {}]", (1.245, 0.4951, 2.0049))
    assert table.place == ("page.md", "Part", "a game")
    assert not wrong(table, [["", "0.1"], ["a game", 92.65], ["another", interval]])
    (said,) = wrong(table, [["", "0.1"], ["a game", 92.76], ["another", interval]])
    assert said == (
        "page.md, Part, a game: row 'a game 92.7', column 2 '0.1': the page says '92.7', the records hold 92.76"
    )
    (said,) = wrong(table, [["", "0.1"], ["a game", 92.7]])
    assert "rows of [2, 2, 2] cells, where the records fill [2, 2]" in said


@pytest.mark.parametrize(
    ("cell", "value", "right"),
    [
        ("0.2", 0.25, True),
        ("0.3", 0.25, True),
        ("0.2", 0.2501, False),
        ("-0.05", -0.05, True),
        ("0.05", -0.05, False),
        ("93", 93.0, False),
        ("93.0 %", 93.0, False),
        ("20", "20", True),
        ("20", "2", False),
        ("1.0, 2.0", Numbers("{}, {}", (1.04, 1.96)), True),
        ("1.0 [2.0]", Numbers("{}, {}", (1.0, 2.0)), False),
    ],
)
def test_a_cell_is_right_where_it_is_the_number_rounded(cell: str, value: Cell, right: bool) -> None:
    assert says(cell, value) is right
