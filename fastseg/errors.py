"""Errors a user can cause: one sentence that says what, where, the value found and the cure."""

import errno
import io
import os
import reprlib
import signal
import sys
from collections.abc import Callable, Sequence

USER_ERROR = 2
"""Exit code of a command that was asked for something it cannot do."""


class UserError(Exception):
    """A mistake that the user can mend. Its text is the whole message; no traceback is shown."""

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        """``details``: sentences that follow the message, a line each."""
        super().__init__(message)
        self.details = tuple(details)


def run_command(main: Callable[[], None]) -> None:
    """Run a command line: a :class:`UserError`, a full disk or a library that fails to load becomes one line on stderr.

    Exits with 2 after a user's error, 130 after Ctrl-C, 141 when nobody reads the output any more; any other
    exception is a bug of ours and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except UserError as error:
        _fail(str(error), error.details)
    except BrokenPipeError:  # whoever read our output has gone: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ImportError, OSError, RuntimeError) as error:
        from fastseg.libraries import import_problem  # what installed packages say takes a while to read

        if sentence := import_problem(error):
            _fail(sentence)
        if not disk_full(error):
            raise
        where = f" at {name}" if (name := getattr(error, "filename", None)) else ""
        _fail(f"the disk is full{where}; free some space and run the same command again, finished work is kept")
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def disk_full(error: BaseException | None) -> bool:
    """Whether ``error`` says that a disk, or a user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def unwind_on_sigterm() -> None:
    """Let SIGTERM, a service manager's or a batch system's Ctrl-C, unwind too: with workers and half-written files."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring = 2, 80

    def repr_int(self, x: int, _level: int) -> str:
        return repr(x) if x.bit_length() <= 64 else f"<a number of {x.bit_length()} bits>"

    def repr_instance(self, x: object, _level: int) -> str:
        return repr(x) if isinstance(x, (bool, float, type(None))) else f"<a {type(x).__name__}>"


def shown(value: object) -> str:
    """A value from a file that anybody may have written, for a sentence: short, whatever its size and depth."""
    return _Short().repr(value)


def _fail(sentence: str, details: Sequence[str] = ()) -> None:
    rank = int(os.environ.get("RANK", "0"))
    print(f"error: {f'[rank {rank}] ' if rank else ''}{one_line(sentence)}", file=sys.stderr)
    for detail in details:
        print(f"  {one_line(detail)}", file=sys.stderr)
    sys.exit(USER_ERROR)


def one_line(text: str) -> str:
    """``text`` as one printable line: names of files may hold line feeds and a terminal's commands."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
