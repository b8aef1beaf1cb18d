"""Show a run while it trains: a bar in a terminal, one changing line in a notebook, plain lines elsewhere."""

import math
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta

import rich.table
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from fastseg.progress import NotebookLine, in_notebook, is_quiet, words_console
from fastseg.training.profiler import Table

MIN_BAR, MAX_BAR = 10, 40
"""Columns of the bar: facts are shortened, and then left out, before it has less than the first."""
NOTEBOOK_COLUMNS = 100
"""Width of a notebook's line, which has no bar."""
REFRESHES = 4
"""Times a second that a terminal's bar is drawn."""
SHRINK = (
    *("tflops", "tflops", "memory", "miou", "lr", "speed", "waiting", "step", "left", "speed", "miou", "loss"),
    *("epoch", "epoch", "miou", "speed", "epoch", "step", "loss", "left"),
)
"""Which fact becomes shorter next where the line is too long; the last form of each is none."""
AFTER_BAR = ("step", "left", "evaluating", "loss", "speed", "miou", "lr", "waiting", "memory", "tflops")
"""Facts to the right of the bar, in their order."""


class Display:
    """What the user sees of a run, on stderr or in a notebook. Close it, or the terminal stays as it is."""

    def __init__(self, step: int, total: int, each: str = "", miou: float = math.nan, epoch: float = 0.0) -> None:
        """Begin after step ``step`` of ``total``, at epoch ``epoch``.

        ``each``: unit of the images per second, such as `` per GPU``. ``miou``: the last score of a resumed run, 0…1.
        """
        self._state = RunProgress(step, total, each, miou, epoch)
        self._console = words_console()
        self._line = NotebookLine() if in_notebook() and not is_quiet() else None
        self._live: Live | None = None
        if self._console.is_terminal and not is_quiet():
            self._live = Live(self._state, console=self._console, refresh_per_second=REFRESHES)
            self._live.start()

    def say(self, sentence: str) -> None:
        """Print one line for the user; with ``--quiet`` only warnings."""
        if not is_quiet() or sentence.startswith("warning: "):
            self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def remark(self, sentence: str) -> None:
        """Print a sentence with a bullet, broken between words in a terminal."""
        if not is_quiet():
            self._console.print(f"• {sentence}", highlight=False, markup=False, soft_wrap=not self._console.is_terminal)

    def show(self, what: RenderableType) -> None:
        """Print a table, or anything of rich's, for the user."""
        if not is_quiet():
            self._console.print(what)

    def advance(self, step: int) -> None:
        """Take note of a finished step."""
        self._state.advance(step)
        self._notebook()

    def train(self, step: int, values: Mapping[str, float]) -> None:
        """Show the means of a window of steps that ended with ``step``, as metrics.jsonl has them."""
        self._state.advance(step)
        self._state.window(step, values)
        self._notebook(at_once=step == self._state.total)
        if not self._live and not self._line:
            self.say(self._state.plain_line())

    def evaluating(self, done: int, total: int) -> None:
        """Show how many frames of this rank an evaluation has seen."""
        self._state.frames = (done, total)
        self._notebook()

    def evaluated(self, miou: float) -> None:
        """Show the score, 0…1, from now on."""
        self._state.evaluated(miou)
        self._notebook(at_once=True)

    def close(self) -> None:
        """Leave the bar as it is, and the terminal to others."""
        if self._live:
            self._live.stop()

    def _notebook(self, at_once: bool = False) -> None:
        if self._line:
            self._line.show(self._state.line(NOTEBOOK_COLUMNS), at_once)


class RunProgress:
    """Draw a run's progress as one line that is never longer than the terminal is wide."""

    def __init__(self, step: int, total: int, each: str, miou: float, epoch: float = 0.0) -> None:
        self.step, self.total, self.each = step, total, each
        self._begun = (step, epoch)
        self.miou = self.best = miou
        self.frames: tuple[int, int] | None = None
        """Frames done and to do of the evaluation that runs."""
        self._values: Mapping[str, float] = {}
        self._epochs_per_step = 0.0
        self._first: tuple[float, int] | None = None

    def advance(self, step: int) -> None:
        """Take note of a step: the first one, which may wait for a compiler, is not timed."""
        self.step = max(step, self.step)
        self._first = self._first or (time.monotonic(), step)
        self.frames = None

    def window(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a window of steps."""
        began, epoch = self._begun
        self._values, self._epochs_per_step = values, (values["epoch"] - epoch) / (step - began)

    def evaluated(self, miou: float) -> None:
        """Take a score."""
        self.frames, self.miou = None, miou
        self.best = miou if math.isnan(self.best) else max(self.best, miou)

    @property
    def seconds_left(self) -> float:
        """Return an estimate by the time of the steps so far, evaluations included; NaN before the second step."""
        if not self._first or self.step <= self._first[1]:
            return math.nan
        began, first = self._first
        return (time.monotonic() - began) / (self.step - first) * (self.total - self.step)

    def facts(self) -> dict[str, list[str]]:
        """Return the forms of every fact that is known, the longest first."""
        facts = {"step": [f"step {self.step}/{self.total}", f"{self.step}/{self.total}"]}
        if self._epochs_per_step:
            began, first = self._begun
            epoch, epochs = (first + self._epochs_per_step * (step - began) for step in (self.step, self.total))
            numbers = f"{epoch:.0f}/{epochs:.0f}"
            facts = {"epoch": [f"epoch {epoch:.1f}/{epochs:.4g}", f"epoch {numbers}", numbers]} | facts
        if self.step < self.total and not math.isnan(self.seconds_left):
            left = str(timedelta(seconds=round(self.seconds_left))).removeprefix("0:")
            facts["left"] = [f"{left} left", left]
        if self.frames:
            facts["evaluating"] = ["evaluating {}/{}".format(*self.frames)]
        elif self._values:
            facts |= self._window_facts(self._values)
        if not math.isnan(self.miou):
            score = [f"mIoU {100 * self.miou:.2f} %", f"mIoU {100 * self.miou:.1f}"]
            best = f"{score[0]} (best {100 * self.best:.2f})"
            facts["miou"] = [best if self.best > self.miou else score[0], *score]
        return facts

    def _window_facts(self, values: Mapping[str, float]) -> dict[str, list[str]]:
        speed, waiting = values["images_per_second_per_gpu"], f"waiting {100 * values['waiting']:.0f} %"
        tflops = f"{values['tflops']:.3g} TFLOP/s"
        mfu = f"{tflops} ({100 * values['mfu']:.0f} % MFU)" if "mfu" in values else tflops
        return {
            "loss": [f"loss {values['loss']:.3f}", f"loss {values['loss']:.2f}"],
            "speed": [f"{speed:.1f} img/s{self.each}", f"{speed:.1f} img/s", f"{speed:.3g} img/s"],
            "lr": [f"lr {values['lr']:.2g}"],
            "waiting": [waiting],
            "memory": [f"{values['memory'] / 2**30:.1f} GiB"],
            "tflops": [mfu, tflops],
        }

    def plain_line(self) -> str:
        """Return the line of a log file: all facts in full."""
        facts = {name: forms[0] for name, forms in self.facts().items()}
        order = ("step", "epoch", "loss", "lr", "speed", "tflops", "waiting", "memory", "miou")
        minutes = (
            "" if math.isnan(self.seconds_left) or self.step >= self.total else f"{self.seconds_left / 60:.0f} min left"
        )
        return " · ".join(filter(None, [*(facts.get(name, "") for name in order), minutes]))

    def line(self, width: int) -> str:
        """Return the most important facts in at most ``width`` columns."""
        shown = shrink(self.facts(), width)
        return "  ".join(shown[name] for name in ("epoch", *AFTER_BAR) if shown.get(name))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the line: the epoch, the bar, the other facts."""
        width = options.max_width
        shown = shrink(self.facts(), width - MIN_BAR)
        before = shown.get("epoch", "")
        after = "  ".join(shown[name] for name in AFTER_BAR if shown.get(name))
        room = width - sum(len(part) + 1 for part in (before, after) if part)
        bar = ProgressBar(self.total, self.step, width=max(min(room, MAX_BAR), 1))
        row: list[RenderableType] = [*([Text(before, style="bold")] if before else []), bar, Text(after)]
        grid = rich.table.Table.grid(*([""] * len(row)), padding=(0, 1, 0, 0), pad_edge=False)
        for column in grid.columns:
            column.no_wrap = True
        grid.add_row(*row)
        yield grid


def shrink(facts: Mapping[str, list[str]], room: float) -> dict[str, str]:
    """Return one form of each fact, so that all, two columns apart, take at most ``room`` columns.

    Shortens them in the order of :data:`SHRINK`. A fact without any form left is empty.
    """
    forms = {name: [*all_forms, ""] for name, all_forms in facts.items()}
    for name in SHRINK:
        if _columns(each[0] for each in forms.values()) <= room:
            break
        if len(forms.get(name, [])) > 1:
            forms[name].pop(0)
    return {name: each[0] for name, each in forms.items()}


def _columns(texts: Iterable[str]) -> int:
    return sum(len(text) + 2 for text in texts if text)


def plain_table(table: Table) -> rich.table.Table:
    """Lay out a profile's table."""
    shown = rich.table.Table()
    for i, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown
