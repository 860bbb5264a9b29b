"""The page and the figures of a fabricated folder show what its records say, and the page asks nothing of the network."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
pytest.importorskip("jinja2")

import fabricated
from fabricated_measurements import N
from taken_apart import Page, headline_rows, matrix, summaries

from sparring.records import (
    BestResponseRecord,
    CalibrationRecord,
    LearnedAttackRecord,
    OutPaths,
    PayoffRecord,
    SummaryRecord,
    read,
    write,
)
from sparring.report import words, write_report

FEW = ("vanilla", "fgsm", "gan_tanh")


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


@pytest.mark.parametrize("name", ["figure2", "learned"])
def test_the_legend_has_the_colours_of_the_lines_not_those_of_the_intervals(out: Path, name: str) -> None:
    drawn = (OutPaths(out).figures / f"{name}.svg").read_text()
    symbols = re.findall(r'role-legend-symbol"[^>]*><path [^>]*? opacity="([^"]*)"', drawn)
    assert symbols and set(symbols) == {"1"}


def test_the_csv_of_figure_2_holds_the_records(out: Path) -> None:
    with (OutPaths(out).figures / "figure2.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "accuracy"]
    expected = [r for r in summaries(out) if r.metric == "accuracy"]
    assert [float(row["mean"]) for row in rows] == [r.mean for r in expected]
    assert [row["recipe"] for row in rows] == [r.recipe for r in expected]


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
