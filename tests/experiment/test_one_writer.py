"""One writer per folder: whom a lock keeps out, and where no folder can be made."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import sparring
from small_runs import play, small
from sparring import copies, locks
from sparring.errors import Busy
from sparring.experiment import Trained, load


def test_a_folder_in_use_is_refused_and_its_holder_named(whole: Callable[[str], Path], tmp_path: Path) -> None:
    with locks.held(tmp_path / "run.lock"), pytest.raises(Busy) as busy:
        play(small("vanilla"), tmp_path)
    assert f"{tmp_path} is in use by process {os.getpid()} on " in str(busy.value)
    assert {path.name for path in tmp_path.iterdir()} == {"run.lock"}
    with locks.held(whole("vanilla") / "run.lock"):
        assert isinstance(load(whole("vanilla")), Trained), "reading needs no lock"


HOLD = "import sys\nfrom sparring.locks import held\nfrom pathlib import Path\n"
HOLD += "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n"


Holder = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def holder() -> Iterator[Holder]:
    """Starts processes that try to hold a lock, and ends them whatever the test comes to."""
    started: list[subprocess.Popen[str]] = []

    def start(lock: Path, then: str = "    sys.stdin.read()") -> subprocess.Popen[str]:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environment = os.environ | {"PYTHONPATH": str(Path(sparring.__file__).parents[1])}
        command = [sys.executable, "-c", HOLD + then, str(lock)]
        started.append(subprocess.Popen(command, text=True, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_of_many_starters_exactly_one_wins(holder: Holder, tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    starters = [holder(lock) for _ in range(8)]
    winners = []
    for starter in starters:  # the winner holds on until its input ends; the others have ended then
        assert starter.stdout is not None
        winners += [starter] if starter.stdout.readline() == "held\n" else []
    assert len(winners) == 1
    for starter in starters:
        _, errors = starter.communicate(timeout=60)
        assert (starter.returncode == 0) == (starter in winners)
        assert starter in winners or "Busy" in errors
    with locks.held(lock):
        pass


def test_a_killed_holder_frees_the_lock_though_its_child_lives(holder: Holder, tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    child = "    import subprocess\n    c = subprocess.Popen([sys.executable, '-c', 'input()'], close_fds=False)\n"
    process = holder(lock, child + "    print(c.pid, flush=True)\n    c.wait()")
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "held\n" and int(process.stdout.readline()) > 0
    with pytest.raises(Busy, match=f"in use by process {process.pid} on "), locks.held(lock):
        pass
    process.kill()
    process.wait(timeout=60)
    with locks.held(lock):  # the child, which still waits for its input, has not inherited it
        pass


@pytest.mark.parametrize("place", ["file", "below a file"])
def test_a_file_in_place_of_the_folder_is_named_in_one_line(place: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("something else")
    folder = tmp_path / "out" if place == "file" else tmp_path / "out" / "runs" / "vanilla"
    with pytest.raises(OSError, match="cannot write to") as refused:
        play(small("vanilla"), folder)
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)
    assert (tmp_path / "out").read_text() == "something else"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_before_any_training(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o555)
    with pytest.raises(OSError, match="cannot write to") as refused:
        play(small("vanilla"), folder, interrupted=lambda: pytest.fail("it trained"))
    assert str(folder) in str(refused.value)


def test_probing_a_folder_does_not_disturb_another_prober(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def probe() -> None:
        try:
            for _ in range(200):
                copies.make_folder(tmp_path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=probe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and not list(tmp_path.iterdir())
