"""An entry's processes, wherever its libraries started them: stop them, let them go on, end them, time them.

A process belongs to an entry if it is its worker, carries the entry's mark in its environment, or descends
from one that does. A process group would not do: torchrun puts every rank into a session of its own.
"""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MARK = "FASTSEG_BENCH_ENTRY"
"""Environment variable with a value that only one entry's processes have."""


class _Process(NamedTuple):
    parent: int
    marked: bool
    ticks: int
    """Processor time spent by itself and by the children that it has waited for."""


def family(root: int, mark: str) -> set[int]:
    """Return ids of the live processes of the entry whose worker is ``root``."""
    return _family(_processes(mark), root)


def cpu_seconds(root: int, mark: str) -> float:
    """Return the processor time that the family has used so far, in seconds; children that have ended included."""
    processes = _processes(mark)
    return sum(processes[pid].ticks for pid in _family(processes, root)) / os.sysconf("SC_CLK_TCK")


def freeze(root: int, mark: str) -> set[int]:
    """Stop the family where it stands, so that its prefetching disturbs nobody; returns the ids of its processes."""
    stopped: set[int] = set()
    while new := family(root, mark) - stopped:  # Who is stopped can start no more.
        _send(new, signal.SIGSTOP)
        stopped |= new
    return stopped


def thaw(root: int, mark: str) -> None:
    """Let a frozen family go on."""
    _send(family(root, mark), signal.SIGCONT)


def end(root: int, mark: str) -> None:
    """Kill the family; frozen first, nobody gets away by being started in between."""
    _send(freeze(root, mark), signal.SIGKILL)


@contextmanager
def guarded() -> Iterator[str]:
    """Yield a mark; whatever becomes of this process, even a violent end, none with the mark outlives it."""
    mark = uuid.uuid4().hex
    # Ends everybody with that mark when its stdin is closed.
    command = [sys.executable, "-m", "bench.runner.processes", mark]
    guard = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, preexec_fn=os.setpgrp)
    try:
        yield mark
    finally:
        guard.communicate()


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _family(processes: dict[int, _Process], root: int) -> set[int]:
    found = {pid for pid, process in processes.items() if process.marked or pid == root}
    while new := {pid for pid, process in processes.items() if process.parent in found} - found:
        found |= new
    return found


def _processes(mark: str) -> dict[int, _Process]:
    """Return all processes of the machine but zombies, read from /proc (see "man 5 proc")."""
    wanted, found = f"{MARK}={mark}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # It has ended meanwhile.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            environment = b""
            with suppress(OSError):  # Somebody else's process.
                environment = (folder / "environ").read_bytes()
            if fields[0] != "Z":
                marked = wanted in environment.split(b"\0")
                found[int(folder.name)] = _Process(int(fields[1]), marked, sum(map(int, fields[11:15])))
    return found


if __name__ == "__main__":
    sys.stdin.read()
    end(-1, sys.argv[1])
