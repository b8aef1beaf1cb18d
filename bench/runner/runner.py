"""Measure entries in turns, each in separate processes; all but the one being measured are stopped.

Every entry has its turn in each round, so that a disturbance of the machine affects all of them; every other round runs
backwards, so that no entry always follows the same one.
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

from bench.runner.results import Row, group, ratio_to_ours, spread
from bench.runner.worker_process import Failure, Worker

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """One entry of a stage: what to measure, and its settings."""

    stage: str
    """Name of a module of bench/stages that is a stage."""
    name: str
    """Name in tables; fastseg's start with "fastseg", its parts with "fastseg: "."""
    unit: str
    """The unit of the rate, such as images/s."""
    factory: str
    """"module:function", called with the settings in the entry's process; returns a worker.Benchmark."""
    settings: dict[str, Any]
    """Numbers, strings, lists, dicts and None."""
    candidates: tuple[dict[str, Any], ...] = ()
    """Further settings to choose from in a few short windows, the usual best first."""
    requires: tuple[str, ...] = ()
    """Required distributions; if one is missing, the entry is listed as not installed."""
    absent: str | None = None
    """Reason why it cannot run here (needs a GPU, …), shown in the list."""
    python: str = sys.executable
    """Python interpreter of its environment."""
    size: str | None = None
    """Size of the frames in a run over several: 512x256."""
    prefix: tuple[str, ...] = ()
    """Arguments between the interpreter and ``-m bench.runner.worker``: ("-m", "torch.distributed.run", …)."""

    @property
    def ours(self) -> bool:
        """Return whether it is fastseg's."""
        return self.name.startswith("fastseg")

    @property
    def command(self) -> list[str]:
        """Return the command that starts its worker."""
        order = json.dumps({"factory": self.factory, "settings": self.settings})
        return [self.python, *self.prefix, "-m", "bench.runner.worker", order]

    def with_settings(self, settings: dict[str, Any]) -> "Entry":
        """Return the entry with some settings replaced and no candidates."""
        return replace(self, settings=self.settings | settings, candidates=())

    def why_not(self) -> str | None:
        """Return why it cannot take part; None if it can."""
        missing = [name for name in self.requires if _version(self.python, name) is None]
        return self.absent or (f"not installed: {', '.join(missing)}" if missing else None)


@dataclass(frozen=True)
class Timing:
    """Durations of a measurement."""

    windows: int = 5
    seconds: float = 3.0
    """Length of a window."""
    warmup: float = 1.5
    """Seconds of warm-up before every window."""
    together: int = 1
    """Entries that start at once; few, since a compiler or an autotuner needs the machine for itself."""
    patience: float = 600.0
    """Seconds after which an unresponsive entry is given up."""


@dataclass
class Measurement:
    """An entry and its results so far."""

    entry: Entry
    answers: list[dict[str, Any]] = field(default_factory=list)
    skipped: str | None = None
    failed: bool = False
    """Whether it was skipped because it failed."""
    traceback: str = ""
    """Traceback from its process, if any."""
    threads: int | None = None
    """torch's threads in its process."""

    @property
    def rates(self) -> tuple[float, ...]:
        """Return the rates of the windows so far; none after a failure."""
        return () if self.skipped else tuple(answer["units"] / answer["seconds"] for answer in self.answers)

    def row(self, ours: Sequence[float]) -> Row:
        """Return its row; ``ours``: fastseg's rates, for the ratio."""
        e, rates = self.entry, self.rates
        # Paths on this machine are not published; the run's settings describe their contents.
        settings = {name: value for name, value in e.settings.items() if not str(value).startswith("/")}
        if not rates:
            why = self.skipped or "not measured: interrupted"
            return Row(e.stage, e.name, e.unit, settings, skipped=why, size=e.size)
        figures = [answer["figures"] for answer in self.answers]
        shared = [name for name in figures[0] if all(name in part for part in figures)]
        medians = {name: median(part[name] for part in figures) for name in shared}
        return Row(
            *(e.stage, e.name, e.unit, settings, rates, ratio_to_ours(rates, ours)),
            {name: value for name, value in medians.items() if math.isfinite(value)},
            median(answer["cpu_seconds"] / answer["seconds"] for answer in self.answers),
            self.threads,
            {name: found for name in e.requires if (found := _version(e.python, name))},
            size=e.size,
        )

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Confine a failure to its entry: the runner continues without it."""
        try:
            yield
        except Failure as failure:
            self.skipped, self.failed, self.traceback = str(failure), True, failure.traceback


class Runner:
    """Measure the entries of one stage."""

    def __init__(self, entries: Sequence[Entry], timing: Timing, tell: Tell = lambda _: None) -> None:
        self.timing, self.tell = timing, tell
        self.measurements = [Measurement(entry, skipped=entry.why_not()) for entry in entries]

    def run(self) -> None:
        """Measure all windows. However it ends, no process is left, and :meth:`rows` has the results so far."""
        workers: list[tuple[Measurement, Worker]] = []
        with TemporaryDirectory(prefix="fastseg-bench-") as logs:
            try:
                self._start(workers, Path(logs))
                for window in range(1, self.timing.windows):
                    self._round(workers[::-1] if window % 2 else workers, window)
            finally:
                for _, worker in workers:
                    worker.dismiss()  # All before waiting for the first: they close at once.
                for _, worker in workers:
                    worker.end()

    def rows(self) -> list[Row]:
        """Return a row for every entry, in order; those not measured yet are skipped."""
        ours = (m.rates for m in self.measurements if m.entry.ours and not m.entry.name.startswith("fastseg: "))
        reference = next(filter(None, ours), ())
        return [measurement.row(reference) for measurement in self.measurements]

    @property
    def failures(self) -> list[Measurement]:
        """Return the measurements that failed."""
        return [measurement for measurement in self.measurements if measurement.failed]

    def _start(self, workers: list[tuple[Measurement, Worker]], logs: Path) -> None:
        """Start the workers, each with its first window: if interrupted while others compile, there are results."""
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
        entry = measurement.entry
        self.tell(f"{group(entry.stage, entry.size)}: {entry.name}: {what}")


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
    """Return a distribution's version in that interpreter's environment; None if not installed."""
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
