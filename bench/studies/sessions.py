"""Train a study's runs, each by ``fastseg/train.py`` in a separate process, over several sessions if interrupted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.runner.machine import hardware
from bench.runner.processes import MARK, ROOT, guarded
from bench.runner.results import write_json
from bench.studies.results import read_result
from bench.studies.runs import RECORD, Run
from bench.studies.studies import BASE
from fastseg.device import commit
from fastseg.driver import joules
from fastseg.errors import UserError
from fastseg.files import lock_run_folder
from fastseg.progress import show_progress
from fastseg.report.run_folder import read_run

LOG = "train.log"
"""File in a run's folder with the output of its processes."""
PATIENCE = 120.0
"""Seconds for a trainer that was asked to stop to save its last step."""
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of a trainer that was asked to stop and saved."""
Tell = Callable[[float], None]
"""Called periodically with the epochs that a run has done."""


def run_all(plans: dict[str, list[Run]], folder: Path) -> int:
    """Train unfinished runs, study by study. Returns 0, or the exit code of the signal that interrupted it."""
    try:
        with lock_run_folder(folder, "--runs"), guarded() as mark:
            for name, runs in plans.items():
                _run_study(name, runs, mark)
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _run_study(name: str, runs: Sequence[Run], mark: str) -> None:
    """Train one run after the other; print a line for each, and a bar over the images of all."""
    total = sum(run.work for run in runs)
    with show_progress(name, "images") as progress:
        done = sum(run.work for run in runs if run.finished())
        progress(done, total)
        for place, run in enumerate(runs, 1):
            if run.finished():
                continue

            def tell(epochs: float, before: int = done, run: Run = run) -> None:
                # The last image stands for the last evaluation and the report.
                progress(before + min(round(epochs * run.images), run.work - 1), total)

            train(run, mark, tell)
            done += run.work
            progress(done, total)
            print(f"{place} of {len(runs)}: {_told(run)}", flush=True)


def _told(run: Run) -> str:
    result = read_result(run)
    assert result is not None
    if result.failure:
        return f"{run.label} failed: {result.failure}"
    if not result.evaluations:
        return f"{run.label}: its evaluation split has nothing that can be scored"
    return f"{run.label}: mIoU {100 * result.last:.1f} % after {result.seconds / 60:.1f} min"


def train(run: Run, mark: str, tell: Tell) -> None:
    """Start or resume a run and train it to its end; its record tells why it ended early.

    Its process belongs to ``mark`` (bench/runner/processes.py). If interrupted, wait until the trainer has saved.
    """
    with _session(run) as record:
        log = run.folder / LOG
        before = log.stat().st_size if log.exists() else 0
        code = _wait(_start(run, mark, log), run, tell)
        if code in STOPPED:  # killed from outside
            raise SystemExit(code)
        record["finished"] = code == 0
        record["failure"] = None if code == 0 else last_words(log, before, code)
    if code and run.variant == BASE and not _epochs(run):
        raise UserError(f"{run.label} could not start: {record['failure']}; the full output is in {log}")


@contextmanager
def _session(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the run's record; add the session's time and energy at its end, unknown if this process is killed."""
    session: dict[str, Any] = {"commit": commit(), "seconds": None, "joules": None}
    sessions = [*run.read(RECORD).get("sessions", []), session]
    record = {"finished": False, "failure": None, "dataset": run.digest, "sessions": sessions}
    write_json(run.folder / RECORD, record)
    began, used = time.monotonic(), joules()
    try:
        yield record
    finally:
        after, environment = joules(), run.read("environment.json")
        session["hardware"] = hardware(environment) if environment else "unknown"
        session["seconds"] = round(time.monotonic() - began, 3)
        if used is not None and after is not None and run.launch.device != "cpu":
            session["joules"] = round(after - used, 1)
        write_json(run.folder / RECORD, record)


def _epochs(run: Run) -> float:
    """Return the epochs in its log."""
    found = read_run(run.folder)
    return max((line["epoch"] for line in (*found.train, *found.evaluations)), default=0.0)


def _start(run: Run, mark: str, log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(ROOT / "fastseg" / "train.py"), *run.words]
    with log.open("ab") as output:
        # In a session of its own: a terminal's Ctrl-C reaches all of ours, and a second one would end it unsaved.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, MARK: mark},
        )


def _wait(process: "subprocess.Popen[bytes]", run: Run, tell: Tell) -> int:
    try:
        while True:
            try:
                return process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                tell(_epochs(run))
    except BaseException:
        process.terminate()
        try:
            process.wait(timeout=PATIENCE)
        finally:  # too late, or a second Ctrl-C
            process.kill()
            process.wait()
        raise


def last_words(log: Path, before: int, code: int) -> str:
    """Return the trainer's error sentence if it has one, else its last line."""
    lines = log.read_bytes()[before:].decode(errors="replace").splitlines()
    said = [line.partition("error: ")[2] for line in lines if line.startswith("error: ")]
    return said[-1] if said else f"exit code {code}, {([line for line in lines if line.strip()] or ['silent'])[-1]}"
