"""Processes that train epochs when told to, so that two can do so at once and none inherits another's threads or memory."""

import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from sparring.process import keep_freed_memory, use_faster_products

Make = Callable[..., Callable[[], Any]]  # arguments of a job -> what is to be timed


class Group:
    """Equal processes that do a job at the same time, each on so many threads; their memory is kept as `sparring` keeps it."""

    def __init__(self, n: int, threads: int, *, keep_memory: bool) -> None:
        context = get_context("spawn")
        self.ends: list[Connection] = []
        self.processes = []
        for _ in range(n):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, threads, keep_memory), daemon=True)
            process.start()
            theirs.close()
            self.ends.append(ours)
            self.processes.append(process)

    def seconds(self, make: Make, jobs: Sequence[tuple[Any, ...]]) -> float:
        """What the slowest took for its job; each is made once, outside the time, and then called again and again."""
        for stage in ("make", "time"):
            for end, job in zip(self.ends, jobs, strict=True):
                end.send((stage, make, job))
            answers = [end.recv() for end in self.ends]
        return float(max(answers))

    def measured(self, function: Callable[[], float]) -> list[float]:
        """What the function gives in all processes at once."""
        for end in self.ends:
            end.send(("call", function, ()))
        return [float(end.recv()) for end in self.ends]

    def forget(self) -> None:
        """Drop what has been made."""
        for end in self.ends:
            end.send(("forget", None, ()))

    def close(self) -> None:
        """End the processes."""
        for end in self.ends:
            end.send(None)
        for process in self.processes:
            process.join()


def _serve(end: Connection, threads: int, keep_memory: bool) -> None:
    torch.set_num_threads(threads)
    if keep_memory:
        keep_freed_memory()
        use_faster_products()
    made: dict[str, Callable[[], Any]] = {}
    while (message := end.recv()) is not None:
        stage, function, job = message
        if stage == "forget":
            made.clear()
            continue
        key = f"{function.__module__}.{function.__name__}{job}"
        if stage == "call":
            end.send(function())
            continue
        if stage == "make":
            if key not in made:
                made[key] = function(*job)
                made[key]()  # the first time warms up
            end.send(0.0)
            continue
        started = time.perf_counter()
        made[key]()
        end.send(time.perf_counter() - started)
