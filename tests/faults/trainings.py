"""Runs of seconds for what is done to them: real processes (zygote.py), of which one can say how far they are."""

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import commands
import zygote
from fastseg.commands.train import main

EPOCHS = 8
"""Of 5 steps on one rank, of 2 on two."""
EVERY_STEP = ("--save-every", "0.2")


def words(shards: Path, folder: Path, *more: object) -> tuple[object, ...]:
    """The command line of a run in ``folder``."""
    run = ("--shards", shards, "--runs", folder.parent, "--name", folder.name, "--optim.epochs", EPOCHS)
    return ("fastseg/train.py", *commands.TINY, *run, "--eval-every", EPOCHS / 2, *more)


def start(
    shards: Path, folder: Path, *more: object, before: zygote.Hook | None = None, **environment: str
) -> zygote.Command:
    """The command of :func:`words`, with its output beside the folder."""
    output = folder.with_name(f"{folder.name}{environment.get('RANK', '')}.txt")
    output.unlink(missing_ok=True)
    return zygote.start(main, *words(shards, folder, *more), output=output, before=before, **environment)


def finish(command: zygote.Command) -> str:
    """Run to a good end; returns the output."""
    assert command.finish() == 0, command.output
    return command.output


def ranks(
    shards: Path, folder: Path, *more: object, before: zygote.Hook | None = None, **environment: str
) -> list[zygote.Command]:
    """Two ranks, without a launcher."""
    return [start(shards, folder, *more, before=before, **place, **environment) for place in world(2)]


def world(ranks: int) -> list[dict[str, str]]:
    """What torchrun says to each of so many ranks of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
        shared["MASTER_PORT"] = str(free.getsockname()[1])
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def count(path: Path) -> int:
    """Lines written so far."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait(job: zygote.Command, until: Callable[[], bool], seconds: float = 200) -> bool:
    """Whether it came to that while the job ran."""
    end = time.monotonic() + seconds
    while not until():
        if not job.running:
            return False
        assert time.monotonic() < end, f"nothing happened in {seconds} s"
        time.sleep(0.005)
    return True


def grown(metrics: Path, more: int, job: zygote.Command) -> bool:
    """Whether the job wrote so many more lines."""
    wanted = count(metrics) + more
    return wait(job, lambda: count(metrics) >= wanted)


def stop(job: zygote.Command, metrics: Path, after: int, number: int = signal.SIGTERM) -> None:
    """SIGTERM, twice as batch systems send it, or another signal, after so many steps."""
    assert grown(metrics, after, job)
    for _ in range(2):
        job.send_signal(number)
        time.sleep(0.1)
