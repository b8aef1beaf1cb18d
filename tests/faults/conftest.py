"""What was done to the processes, how often, and how often all held: kept for the README.

A failed test has no place in that table: then nothing is written, and the terminal says so.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from soak import TIMES

if TYPE_CHECKING:
    from measured import Runner
    from victims import Victim

    from object_store import Network, Server

Tally = Callable[[str, int, int], None]
Place = tuple[str, int]
"""A test's file and line, by which the table is sorted: tests may run at once."""
BEGAN = time.monotonic()


@dataclass
class Record:
    """Of one session of pytest."""

    tallies: dict[Place, dict[str, list[int]]] = field(default_factory=dict)
    """Test → fault → how often it was tried, how often all held."""
    passed: int = 0
    failed: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    """``test`` and ``reason``."""

    def faults(self) -> list[dict[str, str | int]]:
        """Each fault once, its tests' counts added up."""
        total: dict[str, list[int]] = {}
        for _, tallies in sorted(self.tallies.items()):
            for fault, counts in tallies.items():
                total[fault] = [a + b for a, b in zip(total.get(fault, (0, 0)), counts, strict=True)]
        return [{"fault": fault, "tries": tries, "survived": survived} for fault, (tries, survived) in total.items()]


RECORD = Record()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Call it with a kind of fault, how often it was tried, and how often nothing was lost; calls add up."""

    def count(fault: str, tries: int, survived: int) -> None:
        request.node.user_properties.append(("fault", [fault, tries, survived]))  # goes from xdist's processes to ours

    return count


@pytest.fixture(scope="module")
def runner() -> "Iterator[Runner]":
    """A process that has imported everything, of which commands are forked."""
    from measured import Runner

    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture
def victim(runner: "Runner", tmp_path: Path, shards: Path) -> "Victim":
    """A user's folder, and the commands run in it."""
    from victims import Victim

    (tmp_path / "home").mkdir()
    return Victim(runner, tmp_path / "home", shards)


@pytest.fixture(scope="module")
def trained(runner: "Runner", shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a real run of one step."""
    import commands

    folder = tmp_path_factory.mktemp("run")
    words = (*commands.TINY, "--gpus", 1, "--device", "cpu", "--shards", shards, "--name", "real")
    short = ("--optim.epochs", 0.2, "--optim.warmup", 0, "--model.weights", "none")
    ended = runner.run("fastseg.commands.train", *words, *short, folder=folder)
    assert ended.code == 0, ended.stderr
    return folder / "runs/real/checkpoints/last.pt"


@pytest.fixture(scope="module")
def unbroken(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on one rank that nobody disturbed."""
    from trainings import finish, start

    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    finish(start(shards, folder))
    return folder


@pytest.fixture
def network(server: "Server", monkeypatch: pytest.MonkeyPatch) -> "Iterator[Network]":
    """The way to the test file's own server, on which requests can fail."""
    from object_store import Network, environment

    network = Network(server)
    for name, value in environment(network.endpoint).items():
        monkeypatch.setenv(name, value)
    yield network
    network.close()


@pytest.fixture(params=range(TIMES))
def again(request: pytest.FixtureRequest) -> int:
    """Which time a test does what it does, from 0: a soak repeats it, at other instants."""
    number: int = request.param
    return number


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    RECORD.passed += report.passed and report.when == "call"
    RECORD.failed += report.failed
    if report.when == "call":
        tallies = RECORD.tallies.setdefault((report.location[0], report.location[1] or 0), {})
        for _, (fault, *counts) in (entry for entry in report.user_properties if entry[0] == "fault"):
            tallies[fault] = [a + b for a, b in zip(tallies.get(fault, (0, 0)), counts, strict=True)]
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
        name = report.location[2]
        RECORD.skipped.append({"test": name, "reason": reason.removeprefix("Skipped: ")})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """Write the file that FASTSEG_FAULTS_JSON names, or add to it."""
    if not (path := os.environ.get("FASTSEG_FAULTS_JSON")) or hasattr(terminalreporter.config, "workerinput"):
        return  # pytest-xdist's workers have tests of this session, too
    if exitstatus != pytest.ExitCode.OK:
        terminalreporter.write_line(f"{path} is not written: not every test passed", red=True)
        return
    from fastseg.device import environment  # takes seconds, which a session that writes nothing is spared

    document = {
        "environment": {**environment(), "command": "make faults"},
        "seconds": round(time.monotonic() - BEGAN, 1),
        "tests": {"passed": RECORD.passed, "failed": RECORD.failed, "skipped": len(RECORD.skipped)},
        "skipped": sorted(RECORD.skipped, key=lambda entry: entry["test"]),
        "faults": RECORD.faults(),
    }
    document = with_earlier(document, Path(path))
    Path(path).write_text(json.dumps(document, indent=1) + "\n")


def with_earlier(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Add the counts of earlier tests of the same commit, if the file holds such."""
    earlier = json.loads(path.read_text()) if path.exists() else {}
    if not earlier or earlier["environment"].get("commit") != document["environment"]["commit"]:
        return document
    entries = [*earlier["faults"], *document["faults"]]
    total = Counter({entry["fault"]: 0 for entry in entries})
    survived = total.copy()
    for entry in entries:
        total[entry["fault"]] += entry["tries"]
        survived[entry["fault"]] += entry["survived"]
    return document | {
        "seconds": round(earlier["seconds"] + document["seconds"], 1),
        "tests": {name: earlier["tests"][name] + count for name, count in document["tests"].items()},
        "skipped": [*earlier["skipped"], *document["skipped"]],
        "faults": [{"fault": f, "tries": tries, "survived": survived[f]} for f, tries in total.items()],
    }
