"""A pytest plugin that logs every test as it ends, so that a crash loses nothing: see isolated_tests.py.

The file that :data:`LOG` names has a line of JSON for each event: {"collected": [test, …]}, {"started": test}, a
:class:`bench.runner.isolated_tests.Verdict`, {"finished": true}. Tests with a verdict in it are left out.
"""

import faulthandler
import json
import os
from pathlib import Path
from typing import Any, TextIO

import pytest

LOG = "FASTSEG_TEST_LOG"
"""Environment variable with the file's path; Python's stack at a crash goes to the same path with ".stack"."""


class TestLog:
    """Write the events of one pytest session."""

    def __init__(self, path: Path, stack: TextIO) -> None:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._known = {event["test"] for event in map(json.loads, lines) if "test" in event}
        self._log, self._stack = path.open("a", encoding="utf-8"), stack
        self._verdict: dict[str, Any] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Write a verdict for a file that cannot be imported, or skips itself."""
        if report.outcome != "passed":
            self._write(_verdict(report.nodeid, report))

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out tests with a verdict."""
        items[:] = [item for item in items if item.nodeid not in self._known]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Write the collected tests after all deselection, by -k, say."""
        self._write({"collected": [item.nodeid for item in session.items]})

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Write that a test begins, its fixtures first."""
        self._verdict = {}
        self._write({"started": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the first report of set-up, call and tear-down that did not pass: it decides the outcome."""
        seconds = self._verdict.get("seconds", 0.0) + report.duration
        if self._verdict.get("outcome", "passed") == "passed":
            self._verdict = _verdict(report.nodeid, report)
        self._verdict["seconds"] = round(seconds, 3)

    def pytest_runtest_logfinish(self) -> None:
        """Write that a test has ended."""
        self._write(self._verdict)

    def pytest_sessionfinish(self) -> None:
        """Write that all tests have ended; a later crash is one at exit."""
        self._write({"finished": True})

    def _write(self, event: dict[str, Any]) -> None:
        print(json.dumps(event), file=self._log, flush=True)


@pytest.hookimpl(trylast=True)  # pytest's own plugin sends stacks to stderr
def pytest_configure(config: pytest.Config) -> None:
    """Open the log."""
    path = Path(os.environ[LOG])
    # Kept open as long as a crash may come.
    stack = open(f"{path}.stack", "w", encoding="utf-8")  # noqa: PTH123, SIM115
    faulthandler.enable(stack)
    config.pluginmanager.register(TestLog(path, stack))


def _verdict(nodeid: str, report: pytest.CollectReport | pytest.TestReport) -> dict[str, Any]:
    """Return the verdict on a test or a file's collection; ``reason`` is one line."""
    reason = ""
    if isinstance(report.longrepr, tuple):  # file, line and reason of a skip
        reason = report.longrepr[2].removeprefix("Skipped: ")
    elif report.longrepr is not None:
        crash = getattr(report.longrepr, "reprcrash", None)
        lines = crash.message.splitlines() if crash else str(report.longrepr).strip().splitlines()[-1:]
        reason = lines[0].removeprefix("E").strip() if lines else ""
    return {"test": nodeid, "outcome": report.outcome, "seconds": 0.0, "reason": reason[:300]}
