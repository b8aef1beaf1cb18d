"""Stop, continue, kill and time an entry's processes, wherever its libraries started them.

A process belongs to an entry if it is its worker, carries the entry's mark in its environment, or descends from one
that does. A process group is not enough: torchrun puts every rank into a session of its own.
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
"""Environment variable whose value is unique to an entry's processes."""


class _Process(NamedTuple):
    parent: int
    marked: bool
    ticks: int
    """CPU time of the process and of the children that it has waited for, clock ticks."""


def process_tree(root: int, mark: str) -> set[int]:
    """Return the ids of the live processes of the entry whose worker is ``root``."""
    return _tree(_processes(mark), root)


def cpu_seconds(root: int, mark: str) -> float:
    """Return the CPU seconds that an entry's processes have used so far, ended children included."""
    processes = _processes(mark)
    return sum(processes[pid].ticks for pid in _tree(processes, root)) / os.sysconf("SC_CLK_TCK")


def freeze(root: int, mark: str) -> set[int]:
    """Stop an entry's processes, so that their prefetching does not disturb others; return their ids."""
    stopped: set[int] = set()
    while new := process_tree(root, mark) - stopped:  # a stopped process starts no others
        _send(new, signal.SIGSTOP)
        stopped |= new
    return stopped


def thaw(root: int, mark: str) -> None:
    """Continue an entry's stopped processes."""
    _send(process_tree(root, mark), signal.SIGCONT)


def end(root: int, mark: str) -> None:
    """Kill an entry's processes, stopped first so that none is started in between."""
    _send(freeze(root, mark), signal.SIGKILL)


@contextmanager
def guarded() -> Iterator[str]:
    """Yield a mark; no process with it outlives this one, even if it is killed."""
    mark = uuid.uuid4().hex
    # Kills all processes with that mark when its stdin is closed.
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


def _tree(processes: dict[int, _Process], root: int) -> set[int]:
    found = {pid for pid, process in processes.items() if process.marked or pid == root}
    while new := {pid for pid, process in processes.items() if process.parent in found} - found:
        found |= new
    return found


def _processes(mark: str) -> dict[int, _Process]:
    """Return all processes of the machine except zombies, from /proc (see "man 5 proc")."""
    wanted, found = f"{MARK}={mark}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            environment = b""
            with suppress(OSError):  # another user's process
                environment = (folder / "environ").read_bytes()
            if fields[0] != "Z":
                marked = wanted in environment.split(b"\0")
                found[int(folder.name)] = _Process(int(fields[1]), marked, sum(map(int, fields[11:15])))
    return found


if __name__ == "__main__":
    sys.stdin.read()
    end(-1, sys.argv[1])
