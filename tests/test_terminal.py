"""The table that a terminal shows after a reproduction."""

from pathlib import Path

from sparring.cli import terminal
from sparring.records import OutPaths, SummaryRecord, write


def summary(recipe: str, metric: str, attack: str, eps: float, mean: float) -> SummaryRecord:
    return SummaryRecord(recipe, metric, attack, eps, "sound", mean, mean - 0.01, mean + 0.01, 3, (mean,) * 3)


def test_the_table_says_by_how_much_each_games_own_adversary_flatters_it(tmp_path: Path) -> None:
    paths = OutPaths(tmp_path)
    records = [summary("vanilla", "accuracy", "pgd", 0.1, 0.1)]
    for recipe, in_game, pgd in (("gan_tanh", 0.98, 0.55), ("gan_recurrent", 0.843, 0.84)):
        records += [summary(recipe, "in_game", "own", 0.1, in_game), summary(recipe, "accuracy", "pgd", 0.1, pgd)]
    write(paths.records("summary"), records)
    lines = terminal.headline(paths).splitlines()
    assert lines[-1].endswith("gan_tanh 43.0, gan_recurrent 0.3") and "vanilla" not in lines[-1]
    assert [line.split()[0] for line in lines[2:-1]] == ["vanilla", "gan_tanh", "gan_recurrent"]
    write(paths.records("summary"), records[:1])
    assert terminal.headline(paths).splitlines()[-1].startswith("vanilla")
