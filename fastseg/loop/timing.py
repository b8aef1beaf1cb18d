"""Where a step's time goes: how long the device had nothing to do because the batch was not there."""

import time
from typing import Any, Generic, NamedTuple, TypeVar

import torch

Companion = TypeVar("Companion")


class Window(NamedTuple):
    """What happened since the last one was taken."""

    seconds: float
    steps: int
    waiting: float
    """Share of the time that the device waited for data, 0–1."""


class StepClock:
    """Times steps on the device, without stopping it.

    On a GPU the host runs ahead, so the time it spends in the loader says nothing. Events in the GPU's own queue
    do: one behind a step's last kernel, one before the next step's first; what lies between is idleness.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._last = Window(0.0, 0, 0.0)
        self.restart()

    def restart(self) -> None:
        """Begin a new window, leaving out whatever happened since the last one (an evaluation, say)."""
        self._start, self._steps, self._waited = time.perf_counter(), 0, 0.0
        self._gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._asked: float | torch.cuda.Event = 0.0

    def leave_out(self, seconds: float) -> None:
        """As if the last ``seconds`` had not been."""
        self._start += seconds

    def ask(self) -> None:
        """Call before a batch is asked for."""
        self._asked = self._event() if self._cuda else time.perf_counter()

    def got(self) -> None:
        """Call when the batch is there."""
        if isinstance(self._asked, float):
            self._waited += time.perf_counter() - self._asked
        else:
            self._gaps.append((self._asked, self._event()))

    def stepped(self) -> None:
        """Call when a step is known to be done."""
        self._steps += 1

    def take(self) -> Window:
        """The window since the last one; begins a new one. Without a step since then it is the last one again."""
        if not self._steps:
            return self._last
        done = [pair for pair in self._gaps if pair[1].query()]
        pending = [pair for pair in self._gaps if pair not in done]
        waited = self._waited + sum(begin.elapsed_time(end) for begin, end in done) / 1000
        seconds = time.perf_counter() - self._start
        self._last = Window(seconds, self._steps, min(waited / seconds, 1.0))
        self.restart()
        self._gaps = pending
        return self._last

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Mailbox(Generic[Companion]):
    """Brings a few numbers of every step to the host: on a GPU one step late, so that it always has work queued.

    With the numbers goes what they belong to, the ``companion``: a step's number, or the batch that they describe.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._waiting: tuple[Companion, torch.Tensor, torch.cuda.Event] | None = None

    def exchange(self, companion: Companion, numbers: torch.Tensor) -> tuple[Companion, list[Any]] | None:
        """Post the numbers of a step and get those that have arrived, as lists; None the first time on a GPU."""
        if not self._cuda:
            return companion, numbers.tolist()
        before = self.collect()
        copy = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._waiting = (companion, copy, event)
        return before

    def collect(self) -> tuple[Companion, list[Any]] | None:
        """The numbers still on their way, waiting for them; None if there are none."""
        if self._waiting is None:
            return None
        (companion, numbers, event), self._waiting = self._waiting, None
        event.synchronize()
        return companion, numbers.tolist()
