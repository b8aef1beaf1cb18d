"""Checks that end badly, for tests of who runs them."""

import ctypes
import os
import signal
import sys
import time

from fastseg.doctor import computing
from fastseg.doctor.rows import Request, Row, ok
from fastseg.run_module import module_command


def well(request: Request) -> list[Row]:
    return ok("well", f"asked about {request.shards}")


def crash(_request: Request) -> list[Row]:
    print("about to crash", file=sys.stderr, flush=True)
    ctypes.string_at(0)
    return []


def hang(_request: Request) -> list[Row]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:  # a process of its own, which holds the output open
        time.sleep(600)
    time.sleep(600)
    return []


def fail(_request: Request) -> list[Row]:
    raise KeyError("a bug")


def endless(request: Request) -> list[Row]:
    """Ranks that wait for each other longer than the check may take; each writes its process id."""
    code = f"import os, time; open(f'{request.runs}/{{os.getpid()}}', 'w'); time.sleep(600)"
    script = f"{request.runs}/script.py"
    with open(script, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(code)
    launcher = module_command("fastseg.distributed.launcher", "--standalone", "--nproc-per-node", "2", script)
    computing._launch(launcher, {**os.environ})
    return []
