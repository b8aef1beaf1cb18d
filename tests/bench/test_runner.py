"""The runner with real entries: turns, stillness between them, failures, and nobody left behind."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from bench.runner.runner import Entry, Runner, Timing, choose
from bench.runner.worker_process import Worker

HERE = Path(__file__).parent
HELPERS = HERE.parent / "helpers"
SHORT = Timing(windows=3, seconds=0.1, warmup=0.02)


@pytest.fixture(autouse=True)
def found_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import the benchmarks of this folder."""
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))


def entry(folder: Path, name: str = "fastseg", kind: str = "Sleeper", **settings: Any) -> Entry:
    settings = {"name": name, "folder": str(folder), **settings}
    return Entry("loader", name, "images/s", f"benchmarks:{kind}", settings)


def steps(folder: Path) -> list[tuple[str, float]]:
    lines = [line.split() for line in (folder / "steps").read_text().splitlines()]
    return [(name, float(moment)) for name, moment in lines]


def alive(process: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


def test_turns_are_taken_window_by_window(tmp_path: Path) -> None:
    runner = Runner([entry(tmp_path, name) for name in ("fastseg", "notebook", "other")], SHORT)
    runner.run()
    turns = [name for name, _ in groupby(name for name, _ in steps(tmp_path))]
    # Every other round goes backwards; who ends one begins the next.
    assert turns == ["fastseg", "notebook", "other", "notebook", "fastseg", "notebook", "other"]
    assert [len(row.windows) for row in runner.rows()] == [3, 3, 3]
    assert {path.name for path in tmp_path.glob("*.closed")} == {"fastseg.closed", "notebook.closed", "other.closed"}


def test_rates_are_units_over_seconds(tmp_path: Path) -> None:
    """A sleep never ends early: 3 units in 5 ms at best, and the slower entry takes four times that."""
    entries = [entry(tmp_path), entry(tmp_path, "notebook", pause=0.02)]
    runner = Runner(entries, SHORT)
    runner.run()
    ours, theirs = runner.rows()
    assert 0 < ours.spread.min <= ours.spread.median <= ours.spread.max <= 600
    assert theirs.spread.max <= 150
    assert ours.ratio_to_ours is not None
    assert (ours.ratio_to_ours.min, ours.ratio_to_ours.max) == (1, 1)
    assert theirs.ratio_to_ours is not None
    ratios = sorted(one / other for one, other in zip(theirs.windows, ours.windows, strict=True))
    assert (theirs.ratio_to_ours.min, theirs.ratio_to_ours.median, theirs.ratio_to_ours.max) == tuple(ratios)
    assert "nothing" not in ours.figures  # JSON has no NaN.
    assert ours.figures["steps"] > 0
    assert ours.threads is None  # No torch there.


def test_the_warm_up_has_the_steps_that_a_queue_needs(tmp_path: Path) -> None:
    runner = Runner([entry(tmp_path, kind="Queued")], replace(SHORT, windows=1, seconds=0, warmup=0))
    runner.run()
    assert len(steps(tmp_path)) == 7
    assert runner.rows()[0].figures["steps"] == 1


def test_processor_time_counts_children(tmp_path: Path) -> None:
    runner = Runner([entry(tmp_path, kind="Spinner"), entry(tmp_path, "notebook")], replace(SHORT, seconds=0.5))
    runner.run()
    busy, idle = (row.cores_used for row in runner.rows())
    assert busy is not None
    assert idle is not None
    assert busy > idle


def test_what_libraries_print_is_no_answer(tmp_path: Path) -> None:
    runner = Runner([entry(tmp_path, kind="printing")], SHORT)
    runner.run()
    assert len(runner.rows()[0].windows) == 3


def test_a_stopped_entry_stands_still_wholly(tmp_path: Path) -> None:
    """Its thread and its child, which has a session of its own, count only while it is asked."""
    worker = Worker(entry(tmp_path, kind="Counter").command, tmp_path / "log", 60)
    counters = [tmp_path / "fastseg.thread", tmp_path / "fastseg.child"]
    try:
        worker.ready()
        for _ in range(2):
            worker.measure(0.3, 0.3)
            before = [path.stat().st_size for path in counters]
            time.sleep(0.3)
            assert [path.stat().st_size for path in counters] == before
        worker.measure(0.3, 0.3)
        assert all(path.stat().st_size > size for path, size in zip(counters, before, strict=True))
    finally:
        worker.end()
    assert not any(alive(int(pid)) for pid in (tmp_path / "fastseg.pids").read_text().split())


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raise", "failed: ValueError: no batch"),
        ("refuse", "failed: the shards are damaged; pack them again"),
        ("die", "crashed (SIGKILL); its last output: out of memory, says a library"),
        ("crash", "crashed (SIGSEGV); its last output: a decoder begins"),
        ("leave", "its process exited with 3; its last output: nothing"),
        ("hang", "gave no answer in 2 s"),
    ],
)
def test_who_fails_is_out_and_the_others_go_on(tmp_path: Path, how: str, says: str) -> None:
    """It fails in its second window, so a rate that it had shown does not count either."""
    faulty = entry(tmp_path, "notebook", "Faulty", how=how, after=3)
    timing = replace(SHORT, windows=3, seconds=0, warmup=0, patience=2)
    runner = Runner([entry(tmp_path), faulty, entry(tmp_path, "other")], timing)
    runner.run()
    ours, theirs, other = runner.rows()
    assert len(ours.windows) == len(other.windows) == 3
    assert theirs.skipped == says
    assert theirs.windows == ()
    (failure,) = runner.failures
    assert ("no batch" in failure.traceback) == (how == "raise")
    assert ("Segmentation fault" in failure.traceback) == (how == "crash")
    assert ("benchmarks.py" in failure.traceback) == (how in ("raise", "crash"))


def test_a_factory_that_fails_is_one_sentence(tmp_path: Path) -> None:
    entries = [
        Entry("loader", "fastseg", "images/s", "benchmarks:refusing", {}),
        Entry("loader", "notebook", "images/s", "benchmarks:absent", {}),
        entry(tmp_path, "other"),
    ]
    runner = Runner(entries, SHORT)
    runner.run()
    ours, theirs, other = runner.rows()
    assert ours.skipped == "failed: there is no such set; pack one"
    assert theirs.skipped is not None
    assert theirs.skipped.startswith("failed: AttributeError: module 'benchmarks' has no attribute 'absent'")
    assert len(other.windows) == 3
    assert other.ratio_to_ours is None  # Nobody of ours to compare it with.


def test_who_cannot_run_here_is_listed(tmp_path: Path) -> None:
    missing = replace(entry(tmp_path, "other"), requires=("pytest", "no-such-distribution"))
    needs = replace(entry(tmp_path, "notebook"), absent="needs a GPU")
    runner = Runner([entry(tmp_path), missing, needs], replace(SHORT, windows=1))
    runner.run()
    assert [row.skipped for row in runner.rows()] == [None, "not installed: no-such-distribution", "needs a GPU"]
    assert not runner.failures


def test_another_interpreter_is_asked_what_it_has(tmp_path: Path) -> None:
    """This one by another name."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    there = replace(entry(tmp_path, "notebook"), python=str(python), requires=("pytest",))
    lacking = replace(there, name="other", requires=("pytest", "no-such-distribution"))
    nowhere = replace(there, name="third", python=str(tmp_path / "absent"))
    runner = Runner([there, lacking, nowhere], replace(SHORT, windows=1))
    runner.run()
    found, *others = runner.rows()
    assert found.versions == {"pytest": pytest.__version__}
    assert [row.skipped for row in others] == ["not installed: no-such-distribution", "not installed: pytest"]


def test_the_fastest_candidate_is_chosen(tmp_path: Path) -> None:
    candidates = ({"pause": 0.05}, {"pause": 0.005}, {"pause": "none"})
    chosen = choose(replace(entry(tmp_path), candidates=candidates), SHORT)
    assert chosen.settings["pause"] == 0.005
    assert chosen.candidates == ()


def test_without_a_candidate_that_works_the_first_is_kept(tmp_path: Path) -> None:
    chosen = choose(replace(entry(tmp_path), candidates=({"pause": "a"}, {"pause": "b"})), SHORT)
    assert chosen.settings["pause"] == "a"


def test_who_will_not_close_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.runner.worker_process.GRACE", 0.2)
    worker = Worker(entry(tmp_path, kind="Stuck").command, tmp_path / "log", 60)
    worker.ready()
    worker.end()
    assert worker.process.returncode == -signal.SIGKILL


CODE = """
import signal, sys
from pathlib import Path
from test_runner import entry
from bench.runner.runner import Runner, Timing
folder = Path(sys.argv[1])
entries = [entry(folder, name, "Counter") for name in ("fastseg", "notebook")]
runner = Runner(entries, Timing(1000, 0.1, 0.1))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
try:
    runner.run()
except KeyboardInterrupt:
    print([bool(row.windows) for row in runner.rows()])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nobody_is_left_whatever_ends_the_runner(tmp_path: Path, number: signal.Signals) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (HERE, HELPERS, HERE.parents[1])))}
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    # The first's second turn comes after both have measured a window.
    while not (tmp_path / "steps").exists() or len(list(groupby(steps(tmp_path), lambda step: step[0]))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = [int(pid) for path in tmp_path.glob("*.pids") for pid in path.read_text().split()]
    assert len(pids) == 4
    assert all(map(alive, pids))
    parent.send_signal(number)
    said, _ = parent.communicate(timeout=60)
    if number == signal.SIGINT:
        assert said == "[True, True]\n"
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))
