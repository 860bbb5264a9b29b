"""Who imports whom, what loads when, and what the source must never contain."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "sparring"

OPTIONAL = ["rich", "jinja2", "altair", "vl_convert"]
OPTIONAL += ["scipy", "torchvision", "pyautoattack", "foolbox", "art"]

# The import of a hidden package fails as it would if it had never been installed.
HIDE = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None

sys.meta_path.insert(0, Hidden())
"""


def python(code: str, *flags: str) -> str:
    """What a fresh interpreter prints, warnings being errors."""
    done = subprocess.run([sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_contracts_hold() -> None:
    pytest.importorskip("importlinter")
    call = "from importlinter.cli import lint_imports_command as lint; raise SystemExit(lint())"
    done = subprocess.run(
        [sys.executable, "-c", call, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_package_loads_no_torch() -> None:
    loaded = python("import sys, sparring; print(*sys.modules)").split()
    assert "sparring" in loaded
    assert not {"torch", "numpy", *OPTIONAL} & set(loaded)


def test_naming_the_experiments_loads_no_torch() -> None:
    loaded = python("import sys, sparring.recipes, sparring.config; print(*sys.modules)").split()
    assert not {"torch", "numpy", *OPTIONAL} & set(loaded)


def test_every_public_name_is_there() -> None:
    python("import sparring\nfor name in sparring.__all__: getattr(sparring, name)")


def test_training_needs_torch_numpy_and_safetensors_alone() -> None:
    code = HIDE + "import sparring\ntrain, test = sparring.data.load('digits')\n"
    code += "game = sparring.Game(sparring.models.mlp(train.shape, [16, 10]), eps=0.1).fit(train, epochs=1)\n"
    code += "assert sparring.evaluate(game.defender, test, eps=0.1, steps=1).accuracy('clean', 0.0) > 0.2\n"
    code += "print(*sys.modules)"
    loaded = python(code).split()
    assert "torch" in loaded and not set(OPTIONAL) & set(loaded)


def test_a_hidden_package_is_really_hidden() -> None:
    with pytest.raises(AssertionError, match="No module named 'rich'"):
        python(HIDE + "import rich")


FORBIDDEN = {
    r"\bpickle\.load": "weights are safetensors, which cannot contain code",
    r"weights_only\s*=\s*False": "weights are safetensors, which cannot contain code",
    r"/wor[k]/": "a path of one machine",
    r"share[d]/": "a path of one machine",
}


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_the_source_does_not_contain(pattern: str) -> None:
    files = [path for path in SOURCE.rglob("*") if path.suffix in {".py", ".j2", ".md", ".html", ".toml"}]
    assert files
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"{FORBIDDEN[pattern]}: {found}"


def test_the_type_information_is_shipped() -> None:
    assert (SOURCE / "py.typed").exists()
