"""One contestant in a process of its own, driven by JSON lines: ``python -m bench.suite.worker``.

Imports nothing heavy, so that a contestant may live in an environment without fastseg's own requirements.

It is started with {"factory": "module:function", "settings": {…}} as its argument, says {"ready": true, "pid",
"threads"} when the contender is built, and for every line {"warmup": seconds, "seconds": seconds} on stdin measures a
window and says {"units", "seconds", "cpu_seconds", "figures"}, or {"error", "traceback"}. At the end of stdin it closes
the contender and leaves.
"""

import faulthandler
import importlib
import json
import os
import sys
import time
import traceback
from collections import deque
from typing import IO, Any, Protocol

from bench.suite.processes import MARK, cpu_seconds
from fastseg.errors import UserError

AHEAD = 2
"""Steps that the host may run ahead of a GPU."""


class Contender(Protocol):
    """What a factory returns.

    It may also have ``warmup_steps: int``, the least steps of every warm-up (a loader's queues filled up after the
    last window), ``begin()``, called between a warm-up and its window, and ``follow()``, which a launcher's ranks other
    than 0 run until rank 0 closes.
    """

    def step(self) -> int:
        """Do one step: a batch, a packing, an optimizer step. Returns how many units that is."""

    def figures(self) -> dict[str, float]:
        """Further figures of the last window: peak_memory_bytes, mfu, waiting, …"""

    def close(self) -> None:
        """Give back what would outlive the process."""


class Clock:
    """Seconds between two moments on the host's clock."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()

    def stepped(self) -> None:
        """A step was launched."""

    def elapsed(self) -> float:
        """Seconds so far, for deciding whether to go on."""
        return time.perf_counter() - self.begin

    def stop(self) -> float:
        """Seconds since the start, all work done."""
        return self.elapsed()


class DeviceClock(Clock):
    """Seconds between two events on a GPU."""

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self.queued: deque[Any] = deque()
        self.first = self._event()
        super().__init__()

    def stepped(self) -> None:
        """Waits for the step before the last: a host far ahead would count steps that are still to come."""
        self.queued.append(self.cuda.Event())
        self.queued[-1].record()
        if len(self.queued) > AHEAD:
            self.queued.popleft().synchronize()

    def stop(self) -> float:
        """Seconds from event to event."""
        last = self._event()
        last.synchronize()
        return float(self.first.elapsed_time(last)) / 1000

    def _event(self) -> Any:
        # Events see one stream; when the device is idle before each, they see the work of all (DALI has its own).
        self.cuda.synchronize()
        event = self.cuda.Event(enable_timing=True)
        event.record()
        return event


def start_clock() -> Clock:
    """The GPU's if torch has begun to use one, else the host's."""
    torch: Any = sys.modules.get("torch")
    return DeviceClock(torch.cuda) if torch is not None and torch.cuda.is_initialized() else Clock()


def main() -> None:
    """Build the contender, then serve windows."""
    faulthandler.enable()  # a crash, in a decoder or a kernel, leaves its stack on stderr
    if int(os.environ.get("RANK", "0")) > 0:
        _follow(json.loads(sys.argv[1]))
        return
    with _own_stdout() as answers:
        try:
            contender = build(json.loads(sys.argv[1]))
            _say(answers, {"ready": True, "pid": os.getpid(), "threads": _threads()})
            for line in sys.stdin:
                _say(answers, measure(contender, **json.loads(line)))
            contender.close()
        except Exception as error:
            where = "" if isinstance(error, UserError) else traceback.format_exc()
            _say(answers, {"error": _sentence(error), "traceback": where})
            sys.exit(1)


def build(order: dict[str, Any]) -> Contender:
    """Call the factory that the order names."""
    module, _, function = order["factory"].partition(":")
    return getattr(importlib.import_module(module), function)(**order["settings"])


def measure(contender: Contender, warmup: float, seconds: float) -> dict[str, Any]:
    """One window: at least a step for ``warmup`` seconds, then at least a step for ``seconds``."""
    clock, steps = start_clock(), 0
    while steps < max(getattr(contender, "warmup_steps", 1), 1) or clock.elapsed() < warmup:
        contender.step()
        clock.stepped()
        steps += 1
    if hasattr(contender, "begin"):
        contender.begin()
    mark = os.environ.get(MARK, "")
    before, units = cpu_seconds(os.getpid(), mark), 0
    clock = start_clock()
    while not units or clock.elapsed() < seconds:
        units += contender.step()
        clock.stepped()
    took = clock.stop()
    used = cpu_seconds(os.getpid(), mark) - before
    return {"units": units, "seconds": took, "cpu_seconds": used, "figures": contender.figures()}


def _follow(order: dict[str, Any]) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # The orders are rank 0's.
    os.dup2(2, 1)
    contender: Any = build(order)
    if hasattr(contender, "follow"):
        contender.follow()


def _own_stdout() -> IO[str]:
    """The pipe that answers go into; whatever libraries print goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _say(answers: IO[str], answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=answers, flush=True)


def _sentence(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _threads() -> int | None:
    torch: Any = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else None


if __name__ == "__main__":
    main()
