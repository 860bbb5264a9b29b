"""run.py's decisions: what it asks for, when it has nothing to do, how it says no. Nothing is installed."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load_run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_py", ROOT / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = load_run()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pyproject.toml and a .venv that holds an interpreter, taken by run.py for its own."""
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run.stamp, "__defaults__", (tmp_path, (3, 11)))
    run.venv_python().parent.mkdir(parents=True)
    run.venv_python().write_text("")
    return tmp_path


def test_an_old_python_can_read_the_file_and_its_error() -> None:
    ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    with pytest.raises(run.Stop, match=r"needs Python 3\.11 or newer, this is 3\.8"):
        run.check_python((3, 8))


def test_python_3_11_and_later_are_taken() -> None:
    for version in [(3, 11), (3, 12), (4, 0)]:
        run.check_python(version)


def test_only_the_standard_library_is_imported() -> None:
    tree = ast.parse((ROOT / "run.py").read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_arguments_after_the_command_are_passed_on() -> None:
    assert run.arguments(["demo", "--seeds", "1"]) == ("demo", ["--seeds", "1"])
    assert run.arguments(["test", "--help"]) == ("test", ["--help"])
    assert run.arguments([]) == ("help", [])
    with pytest.raises(run.Stop, match="'tset'"):
        run.arguments(["tset"])


def test_the_demo_writes_to_out_demo_unless_told_otherwise(tmp_path: Path) -> None:
    assert run.demo_command([], run.ROOT)[1:] == ["-m", "sparring", "demo", "--out", str(Path("out", "demo"))]
    assert run.demo_command(["--x"], tmp_path)[-2:] == [str(run.ROOT / "out" / "demo"), "--x"]
    assert run.demo_command(["--out", "here"], run.ROOT)[3:] == ["demo", "--out", "here"]


@pytest.mark.parametrize("spec", ["torch", "torch==2.11.0", "torch==2.13.0+cpu", "skip"])
def test_sparring_torch_chooses_pytorch(spec: str) -> None:
    assert run.torch_spec({"SPARRING_TORCH": spec}) == spec


def test_without_sparring_torch_the_tested_version_is_taken() -> None:
    assert run.torch_spec({}) == run.torch_spec({"SPARRING_TORCH": ""}) == run.TORCH
    tested = (ROOT / "constraints-tested.txt").read_text(encoding="utf-8").splitlines()
    assert run.TORCH in tested


@pytest.mark.parametrize("spec", ["2.13", "torch>=2.10", "numpy", "torch; rm"])
def test_another_sparring_torch_is_refused(spec: str) -> None:
    with pytest.raises(run.Stop, match="SPARRING_TORCH"):
        run.torch_spec({"SPARRING_TORCH": spec})


def test_pytorch_constrains_every_later_install() -> None:
    assert run.constraint("torch==2.13.0", "2.13.0+cpu") == "torch==2.13.0"
    assert run.constraint("torch", "2.15.1") == "torch==2.15.1"
    assert run.constraint("skip", "2.11.0") == "torch==2.11.0"
    with pytest.raises(run.Stop, match="skip"):
        run.constraint("skip", None)


def test_uv_is_given_pips_wheels_or_else_chooses_the_build() -> None:
    assert run.uv_environment({"PIP_FIND_LINKS": "a b"}) == {"PIP_FIND_LINKS": "a b", "UV_FIND_LINKS": "a,b"}
    assert run.uv_environment({}) == {"UV_TORCH_BACKEND": "auto"}
    assert run.uv_environment({"UV_TORCH_BACKEND": "cpu"}) == {"UV_TORCH_BACKEND": "cpu"}


def test_the_size_is_announced_only_where_pip_would_fetch_cuda_in_vain() -> None:
    assert run.needs_notice("linux", {}, None, "torch==2.13.0", False)
    assert not run.needs_notice("linux", {"PIP_FIND_LINKS": "wheels"}, None, "torch==2.13.0", False)
    assert not run.needs_notice("linux", {}, "uv", "torch==2.13.0", False)
    assert not run.needs_notice("linux", {}, None, "torch==2.13.0", True)
    assert not run.needs_notice("linux", {}, None, "skip", False)
    assert not run.needs_notice("darwin", {}, None, "torch==2.13.0", False)


def test_a_finished_environment_is_left_alone(project: Path) -> None:
    assert not run.is_ready("", run.TORCH)
    run.write_stamp("", run.TORCH)
    assert run.is_ready("", run.TORCH)
    assert not run.is_ready("dev", run.TORCH)
    run.write_stamp("dev", run.TORCH)
    assert run.is_ready("dev", run.TORCH) and run.is_ready("", run.TORCH)


def test_the_stamp_follows_what_decides_the_install(project: Path, tmp_path: Path) -> None:
    base = run.stamp("", run.TORCH)
    assert base == run.stamp("", run.TORCH)
    others = {run.stamp("dev", run.TORCH), run.stamp("", "torch"), run.stamp("", run.TORCH, python=(3, 12))}
    (project / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    others.add(run.stamp("", run.TORCH))
    assert len(others | {base}) == 5


def test_a_stamp_without_an_interpreter_does_not_count(project: Path) -> None:
    run.write_stamp("", run.TORCH)
    run.venv_python().unlink()
    assert not run.is_ready("", run.TORCH)


def test_only_what_looks_like_an_environment_may_be_removed(tmp_path: Path) -> None:
    half = tmp_path / "half"
    (half / "bin").mkdir(parents=True)
    assert run.looks_made_by_venv(half)
    (half / "thesis.txt").write_text("")
    assert not run.looks_made_by_venv(half)
    (half / "pyvenv.cfg").write_text("")
    assert run.looks_made_by_venv(half)


def test_a_folder_that_is_no_environment_is_refused(project: Path) -> None:
    (project / ".venv" / "thesis.txt").write_text("")
    with pytest.raises(run.Stop, match="not a virtual environment"):
        run.make_venv(None, run.TORCH)
    assert (project / ".venv" / "thesis.txt").exists()


def test_a_missing_venv_module_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(run.Stop, match="python3-venv"):
        run.make_venv(None, run.TORCH)
    assert not (tmp_path / ".venv").exists()


def test_a_read_only_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run.Path, "mkdir", refuse)
    assert run.main(["demo"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "cannot make" in said[-1] and "Permission denied" in said[-1]


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("NewConnectionError: Failed to establish a new connection", "no network"),
        ("[Errno -3] Temporary failure in name resolution", "no network"),
        ("ERROR: No matching distribution found for torch==9", "a package was not found"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("Command '[... ensurepip ...]' returned non-zero exit status 1.", "python3-venv"),
    ],
)
def test_usual_failures_are_named(said: str, cause: str) -> None:
    assert cause in (run.likely_cause(said) or "")


def test_an_unknown_failure_is_not_explained_away() -> None:
    assert run.likely_cause("error: subprocess-exited-with-error") is None


def test_the_whole_suite_runs_on_all_cores_and_a_part_of_it_plainly() -> None:
    assert run.pytest_arguments(["-x"], cores=4) == ["-n", "4", "--dist", "loadfile", "-x"]
    assert run.pytest_arguments([], cores=64)[1] == str(run.MOST_WORKERS)
    assert run.pytest_arguments([], cores=1) == []
    assert run.pytest_arguments(["-n", "0"], cores=4) == ["-n", "0"]
    assert run.pytest_arguments(["--pdb"], cores=4) == ["--pdb"]
    assert run.pytest_arguments(["tests/test_run_py.py::test_x"], cores=4) == ["tests/test_run_py.py::test_x"]


def test_slow_means_slow_ones_too() -> None:
    assert run.pytest_arguments(["--slow", "-x"], cores=1) == ["-m", "slow or not slow", "-x"]


def test_stages_run_in_order_up_to_the_first_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = [sys.executable, "-c", "print('all well')"]
    broken = [sys.executable, "-c", "print('a finding'); raise SystemExit(3)"]
    assert run.run_checker("ruff", fine) == 0
    assert run.run_checker("mypy", broken) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("ruff") and "ok" in said[0] and said[0].endswith("all well")
    assert said[1] == "a finding" and said[2].startswith("mypy") and "FAILED" in said[2]

    seen: list[str] = []

    def check(name: str, command: list[str]) -> int:
        seen.append(name)
        return 5 if name == "lint-imports" else 0

    monkeypatch.setattr(run, "run_checker", check)
    monkeypatch.setattr(run, "run_pytest", check)
    assert run.run_stages([]) == 5
    assert seen == ["ruff", "mypy", "lint-imports"]


def test_pytests_summary_is_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    fails = "print('dots'); print('1 failed'); raise SystemExit(1)"
    assert run.run_pytest("pytest", [sys.executable, "-c", fails]) == 1
    first, stage, last = capsys.readouterr().out.splitlines()
    assert (first, last) == ("dots", "1 failed")
    assert stage.startswith("pytest") and "FAILED" in stage


def test_help_and_mistakes_need_no_environment() -> None:
    def call(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(ROOT / "run.py"), *args], capture_output=True, text=True)

    shown, wrong = call("--help"), call("tset")
    assert shown.returncode == 0 and "run.py demo" in shown.stdout
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1
