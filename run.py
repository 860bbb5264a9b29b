#!/usr/bin/env python3
"""Two commands from a fresh clone, with nothing but Python's standard library.

    python3 run.py demo [...]     make .venv, install, train the game on the embedded digits, write the report
    python3 run.py test [...]     the same with the development tools: ruff, mypy, lint-imports, pytest

More arguments go to `sparring demo` and to pytest; `test --slow` also runs the tests marked slow.

SPARRING_TORCH chooses PyTorch: unset takes the tested version, `torch` the newest, `torch==X` that one,
and `skip` keeps the one that this Python already has. uv is used when it is on the path.
"""

# Parsed by any Python 3.8 or newer, so that an old one reads the error below instead of a traceback.
from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from errno import EACCES, EPERM, EROFS
from pathlib import Path
from typing import Mapping, NoReturn, Sequence  # noqa: UP035  # read by Python 3.8

TORCH = "torch==2.13.0"  # the tested version; every other requirement is a lower bound in pyproject.toml
OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = "sparring-stamp"  # in .venv, written last: its absence means a half-made environment
LOG = "sparring-install.log"  # in .venv: everything that pip or uv said
MOST_WORKERS = 8  # each test process imports torch
GET_VENV = "on Debian and Ubuntu: sudo apt install python3-venv (or install uv)"
UNREACHABLE = re.compile(
    "name resolution|newconnectionerror|connection refused|network is unreachable|dns error|failed to fetch"
    "|error sending request|connecttimeout|readtimeout|proxyerror|getaddrinfo failed|nodename nor servname"
    "|connection broken|operation timed out"
)
HALF_MADE = {"bin", "lib", "lib64", "include", "share", "scripts", LOG}


class Stop(Exception):
    """What went wrong and what to do about it, in one line."""


def main(argv: Sequence[str]) -> int:
    """Run one command; the exit status is that of its first failing stage."""
    try:
        check_python(sys.version_info[:2])
        command, rest = arguments(argv)
        if command == "help":
            print(__doc__)
            return 0
        spec = torch_spec(os.environ)
        if command == "demo":
            prepare("", spec)
            return hand_over(demo_command(rest, Path.cwd()))
        prepare("dev", spec)
        return run_stages(rest)
    except Stop as stop:
        print("run.py: " + str(stop), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nrun.py: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


# --- what was asked -----------------------------------------------------------------------------------------


def check_python(version: tuple[int, ...]) -> None:
    """Refuse a Python that is too old."""
    if version < OLDEST:
        found = ".".join(str(part) for part in version)
        raise Stop(f"sparring needs Python 3.11 or newer, this is {found}; try: python3.11 run.py ...")


def arguments(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The command (demo, test or help) and what is passed on."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        return "help", []
    command, rest = argv[0], list(argv[1:])
    if command not in ("demo", "test"):
        raise Stop(f"unknown command {command!r}; the commands are demo and test")
    return command, rest


def torch_spec(environ: Mapping[str, str]) -> str:
    """What to install as PyTorch: `torch`, `torch==X`, or `skip`."""
    spec = environ.get("SPARRING_TORCH", "").replace(" ", "") or TORCH
    if spec == "skip" or re.fullmatch(r"torch(==[0-9A-Za-z.+!*]+)?", spec):
        return spec
    raise Stop(f"SPARRING_TORCH is torch, torch==VERSION or skip, got {spec!r}")


def demo_command(rest: Sequence[str], cwd: Path) -> list[str]:
    """The demo's command line; it writes to out/demo unless told otherwise."""
    command = [str(venv_python()), "-m", "sparring", "demo"]
    if not any(arg == "--out" or arg.startswith("--out=") for arg in rest):
        command += ["--out", str(Path("out", "demo") if cwd == ROOT else ROOT / "out" / "demo")]
    return command + list(rest)


def pytest_arguments(rest: Sequence[str], cores: int) -> list[str]:
    """Arguments for pytest: `--slow` spelled out, and one process a core when the whole suite runs."""
    chosen = [arg for arg in rest if arg != "--slow"]
    marks = ["-m", "slow or not slow"] if "--slow" in rest else []
    alone = ("-n", "--numprocesses", "-s", "--capture=no", "--pdb", "--trace", "-p", "--co", "--collect-only")
    some_tests = any(not arg.startswith("-") and (ROOT / arg.split("::")[0]).exists() for arg in chosen)
    if cores < 2 or some_tests or any(arg.split("=")[0] in alone or arg in alone for arg in chosen):
        return marks + chosen
    return ["-n", str(min(cores, MOST_WORKERS)), "--dist", "loadfile", *marks, *chosen]


# --- the environment ----------------------------------------------------------------------------------------


def prepare(extra: str, spec: str) -> None:
    """Make `.venv` hold the package, editable, with the extra; do nothing when its stamp says so."""
    if is_ready(extra, spec):
        return
    started = time.monotonic()
    uv = shutil.which("uv") if spec != "skip" else None  # pip alone sees the packages outside a venv
    try:
        make_venv(uv, spec)
        (VENV / STAMP).unlink(missing_ok=True)
        (VENV / LOG).write_bytes(b"")
        if needs_notice(sys.platform, os.environ, uv, spec, has_gpu()):
            say(
                "note: without uv, pip takes the ordinary Linux build of PyTorch, several GB with its "
                "CUDA packages; uv chooses the CPU build on a machine without a GPU"
            )
        install_all(uv, extra, spec)
        write_stamp(extra, spec)
    except OSError as error:
        raise Stop(cannot_make(error)) from None
    say(f"environment ready after {time.monotonic() - started:.0f} s")


def cannot_make(error: OSError) -> str:
    """One line for a folder that cannot be written to, a full disk and the like."""
    where = "; copy the repository to a folder you may write to" if error.errno in (EACCES, EPERM, EROFS) else ""
    return f"cannot make {VENV}: {error.strerror or error}{where}"


def is_ready(extra: str, spec: str) -> bool:
    """Whether a finished `.venv` holds what this command needs; [dev] includes the plain install."""
    try:
        found = (VENV / STAMP).read_text(encoding="utf-8")
    except OSError:
        return False
    return venv_python().exists() and found in {stamp(e, spec) for e in {extra, "dev"}}


def stamp(extra: str, spec: str, root: Path = ROOT, python: tuple[int, ...] = sys.version_info[:2]) -> str:
    """A hash of what decides the install; the folder too, since an editable install points at it."""
    project = hashlib.sha256((root / "pyproject.toml").read_bytes()).hexdigest()
    parts = [project, spec, extra, ".".join(map(str, python)), str(root)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write_stamp(extra: str, spec: str) -> None:
    """Leave the stamp, whole or not at all."""
    aside = VENV / (STAMP + ".tmp")
    aside.write_text(stamp(extra, spec), encoding="utf-8")
    os.replace(aside, VENV / STAMP)


def make_venv(uv: str | None, spec: str) -> None:
    """Make `.venv`, or complete one that was left half-made; a working one stays."""
    if VENV.exists() or VENV.is_symlink():
        if works(uv) or (not uv and starts() and add_pip()):
            return
        if not looks_made_by_venv(VENV):
            raise Stop(f"{VENV} is not a virtual environment; move it away and try again")
        say("remaking a half-made or broken .venv")
        shutil.rmtree(VENV)
    VENV.mkdir()  # says at once when the folder is read-only
    say(f"making .venv with Python {'.'.join(map(str, sys.version_info[:3]))}")
    if uv:
        run_logged([uv, "venv", "--allow-existing", "--python", sys.executable, str(VENV)], os.environ)
        return
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        VENV.rmdir()
        raise Stop("this Python lacks its venv module; " + GET_VENV)
    outside = ["--system-site-packages"] if spec == "skip" else []
    run_logged([sys.executable, "-m", "venv", *outside, str(VENV)], os.environ)


def install_all(uv: str | None, extra: str, spec: str) -> None:
    """Install PyTorch first, then the package with that PyTorch as a constraint."""
    if uv:
        env = uv_environment(os.environ)
        install = [uv, "pip", "install", "--python", str(venv_python())]
    else:
        env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
        install = [str(venv_python()), "-m", "pip", "install"]
    if spec != "skip":
        say(f"installing {spec}")
        run_logged([*install, *(["--upgrade"] if spec == "torch" else []), spec], env)
    say(f"installing sparring{f'[{extra}]' if extra else ''} and what it needs")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text(constraint(spec, installed_torch()) + "\n", encoding="utf-8")
        target = f"{ROOT}[{extra}]" if extra else str(ROOT)
        run_logged([*install, "-c", str(constraints), "-e", target], env)


def constraint(spec: str, installed: str | None) -> str:
    """The line that keeps every later install from replacing PyTorch."""
    if "==" in spec:
        return spec
    if installed is None:
        raise Stop("SPARRING_TORCH=skip, but .venv sees no torch: remove .venv and use a Python that has it")
    return "torch==" + installed


def uv_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """uv does not read pip's find-links; without them it picks the PyTorch build that fits the machine."""
    env = dict(environ)
    links = environ.get("PIP_FIND_LINKS", "").split()
    if links:
        env.setdefault("UV_FIND_LINKS", ",".join(links))
    else:
        env.setdefault("UV_TORCH_BACKEND", "auto")
    return env


def needs_notice(platform: str, environ: Mapping[str, str], uv: str | None, spec: str, gpu: bool) -> bool:
    """Whether pip is about to fetch CUDA packages for a Linux machine that cannot use them."""
    return platform.startswith("linux") and not (uv or gpu or spec == "skip" or environ.get("PIP_FIND_LINKS"))


def has_gpu() -> bool:
    """Whether an NVIDIA driver is there."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def venv_python() -> Path:
    """The environment's interpreter."""
    return VENV / "Scripts" / "python.exe" if os.name == "nt" else VENV / "bin" / "python"


def looks_made_by_venv(folder: Path) -> bool:
    """Whether a folder holds no more than what making an environment leaves, so that it may be removed."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return "pyvenv.cfg" in names or {name.lower() for name in names} <= HALF_MADE


def starts() -> bool:
    """Whether the environment's interpreter starts and is new enough."""
    return _succeeds("import sys; sys.exit(sys.version_info < " + repr(OLDEST) + ")")


def works(uv: str | None) -> bool:
    """Whether the environment can be installed into."""
    return starts() and (uv is not None or _succeeds("import pip._internal"))


def add_pip() -> bool:
    """Complete an environment that was left without pip."""
    command = [str(venv_python()), "-m", "ensurepip", "--upgrade", "--default-pip"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0 and works(None)


def installed_torch() -> str | None:
    """The version of PyTorch that the environment sees."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    command = [str(venv_python()), "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip() or None


def run_logged(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Run an installer, its words into the log, its progress to a terminal; Stop says the likely cause."""
    log = VENV / LOG
    before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as file:
        shown = None if sys.stdout.isatty() else file
        code = subprocess.call(list(command), env=dict(env), stdout=shown, stderr=file)
    if code:
        said = log.read_bytes()[before:].decode(errors="replace")
        known = likely_cause(said)
        if known is None:
            print("\n".join(said.splitlines()[-15:]), file=sys.stderr)
        raise Stop(f"{known or 'the installation failed'}; the whole log is {log}")


def likely_cause(said: str) -> str | None:
    """One line for the usual reasons why an installation fails."""
    text = said.lower()
    if "no space left" in text or "errno 28" in text:
        return "the disk is full"
    if "ensurepip" in text and "returned non-zero" in text:
        return "Python's venv module is incomplete; " + GET_VENV
    if UNREACHABLE.search(text):
        return "no network: a first install fetches packages, or takes wheels from PIP_FIND_LINKS"
    if "no matching distribution" in text or "no solution found" in text:
        return "a package was not found for this Python; check network, SPARRING_TORCH and Python version"
    return None


# --- the stages of `test` -----------------------------------------------------------------------------------


def run_stages(rest: Sequence[str]) -> int:
    """Run ruff, mypy, lint-imports and pytest in order, a line each, up to the first that fails."""
    python = str(venv_python())
    lint_imports = "from importlinter.cli import lint_imports_command as lint; raise SystemExit(lint())"
    stages = {
        "ruff": [python, "-m", "ruff", "check", "--output-format", "concise", "."],
        "mypy": [python, "-m", "mypy"],
        "lint-imports": [python, "-c", lint_imports],
        "pytest": [python, "-m", "pytest", *pytest_arguments(rest, n_cores())],
    }
    for name, command in stages.items():
        code = run_pytest(name, command) if name == "pytest" else run_checker(name, command)
        if code:
            return code
    return 0


def run_checker(name: str, command: Sequence[str]) -> int:
    """Run a checker and say how it went; its own words are shown when it fails."""
    started = time.monotonic()
    done = subprocess.run(list(command), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = done.stdout.decode(errors="replace")
    if done.returncode:
        print(said.rstrip("\n"))
    words = "" if done.returncode else (said.strip().splitlines() or [""])[-1]
    report_stage(name, done.returncode, time.monotonic() - started, words)
    return done.returncode


def run_pytest(name: str, command: Sequence[str]) -> int:
    """Run pytest, one torch thread a process; in a pipe its own summary stays the last line."""
    started = time.monotonic()
    env = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    if sys.stdout.isatty():
        code = subprocess.call(list(command), cwd=ROOT, env=env)
        report_stage(name, code, time.monotonic() - started, "")
        return code
    last = ""
    with subprocess.Popen(
        list(command), cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(last, end="", flush=True)
            last = line.decode(errors="replace")
    report_stage(name, process.returncode, time.monotonic() - started, "")
    print(last, end="", flush=True)
    return process.returncode


def report_stage(name: str, code: int, seconds: float, words: str) -> None:
    """One line: the stage, how it went, how long it took, and its own last words."""
    state = "FAILED" if code else "ok"
    shown = f"{state:6}"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        shown = f"\033[{31 if code else 32}m{shown}\033[0m"
    print(f"{name:12} {shown} {seconds:6.1f} s  {words}".rstrip(), flush=True)


def n_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hand_over(command: Sequence[str]) -> int:
    """Become the command where the system can; else run it and return its status."""
    if os.name == "nt":
        return subprocess.call(list(command))
    _become(command)


def _become(command: Sequence[str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], list(command))


def _succeeds(code: str) -> bool:
    try:
        command = [str(venv_python()), "-c", code]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return done.returncode == 0


def say(words: str) -> None:
    """A line of progress, on stderr so that a command's own output can be piped."""
    print("run.py: " + words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
