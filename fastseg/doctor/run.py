"""Run the checks, each group in a separate process with a time limit, so that it may crash or hang."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from fastseg.doctor.rows import Request, Row, State
from fastseg.errors import unwind_on_sigterm

SECONDS = 55.0
"""Seconds that all checks together may take."""
AT_ONCE = 4
"""Groups that run at a time, except those that measure."""
CHILD = """
import sys
sys.path[:] = filter(None, sys.path)  # nothing is imported from the current folder
from fastseg.doctor.run import answer
answer(*sys.argv[1:])
"""


@dataclass(frozen=True)
class Group:
    """Checks that one process runs, one after the other."""

    checks: dict[str, str]
    """Module and function of each check, by the name of its row if it crashes or hangs."""
    seconds: float
    """Seconds that they may take together."""
    cure: str
    """The fix if a check crashes or hangs."""
    alone: bool = False
    """Run without others at the same time, because it measures."""
    state: State = "broken"
    """State of a check that crashes or hangs."""


_HERE = "fastseg.doctor"
_REBOOT = "look at nvidia-smi and dmesg (Xid), and reboot if these hang, too"
_STORAGE = "see that the storage answers: ls and df on that folder, the server it lies on"
GROUPS = (
    Group(
        {
            "system": f"{_HERE}.packages.system",
            "packages": f"{_HERE}.packages.packages",
            "cores": f"{_HERE}.machine.cores",
            "threads": f"{_HERE}.machine.threads",
            "memory": f"{_HERE}.machine.memory",
            "shared memory": f"{_HERE}.machine.shared_memory",
            "open files": f"{_HERE}.machine.open_files",
        },
        10,
        _REBOOT,
        alone=True,
    ),
    Group({"runs": f"{_HERE}.storage.runs", "shards": f"{_HERE}.storage.shards"}, 20, _STORAGE, alone=True),
    Group(
        {"driver": f"{_HERE}.gpus.driver", "GPUs": f"{_HERE}.gpus.gpus", "libnvcuvid": f"{_HERE}.gpus.video"},
        30,
        _REBOOT,
    ),
    Group(
        {"torch": f"{_HERE}.computing.torch_works", "JPEG on the CPU": f"{_HERE}.decoding.jpeg_on_cpu"},
        30,
        "reinstall torch, torchvision and DALI in a separate environment",
    ),
    Group({"JPEG on the GPU": f"{_HERE}.decoding.jpeg_on_gpu"}, 45, _REBOOT),
    Group(
        {"ranks": f"{_HERE}.computing.ranks"},
        45,
        "try NCCL_SOCKET_IFNAME=lo and GLOO_SOCKET_IFNAME=lo on a single machine; on GPUs try NCCL_P2P_DISABLE=1, and "
        "read what NCCL_DEBUG=INFO says",
    ),
    Group(
        {"torch.compile": f"{_HERE}.computing.compiling"},
        50,
        "run this again when the machine is less busy; if it fails again, train with --model.no-compile",
        state="warning",
    ),
    Group({"first record": f"{_HERE}.storage.record"}, 40, _STORAGE),
)
"""All checks, in the order of the table; those that measure come first."""


def run_groups(
    groups: Sequence[Group], request: Request, at_once: int = AT_ONCE, tell: Callable[[str], None] = lambda _: None
) -> list[Row]:
    """Run all groups, ``at_once`` at a time, within :data:`SECONDS`; call ``tell`` with what is being checked.

    Returns rows in the order of the groups. Leaves nothing running.
    """
    until = time.monotonic() + SECONDS
    measuring, others = ([group for group in groups if group.alone is alone] for alone in (True, False))
    with TemporaryDirectory(prefix="fastseg-doctor-") as folder:
        # The longest start first.
        ordered = [*measuring, *sorted(others, key=lambda group: -group.seconds)]
        children = [_Child(group, request, Path(folder) / str(i)) for i, group in enumerate(ordered)]
        try:
            _run(children[: len(measuring)], 1, until, tell)
            _run(children[len(measuring) :], at_once, until, tell)
        finally:
            for child in children:
                child.kill()
        return [row for group in groups for child in children if child.group is group for row in child.rows()]


def _run(children: list["_Child"], at_once: int, until: float, tell: Callable[[str], None]) -> None:
    waiting = list(children)
    running: list[_Child] = []
    while waiting or running:
        while waiting and len(running) < at_once:
            running.append(waiting.pop(0))
            running[-1].start(until)
        tell(", ".join(name for child in running for name in child.group.checks))
        time.sleep(0.05)
        running = [child for child in running if not child.over()]


class _Child:
    """Run one group in a process."""

    def __init__(self, group: Group, request: Request, folder: Path) -> None:
        self.group, self._request, self._folder = group, request, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._began = self._until = 0.0
        self._late = False

    def start(self, until: float) -> None:
        """Start it; it may run until ``until``, by time.monotonic(), or for its group's time if that is shorter."""
        self._folder.mkdir()
        self._began = time.monotonic()
        self._until = min(until, self._began + self.group.seconds)
        arguments = [json.dumps(self.group.checks), json.dumps(asdict(self._request)), str(self._folder / "rows")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with (self._folder / "said").open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CHILD, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def over(self) -> bool:
        """Return whether it has ended; stop it if its time is up."""
        assert self._process
        if self._process.poll() is None and time.monotonic() > self._until:
            self._late = True
            self.kill()
        return self._process.poll() is not None

    def kill(self) -> None:
        """Stop it and what it started, by SIGTERM, then by SIGKILL."""
        for number, timeout in ((signal.SIGTERM, 3.0), (signal.SIGKILL, None)):
            if self._process and self._process.poll() is None:
                os.killpg(self._process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout)

    def rows(self) -> list[Row]:
        """Return its rows, with one more if it crashed or hung."""
        rows, begun = [], next(iter(self.group.checks))
        file = self._folder / "rows"
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            document = json.loads(line)
            if isinstance(document, str):
                begun = document
            else:
                rows.append(Row(**document))
        code = self._process.returncode if self._process else None
        if code == 0:
            return rows
        return [*rows, Row(begun, self.group.state, self._describe_exit(code), self.group.cure)]

    def _describe_exit(self, code: int | None) -> str:
        if self._late or code is None:
            return f"no answer after {time.monotonic() - self._began if code is None else self.group.seconds:.0f} s"
        said = (self._folder / "said").read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip()[:300] for line in reversed(said) if line.strip()), "nothing was said")
        return f"it was ended by {signal.Signals(-code).name} ({last})" if code < 0 else f"it failed ({last})"


def answer(checks: str, request: str, rows: str) -> None:
    """Run a group's checks in this process, and write each row as soon as it is known."""
    unwind_on_sigterm()  # with the processes that a check has started
    with Path(rows).open("a", encoding="utf-8", buffering=1) as file:
        for name, path in json.loads(checks).items():
            file.write(json.dumps(name) + "\n")
            module, _, function = path.rpartition(".")
            for row in getattr(import_module(module), function)(Request(**json.loads(request))):
                file.write(json.dumps(asdict(row)) + "\n")
