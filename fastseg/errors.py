"""Errors a user can cause: one sentence that says what, where, the value found and the cure."""

import errno
import io
import os
import reprlib
import signal
import sys
from collections.abc import Callable, Sequence

USER_ERROR = 2
"""Exit code after a user error."""


class UserError(Exception):
    """An error that the user can fix. Its text is the whole message; no traceback is shown."""

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        """``details``: sentences that follow the message, a line each."""
        super().__init__(message)
        self.details = tuple(details)


def run_command(main: Callable[[], None]) -> None:
    """Run a command line: a :class:`UserError`, a full disk or a library that fails to load becomes one line on stderr.

    ``--version`` alone prints the package's version. Exits with 2 after a user error, 130 after Ctrl-C, 141 if the
    reader of the output is gone (``| head``); any other exception is a bug in fastseg and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if sys.argv[1:] == ["--version"]:
            from fastseg.libraries import OURS, package_version

            print(OURS, package_version(OURS))
        else:
            main()
    except UserError as error:
        _fail(str(error), error.details)
    except BrokenPipeError:  # the reader of our output is gone: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ImportError, OSError, RuntimeError) as error:
        from fastseg.libraries import import_problem  # reading the packages' metadata takes a while

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
    """Return whether ``error`` means a full disk or an exceeded quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def unwind_on_sigterm() -> None:
    """Let SIGTERM of service managers and batch systems unwind like Ctrl-C: end workers, remove partial files."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


class _Short(reprlib.Repr):
    """Formatting limited to 80 characters for a string and 2 levels."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring = 2, 80

    def repr_int(self, x: int, _level: int) -> str:
        """Format an integer; replace one of more than 64 bits by its length."""
        return repr(x) if x.bit_length() <= 64 else f"<a number of {x.bit_length()} bits>"

    def repr_instance(self, x: object, _level: int) -> str:
        """Format a bool, float or None; replace any other object by the name of its type."""
        return repr(x) if isinstance(x, (bool, float, type(None))) else f"<a {type(x).__name__}>"


def shown(value: object) -> str:
    """Format an untrusted value from a file for a sentence: short, whatever its size and depth."""
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
