"""A contestant's processes, wherever its libraries started them: stop them, let them go on, end them, time them.

A process belongs to a contestant if it is its worker, carries the contestant's mark in its environment, or descends
from one that does. A process group would not do: torchrun puts every rank into a session of its own.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MARK = "FASTSEG_BENCH_CONTESTANT"
"""Environment variable with a value that only one contestant's processes have."""


class _Process(NamedTuple):
    parent: int
    marked: bool
    ticks: int
    """Of the processor, spent by itself and by the children that it has waited for."""


def family(root: int, mark: str) -> set[int]:
    """Ids of the live processes of the contestant whose worker is ``root``."""
    return _family(_processes(mark), root)


def cpu_seconds(root: int, mark: str) -> float:
    """Processor time that the family has used so far, in seconds; children that have ended included."""
    processes = _processes(mark)
    ticks = sum(processes[pid].ticks for pid in _family(processes, root))
    return ticks / os.sysconf("SC_CLK_TCK")


def freeze(root: int, mark: str) -> set[int]:
    """Stop the family where it stands, so that its prefetching disturbs nobody; the ids of its processes."""
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


def start_guard(mark: str, root: Path) -> "subprocess.Popen[bytes]":
    """Start a process that ends everybody with that mark when its stdin is closed, be it by our own violent end.

    ``root`` is the folder that has the package ``bench``.
    """
    command = [sys.executable, "-m", "bench.suite.processes", mark]
    return subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, preexec_fn=os.setpgrp)


def _guard() -> None:
    sys.stdin.read()
    end(-1, sys.argv[1])


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
    """All processes of the machine but zombies, read from /proc (see "man 5 proc")."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):  # It has ended meanwhile.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] != "Z":
                marked = wanted in _environment(folder).split(b"\0")
                found[int(folder.name)] = _Process(int(fields[1]), marked, sum(map(int, fields[11:15])))
    return found


def _environment(folder: Path) -> bytes:
    try:
        return (folder / "environ").read_bytes()
    except OSError:  # Somebody else's process.
        return b""


if __name__ == "__main__":
    _guard()
