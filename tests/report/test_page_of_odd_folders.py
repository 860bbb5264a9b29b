"""The page of a folder whose records are few, absent, hostile, diverged or damaged, and how it is written."""

import dataclasses
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
pytest.importorskip("jinja2")

import fabricated
from fabricated_measurements import learned_attacks, payoffs
from taken_apart import Page, headline_rows, matrix, summaries

from sparring.errors import InputError, MissingExtra
from sparring.records import (
    AccuracyRecord,
    BestResponseRecord,
    OutPaths,
    SummaryRecord,
    read,
    read_json,
    write,
    write_json,
)
from sparring.report import svg, write_report


@pytest.fixture()
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder with little to draw, for tests of the words alone."""
    folder = fabricated.write_folder(tmp_path / "out", seeds=2, recipes=("vanilla", "gan_tanh"))
    for name in ("calibration", "epochs"):
        OutPaths(folder).records(name).unlink()
    keep = [r for r in summaries(folder) if r.metric != "accuracy" or r.attack == "clean" or r.eps == 0.1]  # no curves
    write(OutPaths(folder).records("summary"), keep)
    results = read(OutPaths(folder).records("results"), AccuracyRecord)
    write(OutPaths(folder).records("results"), [r for r in results if r.attack == "clean"])
    yield folder


@pytest.fixture()
def sketch(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small folder, with every chart drawn as an empty box: for tests that look at no chart."""
    monkeypatch.setattr(svg, "draw", empty)
    return small


def empty(chart: object) -> str:
    return '<svg width="10" height="10" viewBox="0 0 10 10"></svg>'


def rendered(folder: Path) -> str:
    return write_report(folder, figures=False).read_text(encoding="utf-8")


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**read_json(path), **changes})


def test_a_long_memory_is_thinned_on_the_page_and_none_shows_no_section(sketch: Path) -> None:
    path = OutPaths(sketch).records("payoffs")
    write(path, payoffs("gan_tanh", 1, range(1, 61)))
    html = rendered(sketch)
    rows = matrix(html)
    assert len(rows) == 14 and {len(row) for row in rows} == {15} and (rows[0][0], rows[-1][0]) == ("1", "60")
    assert "14 of 60 kept epochs" in html
    path.unlink()
    html = rendered(sketch)
    assert 'id="memory"' not in html and "#memory" not in html


def test_learned_attacks_that_nobody_made_have_no_column(sketch: Path) -> None:
    path = OutPaths(sketch).records("attack")
    write(path, [r for r in learned_attacks("pgd") if "fitted" not in r.attack])
    html = rendered(sketch)
    path.unlink()
    section = html[html.index('<section id="learned"') :].partition("</section>")[0]
    assert "fitted" not in section and section.count(">learned, rehearsed</th>") == 2


def test_what_is_to_be_compared_with_nothing_shows_no_figure(sketch: Path) -> None:
    path = OutPaths(sketch).records("attack")
    write(path, [r for r in learned_attacks("pgd") if not r.queries])
    assert 'id="learned"' not in rendered(sketch)
    path.unlink()


def test_without_a_learned_attack_there_is_no_figure(sketch: Path) -> None:
    OutPaths(sketch).records("attack").unlink()
    html = rendered(sketch)
    assert 'id="learned"' not in html and "#learned" not in html


def test_without_best_responses_there_is_no_table(sketch: Path) -> None:
    OutPaths(sketch).records("responses").unlink()
    assert 'id="best-responses"' not in rendered(sketch)


def test_a_kind_that_met_one_game_only_leaves_the_other_rows_open(sketch: Path) -> None:
    paths = OutPaths(sketch)
    known = read(paths.records("responses"), BestResponseRecord)
    asked = [dataclasses.replace(r, kind="recurrent") for r in known if (r.recipe, r.kind) == ("gan_tanh", "x")]
    means = read(paths.records("gaps"), SummaryRecord)
    write(paths.records("responses"), [*known, *asked])
    again = [dataclasses.replace(s, attack="recurrent") for s in means if (s.recipe, s.attack) == ("gan_tanh", "x")]
    write(paths.records("gaps"), [*means, *again])
    html = rendered(sketch)
    section = html[html.index('id="best-responses"') :]
    rows = re.findall(r"<tr>(.*?)</tr>", section[section.index("<tbody>") : section.index("</tbody>")], re.S)
    ends = {
        re.findall(r"<th[^>]*>(.*?)</th>", row)[0]: re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)[6:8] for row in rows
    }
    assert "the gradient, again and again" in section and asked and again
    assert "at the input, or ask for it again and again." in section
    assert all(("–" in left and "–" in gap) != ("GAN" in label) for label, (left, gap) in ends.items())


def test_a_second_radius_has_rows_of_its_own(sketch: Path) -> None:
    paths = OutPaths(sketch)
    known = read(paths.records("responses"), BestResponseRecord)
    write(paths.records("responses"), [*known, *(dataclasses.replace(r, eps=0.3) for r in known if r.kind == "x")])
    means = read(paths.records("gaps"), SummaryRecord)
    wider = [dataclasses.replace(s, eps=0.3, mean=s.mean / 2) for s in means if s.attack == "x"]
    write(paths.records("gaps"), [*means, *wider])
    html = rendered(sketch)
    section = html[html.index('id="best-responses"') :]
    assert "points, at eps 0.1 and 0.3: mean" in section
    rows = re.findall(r"<tr>(.*?)</tr>", section[section.index("<tbody>") : section.index("</tbody>")], re.S)
    labels = [re.findall(r"<th[^>]*>(.*?)</th>", row)[0] for row in rows]
    assert labels[:2] == ["Vanilla, eps 0.1", "Vanilla, eps 0.3"] and len(labels) == 2 * len({r.recipe for r in known})
    left = next(s.mean for s in wider if (s.recipe, s.metric) == ("vanilla", "best_response"))
    assert f"{100 * left:.1f}" in rows[1] and f"{100 * left:.1f}" not in rows[0]


def test_hostile_names_are_escaped(sketch: Path) -> None:
    evil = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
    paths = OutPaths(sketch)
    head = read_json(paths.reproduction)
    edit(
        paths.reproduction,
        title=evil,
        command=evil,
        data=evil,
        recipes=["vanilla", evil],
        machine={evil: evil},
        settings={evil: "</script><script>"},
        recipes_described={evil: evil, "vanilla": evil},
        commit=evil,
        started=head["started"],
    )
    claims = read_json(paths.claims)
    write_json(paths.claims, [{**c, "claim": evil, "sentence": evil, "paper": evil, "id": evil} for c in claims])
    renamed = [dataclasses.replace(r, recipe=evil) if r.recipe == "gan_tanh" else r for r in summaries(sketch)]
    write(paths.records("summary"), renamed)
    html = rendered(sketch)
    page = Page(html)
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(tag == "img" and a.get("src") == "x" for tag, a in page.elements)
    assert not any(name.startswith("on") for _, a in page.elements for name in a)


def test_one_seed_shows_values_without_intervals_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "draw", empty)
    folder = fabricated.write_folder(tmp_path / "out", seeds=1, recipes=("vanilla", "gan_tanh"))
    html = rendered(folder)
    rows = headline_rows(html)
    assert all("[" not in cell for cells in rows.values() for cell in cells)
    assert all(cells[-1] == "1" for cells in rows.values())
    assert "1 seed" in Page(html).text


RECORDS: tuple[str, ...] = ("results", "epochs", "calibration", "transfer", "exploitability")
RECORDS += ("readings", "sweeps", "summary", "comparisons", "examples", "payoffs", "responses", "gaps")
NAMES = ("claims.json", "runs.jsonl", *(f"{name}.jsonl" for name in RECORDS))


def test_a_folder_with_nothing_but_its_head_says_what_is_absent(tmp_path: Path) -> None:
    folder = fabricated.write_folder(tmp_path / "out", recipes=("vanilla",))
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)
    html = write_report(folder).read_text(encoding="utf-8")
    page = Page(html)
    assert html.count('class="absent"') == 11
    assert page.text.count("sparring evaluate out") == 10  # sweeps are made by `sparring reproduce`


def test_record_files_may_be_absent_one_after_another(sketch: Path) -> None:
    for name in NAMES:
        (sketch / name).unlink(missing_ok=True)
        Page(rendered(sketch))


def test_a_diverged_run_says_so_and_shows_no_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "draw", empty)
    folder = fabricated.write_folder(tmp_path / "out", seeds=2, recipes=("vanilla", "noise"), diverge="noise")
    html = rendered(folder)
    rows = re.findall(r'<tr class="diverged">(.*?)</tr>', html, re.S)
    assert len(rows) == 1
    assert "diverged" in rows[0] and "98." not in rows[0]
    assert "1 seed diverged" in Page(html[html.index('<table class="headline"') : html.index("</table>") + 8]).text


def test_a_folder_that_holds_no_reproduction_is_an_input_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no reproduction\.json") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_old_page_stays_when_the_new_one_fails(sketch: Path) -> None:
    page = OutPaths(sketch).report
    page.write_text("the old page")
    OutPaths(sketch).records("sweeps").write_text("not a record\n")
    with pytest.raises(InputError, match=r"sweeps\.jsonl:1"):
        write_report(sketch)
    assert page.read_text() == "the old page"
    assert not list(sketch.glob("*.tmp-*"))


def test_the_page_can_go_elsewhere_and_is_the_same_twice(small: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "deep" / "page.html"
    assert write_report(small, html=elsewhere, figures=False) == elsewhere
    first = elsewhere.read_bytes()
    write_report(small, html=elsewhere, figures=False)
    assert elsewhere.read_bytes() == first
    assert not OutPaths(small).figures.exists()


def test_a_missing_package_is_named_with_its_command(sketch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtra, match=r"vl-convert-python.*sparring\[report\]"):
        write_report(sketch)


def test_no_record_file_is_changed(sketch: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sketch, copy)
    rendered(sketch)
    for path in copy.iterdir():
        assert (sketch / path.name).read_bytes() == path.read_bytes()
