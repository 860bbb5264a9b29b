"""The page of a report, taken apart, and the records that it is compared with."""

import re
from html.parser import HTMLParser
from pathlib import Path

from sparring.records import OutPaths, SummaryRecord, read

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "rect", "line"}


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
        assert self.open == [], f"left open: {self.open}"

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


def summaries(folder: Path) -> list[SummaryRecord]:
    return read(OutPaths(folder).records("summary"), SummaryRecord)


def headline_rows(html: str) -> dict[str, list[str]]:
    table = html[html.index('id="headline"') :]
    body = table[table.index("<tbody>") : table.index("</tbody>")]
    rows = {}
    for row in re.findall(r"<tr>(.*?)</tr>", body, re.S):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
        texts = [" ".join(re.sub(r"<[^>]+>", " ", cell).split()).replace("\u00a0", " ") for cell in cells]
        rows[texts[0]] = texts[1:]
    return rows


def matrix(html: str, number: int = 0) -> list[list[str]]:
    """The rows of one matrix of the memory, as the page shows them."""
    section = html[html.index('<section id="memory"') :]
    body = re.findall(r"<tbody>(.*?)</tbody>", section[: section.index("</section>")], re.S)[number]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)]
    return [[re.sub(r"<[^>]+>", "", cell) for cell in row] for row in rows]
