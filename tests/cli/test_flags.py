"""A flag for every field of a dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

pytest.importorskip("torch")


from sparring import errors
from sparring.cli import flags


@dataclass(frozen=True)
class Inner:
    """Settings within settings.

    Their second paragraph is not shown.
    """

    rate: float = 0.5
    """how fast, at most 100 %"""
    widths: tuple[int, ...] = (2, 3)
    limit: int | None = None
    fast: bool = True


@dataclass(frozen=True)
class Base:
    """Not shown."""

    out: Path = Path("out")
    """of the base"""


@dataclass(frozen=True)
class Outer(Base):
    """Not shown."""

    name: Literal["one", "two"] = "one"
    """which"""
    inner_part: Inner = field(default_factory=Inner)
    absent: Inner | None = None


@dataclass(frozen=True)
class Placed:
    """Not shown."""

    folder: Path
    """where"""
    json: bool = False


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", Outer()),
        ("--out=here --name two", Outer(Path("here"), "two")),
        ("--inner-part.rate -0.25", Outer(inner_part=Inner(rate=-0.25))),
        ("--inner_part.rate=0.25", Outer(inner_part=Inner(rate=0.25))),
        ("--inner-part.widths 5 6 7", Outer(inner_part=Inner(widths=(5, 6, 7)))),
        ("--inner-part.widths", Outer(inner_part=Inner(widths=()))),
        ("--inner-part.limit 4 --inner-part.no-fast", Outer(inner_part=Inner(limit=4, fast=False))),
        ("--inner-part.limit None --inner-part.no-fast --inner-part.fast", Outer()),
    ],
)
def test_a_flag_for_every_field(words: str, expected: Outer) -> None:
    assert flags.read(words.split(), "test", None, Outer()) == [expected]


def test_the_flags_that_take_a_value_are_all_but_switches() -> None:
    within = {"rate", "widths", "limit"}
    expected = {"--out", "--name", *(f"--{group}.{name}" for group in ("inner-part", "absent") for name in within)}
    assert flags.taking_a_value(Outer) == expected
    assert flags.taking_a_value(Placed) == {"--folder"}


def test_a_field_without_a_default_is_positional_and_settings_are_read_together() -> None:
    expected = [Placed(Path("there"), True), Outer(name="two")]
    assert flags.read(["--name", "two", "there", "--json"], "test", None, Placed, Outer()) == expected
    with pytest.raises(errors.InputError, match=r"Unrecognized options: --name, two \(sparring test --help lists all"):
        flags.read(["there", "--name", "two"], "test", None, Placed, Outer(), without=("name",))


def test_help_says_what_stands_below_each_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        flags.read(["--help"], "test", "What it is about.", Placed, Outer(), without=("name",))
    said = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and said.startswith("usage: sparring test FOLDER [options] What it is about.")
    for part in (
        "FOLDER where",
        "--out PATH of the base (default: out)",
        "inner-part: Settings within settings. --inner-part.rate FLOAT how fast, at most 100 % (default: 0.5)",
        "--inner-part.widths [INT ...] (default: 2 3)",
        "--inner-part.limit INT --inner-part.fast, --inner-part.no-fast (default: yes)",
    ):
        assert part in said
    assert "Not shown" not in said and "second paragraph" not in said and "absent" not in said and "--name" not in said
