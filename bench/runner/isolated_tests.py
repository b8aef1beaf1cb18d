"""Run each test file by pytest in separate processes, which may crash or hang.

``python -m bench.runner.isolated_tests JSON FOLDER …``

pytest-xdist replaces a process that a test kills, by a fault in a decoder, say, and pytest's faulthandler ends one
whose test takes longer than :data:`PATIENCE`. Such a test is reported as ``crashed`` or ``no time``; the others go on.
JSON gets the environment and a :class:`Verdict` of every test, also after SIGTERM. Further arguments go to pytest.
Exits with 1 unless all passed or were skipped.
"""

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import pytest

from bench.runner import processes
from bench.runner.machine import machine
from bench.runner.processes import ROOT
from bench.runner.results import read_json, write_json
from fastseg.errors import UserError, run_command

WORTH = ("batches", "step", "engine", "cached", "evaluation", "run", "ranks", "energy")
"""Files of tests/gpu, the most important first; others follow."""
PATIENCE = float(os.environ.get("FASTSEG_TEST_PATIENCE", "90"))
"""Seconds that one test may take; the longest compiles a ResNet-50."""
MOST = 4
"""Maximum processes for one file: starting one takes some 10 s, and a file that keeps crashing is given up."""
NO_TIME = "no time was left"
CRASH = "???"
"""pytest-xdist's phase of a test in which its process died."""
OUTCOMES = ("passed", "crashed", "failed", "no time", "not run", "skipped")
"""Outcomes of tests: passed, then the bad ones, worst first, then skipped."""


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


KILLED = Verdict("", "crashed", reason="killed")
"""Of a process that died without a word."""


def main() -> None:
    """Run the files, and write the verdicts."""
    if len(sys.argv) < 3:
        raise UserError(
            "bench.runner.isolated_tests takes a file to write and a folder of tests; options of pytest may follow"
        )
    out, folder, options = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    files = in_order_of_worth(folder.resolve().glob("test_*.py"))
    if not files:
        raise UserError(f"{folder} has no test_*.py; name a folder of tests")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # pytest ends its processes as after Ctrl-C
    verdicts: list[Verdict] = []
    interrupted = False
    for path in files:
        if interrupted:
            verdicts.append(Verdict(node_id(path), "not run", reason=NO_TIME))
        else:
            found, interrupted = run_file(path, options)
            verdicts += found
    write_json(out, {"environment": machine(), "tests": [asdict(verdict) for verdict in verdicts]})
    print(count_outcomes(verdicts))
    sys.exit(130 if interrupted else int(any(verdict.outcome in OUTCOMES[1:-1] for verdict in verdicts)))


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


def rootdir(path: Path) -> Path:
    """Return the folder from which pytest names the tests of a file."""
    return ROOT if path.is_relative_to(ROOT) else path.parent


def node_id(path: Path) -> str:
    """Return pytest's name of a file."""
    return str(path.relative_to(rootdir(path)))


def run_file(path: Path, options: Sequence[str]) -> tuple[list[Verdict], bool]:
    """Run a file's tests; return their verdicts, and whether this was interrupted."""
    limits = ("-o", f"faulthandler_timeout={PATIENCE}", "-o", "faulthandler_exit_on_timeout=true")
    isolated = ("--numprocesses=1", f"--max-worker-restart={MOST - 1}", *limits, f"--rootdir={rootdir(path)}")
    code: int = pytest.ExitCode.INTERRUPTED
    at_exit = None
    with processes.guarded() as mark, stderr_in_file() as stderr, suppress(KeyboardInterrupt):
        reports = Reports(path, mark, stderr)
        os.environ[processes.MARK] = mark
        os.environ["PYTHONFAULTHANDLER"] = "1"  # beyond pytest's end
        code = pytest.main([str(path), *isolated, *options], plugins=[reports])
        at_exit = reports.read_death()
    interrupted = code == pytest.ExitCode.INTERRUPTED
    why = NO_TIME if interrupted else f"its file was given up after {MOST} processes"
    verdicts = [*reports.verdicts.values(), *reports.not_run(why)]
    if at_exit:
        verdicts.append(replace(at_exit, test=node_id(path), reason=f"{at_exit.reason}, when its tests had ended"))
    if not verdicts and code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        verdicts = [Verdict(node_id(path), "not run", reason=NO_TIME if interrupted else f"pytest ended with {code!r}")]
    return verdicts, interrupted


@contextmanager
def stderr_in_file() -> Iterator[IO[str]]:
    """Let this process and those that it starts write their stderr to a file, which is yielded to be read."""
    before = os.dup(2)
    with NamedTemporaryFile("ab") as file, Path(file.name).open(errors="replace") as read:
        os.dup2(file.fileno(), 2)
        try:
            yield read
        finally:
            os.dup2(before, 2)
            os.close(before)


class Reports:
    """A plugin of pytest that makes verdicts of its reports."""

    def __init__(self, path: Path, mark: str, stderr: IO[str]) -> None:
        self.path, self.mark, self.stderr = path, mark, stderr
        self.verdicts: dict[str, Verdict] = {}
        self.running = Verdict("", "passed")
        self.collected: list[str] = []
        self.death = KILLED
        """Outcome and reason of the test that ended the last process."""

    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Keep the collected tests after all deselection, by -k, say."""
        self.collected = ids

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep a verdict on a file that cannot be imported, or skips itself."""
        if report.outcome != "passed":
            self.verdicts[report.nodeid] = Verdict(report.nodeid, report.outcome, reason=_reason(report))

    def pytest_testnodedown(self, error: object) -> None:
        """After a crash read what it left on stderr, and end what the dead process had started."""
        if error:
            processes.end(-1, self.mark)
            self.death = self.read_death() or KILLED
            if not self.collected:
                self.verdicts[""] = replace(self.death, test=node_id(self.path))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the first report of set-up, call and tear-down that did not pass: it decides the outcome."""
        test = report.nodeid
        if str(report.when) == CRASH:
            self.verdicts[test] = replace(self.death, test=test)
            return
        found = Verdict(test, "passed") if report.when == "setup" else self.running
        if found.outcome == "passed":
            found = replace(found, outcome=report.outcome, reason=_reason(report))
        self.running = replace(found, seconds=round(found.seconds + report.duration, 3))
        if report.when == "teardown":
            self.verdicts[test] = self.running

    def not_run(self, why: str) -> list[Verdict]:
        """Return verdicts for the collected tests without one."""
        return [Verdict(test, "not run", reason=why) for test in self.collected if test not in self.verdicts]

    def read_death(self) -> Verdict | None:
        """Print what is new on stderr; return how a process died, and where, if faulthandler has told it there."""
        text = self.stderr.read()
        print(text, flush=True)
        if not (found := re.search(r"^(?:Fatal Python error: (.+)|Timeout \()", text, re.MULTILINE)):
            return None
        outcome, how = ("crashed", found[1]) if found[1] else ("no time", f"no answer in {PATIENCE:g} s")
        threads = [thread for thread in re.split(r"(?m)^(?=(?:Current t|T)hread 0x)", text) if str(self.path) in thread]
        frames = [line.strip() for line in "".join(threads[:1]).splitlines() if 'File "' in line]
        ours = [frame for frame in frames if f'"{ROOT}/' in frame and "/site-packages/" not in frame]
        where = dict.fromkeys([*frames[:1], *ours[:1]])  # the innermost, and the innermost in this project
        return Verdict("", outcome, reason=how + "".join(f", in {frame.replace(f'{ROOT}/', '')}" for frame in where))


def _reason(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Return why a test or a file's collection failed or was skipped, in one line."""
    if isinstance(report.longrepr, tuple):  # file, line and reason of a skip
        return report.longrepr[2].removeprefix("Skipped: ")[:300]
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = crash.message.splitlines() if crash else str(report.longrepr or "").strip().splitlines()[-1:]
    return "".join(lines[:1]).removeprefix("E").strip()[:300]


if __name__ == "__main__":
    run_command(main)
