"""What the page is put together from: names and numbers, pictures, sentences."""

import dataclasses
import math
import struct
import sys
import zlib
from pathlib import Path

import pytest

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
pytest.importorskip("jinja2")

sys.path.insert(0, str(Path(__file__).parent))
import fabricated

from sparring.records import OutPaths, SummaryRecord, read, write
from sparring.report import headline, pixels, source, svg, words


def test_unknown_recipes_fall_back_on_their_own_names_and_own_looks() -> None:
    looks = words.looks(["vanilla", "mine", "yours"])
    assert [look.label for look in looks.values()] == ["Vanilla", "mine", "yours"]
    assert len({(look.slot, look.dash, look.shape) for look in looks.values()}) == 3
    assert len({(look.dash, look.shape) for look in words.RECIPES.values()}) == len(words.RECIPES)


def test_numbers_print_as_the_house_says() -> None:
    assert words.percent(0.98264, 2) == "98.26"
    assert words.percent(-0.38) == "−38.0"
    assert words.percent(-0.00001) == "0.0"
    assert words.percent(math.nan) == "–"
    assert words.interval(None, 0.5) == ""
    assert words.p_value(0.0002) == "< 0.001"
    assert words.attack_label("gan_tanh_init (alone)") == "Initialised GAN tanh, trained alone"


def test_a_png_is_what_the_format_says() -> None:
    data = pixels.png([b"\x00\xff\x10", b"\x01\x02\x03"], channels=1)
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert (width, height, depth, kind) == (3, 2, 8, 0)
    start = data.index(b"IDAT") + 4
    assert zlib.decompressobj().decompress(data[start:]) == b"\x00\x00\xff\x10\x00\x01\x02\x03"


def test_inlined_ids_carry_their_prefix() -> None:
    drawn = '<svg width="10" height="10" viewBox="0 0 1 1"><clipPath id="c"/><g clip-path="url(#c)"/></svg>'
    text = svg.inline(drawn, 'a "b"', "f2")
    assert 'id="f2-c"' in text and "url(#f2-c)" in text and 'aria-label="a &quot;b&quot;"' in text


def test_games_that_hold_have_a_sentence_of_their_own(tmp_path: Path) -> None:
    folder = fabricated.write_folder(tmp_path / "out")
    path = OutPaths(folder).records("summary")
    records = read(path, SummaryRecord)
    for games, start in (
        (["gan_recurrent"], "The defender of GAN recurrent keeps"),
        (["gan_recurrent", "gan_recurrent_long"], "Each defender of GAN recurrent and Long GAN recurrent keeps"),
    ):
        beyond = [
            dataclasses.replace(r, recipe=game, mean=0.84 if r.metric == "in_game" else r.mean)
            for game in games
            for r in records
            if r.recipe == "gan_tanh"
        ]
        write(path, [*records, *beyond])
        said = headline.sentences(source.load(folder))
        papers, own = (
            next(s for s in said if s.startswith(first)) for first in ("Each defender of the paper's", start)
        )
        assert "84.0" in own and "84.0" not in papers
