"""The page and the figures, made from fabricated records."""

import csv
import dataclasses
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
pytest.importorskip("jinja2")

sys.path.insert(0, str(Path(__file__).parent))
import fabricated
from fabricated_measurements import N

from sparring.errors import InputError, MissingExtra
from sparring.records import (
    AccuracyRecord,
    BestResponseRecord,
    CalibrationRecord,
    LearnedAttackRecord,
    OutPaths,
    PayoffRecord,
    SummaryRecord,
    read,
    read_json,
    write,
    write_json,
)
from sparring.report import svg, words, write_report

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "rect", "line"}
FEW = ("vanilla", "fgsm", "gan_tanh")


class Page(HTMLParser):
    """A page taken apart: its ids, its references, its text, and whether its elements nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.texts: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        assert len(known) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append((tag, known))
        self.ids += [v for k, v in attrs if k == "id" and v]
        self.references += [v for k, v in attrs if k in ("src", "href", "srcset", "xlink:href", "action") and v]
        if tag not in VOID or (tag in ("path", "rect", "line") and not self.rawdata_selfclosing()):
            self.open.append(tag)

    def rawdata_selfclosing(self) -> bool:
        text = self.get_starttag_text() or ""
        return text.endswith("/>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag and tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fabricated.write_folder(tmp_path_factory.mktemp("report") / "out", recipes=FEW)
    write(
        OutPaths(folder).records("summary"),
        [r for r in summaries(folder) if r.attack not in ("noise", "own") or r.metric != "accuracy"],
    )
    bins = read(OutPaths(folder).records("calibration"), CalibrationRecord)
    write(OutPaths(folder).records("calibration"), [c for c in bins if c.eps and c.attack == "fgsm"])
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def html(out: Path) -> str:
    return OutPaths(out).report.read_text(encoding="utf-8")


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


def summaries(folder: Path) -> list[SummaryRecord]:
    return read(OutPaths(folder).records("summary"), SummaryRecord)


def rendered(folder: Path) -> str:
    return write_report(folder, figures=False).read_text(encoding="utf-8")


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**read_json(path), **changes})


def headline_rows(html: str) -> dict[str, list[str]]:
    table = html[html.index('id="headline"') :]
    body = table[table.index("<tbody>") : table.index("</tbody>")]
    rows = {}
    for row in re.findall(r"<tr>(.*?)</tr>", body, re.S):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
        texts = [" ".join(re.sub(r"<[^>]+>", " ", cell).split()).replace("\u00a0", " ") for cell in cells]
        rows[texts[0]] = texts[1:]
    return rows


def test_the_page_asks_nothing_of_the_network(html: str) -> None:
    page = Page(html)
    assert all(
        re.match(r"(#|data:image/png;base64,|figures/[a-z0-9]+\.(svg|png|pdf|csv)$)", r) for r in page.references
    )
    assert not re.search(r"https?:|//[a-z]+\.|@import|@font-face", html)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html


def test_the_page_is_well_formed_with_unique_ids_and_live_anchors(html: str) -> None:
    page = Page(html)
    assert [name for name, n in Counter(page.ids).items() if n > 1] == []
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)
    labels = {a["for"] for tag, a in page.elements if tag == "label" and "for" in a}
    assert labels <= set(page.ids)


def test_every_picture_has_a_text_for_those_who_cannot_see_it(html: str) -> None:
    for tag, attributes in Page(html).elements:
        if tag == "img":
            assert attributes.get("alt")
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"


def test_charts_take_their_colours_from_the_page(html: str) -> None:
    assert not re.search(r"#fe0[01]", html)
    assert 'stroke="var(--c4)"' in html
    assert len(html) < 3_000_000


def test_every_number_of_the_headline_table_is_the_records(out: Path, html: str) -> None:
    found = {(r.recipe, r.metric, r.attack, r.eps, r.protocol): r for r in summaries(out)}
    keys = [
        (("accuracy", "clean", 0.0), 2),
        (("accuracy", "fgsm", 0.1), 1),
        (("accuracy", "pgd", 0.1), 1),
        (("in_game", "own", 0.1), 1),
        (("fresh", "fresh", 0.1), 1),
    ]
    rows = headline_rows(html)
    assert list(rows) == ["Vanilla", "FGSM-adversarial", "GAN tanh"]
    for recipe, cells in zip(FEW, rows.values(), strict=True):
        for (key, digits), shown in zip(keys, cells[:-1], strict=True):
            record = found.get((recipe, *key, "sound"))
            if record is None:
                assert shown == "–"
                continue
            assert record.low is not None and record.high is not None
            mean, low, high = (f"{100 * v:.{digits}f}" for v in (record.mean, record.low, record.high))
            assert shown == f"{mean} [{low}, {high}]"
        assert cells[-1] == "3"


def test_what_was_found_is_composed_from_the_records(out: Path, html: str) -> None:
    lead = re.search(r'<p class="lead">(.*?)</p>', html, re.S)
    assert lead
    text = lead[1].replace("\u00a0", " ")
    at = [r for r in summaries(out) if r.recipe == "gan_tanh" and r.eps == 0.1 and r.protocol == "sound"]
    for metric, attack in (("in_game", "own"), ("fresh", "fresh"), ("accuracy", "pgd")):
        record = next(r for r in at if (r.metric, r.attack) == (metric, attack))
        assert f"{100 * record.mean:.1f} %" in text
    assert "85.42" in text


def test_no_in_game_or_single_step_number_is_called_robust_accuracy(html: str) -> None:
    assert "robust accuracy" not in Page(html).text.lower()
    assert "robust_accuracy" not in html


def test_the_page_says_what_it_cannot_prove(html: str) -> None:
    assert "can refute robustness, none can prove it" in Page(html).text


def test_figures_come_as_svg_png_pdf_and_csv(out: Path) -> None:
    figures = OutPaths(out).figures
    for name in ("figure1", "figure2", "figure3", "transfer", "exploitability", "readings", "training"):
        assert (figures / f"{name}.svg").read_bytes().startswith(b"<svg")
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (figures / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (figures / f"{name}.csv").stat().st_size > 0
    assert not list(figures.glob("*.tmp-*"))
    assert not re.search(r"#fe0[01]", (figures / "figure2.svg").read_text())


def test_the_csv_of_figure_2_holds_the_records(out: Path) -> None:
    with (OutPaths(out).figures / "figure2.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "accuracy"]
    expected = [r for r in summaries(out) if r.metric == "accuracy"]
    assert [float(row["mean"]) for row in rows] == [r.mean for r in expected]
    assert [row["recipe"] for row in rows] == [r.recipe for r in expected]


def matrix(html: str, number: int = 0) -> list[list[str]]:
    """The rows of one matrix of the memory, as the page shows them."""
    section = html[html.index('<section id="memory"') :]
    body = re.findall(r"<tbody>(.*?)</tbody>", section[: section.index("</section>")], re.S)[number]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)]
    return [[re.sub(r"<[^>]+>", "", cell) for cell in row] for row in rows]


def test_the_memory_shows_every_cell_of_its_records(out: Path, html: str) -> None:
    records = read(OutPaths(out).records("payoffs"), PayoffRecord)
    at = {(p.adversary_epoch, p.defender_epoch): p.accuracy for p in records}
    epochs = [5, 10, 15, 20, 25]
    assert matrix(html) == [[str(a), *(f"{100 * at[a, d]:.1f}" for d in epochs)] for a in epochs]
    assert html.count('<td class="n own"') == 5 and 'href="#memory"' in html
    worst = min((p for p in records if p.defender_epoch == 25), key=lambda p: p.accuracy)
    assert f"{100 * worst.accuracy:.1f} % against the worst one, of epoch {worst.adversary_epoch}" in html
    with (OutPaths(out).figures / "payoffs.csv").open(newline="") as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [p.accuracy for p in records]


def test_a_long_memory_is_thinned_on_the_page_and_none_shows_no_section(sketch: Path) -> None:
    path = OutPaths(sketch).records("payoffs")
    write(path, fabricated.payoffs("gan_tanh", 1, range(1, 61)))
    html = rendered(sketch)
    rows = matrix(html)
    assert len(rows) == 14 and {len(row) for row in rows} == {15} and (rows[0][0], rows[-1][0]) == ("1", "60")
    assert "14 of 60 kept epochs" in html
    path.unlink()
    html = rendered(sketch)
    assert 'id="memory"' not in html and "#memory" not in html


def test_the_learned_attack_stands_beside_pgd_over_gradients_and_cost(out: Path, html: str) -> None:
    records = read(OutPaths(out).records("attack"), LearnedAttackRecord)
    section = html[html.index('<section id="learned"') :].partition("</section>")[0]
    assert section.count("<svg") == 2 * 2 and 'href="#learned"' in html  # a radius and a defender each
    tables = re.findall(r"<tbody>(.*?)</tbody>", section, re.S)
    shown = [
        re.findall(r'<span class="v">(.*?)</span>', row)
        for table in tables
        for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)
    ]

    def row(r: LearnedAttackRecord) -> tuple[float, str, int, str]:
        return r.eps, r.recipe, r.queries, "" if r.queries else r.attack

    order = sorted(records, key=lambda r: (r.eps, r.recipe, r.queries or 99))  # the references stand last
    expected: dict[tuple[float, str, int, str], list[str]] = {row(r): [] for r in order}
    for r in records:
        expected[row(r)].append(f"{100 * r.accuracy:.1f}")
    assert shown == list(expected.values())
    floors = [r for r in records if r.attack == words.FLOOR]
    assert len(floors) == section.count(f">{words.FLOOR}<") == section.count(">AutoAttack, standard<") == 4
    assert "AutoAttack, standard: " not in section  # the figures have one rule
    assert all(f"{words.FLOOR}: {100 * r.accuracy:.1f} %" in section for r in floors)  # the rule's own words
    learned, rehearsed, fitted, pgd, rehearsed_pgd, fitted_pgd, auto = records[2:9]
    assert words.passes(pgd, N) == 12 and words.passes(auto, N) == 1  # PGD's twelve settings are each paid for
    assert words.passes(learned, N) == 1 + 2 * 38_400 / N
    assert words.passes(rehearsed, N) == words.passes(learned, N) + 1350 + 45 / 2
    assert (
        words.passes(rehearsed_pgd, N) == 5 + 1350 + 45 / 2
    )  # its settings share a rehearsal; a forward is half a pass
    assert words.passes(fitted_pgd, N) == 1 + 2700 + 90 / 2  # one setting
    assert words.passes(fitted, N) == words.passes(fitted_pgd, N) + 2 * 38_400 / N and "<em>fitted</em>" in section
    kinds = re.findall(r'<th scope="col" class="n">(.*?)</th>', section)
    assert kinds[1:8] == list(words.LEARNED_ATTACKS)
    assert (OutPaths(out).figures / "learned.svg").is_file()
    with (OutPaths(out).figures / "learned.csv").open(newline="") as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [r.accuracy for r in records]


def test_learned_attacks_that_nobody_made_have_no_column(sketch: Path) -> None:
    path = OutPaths(sketch).records("attack")
    write(path, [r for r in fabricated.learned_attacks("pgd") if "fitted" not in r.attack])
    html = rendered(sketch)
    path.unlink()
    section = html[html.index('<section id="learned"') :].partition("</section>")[0]
    assert "fitted" not in section and section.count(">learned, rehearsed</th>") == 2


def test_what_is_to_be_compared_with_nothing_shows_no_figure(sketch: Path) -> None:
    path = OutPaths(sketch).records("attack")
    write(path, [r for r in fabricated.learned_attacks("pgd") if not r.queries])
    assert 'id="learned"' not in rendered(sketch)
    path.unlink()


def test_without_a_learned_attack_there_is_no_figure(sketch: Path) -> None:
    OutPaths(sketch).records("attack").unlink()
    html = rendered(sketch)
    assert 'id="learned"' not in html and "#learned" not in html


def test_best_responses_stand_with_their_gap_by_what_they_see(out: Path, html: str) -> None:
    gaps = {(s.recipe, s.attack, s.metric): s for s in read(OutPaths(out).records("gaps"), SummaryRecord)}
    section = html[html.index('id="best-responses"') :]
    body = re.findall(r"<tbody>(.*?)</tbody>", section, re.S)
    assert len(re.findall("<tr>", body[0])) == len({recipe for recipe, _, _ in gaps})
    row = next(row for row in re.findall(r"<tr>(.*?)</tr>", body[0], re.S) if "GAN tanh" in row)
    for kind in ("x", "xy", "xg"):
        for metric in ("best_response", "best_response_gap"):
            assert f"{100 * gaps['gan_tanh', kind, metric].mean:.1f}" in row
    assert ">1.2<" in row and ">1.68; 1.65<" in row and "trained in bf16 and attacking in fp32" in section
    records = read(OutPaths(out).records("responses"), BestResponseRecord)
    assert len(re.findall("<tr>", body[1])) == len(records)
    with (OutPaths(out).figures / "responses.csv").open(newline="") as file:
        assert [float(row["worst"]) for row in csv.DictReader(file)] == [r.worst for r in records]


def test_without_best_responses_there_is_no_table(sketch: Path) -> None:
    OutPaths(sketch).records("responses").unlink()
    assert 'id="best-responses"' not in rendered(sketch)


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


RECORDS = ("results", "epochs", "calibration", "transfer", "exploitability")
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
