"""Commands that start in no time: real processes, forked from one that has imported everything already.

torch, torchvision and DALI take seconds to import, which a test that starts a command forty times cannot spend.
multiprocessing's fork server imports them once; every command is then a process of its own, with its own signals,
files and exit code, whose parent is that server. Only a process that has started no thread is forked; the Python
processes that a command starts itself are forked from it likewise (interpreter.py).
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

import interpreter

Hook = Callable[[], None]


class Command:
    """One started command and its output, stdout and stderr together unless ``errors`` names a file for stderr."""

    def __init__(
        self,
        main: Hook,
        words: tuple[object, ...],
        output: Path,
        before: Hook | None,
        environment: dict[str, str],
        errors: Path | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._output = output
        streams = (output, errors or output)
        arguments = (main, [str(word) for word in words], streams, before, environment, cwd)
        self.process = _context().Process(target=_become, args=arguments)
        self.process.start()

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self._output.read_text() if self._output.exists() else ""

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code, as Popen does."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.process), timeout or 0)
        return self.process.exitcode

    def finish(self, timeout: float = 300) -> int:
        """Wait for its end; returns the exit code, below 0 where a signal ended it. Fails after ``timeout`` s."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {timeout} s: {self.output}")
        return self.process.exitcode


def start(main: Hook, *words: object, output: Path, before: Hook | None = None, **environment: str) -> Command:
    """Start the command whose entry is ``main`` with the command line ``words``, the command's own name first.

    ``main`` and ``before``, which is called first and in the new process alone, are functions of a module's top
    level. ``environment`` is added to this process's. One thread computes.
    """
    return Command(main, words, output, before, {**os.environ, **environment, "OMP_NUM_THREADS": "1"})


def process(target: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """Start a process that calls ``target``, a function of a module's top level; it may fork others in turn."""
    started = _context().Process(target=target, args=arguments)
    started.start()
    return started


_PATH = os.pathsep.join(path for path in sys.path if path)
"""Taken when the tests are collected: the server is to import nothing of a test that changes ``sys.path``."""


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    with pytest.MonkeyPatch.context() as patch:  # for the server alone: a command that is typed has none of it
        patch.setenv("PYTHONPATH", _PATH)
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


def _become(
    main: Hook,
    words: list[str],
    streams: tuple[Path, Path],
    before: Hook | None,
    environment: dict[str, str],
    cwd: Path | None,
) -> None:
    for number, path in zip((1, 2), streams, strict=True):
        written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(written, number)
        os.close(written)
    interpreter.hasten()
    interpreter.begin(words, environment, cwd)
    if before:
        before()
    os._exit(interpreter.exit_code(main))
