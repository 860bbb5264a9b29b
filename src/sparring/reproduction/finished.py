"""The finished runs of a folder, and one piece of work on each of them, in this process or several."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from sparring.errors import InputError, Interrupted
from sparring.process import on_one_thread
from sparring.records import OutPaths, RunPaths, read_json
from sparring.reproduction.signals import ignore, listen, received

Item = TypeVar("Item")  # a run, or several at once
Made = TypeVar("Made")


def finished(folder: str | Path) -> list[Path]:
    """The folders of the finished runs of `folder`, which is one itself or an output folder; InputError where there are none."""
    folder = Path(folder)
    if RunPaths(folder).config.is_file():
        return [_finished(folder)]
    runs = [
        run
        for recipe in _recipes(folder)
        for run in OutPaths(folder).runs(recipe)
        if RunPaths(run).done.is_file() and read_json(RunPaths(run).done)["status"] == "done"
    ]
    if not runs:
        raise InputError(f"{folder} holds no finished run; make one with: sparring reproduce --out {folder}")
    return runs


def each(
    work: Callable[[Item], Made], items: Sequence[Item], workers: int, told: Callable[[Made], None] = lambda made: None
) -> None:
    """Do the work on every run or other item, so many at a time on one thread each; what came of one is told once it is there.

    Raises Interrupted after a signal: what the work stores is kept, and the same call goes on.
    """
    if workers == 1 or len(items) < 2:
        for item in items:
            told(work(item))
        return
    pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=get_context("spawn"), initializer=_alone)
    try:
        with _listening():
            waiting: set[Future[Made]] = {pool.submit(work, item) for item in items}
            while waiting:
                done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    told(future.result())
                if received():
                    raise Interrupted(received(), "stopped; what is finished is kept, and the same command goes on")
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _alone() -> None:
    """A worker leaves signals to its parent and keeps to one core."""
    ignore()
    on_one_thread()


def _finished(run: Path) -> Path:
    """The run's folder; raises InputError, as `experiment.load` does, where the run has not come to its end."""
    done = RunPaths(run).done
    if not done.is_file():
        raise InputError(f"the run in {run} is not finished; `sparring train` continues it")
    if (record := read_json(done))["status"] != "done":
        raise InputError(f"the run in {run} diverged and has no weights: {record['message']}")
    return run


def _recipes(folder: Path) -> list[str]:
    """The recipes of an output folder in the order of its run; without a record of it, all that lie there."""
    head = OutPaths(folder).reproduction
    if head.is_file():
        return list(read_json(head)["recipes"])
    return sorted(path.name for path in (folder / "runs").glob("*") if path.is_dir())


@contextmanager
def _listening() -> Iterator[None]:
    """Signals are noted for the length of the block, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
