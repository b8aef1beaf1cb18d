"""How a rank ends that fails, while the others may be in the middle of an exchange with it."""

import os
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

import torch.distributed as dist

from fastseg.errors import USER_ERROR, UserError, run_command


def agreed(error: BaseException) -> bool:
    """Whether all ranks leave together, with a signal's exit code, after they have saved."""
    return isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128


def explained(error: BaseException, local_rank: int) -> BaseException:
    """``error``, or what it means where it says that a connection to another rank was lost."""
    lost = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
    if not lost:
        return error
    if local_rank:
        return SystemExit(USER_ERROR)  # the machine's first rank says it, or the launcher where that one died
    reason = str(error).strip().splitlines()[0]
    return UserError(f"the connection to another rank was lost ({reason}); run the same command again")


def end(error: BaseException) -> NoReturn:
    """Say ``error`` and end the process, leaving all as it is.

    Destroying the group, and freeing a GPU's memory on the way out, wait for exchanges that the other ranks are in
    and this one will never come to. They learn of it from the closed connections, the launcher or their watch.
    """

    def fail() -> NoReturn:
        raise error

    code: object = 1
    try:
        run_command(fail)
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
    with suppress(OSError, ValueError):  # nobody may read them any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
