"""Show the progress of a long job: a live bar in a terminal, one changing line in a notebook, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS = 10.0
"""Seconds between two plain lines."""
NOTEBOOK_SECONDS = 0.5
"""Seconds between two changes of a notebook's line."""

_quiet = False


def be_quiet(wanted: bool = True) -> None:
    """Show no progress and say nothing but results, warnings and errors from now on: ``--quiet``."""
    global _quiet
    _quiet = wanted


def is_quiet() -> bool:
    """Return whether ``--quiet`` was given."""
    return _quiet


def in_notebook() -> bool:
    """Return whether this is a Jupyter kernel, which has no terminal and shows what IPython displays."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def words_console() -> Console:
    """Return the console for words to the user: stderr, in a notebook the cell's output."""
    return Console(file=sys.stdout, force_jupyter=False) if in_notebook() else Console(stderr=True)


class NotebookLine:
    """One line of text below a notebook's cell, which is replaced; ipywidgets are not needed."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._last = 0.0

    def show(self, text: str, at_once: bool = False) -> None:
        """Replace the line by ``text``, unless that was done less than :data:`NOTEBOOK_SECONDS` ago."""
        now = time.monotonic()
        if not at_once and now - self._last < NOTEBOOK_SECONDS:
            return
        self._last = now
        if self._handle:
            self._handle.update({"text/plain": text}, raw=True)
        else:
            display = sys.modules["IPython"].display.display
            self._handle = display({"text/plain": text}, raw=True, display_id=True)


@contextmanager
def show_progress(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with (done, total); the speed leaves out what the first call counts as done.

    Shows the count, ``unit`` per second and the time left on stderr, or in a notebook; nothing with ``--quiet``.
    """
    if is_quiet():
        yield lambda _done, _total: None
        return
    console = Console(stderr=True, markup=False, force_jupyter=False)
    if not console.is_terminal:
        yield _Notebook(title, unit) if in_notebook() else _Lines(console, title, unit)
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


class _Text:
    """Format how far a job is."""

    def __init__(self, title: str, unit: str) -> None:
        self.title, self.unit = title, unit
        self.rate = _Rate()

    def text(self, done: int, total: int) -> str:
        rate = self.rate(done)
        eta = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        return f"{self.title}: {done}/{total}, {rate:.1f} {self.unit}/s{eta}"


class _Notebook(_Text):
    def __init__(self, title: str, unit: str) -> None:
        super().__init__(title, unit)
        self.line = NotebookLine()

    def __call__(self, done: int, total: int) -> None:
        self.line.show(self.text(done, total), at_once=done >= total)


class _Lines(_Text):
    """Print a line every :data:`SECONDS`, and one at the end."""

    def __init__(self, console: Console, title: str, unit: str) -> None:
        super().__init__(title, unit)
        self.console = console
        self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        text, now = self.text(done, total), time.monotonic()
        if done < total and now - self.last < SECONDS:
            return
        self.last = now
        self.console.print(text, soft_wrap=True)
