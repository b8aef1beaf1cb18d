"""Run one entry in a separate process, driven by JSON lines: ``python -m bench.runner.worker``.

Imports nothing heavy, so that an entry may use an environment without fastseg's requirements.

It is started with {"factory": "module:function", "settings": {…}} as its argument, says {"ready": true, "pid",
"threads"} when the benchmark is built, and for every line {"warmup": seconds, "seconds": seconds} on stdin measures a
window and says {"units", "seconds", "cpu_seconds", "figures"}, or {"error", "traceback"}. At the end of stdin it closes
the benchmark and exits.
"""

import faulthandler
import importlib
import json
import os
import sys
import time
import traceback
from collections import deque
from typing import Any

import fastseg.commands  # noqa: F401 - OpenMP's threads wait in all entries as they do in fastseg's commands
from bench.runner.processes import MARK, cpu_seconds
from fastseg.errors import UserError

AHEAD = 2
"""Maximum steps that the host runs ahead of a GPU."""


class Benchmark:
    """Base class of what factories return."""

    warmup_steps = 1
    """Minimum steps of every warm-up; a loader's queues fill up after the last window."""

    def step(self) -> int:
        """Do one step: a batch, a packing, an optimizer step. Returns its number of units."""
        raise NotImplementedError

    def begin(self) -> None:
        """Prepare for a window, after its warm-up."""

    def figures(self) -> dict[str, float]:
        """Return further figures of the last window: peak_memory_bytes, mfu, waiting, …"""
        return {}

    def close(self) -> None:
        """Release what would outlive the process."""

    def follow(self) -> None:
        """Do rank 0's steps on a launcher's other ranks, until rank 0 closes."""


class Clock:
    """Measure seconds by the host's clock."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()

    def stepped(self) -> None:
        """Note that a step was launched."""

    def elapsed(self) -> float:
        """Return the seconds so far, to decide whether to continue."""
        return time.perf_counter() - self.begin

    def stop(self) -> float:
        """Return the seconds since the start, after all work is done."""
        return self.elapsed()


class DeviceClock(Clock):
    """Measure seconds between two events on a GPU."""

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self.queued: deque[Any] = deque()
        self.first = self._event()
        super().__init__()

    def stepped(self) -> None:
        """Wait for the step before the last: a host far ahead would count steps not yet done."""
        self.queued.append(self.cuda.Event())
        self.queued[-1].record()
        if len(self.queued) > AHEAD:
            self.queued.popleft().synchronize()

    def stop(self) -> float:
        """Return the seconds from event to event."""
        last = self._event()
        last.synchronize()
        return float(self.first.elapsed_time(last)) / 1000

    def _event(self) -> Any:
        # Events cover one stream; with an idle device before each, they cover the work of all (DALI has its own).
        self.cuda.synchronize()
        event = self.cuda.Event(enable_timing=True)
        event.record()
        return event


def start_clock() -> Clock:
    """Start the GPU's clock if torch has begun to use one, else the host's."""
    torch: Any = sys.modules.get("torch")
    return DeviceClock(torch.cuda) if torch is not None and torch.cuda.is_initialized() else Clock()


def main() -> None:
    """Build the benchmark, then serve windows."""
    faulthandler.enable()  # a crash in a decoder or a kernel leaves its stack on stderr
    order = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries goes to stderr
    if int(os.environ.get("RANK", "0")) > 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # Only rank 0 reads orders.
        build(order).follow()
        return

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        benchmark, torch = build(order), sys.modules.get("torch")
        say({"ready": True, "pid": os.getpid(), "threads": torch.get_num_threads() if torch else None})
        for line in sys.stdin:
            say(measure(benchmark, **json.loads(line)))
        benchmark.close()
    except Exception as error:
        ours, lines = isinstance(error, UserError), str(error).strip().splitlines()
        sentence = str(error) if ours else ": ".join([type(error).__name__, *lines[:1]])
        say({"error": sentence, "traceback": "" if ours else traceback.format_exc()})
        sys.exit(1)


def build(order: dict[str, Any]) -> Benchmark:
    """Call the factory that the order names."""
    module, _, function = order["factory"].partition(":")
    made: Benchmark = getattr(importlib.import_module(module), function)(**order["settings"])
    return made


def measure(benchmark: Benchmark, warmup: float, seconds: float) -> dict[str, Any]:
    """Measure one window: steps for ``warmup`` seconds, then for ``seconds``, at least one each."""
    clock, steps = start_clock(), 0
    while steps < max(benchmark.warmup_steps, 1) or clock.elapsed() < warmup:
        benchmark.step()
        clock.stepped()
        steps += 1
    benchmark.begin()
    mark = os.environ.get(MARK, "")
    before, units = cpu_seconds(os.getpid(), mark), 0
    clock = start_clock()
    while not units or clock.elapsed() < seconds:
        units += benchmark.step()
        clock.stepped()
    took = clock.stop()
    used = cpu_seconds(os.getpid(), mark) - before
    return {"units": units, "seconds": took, "cpu_seconds": used, "figures": benchmark.figures()}


if __name__ == "__main__":
    main()
