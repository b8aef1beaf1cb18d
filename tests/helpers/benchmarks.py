"""Entries' factories for tests: each runs in a real worker process."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from bench.runner.worker import Benchmark
from fastseg.errors import UserError


class Sleeper(Benchmark):
    """A step lasts ``pause`` seconds and is ``units`` units; every step is noted in a file with its time."""

    def __init__(self, name: str, folder: str, pause: float = 0.005, units: int = 3) -> None:
        self.name, self.folder, self.pause, self.units = name, Path(folder), pause, units
        self.steps = 0

    def step(self) -> int:
        time.sleep(self.pause)
        self.steps += 1
        with (self.folder / "steps").open("a") as file:
            file.write(f"{self.name} {time.monotonic()}\n")
        return self.units

    def figures(self) -> dict[str, float]:
        return {"steps": float(self.steps), "nothing": float("nan")}

    def close(self) -> None:
        (self.folder / f"{self.name}.closed").touch()


class Counter(Sleeper):
    """Prefetches: a thread and a child process count on in files, asked or not."""

    def __init__(self, name: str, folder: str) -> None:
        super().__init__(name, folder)
        threading.Thread(target=_count, args=(self.folder / f"{name}.thread",), daemon=True).start()
        code = "import sys, benchmarks; from pathlib import Path; benchmarks._count(Path(sys.argv[1]))"
        command = [sys.executable, "-c", code, str(self.folder / f"{name}.child")]
        # With a session of its own: as torchrun starts its ranks.
        self.child = subprocess.Popen(command, start_new_session=True)
        (self.folder / f"{name}.pids").write_text(f"{os.getpid()} {self.child.pid}")


class Spinner(Sleeper):
    """Keeps a processor busy in a child process while it sleeps itself."""

    def __init__(self, name: str, folder: str) -> None:
        super().__init__(name, folder)
        self.child = subprocess.Popen([sys.executable, "-c", "while True: pass"])


class Stuck(Sleeper):
    """Will not close."""

    def close(self) -> None:
        time.sleep(600)


class Faulty(Sleeper):
    """Its ``step``-th step goes wrong in a way of its own."""

    def __init__(self, name: str, folder: str, how: str, after: int = 0) -> None:
        super().__init__(name, folder)
        self.how, self.after = how, after

    def step(self) -> int:
        if self.steps < self.after:
            return super().step()
        if self.how == "raise":
            raise ValueError("no batch\nsecond line")
        if self.how == "refuse":
            raise UserError("the shards are damaged; pack them again")
        if self.how == "die":
            print("out of memory, says a library", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "crash":
            print("a decoder begins", file=sys.stderr, flush=True)
            ctypes.string_at(0)
        if self.how == "leave":
            os._exit(3)
        time.sleep(600)
        return 0


class Queued(Sleeper):
    """Wants six steps before every window, however short the warm-up, and counts those of the window."""

    warmup_steps = 6

    def begin(self) -> None:
        self.steps = 0


def printing(name: str, folder: str) -> Sleeper:
    """A library that talks on stdout, by Python and by the file descriptor."""
    print('{"units": 1}')
    os.write(1, b"a C library says hello\n")
    return Sleeper(name, folder)


def refusing() -> Sleeper:
    """A factory that cannot."""
    raise UserError("there is no such set; pack one")


def _count(path: Path) -> None:
    while True:
        with path.open("a") as file:
            file.write(".")
        time.sleep(0.002)
