"""Run each test file in a separate process, which may crash or hang.

``python -m bench.runner.isolated_tests JSON FOLDER …``

A test that kills its process, by a fault in a decoder, say, or that does not end within :data:`PATIENCE`, is reported
as ``crashed`` or ``no time``; the remaining tests run in another process. JSON gets the environment and a
:class:`Verdict` of every test, also after SIGTERM. Further arguments go to pytest. Exits with 1 unless all passed or
were skipped.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.runner import processes
from bench.runner.machine import machine
from bench.runner.processes import ROOT
from bench.runner.results import read_json, write_json
from bench.runner.test_log import LOG
from fastseg.errors import UserError, run_command, unwind_on_sigterm

WORTH = ("batches", "step", "engine", "cached", "evaluation", "run", "ranks", "energy")
"""Files of tests/gpu, the most important first; others follow."""
PATIENCE = float(os.environ.get("FASTSEG_TEST_PATIENCE", "90"))
"""Seconds that one test may take; the longest compiles a ResNet-50."""
MOST = 4
"""Maximum processes for one file: starting one takes some 10 s, and a file that keeps crashing is given up."""
OUTCOMES = ("passed", "crashed", "failed", "no time", "not run", "skipped")
"""Outcomes of tests: passed, then the bad ones, worst first, then skipped."""
GRACE = 5.0
"""Seconds for a hanging test to write its stack."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of one test, or of a whole file if no single test is to blame."""

    test: str
    """pytest's node id."""
    outcome: str
    """One of :data:`OUTCOMES`."""
    seconds: float = 0.0
    reason: str = ""
    """One line."""


def main() -> None:
    """Run the files, and write the verdicts."""
    if len(sys.argv) < 3:
        raise UserError(
            "bench.runner.isolated_tests takes a file to write and a folder of tests; options of pytest may follow"
        )
    out, folder, options = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    files = in_order_of_worth(folder.glob("test_*.py"))
    if not files:
        raise UserError(f"{folder} has no test_*.py; name a folder of tests")
    unwind_on_sigterm()
    verdicts: list[Verdict] = []
    try:
        while files:
            run_file(files.pop(0), options, verdicts)
    finally:
        verdicts += [Verdict(str(path), "not run", reason="no time was left") for path in files]
        write_json(out, {"environment": machine(), "tests": [asdict(verdict) for verdict in verdicts]})
    print(count_outcomes(verdicts))
    sys.exit(int(any(verdict.outcome in OUTCOMES[1:-1] for verdict in verdicts)))


def in_order_of_worth(paths: Iterable[Path]) -> list[Path]:
    """Sort by :data:`WORTH`: test_gpu_batches.py before test_gpu_energy.py."""

    def rank(path: Path) -> tuple[int, str]:
        name = path.stem.removeprefix("test_").removeprefix("gpu_")
        return (WORTH.index(name) if name in WORTH else len(WORTH), name)

    return sorted(paths, key=rank)


def count_outcomes(verdicts: Sequence[Verdict]) -> str:
    """Return how many tests passed, crashed, …, in words."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome] or outcome == "passed")


@dataclass(frozen=True)
class _Document:
    environment: dict[str, str]
    tests: list[Verdict]


def read_verdicts(path: Path) -> list[Verdict]:
    """Read the file that :func:`main` wrote; raise :class:`UserError` for anything else."""
    return read_json(path, _Document, "verdicts of tests", "run the part tests again").tests


def run_file(path: Path, options: Sequence[str], verdicts: list[Verdict]) -> None:
    """Run a file's tests in as many processes as needed, and add their verdicts, also if interrupted."""
    with TemporaryDirectory(prefix="fastseg-tests-") as folder:
        log = Log(Path(folder) / "log")
        for left in reversed(range(MOST)):
            before = len(log.events)
            try:
                with processes.guarded() as mark:
                    code, hung = _run_process(path, options, log, mark)
            except BaseException:
                log.read()
                verdicts += [*log.verdicts(before), *log.not_run("no time was left")]
                raise
            verdicts += log.verdicts(before)
            blamed = log.blame(str(path), code, hung)
            if blamed is None:
                verdicts += log.not_run(f"pytest ended with exit code {code}")
                return
            verdicts.append(blamed)
            log.write(blamed)
            if blamed.test == str(path) or not left:
                verdicts += log.not_run(f"its file was given up after {MOST - left} processes")
                return


class Log:
    """The events of one file's processes, written by bench/runner/test_log.py."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[dict[str, Any]] = []

    def read(self) -> bool:
        """Read new events; return whether there were any."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()  # complete lines
        before, self.events = len(self.events), [json.loads(line) for line in lines]
        return len(self.events) > before

    def write(self, verdict: Verdict) -> None:
        """Write a verdict, so that the next process leaves the test out."""
        with self.path.open("a", encoding="utf-8") as file:
            print(json.dumps(asdict(verdict)), file=file)
        self.read()

    def verdicts(self, since: int) -> list[Verdict]:
        """Return the verdicts of the events from ``since`` on."""
        return [Verdict(**event) for event in self.events[since:] if "test" in event]

    def blame(self, file: str, code: int, hung: bool) -> Verdict | None:
        """Return the verdict on the test that ended a process early, or crashed at exit; None if none did."""
        finished = bool(self.events) and "finished" in self.events[-1]
        if finished and code >= 0:
            return None
        running = self.events[-1].get("started") if self.events else None
        outcome = "no time" if hung else "crashed"
        how = f"no answer in {PATIENCE:g} s" if hung else describe_exit(code)
        where = " on the way out, when its tests had ended" if finished else ""
        return Verdict(running or file, outcome, reason=f"{how}{where}{self._frame()}")

    def not_run(self, why: str) -> list[Verdict]:
        """Return verdicts for the collected tests without one."""
        collected: list[str] = next((e["collected"] for e in reversed(self.events) if "collected" in e), [])
        known = {event.get("test") for event in self.events}
        return [Verdict(test, "not run", reason=why) for test in collected if test not in known]

    def _frame(self) -> str:
        """Return Python's position by faulthandler; the whole stack goes to stderr."""
        stack = Path(f"{self.path}.stack")
        text = stack.read_text(encoding="utf-8", errors="replace") if stack.exists() else ""
        print(text, file=sys.stderr, flush=True)
        frames = [line.strip() for line in text.partition("Current thread")[2].splitlines() if 'File "' in line]
        ours = [frame for frame in frames if f'"{ROOT}/' in frame and "/site-packages/" not in frame]
        where = dict.fromkeys([*frames[:1], *ours[:1]])  # the innermost, and the innermost in this project
        return "".join(f", in {frame.replace(f'{ROOT}/', '')}" for frame in where)


def describe_exit(code: int) -> str:
    """Describe how a process ended: SIGSEGV, or exit code 3."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _run_process(path: Path, options: Sequence[str], log: Log, mark: str) -> tuple[int, bool]:
    """Run the remaining tests of a file. Returns the exit code, and whether the process was killed for hanging."""
    path = path.resolve()
    root = ROOT if path.is_relative_to(ROOT) else path.parent
    command = [sys.executable, "-m", "pytest", "-p", "bench.runner.test_log", f"--rootdir={root}", str(path), *options]
    environment = {**os.environ, LOG: str(log.path), processes.MARK: mark}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
    last, hung = time.monotonic(), False
    while process.poll() is None:
        time.sleep(0.1)
        if log.read():
            last = time.monotonic()
        elif time.monotonic() - last > PATIENCE:
            hung = True
            process.send_signal(signal.SIGABRT)  # faulthandler then writes all stacks
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            processes.end(process.pid, mark)
    log.read()
    return process.returncode, hung


if __name__ == "__main__":
    run_command(main)
