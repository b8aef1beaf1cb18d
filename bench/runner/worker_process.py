"""The runner's side of a worker: start it, measure, stop it in between, end it."""

import json
import os
import select
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from bench.runner import processes

GRACE = 5.0
"""Seconds for a worker to close, before it is killed."""
FATAL = "Fatal Python error: "
"""First words of faulthandler."""
STACK_LINES = 40
"""Number of lines kept of faulthandler's stacks of all threads."""


class Failure(Exception):
    """An entry failed; the text is one sentence."""

    def __init__(self, sentence: str, traceback: str = "") -> None:
        super().__init__(sentence)
        self.traceback = traceback


class Worker:
    """An entry's process and all that it starts. Once ready, it is frozen except while it measures."""

    def __init__(self, command: list[str], log: Path, patience: float) -> None:
        self.log, self.patience = log, patience
        self._guard, self._received = ExitStack(), b""
        self.mark = self._guard.enter_context(processes.guarded())
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=processes.ROOT,
                env=os.environ | {processes.MARK: self.mark},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=os.setpgrp,  # The runner handles Ctrl-C.
            )

    def ready(self) -> int | None:
        """Wait until the benchmark is built, then freeze it; return the number of torch's threads there."""
        try:
            threads: int | None = self._answer()["threads"]
            return threads
        finally:
            processes.freeze(self._root, self.mark)

    def measure(self, warmup: float, seconds: float) -> dict[str, Any]:
        """Thaw it for one window; return units, seconds, cpu_seconds, figures."""
        processes.thaw(self._root, self.mark)
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps({"warmup": warmup, "seconds": seconds}).encode() + b"\n")
            self.process.stdin.flush()
            return self._answer()
        except BrokenPipeError:
            raise self._last_words() from None
        finally:
            processes.freeze(self._root, self.mark)

    def dismiss(self) -> None:
        """Tell it to close and exit, without waiting."""
        processes.thaw(self._root, self.mark)
        if self.process.stdin:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def end(self) -> None:
        """Wait for its exit for :data:`GRACE` seconds, then kill what is left."""
        self.dismiss()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        self._guard.close()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    @property
    def _root(self) -> int:
        # Once waited for, its id may be reused.
        return self.process.pid if self.process.returncode is None else -1

    def _answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._line())
        if "error" in answer:
            raise Failure(f"failed: {answer['error']}", answer["traceback"])
        return answer

    def _line(self) -> bytes:
        """Return the next line of the protocol: the next one that holds an object."""
        assert self.process.stdout
        deadline = time.monotonic() + self.patience
        while True:
            line, found, rest = self._received.partition(b"\n")
            if found:
                self._received = rest
                if line.startswith(b"{"):
                    return line
            elif time.monotonic() > deadline:
                raise Failure(f"gave no answer in {self.patience:g} s")
            elif select.select([self.process.stdout], [], [], 0.2)[0]:
                block = os.read(self.process.stdout.fileno(), 1 << 16)
                if not block:
                    raise self._last_words()
                self._received += block
            elif self.process.poll() is not None:  # Its children may still hold the pipe open.
                raise self._last_words()

    def _last_words(self) -> Failure:
        """Describe how a process ended unexpectedly, with Python's stack after a crash."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        said, fatal, stack = self.log.read_text(errors="replace").partition(FATAL)
        lines = [line.strip() for line in said.strip().splitlines() or ["nothing"]]
        code = self.process.poll()
        how = "its process closed its pipe" if code is None else f"its process exited with {code}"
        how = f"crashed ({signal.Signals(-code).name})" if code is not None and code < 0 else how
        kept = (fatal + stack).splitlines()[:STACK_LINES]
        return Failure(f"{how}; its last output: {lines[-1][:200]}", "\n".join(kept))
