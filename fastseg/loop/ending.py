"""How a rank ends that fails, while the others may be in the middle of an exchange with it."""

import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

import torch.distributed as dist

from fastseg.errors import USER_ERROR, UserError, disk_full, run_command
from fastseg.loop.watch import Watch

LOST = 1
"""Exit code of a rank that has lost its connection to another: another start may help, as it does not after a
:data:`fastseg.errors.USER_ERROR`."""


def agreed(error: BaseException) -> bool:
    """Whether all ranks leave together, with a signal's exit code, after they have saved."""
    return isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128


def explained(error: BaseException, local_rank: int, watch: Watch) -> BaseException:
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
