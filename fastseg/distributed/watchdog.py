"""Detect ranks that hang and name them, instead of waiting for them silently."""

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import torch.distributed as dist

from fastseg.errors import USER_ERROR, Stopped, UserError, disk_full, run_command

BEATS = 20
"""Heartbeats that a rank sends within the timeout."""
LIMIT = BEATS - 2
"""Beats without progress after which a rank counts as hanging: so that all have ended before the timeout."""
HUNG = 1
"""Exit code of ranks that waited for one that hangs, or lost the store that all of them use."""
_MAX_MISSED = 5
"""Consecutive beats without the store after which a rank ends."""
_FAILED = "failed"
"""Key in the store of the rank and exit code of the first failure."""


@dataclass
class _Seen:
    """A rank's last message, and how many of our beats ago the message and its progress were new."""

    message: str = ""
    silent: int = 0
    progress: int = 0
    stalled: int = 0

    def update(self, message: str) -> None:
        """Take the rank's message of this beat."""
        progress = int(message.split()[1])
        self.silent = 0 if message != self.message else self.silent + 1
        self.stalled = 0 if progress != self.progress else self.stalled + 1
        self.message, self.progress = message, progress

    def miss(self) -> None:
        """Count a beat without any message so far."""
        self.silent += 1
        self.stalled += 1


class Watchdog:
    """Write this rank's heartbeat and progress to the ranks' store in a thread, and watch those of the others.

    A process that is stopped, or whose machine is lost, closes no connection, and one whose storage hangs is alive. The
    others would wait in a collective until the library's own timeout, which cannot name the rank. This thread ends its
    process instead, with a sentence. It costs a step nothing: the step counts, the thread looks. Time is counted in our
    own beats, so that suspending and continuing a whole job raises no alarm.
    """

    def __init__(self, store: dist.Store, rank: int, world: int, seconds: float, progress: Callable[[], int]) -> None:
        """Start the thread. ``progress`` grows with this rank's work; ``seconds`` without any end the process."""
        self._store, self._rank, self._seconds, self._progress = store, rank, seconds, progress
        self._others = {other: _Seen() for other in range(world)}
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Stop watching, and tell the others not to wait for this rank."""
        self._left.set()
        self._thread.join(5)  # not longer: the store may be gone already

    def fail(self, code: int) -> bool:
        """Record that this rank ends with ``code``; return whether it is the first to fail, and so says why."""
        mine = f"{self._rank} {code}"
        try:
            return self._store.compare_set(_FAILED, "", mine).decode() == mine
        except (dist.DistError, RuntimeError):  # the store is gone with a rank that failed before
            return True

    def failure(self) -> int | None:
        """Return the exit code that the first failed rank left in the store; None without one."""
        try:
            return int(self._store.get(_FAILED).split()[1]) if self._store.check([_FAILED]) else None
        except (dist.DistError, RuntimeError):
            return None

    def _run(self) -> None:
        who, beat, missed = f"{socket.gethostname()} {os.getpid()}", 0, 0
        while not self._left.wait(self._seconds / BEATS):
            beat += 1
            try:
                self._store.set(str(self._rank), f"{beat} {self._progress()} {who}")
                self._listen()
                missed = 0
            except (dist.DistError, RuntimeError):  # it is gone with the launcher, or with the first rank
                missed += 1
            if missed >= _MAX_MISSED:
                self._end_alone()
            if hung := hanging(self._others):
                self._end(hung)
        with suppress(dist.DistError, RuntimeError):
            self._store.set(str(self._rank), "")

    def _listen(self) -> None:
        for rank, seen in list(self._others.items()):
            if not self._store.check([str(rank)]):
                seen.miss()
            elif message := self._store.get(str(rank)).decode():
                seen.update(message)
            else:
                del self._others[rank]

    def _end(self, hung: list[int]) -> None:
        if self._rank == min(self._others.keys() - set(hung), default=0):  # one speaks for all
            names = ", ".join(self._name(rank) for rank in hung)
            seconds = LIMIT * self._seconds / BEATS
            print(
                f"error: no progress for {seconds:g} s: the others wait for {names}; check what blocks it "
                "(a stopped process, a lost machine, a disk that hangs) and run the same command again",
                file=sys.stderr,
                flush=True,
            )
        else:  # later than the one that speaks, which would else report closed connections
            time.sleep(2 * self._seconds / BEATS)
        os._exit(HUNG)  # the main thread waits in a library that takes no exception

    def _end_alone(self) -> None:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one speaks for its machine
            print(
                "error: the process that connects the ranks is gone (the launcher, or the first rank); "
                "run the same command again",
                file=sys.stderr,
                flush=True,
            )
        os._exit(HUNG)

    def _name(self, rank: int) -> str:
        if not self._others[rank].message:
            return f"rank {rank} (which never spoke)"
        _, _, host, process = self._others[rank].message.split()
        return f"rank {rank} (process {process} on {host})"


def hanging(ranks: dict[int, _Seen]) -> list[int]:
    """Return the ranks that fell silent; if none and no rank makes progress, those behind the others."""
    if silent := [rank for rank, seen in ranks.items() if seen.silent >= LIMIT]:
        return silent if len(silent) < len(ranks) else []
    if not ranks or any(seen.stalled < LIMIT for seen in ranks.values()):
        return []
    furthest = max(seen.progress for seen in ranks.values())
    return [rank for rank, seen in ranks.items() if seen.progress < furthest]


LOST = 1
"""Exit code of a rank that lost its connection to another. A restart may help, unlike after a
:data:`fastseg.errors.USER_ERROR`."""


def is_agreed_exit(error: BaseException) -> bool:
    """Return whether all ranks leave together, with a signal's exit code, after saving."""
    alone = isinstance(error, Stopped)  # others may wait for this rank
    return isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128 and not alone


def failure_to_report(error: BaseException, local_rank: int, watch: Watchdog) -> BaseException:
    """Return what this rank is to end with: ``error``, a sentence for a lost connection, or a silent exit.

    Only one of all ranks says why they end.
    """
    if isinstance(error, SystemExit):
        return error  # all ranks agreed on it, and the first one speaks
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        code = watch.failure()
        # Otherwise the machine's first rank says it, or the launcher if that rank died.
        return SystemExit(LOST if code is None else code) if local_rank or code is not None else _lost(error)
    code = USER_ERROR if isinstance(error, UserError) or disk_full(error) else 1
    return error if watch.fail(code) else SystemExit(watch.failure() or code)


def _lost(error: BaseException) -> SystemExit:
    reason = str(error).strip().splitlines()[0]
    return SystemExit(f"error: the connection to another rank was lost ({reason}); run the same command again")


def abort(error: BaseException) -> NoReturn:
    """Print ``error`` and end the process without any cleanup.

    Destroying the group, and freeing a GPU's memory on exit, would wait for collectives that the other ranks are in and
    this one will never reach. They notice by the closed connections, the launcher or their watchdog.
    """

    def fail() -> NoReturn:
        raise error

    # The launcher sends SIGTERM once another rank has ended; this one must print first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code: object = 1
    try:
        run_command(fail)
    except SystemExit as left:
        code = left.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    with suppress(OSError, ValueError):  # the reader may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
