"""What a forked process does as a command, to its end: for runners that have imported everything before."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from fastseg.errors import run_command


def become(work: Callable[[], None], out: int, err: int, longest: int) -> NoReturn:
    """Do ``work`` as a command does, its output in these two files, for at most so many seconds (SIGALRM), and end."""
    code: Any = 1
    try:
        for stream, file in zip((0, 1, 2), (os.open(os.devnull, os.O_RDONLY), out, err), strict=True):
            os.dup2(file, stream)
        signal.alarm(longest)
        run_command(work)
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:  # whatever it is, the test shall see it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def text(file: int) -> str:
    """Read what was written to a file, and close it."""
    os.lseek(file, 0, os.SEEK_SET)
    with os.fdopen(file, "rb") as stream:
        return stream.read().decode("utf-8", "replace")
