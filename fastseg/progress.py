"""Show the progress of a long job: a live bar in a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS = 10.0
"""Seconds between two plain lines."""


@contextmanager
def show_progress(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with (done, total); the speed leaves out what the first call counts as done.

    Shows the count, ``unit`` per second and the time left on stderr.
    """
    console = Console(stderr=True, markup=False)
    if not console.is_terminal:
        yield _Lines(console, title, unit)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} " + unit + "/s"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None, rate=0.0)
        rate = _Rate()
        yield lambda done, total: progress.update(task, completed=done, total=total, rate=rate(done))


class _Rate:
    """Count units per second since the first call."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.start = 0.0

    def __call__(self, done: int) -> float:
        now = time.monotonic()
        if self.first is None:
            self.first, self.start = done, now
        return (done - self.first) / max(now - self.start, 1e-9)


class _Lines:
    """Print a line every :data:`SECONDS`, and one at the end."""

    def __init__(self, console: Console, title: str, unit: str) -> None:
        self.console, self.title, self.unit = console, title, unit
        self.rate = _Rate()
        self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        rate, now = self.rate(done), time.monotonic()
        if done < total and now - self.last < SECONDS:
            return
        self.last = now
        eta = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        self.console.print(f"{self.title}: {done}/{total}, {rate:.1f} {self.unit}/s{eta}", soft_wrap=True)
