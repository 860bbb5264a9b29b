"""What README.md shows works, what it names is there, and no document points at a file that is not."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from sparring import adversaries, attacks, evaluation

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
DOCUMENTS = [ROOT / name for name in ("README.md", "GLOSSARY.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
MADE_LATER = "results/paper-mnist/"  # by the command beside the link


@pytest.fixture(scope="module")
def printed() -> list[Any]:
    """All blocks, run in the order of the page in one namespace; what they print."""
    shown: list[Any] = []
    namespace: dict[str, Any] = {"__name__": "readme", "print": shown.append}
    for number, block in enumerate(BLOCKS, 1):
        exec(compile(block, f"README.md, python block {number}", "exec"), namespace)
    return shown


def test_the_first_example_has_five_lines() -> None:
    assert len(BLOCKS) > 3 and len(BLOCKS[0].splitlines()) == 5


def test_every_python_block_runs_and_pgd_takes_accuracy_in_the_first(printed: list[Any]) -> None:
    evaluation = printed[0]
    assert evaluation.accuracy("pgd", 0.1) < evaluation.accuracy("clean", 0.0)
    assert evaluation.accuracy("pgd", 0.2) <= evaluation.accuracy("pgd", 0.1)
    assert evaluation.accuracy("clean", 0.0) > 0.8, "the five lines should train something that works"


def test_the_table_is_aligned_whatever_an_attack_is_called(printed: list[Any]) -> None:
    lines = str(printed[0]).splitlines()
    ends = {line.index(" %  [") for line in lines[1:-1]}
    assert any("its own adversary" in line for line in lines) and len(ends) == 1
    assert lines[0].index("accuracy") + len("accuracy") == ends.pop() + len(" %")


def headings(path: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        found = target.is_relative_to(ROOT) and (target.exists() or MADE_LATER in target.as_posix())
        if not found or (anchor and target.suffix == ".md" and anchor not in headings(target)):
            dead.append(link)
    assert not dead


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_import_the_attacks_adversaries_and_evaluations_that_they_use(document: Path) -> None:
    public = {*adversaries.__all__, *attacks.__all__, *evaluation.__all__}
    known: set[str] = set()  # imported, assigned or defined, in the order of the page
    for block in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        nodes = list(ast.walk(ast.parse(block)))
        known |= {name.asname or name.name for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names}
        known |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        known |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        assert not used & public - known, block


def tree() -> set[str]:
    """The files that the tree in docs/code.md names, relative to src/sparring."""
    page = (ROOT / "docs" / "code.md").read_text(encoding="utf-8")
    lines = page.partition("src/sparring/\n├──")[2].partition("```")[0]
    folder, names = "", set()
    for deeper, name in re.findall(r"^(│   |    )?[├└]?──? ?(\S+)", "├──" + lines, re.MULTILINE):
        if name.endswith("/"):
            folder = name
        else:
            names.add(folder + name if deeper else name)
    return names


def test_the_tree_names_every_file_of_the_code_and_no_other() -> None:
    source = ROOT / "src" / "sparring"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
    files -= {name for name in files if name.endswith("/__init__.py")}
    assert len(files) > 50 and tree() == files


def test_every_command_that_the_page_shows_exists() -> None:
    from sparring.cli import COMMANDS

    shown = set(re.findall(r"^\| `sparring (\w+)", README, re.MULTILINE))
    assert shown == set(COMMANDS)
    lines = re.findall(r"(?:^|`)sparring (\w+)", README, re.MULTILINE)
    assert set(lines) - {"trains", "reproduces", "COMMAND"} <= set(COMMANDS)
