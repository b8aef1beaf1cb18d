"""Profile a few steps: named ranges in the code, a trace for Perfetto, and where each millisecond went."""

import gzip
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from fastseg.config import Config
from fastseg.device import environment, precision_of
from fastseg.distributed.ranks import Ranks
from fastseg.training.compiled import wants_compiling
from fastseg.training.kernel_categories import analyze

WARMUP, STEPS = 10, 5
"""Steps before a profile, which include compilation and cuDNN's search, and steps in it."""
TRACE = "trace.json.gz"


@contextmanager
def span(name: str) -> Iterator[None]:
    """Mark a range of that name in torch.profiler's traces and, if the GPU is in use, in Nsight's (NVTX).

    Use it around compiled code, not inside; it is also a decorator. Without a profiler it costs some microseconds.
    """
    nvtx, times = torch.cuda.is_initialized(), SpanTimes.current
    if nvtx:
        torch.cuda.nvtx.range_push(name)
    begin = times.mark() if times else None
    try:
        with record_function(name):
            yield
    finally:
        if times and begin is not None:
            times.spans.append((name, begin, times.mark()))
        if nvtx:
            torch.cuda.nvtx.range_pop()


class SpanTimes:
    """Time the ranges that end while it is entered: on a GPU in its queue, which the host runs ahead of."""

    current: "SpanTimes | None" = None
    """The one that is entered."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.spans: list[tuple[str, Any, Any]] = []
        """Name, begin and end of each range: CUDA events, or seconds."""

    def __enter__(self) -> "SpanTimes":
        SpanTimes.current = self
        return self

    def __exit__(self, *_: object) -> None:
        SpanTimes.current = None

    def mark(self) -> Any:
        """Return this instant."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> dict[str, float]:
        """Return the seconds of all ranges of each name; on a GPU all work must have been waited for."""
        found: dict[str, float] = {}
        for name, begin, end in self.spans:
            took = begin.elapsed_time(end) / 1000 if self._cuda else end - begin
            found[name] = found.get(name, 0.0) + took
        return found


class StepProfiler:
    """Profile a few steps of a run once they are warm."""

    def __init__(self, folder: Path, device: torch.device, left: int) -> None:
        """Prepare for ``left`` more steps, at least one. The trace goes to ``folder``."""
        self.folder = folder
        self._cuda = device.type == "cuda"
        self._before = min(WARMUP, left // 2)
        self._steps = min(STEPS, left - self._before)
        self._done = 0
        self._times: dict[int, float] = {}
        ready = min(self._before, 1)  # a step for the profiler itself to get ready
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])],
            schedule=schedule(wait=self._before - ready, warmup=ready, active=self._steps, repeat=1),
            on_trace_ready=self._export,
        )
        self._mark()
        # Without a GPU Kineto calls it an error that there is none.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        self._profile.start()

    def stepped(self) -> bool:
        """Call after every step; returns whether the profile is complete."""
        self._done += 1
        if self._done in (self._before - 1 - self._steps, self._before - 1, self._before, self._before + self._steps):
            self._mark()  # the trace begins and ends with an idle GPU
        if self._done <= self._before + self._steps:
            self._profile.step()
        return self._done == self._before + self._steps

    @property
    def recording(self) -> bool:
        """Return whether steps were profiled that :meth:`finish` would write."""
        return self._before < self._done < self._before + self._steps

    def finish(self) -> dict[str, Any]:
        """End the profile, complete or not, and analyze it: :func:`fastseg.training.kernel_categories.analyze`.

        ``plain_step_ms`` is the time of a step without the profiler; None if the run is too short.
        """
        if self.recording:
            self._mark()
            self._profile.stop()
        with gzip.open(self.folder / TRACE, "rt", encoding="utf-8") as file:
            found = analyze(json.load(file))
        first, last = self._before - 1 - self._steps, self._before - 1
        plain = 1000 * (self._times[last] - self._times[first]) / self._steps if first > 0 else None
        return {"plain_step_ms": plain, **found}

    def _mark(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()
        self._times[self._done] = time.perf_counter()

    def _export(self, ended: profile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / TRACE).unlink(missing_ok=True)  # torch would follow a link there
        ended.export_chrome_trace(str(self.folder / TRACE))


class Table(NamedTuple):
    """A table for a terminal or a page: words in the first column, numbers in the others."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def category_table(step: dict[str, Any]) -> Table:
    """Return a table of a step's milliseconds; ``hidden`` ones ran beneath other kernels and cost nothing."""
    plain = f", {step['plain_step_ms']:.4g} without the profiler" if step["plain_step_ms"] else ""
    hidden = any(row["hidden_ms"] > 0 for row in step["categories"])
    rows = [
        (
            row["category"],
            f"{row['ms']:.2f}",
            f"{100 * row['share']:.1f} %",
            *([f"{row['hidden_ms']:.2f}"] if hidden else []),
        )
        for row in step["categories"]
    ]
    total = ("the whole step", f"{step['step_ms']:.2f}", "100 %", *([""] if hidden else []))
    columns = ("category", "ms", "share", *(["hidden ms"] if hidden else []))
    return Table(f"A step of {step['step_ms']:.4g} ms ({step['steps']} profiled{plain})", columns, [*rows, total])


def profile_document(step: dict[str, Any], config: Config, ranks: Ranks) -> dict[str, Any]:
    """Return what ``profile.json`` holds; ``step`` is what :meth:`StepProfiler.finish` returned."""
    device, model, data = ranks.device, config.model, config.data
    settings = {
        "arch": model.arch,
        "batch": config.rank_batch,
        "crop": list(data.crop),
        "precision": precision_of(model.precision, device),
        "channels_last": model.channels_last,
        "compile": wants_compiling(config.model, device),
        "ranks": ranks.world,
        "device": device.type,
    }
    return {"environment": environment(), "settings": settings, "step": step}
