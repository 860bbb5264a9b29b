"""A plan's tasks over worker processes: order, progress with an honest ETA, and an orderly stop."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from sparring.errors import Interrupted
from sparring.process import keep_few_kernels, keep_freed_memory, use_faster_products
from sparring.reproduction.plan import Plan, Task
from sparring.reproduction.signals import listen, obey, received
from sparring.reproduction.tasks import settled, work

Notice = Callable[[str], None]


def play(plan: Plan, tasks: list[Task], status: "Status", notice: Notice, live: Callable[["Status"], None]) -> None:
    """Run every task once what it needs is done, `plan.workers` at a time; without workers where all is done."""
    for task in tasks:
        if all(need in status.done for need in task.needs) and settled(task, plan):
            status.done[task.key] = 0.0
    waiting = [task for task in tasks if task.key not in status.done]
    if not waiting:
        return
    futures: dict[Future[float], Task] = {}
    with Workers(plan.workers) as workers:
        while waiting or futures:
            if received():
                raise Interrupted(received(), f"stopped and saved; the same command goes on from {plan.out}")
            for task in [t for t in waiting if all(need in status.done for need in t.needs)]:
                if len(futures) == plan.workers:
                    break
                waiting.remove(task)
                status.running[task.key] = time.monotonic()
                futures[workers.submit(task, plan)] = task
            finished, _ = wait(futures, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in finished:
                task = futures.pop(future)
                try:
                    seconds = future.result()
                except BrokenProcessPool:
                    raise OSError(
                        f"a worker died during {task.key} (killed for memory?); fewer --workers need less; "
                        "the same command goes on"
                    ) from None
                del status.running[task.key]
                status.done[task.key] = seconds
                if seconds > 0.5:
                    eta = status.eta(plan.workers)
                    left = f", about {duration(eta)} to go" if eta and (waiting or futures) else ""
                    notice(
                        f"[{len(status.done):>{len(str(len(tasks)))}}/{len(tasks)}] {task.key}: {duration(seconds)}{left}"
                    )
            live(status)


class Status:
    """How far a reproduction is: for a progress display, with an ETA from what finished tasks have really taken."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = list(tasks)
        self.running: dict[str, float] = {}  # key -> when it started
        self.done: dict[str, float] = {}  # key -> seconds it took; 0 where it had been done before

    def eta(self, workers: int) -> float | None:
        """Seconds still to go; None until a task has taken measurable time."""
        measured = [(task.cost, self.done[task.key]) for task in self.tasks if self.done.get(task.key, 0.0) > 2.0]
        if not measured:
            return None
        pace = sum(seconds for _, seconds in measured) / sum(cost for cost, _ in measured)
        now = time.monotonic()
        left = 0.0
        for task in self.tasks:
            if task.key not in self.done:
                begun = now - self.running[task.key] if task.key in self.running else 0.0
                left += max(task.cost * pace - begun, 0.0)
        return left / workers


def duration(seconds: float | None) -> str:
    """Seconds in the unit that suits them."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Workers:
    """Worker processes for tasks, or this process where there is to be only one. Signals reach all of them."""

    def __init__(self, n: int) -> None:
        self._pool = ProcessPoolExecutor(n, mp_context=get_context("spawn"), initializer=_begin) if n > 1 else None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Workers":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.getsignal(number)
            listen()
        return self

    def submit(self, task: Task, plan: Plan) -> Future[float]:
        if self._pool is not None:
            return self._pool.submit(work, task, plan)
        future: Future[float] = Future()
        future.set_result(work(task, plan))
        return future

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._pool is not None:
            if error is not None:
                for process in list((self._pool._processes or {}).values()):
                    if process.pid:
                        os.kill(process.pid, signal.SIGTERM)
            self._pool.shutdown(wait=True, cancel_futures=True)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _begin() -> None:
    """How a worker starts."""
    obey()
    keep_freed_memory()
    keep_few_kernels()
    use_faster_products()
