"""Two machines on this one: network namespaces joined by a cable, or, where those are not to be had, the loopback.

A namespace has its own interfaces and addresses, so the two reach each other through the cable alone; they share the
disk, as nodes of a cluster do. A process killed by SIGKILL stands for a machine that goes down.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import commands
import interpreter
import zygote

CABLE = "cable"
"""The name of either end."""
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Machine:
    """Where a command may be started, and its address for the other."""

    address: str
    namespace: str | None = None

    def start(self, *command: object, output: Path, **environment: str) -> "Agent":
        """Start a command here, its output in a file."""
        interface = CABLE if self.namespace else "lo"
        variables = {**commands.environment(), "GLOO_SOCKET_IFNAME": interface, **environment}
        words = tuple(str(word) for word in command)
        if interpreter.understands(words):
            enter = partial(_enter, self.namespace) if self.namespace else None
            output.touch()  # it may be read before the process writes
            started = zygote.Command(interpreter.interpret, words, output, enter, variables, cwd=commands.ROOT)
            return Agent(started, output)
        with output.open("ab") as file:
            process = subprocess.Popen(words, cwd=commands.ROOT, env=variables, stdout=file, stderr=file)
        return Agent(process, output)


@dataclass(frozen=True)
class Agent:
    """A started torchrun with the ranks below it."""

    process: subprocess.Popen[bytes] | zygote.Command
    file: Path

    @property
    def output(self) -> str:
        """What it and its ranks have said so far."""
        return self.file.read_text()

    def finish(self, timeout: float = 120) -> int:
        """Wait for its end; returns its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s: {self.output}") from None

    def kill(self) -> None:
        """SIGKILL to it and to all below: the machine is gone. Of no effect where it has ended."""
        if self.process.poll() is not None:
            return  # its number may be another's by now
        family = descendants(self.process.pid)
        for pid in (self.process.pid, *family):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    try:
        children = [
            int(word)
            for path in Path(f"/proc/{pid}/task").iterdir()
            for word in (path / "children").read_text().split()
        ]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


def wait_until(holds: Callable[[], bool], agents: tuple[Agent, ...], timeout: float = 120) -> None:
    """Look every few milliseconds until it holds; fails where it does not, or where an agent ends before."""
    end = time.monotonic() + timeout
    while not holds():
        said = "\n".join(agent.output for agent in agents)
        assert time.monotonic() < end, f"not within {timeout} s: {said}"
        assert all(agent.process.poll() is None for agent in agents), said
        time.sleep(0.02)


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines with a cable between them, gone afterwards; on the loopback without the right to make them."""
    names = [f"node{i}-{os.getpid()}" for i in range(2)]
    if not _may_make_namespaces(names[0]):
        yield Machine("127.0.0.1"), Machine("127.0.0.1")
        return
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", CABLE, "netns", names[0], "type", "veth", "peer", "name", CABLE, "netns", names[1])
        machines = [Machine(f"10.77.0.{i + 1}", name) for i, name in enumerate(names)]
        for machine in machines:
            _ip("-n", machine.namespace, "address", "add", f"{machine.address}/24", "dev", CABLE)
            _ip("-n", machine.namespace, "link", "set", "lo", "up")
            set_cable(machine, True)
        yield machines[0], machines[1]
    finally:
        for name in names:
            _ip("netns", "delete", name)


def set_cable(machine: Machine, connected: bool) -> None:
    """Plug in this machine's end of the cable, or pull it: no connection is closed, nothing arrives any more."""
    _ip("-n", machine.namespace, "link", "set", CABLE, "up" if connected else "down")


def _enter(namespace: str) -> None:
    """Let this process, which has one thread, and all that it starts see the machine's network alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/var/run/netns", namespace).open() as file:
        if libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _may_make_namespaces(name: str) -> bool:
    if not shutil.which("ip") or subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return False
    enters = subprocess.run(["ip", "netns", "exec", name, "true"], capture_output=True).returncode == 0
    _ip("netns", "delete", name)
    return enters


def _ip(*words: str | None) -> None:
    subprocess.run(["ip", *(word for word in words if word)], check=True)
