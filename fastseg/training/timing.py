"""Time steps, and how long the device was idle because the batch was not ready."""

import signal
import threading
import time
from typing import NamedTuple

import torch

from fastseg.errors import stop_signals


class Window(NamedTuple):
    """The steps since the last window."""

    seconds: float
    steps: int
    waiting: float
    """Share of the time that the device waited for data, 0–1."""


class StepClock:
    """Time steps on the device without stopping it.

    On a GPU the host runs ahead, so its time in the loader says nothing. Two events in the GPU's queue do: one after a
    step's last kernel, one before the next step's first. Between them the GPU is idle.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._last = Window(0.0, 0, 0.0)
        self.restart()

    def restart(self) -> None:
        """Begin a new window; leave out what happened since the last one, such as an evaluation."""
        self._start, self._steps, self._waited = time.perf_counter(), 0, 0.0
        self._gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._asked: float | torch.cuda.Event = 0.0

    def leave_out(self, seconds: float) -> None:
        """Subtract the last ``seconds`` from the window."""
        self._start += seconds

    def wait_begin(self) -> None:
        """Call before requesting a batch."""
        self._asked = self._event() if self._cuda else time.perf_counter()

    def wait_end(self) -> None:
        """Call when the batch has arrived."""
        if isinstance(self._asked, float):
            self._waited += time.perf_counter() - self._asked
        else:
            self._gaps.append((self._asked, self._event()))

    def stepped(self) -> None:
        """Call when a step is known to be done."""
        self._steps += 1

    def snapshot(self) -> Window:
        """Return the window since the last one and begin a new one; without a step since, return the last again."""
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


class Stopping:
    """Note wishes to stop: SIGTERM, SIGHUP, Ctrl-C (a second one interrupts at once), or a reason of our own."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The signal that has come."""
        self.reason = ""
        """Why the run is to end without a signal."""
        if threading.current_thread() is threading.main_thread():  # no other thread may take signals
            for number in (*stop_signals(), signal.SIGINT):
                signal.signal(number, self._note)

    @property
    def asked(self) -> bool:
        """Return whether the run is to end."""
        return self.signal is not None or bool(self.reason)

    def ask(self, reason: str | None) -> None:
        """Note a wish to stop; None and later wishes change nothing."""
        self.reason = self.reason or reason or ""

    def _note(self, number: int, _frame: object) -> None:
        self.signal = number
        # Batch systems send SIGTERM to every process of a job, and torchrun forwards it: it comes twice.
        if number == signal.SIGINT:
            signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # a third one ends a process that hangs in a library
        raise KeyboardInterrupt
