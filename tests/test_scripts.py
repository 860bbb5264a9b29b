"""The commands behind the numbers still start: every script of runs/ and bench/ imports what it uses and tells its options."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path
    for folder in ("runs", "bench")
    for path in (ROOT / folder).glob("*.py")
    if "ArgumentParser" in path.read_text()
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_starts_and_names_itself(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    names = {path.stem for path in script.parent.glob("*.py")}
    for name in names & set(sys.modules):  # each folder has its own `precision`
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    told = capsys.readouterr().out
    assert ended.value.code == 0 and "usage: " in told
    assert f"python {script.parent.name}/{script.name} " in told, "its first lines should say how it is called"


def test_there_are_scripts() -> None:
    assert {"beyond", "leads"} <= {path.stem for path in SCRIPTS}
