"""Running a study's runs, each by ``fastseg/train.py`` in a process of its own, so that they can go on another day."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.suite.energy import joules
from bench.suite.machine import ROOT, commit
from bench.suite.outcomes import hardware_of, log_lines
from bench.suite.processes import MARK, start_guard
from bench.suite.studies import BASE
from bench.suite.trials import RECORD, Trial, read_record
from fastseg.errors import UserError
from fastseg.files import write_atomic

LOG = "train.log"
"""In a run's folder: all that its processes said."""
PATIENCE = 120.0
"""Seconds in which a trainer that was asked to stop saves its last step."""
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of a trainer that was asked to stop, and saved."""
Tell = Callable[[float], None]
"""Called now and then with the epochs that a run has done."""


def finished(trial: Trial) -> bool:
    """Whether it needs no process any more."""
    return bool(read_record(trial).get("finished"))


def epochs_done(trial: Trial) -> float:
    """By its log."""
    lines = log_lines(trial.folder / "metrics.jsonl")
    return float(lines[-1]["epoch"]) if lines else 0.0


def train(trial: Trial, mark: str, tell: Tell) -> str | None:
    """Begin a run or go on with it, to its end. Returns why it ended early, None where it did not.

    Its process belongs to ``mark`` (bench/suite/processes.py). Interrupted, it waits until the trainer has saved.
    """
    with _sitting(trial) as record:
        log = trial.folder / LOG
        before = log.stat().st_size if log.exists() else 0
        code = _wait(_start(trial, mark, log), trial, tell)
        if code in STOPPED:  # by somebody else
            raise SystemExit(code)
        record["finished"] = code == 0
        record["failure"] = None if code == 0 else last_words(log, before, code)
    if code and trial.variant == BASE and not epochs_done(trial):
        raise UserError(f"{trial.label} could not begin: {record['failure']}; the whole of it is in {log}")
    return record["failure"]


@contextmanager
def guarded() -> Iterator[str]:
    """Yield a mark; whatever becomes of this process, none with the mark outlives it."""
    mark = uuid.uuid4().hex
    guard = start_guard(mark, ROOT)
    try:
        yield mark
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


@contextmanager
def _sitting(trial: Trial) -> Iterator[dict[str, Any]]:
    """Yield the run's record; what the sitting took is added when it ends, and stays unknown if we are killed."""
    sitting: dict[str, Any] = {"commit": commit(), "seconds": None, "joules": None}
    sittings = read_record(trial).get("sittings", [])
    record = {"finished": False, "failure": None, "dataset": trial.digest, "sittings": [*sittings, sitting]}
    _write(trial, record)
    began, used = time.monotonic(), joules()
    try:
        yield record
    finally:
        after = joules()
        sitting["hardware"] = hardware_of(trial)
        sitting["seconds"] = round(time.monotonic() - began, 3)
        if used is not None and after is not None and trial.launch.device != "cpu":
            sitting["joules"] = round(after - used, 1)
        _write(trial, record)


def _write(trial: Trial, record: dict[str, Any]) -> None:
    write_atomic(trial.folder / RECORD, json.dumps(record, indent=1) + "\n")


def _start(trial: Trial, mark: str, log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(ROOT / "fastseg" / "train.py"), *trial.words]
    with log.open("ab") as output:
        # A session of its own: Ctrl-C in a terminal goes to all in ours, and a second one would end it unsaved.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, MARK: mark},
        )


def _wait(process: "subprocess.Popen[bytes]", trial: Trial, tell: Tell) -> int:
    try:
        while True:
            try:
                return process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                tell(epochs_done(trial))
    except BaseException:
        _stop(process)
        raise


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=PATIENCE)
    finally:  # too late, or Ctrl-C once more
        process.kill()
        process.wait()


def last_words(log: Path, before: int, code: int) -> str:
    """The trainer's own sentence where it had one, else its last line."""
    lines = log.read_bytes()[before:].decode(errors="replace").splitlines()
    said = [line.partition("error: ")[2] for line in lines if line.startswith("error: ")]
    return said[-1] if said else f"exit code {code}, {([line for line in lines if line.strip()] or ['silent'])[-1]}"
