"""Errors a user can cause: one sentence that says what, where, the value found and the cure."""

import errno
import os
import sys
from collections.abc import Callable

USER_ERROR = 2
"""Exit code of a command that was asked for something it cannot do."""


class UserError(Exception):
    """A mistake that the user can mend. Its text is the whole message; no traceback is shown."""


def run_command(main: Callable[[], None]) -> None:
    """Run a command line: a :class:`UserError` or a full disk becomes one line on stderr.

    Exits with 2 after a user's error, 130 after Ctrl-C, 141 when nobody reads the output any more; any other
    exception is a bug of ours and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:  # whoever read our output has gone: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" at {error.filename}" if error.filename else ""
        _fail(f"the disk is full{where}; free some space and run the same command again, finished work is kept")
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def _fail(sentence: str) -> None:
    rank = int(os.environ.get("RANK", "0"))
    print(f"error: {f'[rank {rank}] ' if rank else ''}{sentence}", file=sys.stderr)
    sys.exit(USER_ERROR)
