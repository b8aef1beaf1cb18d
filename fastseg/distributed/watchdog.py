"""Ranks that hang: named by the others, who would else wait for them in silence."""

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

from fastseg.errors import USER_ERROR, UserError, disk_full, run_command

BEATS = 20
"""How often a rank says within the timeout that it lives."""
HUNG = 1
"""Exit code of the ranks that waited for one that hangs, or lost the store they all speak through."""
_DEAF = 5
"""Beats in a row without the store after which a rank ends."""
_FAILED = "failed"
"""Under this name the store has rank and exit code of the first that failed."""


@dataclass
class _Seen:
    """What a rank was last heard to say, and how many of our own beats ago it, or its progress, was new."""

    word: str = ""
    silent: int = 0
    progress: int = 0
    stuck: int = 0

    def hear(self, word: str) -> None:
        progress = int(word.split()[1])
        self.silent = 0 if word != self.word else self.silent + 1
        self.stuck = 0 if progress != self.progress else self.stuck + 1
        self.word, self.progress = word, progress

    def miss(self) -> None:
        """It has not said anything yet."""
        self.silent += 1
        self.stuck += 1


class Watchdog:
    """A thread that says in the ranks' store that this rank lives, and how far it is, and listens to the others.

    A process that is stopped, or whose machine is lost, closes no connection, and one whose storage hangs is alive:
    the others wait in the middle of an exchange until the library's own timeout, which does not know for whom. This
    thread ends its process instead, with a sentence. It costs a step nothing: the step counts, the thread looks.
    Time is counted in beats of our own, so that a job that is suspended as a whole and goes on accuses nobody.
    """

    def __init__(self, store: dist.Store, rank: int, world: int, seconds: float, progress: Callable[[], int]) -> None:
        """``progress`` grows with what this rank does, most with an exchange. Ends the process after ``seconds``."""
        self._store, self._rank, self._seconds, self._progress = store, rank, seconds, progress
        self._others = {other: _Seen() for other in range(world)}
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """From now on nobody waits for this rank."""
        self._left.set()
        self._thread.join(5)  # not longer: the store may have gone before

    def fail(self, code: int) -> bool:
        """Whether this rank, which is about to end with ``code``, is the first to fail: then it says why."""
        mine = f"{self._rank} {code}"
        try:
            return self._store.compare_set(_FAILED, "", mine).decode() == mine
        except (dist.DistError, RuntimeError):  # the store went with a rank that failed before
            return True

    def failure(self) -> int | None:
        """The exit code of the first rank that failed, which it left here before its connections closed; else None."""
        try:
            return int(self._store.get(_FAILED).split()[1]) if self._store.check([_FAILED]) else None
        except (dist.DistError, RuntimeError):
            return None

    def _run(self) -> None:
        who, beat, deaf = f"{socket.gethostname()} {os.getpid()}", 0, 0
        while not self._left.wait(self._seconds / BEATS):
            beat += 1
            try:
                self._store.set(str(self._rank), f"{beat} {self._progress()} {who}")
                self._listen()
                deaf = 0
            except (dist.DistError, RuntimeError):  # it went with the launcher, or with the first rank
                deaf += 1
            if deaf >= _DEAF:
                self._end_alone()
            if hung := hanging(self._others):
                self._end(hung)
        with suppress(dist.DistError, RuntimeError):
            self._store.set(str(self._rank), "")

    def _listen(self) -> None:
        for rank, seen in list(self._others.items()):
            if not self._store.check([str(rank)]):
                seen.miss()
            elif word := self._store.get(str(rank)).decode():
                seen.hear(word)
            else:
                del self._others[rank]

    def _end(self, hung: list[int]) -> None:
        if self._rank == min(self._others.keys() - set(hung), default=0):  # one speaks for all
            names = ", ".join(self._name(rank) for rank in hung)
            print(
                f"error: no progress for {self._seconds:g} s: the others wait for {names}; look what holds it up "
                "(a stopped process, a lost machine, a disk that hangs) and run the same command again",
                file=sys.stderr,
                flush=True,
            )
        else:  # not before the one that speaks: it would see connections close, and say that instead
            time.sleep(2 * self._seconds / BEATS)
        os._exit(HUNG)  # the main thread waits in a library that hears no exception

    def _end_alone(self) -> None:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one speaks for its machine
            print(
                "error: the process that the ranks speak through is gone (the launcher, or the first rank); "
                "run the same command again",
                file=sys.stderr,
                flush=True,
            )
        os._exit(HUNG)

    def _name(self, rank: int) -> str:
        if not self._others[rank].word:
            return f"rank {rank} (which never spoke)"
        _, _, host, process = self._others[rank].word.split()
        return f"rank {rank} (process {process} on {host})"


def hanging(ranks: dict[int, _Seen]) -> list[int]:
    """The ranks that say nothing any more; else, where no rank gets on, those that are behind the others."""
    patience = BEATS - 2
    if silent := [rank for rank, seen in ranks.items() if seen.silent >= patience]:
        return silent if len(silent) < len(ranks) else []
    if not ranks or any(seen.stuck < patience for seen in ranks.values()):
        return []
    furthest = max(seen.progress for seen in ranks.values())
    return [rank for rank, seen in ranks.items() if seen.progress < furthest]


LOST = 1
"""Exit code of a rank that has lost its connection to another: another start may help, as it does not after a
:data:`fastseg.errors.USER_ERROR`."""


def agreed(error: BaseException) -> bool:
    """Whether all ranks leave together, with a signal's exit code, after they have saved."""
    return isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128


def explained(error: BaseException, local_rank: int, watch: Watchdog) -> BaseException:
    """``error``, what it means where it is a lost connection, or a silent exit: of all ranks one says why they end."""
    if isinstance(error, SystemExit):
        return error  # all have agreed on it, and the first rank speaks
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        code = watch.failure()
        # Else the machine's first rank says it, or the launcher where that one died.
        return SystemExit(LOST if code is None else code) if local_rank or code is not None else _lost(error)
    code = USER_ERROR if isinstance(error, UserError) or disk_full(error) else 1
    return error if watch.fail(code) else SystemExit(watch.failure() or code)


def _lost(error: BaseException) -> SystemExit:
    reason = str(error).strip().splitlines()[0]
    return SystemExit(f"error: the connection to another rank was lost ({reason}); run the same command again")


def end(error: BaseException) -> NoReturn:
    """Say ``error`` and end the process, leaving all as it is.

    Destroying the group, and freeing a GPU's memory on the way out, wait for exchanges that the other ranks are in
    and this one will never come to. They learn of it from the closed connections, the launcher or their watch.
    """

    def fail() -> NoReturn:
        raise error

    # The launcher sends it as soon as another rank has ended: not before this one has spoken.
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
    with suppress(OSError, ValueError):  # nobody may read them any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
