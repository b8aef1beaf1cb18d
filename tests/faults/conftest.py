"""What was done to the processes, how often, and how often all held: kept for the README.

A failed test has no place in that table: then nothing is written, and the terminal says so.
"""

import json
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fastseg.loop.environment import environment

Tally = Callable[[str, int, int], None]


@dataclass
class Record:
    """Of one session of pytest."""

    tallies: dict[str, list[int]] = field(default_factory=dict)
    """Fault → how often it was tried, how often all held."""
    passed: int = 0
    failed: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    """``test`` and ``reason``."""


RECORD = pytest.StashKey[Record]()


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> Tally:
    """Call it with a kind of fault, how often it was tried, and how often nothing was lost; calls add up."""
    tallies = _record(pytestconfig).tallies

    def count(fault: str, tries: int, survived: int) -> None:
        before = tallies.get(fault, [0, 0])
        tallies[fault] = [before[0] + tries, before[1] + survived]

    return count


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    record = _record(item.config)
    record.passed += report.passed and report.when == "call"
    record.failed += report.failed
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
        record.skipped.append({"test": item.name, "reason": reason.removeprefix("Skipped: ")})
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Write the file that FASTSEG_FAULTS_JSON names."""
    if not (path := os.environ.get("FASTSEG_FAULTS_JSON")):
        return
    if exitstatus != pytest.ExitCode.OK:
        terminalreporter.write_line(f"{path} is not written: not every test passed", red=True)
        return
    record = _record(config)
    document = {
        "environment": {**environment(), "command": "make faults"},
        "tests": {"passed": record.passed, "failed": record.failed, "skipped": len(record.skipped)},
        "skipped": record.skipped,
        "faults": [{"fault": fault, "tries": tries, "survived": n} for fault, (tries, n) in record.tallies.items()],
    }
    Path(path).write_text(json.dumps(document, indent=1) + "\n")


def _record(config: pytest.Config) -> Record:
    return config.stash.setdefault(RECORD, Record())
