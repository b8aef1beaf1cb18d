"""Entries measured in turns: each in processes of its own, all but the one being measured stopped.

Window by window every entry has its turn, so that whatever the machine does meanwhile happens to all of them;
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

from bench.runner.results import Row, ratio_to_ours, spread
from bench.runner.worker_process import Failure, Worker

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """One entry of a stage: what to measure and how it is set."""

    stage: str
    """loader, compute, train, packing, evaluation, scaling."""
    name: str
    """As the tables show it; ours start with "fastseg", parts of ours with "fastseg: "."""
    unit: str
    """The unit of the rate, such as images/s."""
    factory: str
    """"module:function", called with the settings in the entry's process; returns a worker.Benchmark."""
    settings: dict[str, Any]
    """Numbers, strings, lists, dicts and None."""
    candidates: tuple[dict[str, Any], ...] = ()
    """Further settings to choose from by a few short windows, the usual best first."""
    requires: tuple[str, ...] = ()
    """Distributions; where one is missing the entry is listed as not installed."""
    absent: str | None = None
    """Why it cannot run here (needs a GPU, …); it is listed with that."""
    python: str = sys.executable
    """Interpreter of the environment that it lives in."""
    prefix: tuple[str, ...] = ()
    """What stands between the interpreter and ``-m bench.runner.worker``: ("-m", "torch.distributed.run", …)."""

    @property
    def ours(self) -> bool:
        """Whether it is fastseg's."""
        return self.name.startswith("fastseg")

    @property
    def command(self) -> list[str]:
        """The command that starts its worker."""
        order = json.dumps({"factory": self.factory, "settings": self.settings})
        return [self.python, *self.prefix, "-m", "bench.runner.worker", order]

    def with_settings(self, settings: dict[str, Any]) -> "Entry":
        """Return it with some settings replaced and nothing left to choose."""
        return replace(self, settings=self.settings | settings, candidates=())

    def why_not(self) -> str | None:
        """Say why it cannot take part; None if it can."""
        missing = [name for name in self.requires if _version(self.python, name) is None]
        return self.absent or (f"not installed: {', '.join(missing)}" if missing else None)


@dataclass(frozen=True)
class Timing:
    """How long to measure."""

    windows: int = 5
    seconds: float = 3.0
    """Length of a window."""
    warmup: float = 1.5
    """Seconds of steps before every window that do not count."""
    together: int = 1
    """Entries that start side by side: a compiler or a library that tunes itself wants the machine for itself."""
    patience: float = 600.0
    """Seconds after which an entry that does not answer is given up."""


@dataclass
class Measurement:
    """An entry and what it has shown so far."""

    entry: Entry
    answers: list[dict[str, Any]] = field(default_factory=list)
    skipped: str | None = None
    failed: bool = False
    """Whether it was skipped because it went wrong."""
    traceback: str = ""
    """Where in its process, if it said."""
    threads: int | None = None
    """torch's threads in its process."""

    @property
    def rates(self) -> tuple[float, ...]:
        """Rates of the windows so far; none once it has failed."""
        return () if self.skipped else tuple(answer["units"] / answer["seconds"] for answer in self.answers)

    def row(self, ours: Sequence[float]) -> Row:
        """Return its row; ``ours``: the rates that it is compared with."""
        e, rates = self.entry, self.rates
        # Where files lie on this machine is nobody's business; what they hold stands in the run's settings.
        settings = {name: value for name, value in e.settings.items() if not str(value).startswith("/")}
        if not rates:
            return Row(e.stage, e.name, e.unit, settings, skipped=self.skipped or "not measured: interrupted")
        figures = [answer["figures"] for answer in self.answers]
        shared = [name for name in figures[0] if all(name in part for part in figures)]
        medians = {name: median(part[name] for part in figures) for name in shared}
        return Row(
            *(e.stage, e.name, e.unit, settings, rates, ratio_to_ours(rates, ours)),
            {name: value for name, value in medians.items() if math.isfinite(value)},
            median(answer["cpu_seconds"] / answer["seconds"] for answer in self.answers),
            self.threads,
            {name: found for name in e.requires if (found := _version(e.python, name))},
        )

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Keep a failure to the entry that fails: the runner goes on without it."""
        try:
            yield
        except Failure as failure:
            self.skipped, self.failed, self.traceback = str(failure), True, failure.traceback


class Runner:
    """Measures the entries of one stage."""

    def __init__(self, entries: Sequence[Entry], timing: Timing, tell: Tell = lambda _: None) -> None:
        self.timing, self.tell = timing, tell
        self.measurements = [Measurement(entry, skipped=entry.why_not()) for entry in entries]

    def run(self) -> None:
        """Measure all windows. However it ends, no process is left, and :meth:`rows` has what was measured."""
        workers: list[tuple[Measurement, Worker]] = []
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
        """Return a row for every entry, in order; those not measured so far are skipped."""
        ours = (m.rates for m in self.measurements if m.entry.ours and not m.entry.name.startswith("fastseg: "))
        reference = next(filter(None, ours), ())
        return [measurement.row(reference) for measurement in self.measurements]

    @property
    def failures(self) -> list[Measurement]:
        """Those that went wrong."""
        return [measurement for measurement in self.measurements if measurement.failed]

    def _start(self, workers: list[tuple[Measurement, Worker]], logs: Path) -> None:
        """Start them, each with its first window: interrupted while others compile, there is something to show."""
        taking_part = [(number, m) for number, m in enumerate(self.measurements) if m.skipped is None]
        for at in range(0, len(taking_part), self.timing.together):
            begun = len(workers)
            for number, measurement in taking_part[at : at + self.timing.together]:
                self._say(measurement, "starting")
                log = logs / f"{number}.log"
                workers.append((measurement, Worker(measurement.entry.command, log, self.timing.patience)))
            for measurement, worker in workers[begun:]:
                with measurement.failing():
                    measurement.threads = worker.ready()
            self._round(workers[begun:], 0)

    def _round(self, workers: Sequence[tuple[Measurement, Worker]], window: int) -> None:
        for measurement, worker in workers:
            if not measurement.failed:
                self._say(measurement, f"window {window + 1} of {self.timing.windows}")
                with measurement.failing():
                    measurement.answers.append(worker.measure(self.timing.warmup, self.timing.seconds))

    def _say(self, measurement: Measurement, what: str) -> None:
        self.tell(f"{measurement.entry.stage}: {measurement.entry.name}: {what}")


def choose(entry: Entry, timing: Timing, tell: Tell = lambda _: None) -> Entry:
    """Return the entry with the fastest of its candidates' settings, by the median; the first if none works."""
    if len(entry.candidates) < 2 or entry.why_not():
        return entry.with_settings(next(iter(entry.candidates), {}))
    tried = [entry.with_settings(candidate) for candidate in entry.candidates]
    runner = Runner(tried, timing, lambda text: tell(f"{text} (choosing settings)"))
    runner.run()
    return max(runner.measurements, key=lambda m: spread(m.rates).median if m.rates else 0.0).entry


@cache
def _version(python: str, distribution: str) -> str | None:
    """Return a distribution's version in that interpreter's environment; None where it is not installed."""
    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    if python == sys.executable:
        try:
            return version(distribution)
        except PackageNotFoundError:
            return None
    try:
        done = subprocess.run([python, "-c", code, distribution], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
