"""Contestants measured in turns: each in processes of its own, all but the one being measured stopped.

Window by window every contestant has its turn, so that whatever the machine does meanwhile happens to all of them;
every other round goes backwards, so that nobody always comes after the same one.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.suite.remote import Failure, Worker
from bench.suite.rows import Row, is_ours, is_part, ratio_to_ours, spread

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Contestant:
    """One entry of a stage: what to measure and how it is set."""

    stage: str
    """loader, compute, train, packing, evaluation, scaling."""
    name: str
    """As the tables show it; ours start with "fastseg", the replaced project's is "seed"."""
    unit: str
    """Of the rate, such as images/s."""
    factory: str
    """"module:function", called with the settings in the contestant's process; returns a worker.Contender."""
    settings: dict[str, Any]
    """Numbers, strings, lists, dicts and None."""
    candidates: tuple[dict[str, Any], ...] = ()
    """Further settings to choose from by a few short windows, the usual best first."""
    requires: tuple[str, ...] = ()
    """Distributions; where one is missing the contestant is listed as not installed."""
    absent: str | None = None
    """Why it cannot run here (needs a GPU, …); it is listed with that."""
    python: str = sys.executable
    """Interpreter of the environment that it lives in."""
    prefix: tuple[str, ...] = ()
    """What stands between the interpreter and ``-m bench.suite.worker``: ("-m", "torch.distributed.run", …)."""

    @property
    def ours(self) -> bool:
        """Whether it is fastseg's."""
        return is_ours(self.name)

    @property
    def part(self) -> bool:
        """Whether it is a part of ours alone."""
        return is_part(self.name)

    @property
    def command(self) -> list[str]:
        """What starts its worker."""
        order = json.dumps({"factory": self.factory, "settings": self.settings})
        return [self.python, *self.prefix, "-m", "bench.suite.worker", order]


@dataclass(frozen=True)
class Timing:
    """How long to measure."""

    windows: int = 5
    seconds: float = 3.0
    """Length of a window."""
    warmup: float = 1.5
    """Seconds of steps before every window that do not count."""
    together: int = 1
    """Contestants that start side by side: a compiler or a library that tunes itself wants the machine for itself."""
    patience: float = 600.0
    """Seconds after which a contestant that does not answer is given up."""


@dataclass
class Entry:
    """A contestant and what it has shown so far."""

    contestant: Contestant
    answers: list[dict[str, Any]] = field(default_factory=list)
    skipped: str | None = None
    failed: bool = False
    """Whether it was skipped because it went wrong."""
    traceback: str = ""
    """Where in its process, if it said."""
    threads: int | None = None
    """Of torch's, in its process."""

    @property
    def rates(self) -> tuple[float, ...]:
        """Of the windows so far; none once it has failed."""
        return () if self.skipped else tuple(answer["units"] / answer["seconds"] for answer in self.answers)


class Contest:
    """The contestants of one stage."""

    def __init__(self, contestants: Sequence[Contestant], timing: Timing, tell: Tell = lambda _: None) -> None:
        self.timing, self.tell = timing, tell
        self.entries = [Entry(contestant, skipped=why_not(contestant)) for contestant in contestants]

    def run(self) -> None:
        """Measure all windows. However it ends, no process is left, and :meth:`rows` has what was measured."""
        workers: list[tuple[Entry, Worker]] = []
        with TemporaryDirectory(prefix="fastseg-bench-") as logs:
            try:
                self._start(workers, Path(logs))
                for window in range(1, self.timing.windows):
                    self._round(workers[::-1] if window % 2 else workers, window)
            finally:
                for _, worker in workers:
                    worker.dismiss()  # All before the first is waited for: they close side by side.
                for _, worker in workers:
                    worker.end()

    def rows(self) -> list[Row]:
        """A row for every contestant, in order; those not measured so far are skipped."""
        ours = (entry.rates for entry in self.entries if entry.contestant.ours and not entry.contestant.part)
        baseline = next(filter(None, ours), ())
        return [_row(entry, baseline) for entry in self.entries]

    @property
    def failures(self) -> list[Entry]:
        """Those that went wrong."""
        return [entry for entry in self.entries if entry.failed]

    def _start(self, workers: list[tuple[Entry, Worker]], logs: Path) -> None:
        """Start them, each with its first window: interrupted while others compile, there is something to show."""
        taking_part = [(number, entry) for number, entry in enumerate(self.entries) if entry.skipped is None]
        for at in range(0, len(taking_part), self.timing.together):
            begun = len(workers)
            for number, entry in taking_part[at : at + self.timing.together]:
                self.tell(f"{_title(entry.contestant)}: starting")
                log = logs / f"{number}.log"
                workers.append((entry, Worker(entry.contestant.command, log, self.timing.patience)))
            for entry, worker in workers[begun:]:
                with _failing(entry):
                    entry.threads = worker.ready()
            self._round(workers[begun:], 0)

    def _round(self, workers: Sequence[tuple[Entry, Worker]], window: int) -> None:
        for entry, worker in workers:
            if not entry.failed:
                self.tell(f"{_title(entry.contestant)}: window {window + 1} of {self.timing.windows}")
                with _failing(entry):
                    entry.answers.append(worker.measure(self.timing.warmup, self.timing.seconds))


@contextmanager
def _failing(entry: Entry) -> Iterator[None]:
    """A failure of the contestant is its own: the contest goes on without it."""
    try:
        yield
    except Failure as failure:
        entry.skipped, entry.failed, entry.traceback = str(failure), True, failure.traceback


def choose(contestant: Contestant, timing: Timing, tell: Tell = lambda _: None) -> Contestant:
    """The contestant with the fastest of its candidates' settings, by the median; the first if none of them works."""
    if len(contestant.candidates) < 2 or why_not(contestant):
        return with_settings(contestant, next(iter(contestant.candidates), {}))
    tried = [with_settings(contestant, candidate) for candidate in contestant.candidates]
    contest = Contest(tried, timing, lambda text: tell(f"{text} (choosing settings)"))
    contest.run()
    best = max(contest.entries, key=lambda entry: spread(entry.rates).median if entry.rates else 0.0)
    return best.contestant


def with_settings(contestant: Contestant, settings: dict[str, Any]) -> Contestant:
    """The contestant with some settings replaced and nothing left to choose."""
    return replace(contestant, settings=contestant.settings | settings, candidates=())


def why_not(contestant: Contestant) -> str | None:
    """Why it cannot take part; None if it can."""
    missing = [name for name in contestant.requires if _version(contestant.python, name) is None]
    return contestant.absent or (f"not installed: {', '.join(missing)}" if missing else None)


@cache
def _version(python: str, distribution: str) -> str | None:
    """Of a distribution in that interpreter's environment; None where it is not installed or nothing can be asked."""
    if python != sys.executable:
        code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
        try:
            done = subprocess.run([python, "-c", code, distribution], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _title(contestant: Contestant) -> str:
    return f"{contestant.stage}: {contestant.name}"


def _row(entry: Entry, ours: Sequence[float]) -> Row:
    c, rates = entry.contestant, entry.rates
    # Where files lie on this machine is nobody's business; what they hold stands in the run's settings.
    settings = {name: value for name, value in c.settings.items() if not str(value).startswith("/")}
    if not rates:
        return Row(c.stage, c.name, c.unit, settings, skipped=entry.skipped or "not measured: interrupted")
    figures = [answer["figures"] for answer in entry.answers]
    medians = {name: median(part[name] for part in figures) for name in set(figures[0]).intersection(*figures)}
    return Row(
        c.stage,
        c.name,
        c.unit,
        settings,
        rates,
        ratio_to_ours(rates, ours),
        {name: medians[name] for name in figures[0] if math.isfinite(medians.get(name, math.nan))},
        median(answer["cpu_seconds"] / answer["seconds"] for answer in entry.answers),
        entry.threads,
        {name: found for name in c.requires if (found := _version(c.python, name))},
    )
