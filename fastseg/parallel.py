"""Worker processes: results in the order of the tasks, few in flight, no process left behind."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import util
from types import ModuleType
from typing import Any, TypeVar

from fastseg.errors import UserError

Result = TypeVar("Result")


def usable_cores() -> int:
    """Return how many cores this process may use; a batch system or a container may grant fewer than there are."""
    return len(os.sched_getaffinity(0))


def worker_count(workers: int | None) -> int:
    """Return ``workers``, or by default :func:`usable_cores`; raise :class:`UserError` below 1."""
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}; it must be at least 1")
    return workers or usable_cores()


def ordered_map(
    function: Callable[..., Result], tasks: Iterable[tuple[Any, ...]], workers: int
) -> Generator[Result, None, None]:
    """Yield ``function(*task)`` for every task, in the order of the tasks, computed by ``workers`` processes.

    At most ``max(32, 4 × workers)`` results wait to be taken, so memory stays bounded and a consumer that pauses
    (to flush a file) does not idle the workers. One worker means this process itself. Close the iterator
    (:func:`contextlib.closing`) to stop early: tasks that have begun end, the others never start.

    The first exception of a task, in their order, is raised here; :class:`UserError` if a worker was killed.
    """
    if workers == 1:
        for task in tasks:
            yield function(*task)
        return
    # Spawned, not forked: a fork copies locks that other threads hold (rich's display, BLAS).
    context = multiprocessing.get_context("spawn")
    with _starting_workers():  # and a process that frees what they leave behind
        executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            with _starting_workers(), _main_hidden(function):  # a submit may start one
                waiting.append(executor.submit(function, *task))
            if len(waiting) >= max(32, 4 * workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed (out of memory?); run the same command with fewer --workers"
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


_FLAGS = "_args_from_interpreter_flags"
"""Function of multiprocessing that returns the flags of the Python processes that it starts."""


@contextmanager
def _starting_workers() -> Iterator[None]:
    """Let processes that are started within import nothing from the current folder, and leave signals to this one.

    multiprocessing starts them by ``python -c``, whose path begins with the current folder, and gives them this
    process's path only then; with ``-I`` it begins with the standard library. Ctrl-C and the end of a terminal reach
    the whole process group, but workers, which inherit the mask from their first instant, leave it to the parent to
    decide what they mean.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    flags = getattr(util, _FLAGS)
    setattr(util, _FLAGS, lambda: ["-I"])  # Python 3.10 does not know PYTHONSAFEPATH
    try:
        yield
    finally:
        setattr(util, _FLAGS, flags)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _main_hidden(function: Callable[..., Any]) -> Iterator[None]:
    """Keep a worker from running the caller's script once more, which it does not need for a function of a module."""
    main = sys.modules["__main__"]
    if function.__module__ != "__main__":
        sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_worker() -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    # A worker holds both ends of its task queue, so it would wait forever for a parent that was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def cpu_threads(processes: int) -> int:
    """Return the threads for each of the ``processes`` that share this machine, at most 16."""
    return min(max(usable_cores() // processes, 1), 16)
