"""Errors a user can cause: one sentence that says what, where, the value found and the cure."""

import errno
import io
import os
import re
import reprlib
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

USER_ERROR = 2
"""Exit code after a user error."""


class UserError(Exception):
    """An error that the user can fix. Its text is the whole message; no traceback is shown."""

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        """``details``: sentences that follow the message, a line each."""
        super().__init__(message)
        self.details = tuple(details)
        """Sentences that follow the message, a line each."""


def run_command(main: Callable[[], None]) -> None:
    """Run a command line: a :class:`UserError`, a full disk or memory, or a broken library becomes one line on stderr.

    ``--version`` alone prints the package's version. Exits with 2 after a user error, 130 after Ctrl-C; any other
    exception is a bug in fastseg and keeps its traceback. Output that cannot be written ends no work, but is an error
    at its end: 141 if the reader is gone (``| head``), 2 otherwise.
    """
    output = keep_writing()
    try:
        if sys.argv[1:] == ["--version"]:
            from fastseg.libraries import OURS, package_version

            print(OURS, package_version(OURS))
        else:
            main()
    except SystemExit as left:
        if left.code:
            raise
    except UserError as error:
        _fail(str(error), error.details)
    except Exception as error:
        if not (sentence := _sentence_of(error)):
            raise
        _fail(sentence)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    if output:
        sys.stdout.flush()
        if isinstance(output.error, BrokenPipeError):
            sys.exit(141)
        if output.error:
            _fail(f"the output cannot be written ({output.error.strerror}); what is written to files is kept")


def _sentence_of(error: Exception) -> str:
    """Return what to say of an error of the system, of memory or of a library that fails to load; else nothing."""
    from fastseg.libraries import import_problem  # reading the packages' metadata takes a while

    if isinstance(error, ImportError | OSError | RuntimeError) and (sentence := import_problem(error)):
        return sentence
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"the path {shown(error.filename)} is too long; name a shorter one, with at most 255 bytes a part"
    if disk_full(error):
        where = f" at {name}" if (name := getattr(error, "filename", None)) else ""
        return f"the disk is full{where}; free some space and run the same command again, finished work is kept"
    if out_of_memory(error):
        reason = shown(one_line(str(error)) or type(error).__name__)
        return (
            f"the memory is used up ({reason}); free some, or ask for smaller batches or pictures, or fewer --threads"
        )
    return ""


class _Stream(io.FileIO):
    """Standard output or error: what cannot be written is lost, and remembered, but raises nothing in mid-work."""

    error: OSError | None = None
    """The first failure."""

    def write(self, data: Any) -> int:
        """Write bytes as far as possible; return their number."""
        try:
            if (written := super().write(data)) is not None:
                return written
        except OSError as error:
            self.error = self.error or error
        return memoryview(data).nbytes


def keep_writing() -> _Stream | None:
    """Let this process go on where its output or log is full, closed or a terminal that is gone.

    Returns the stream of the output; None if something else than the process's own descriptor is ``sys.stdout``.
    """
    for number in range(3):  # else the next file that is opened gets the number, and what is printed
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    streams: list[_Stream | None] = []
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        ours = old is None or old is getattr(sys, f"__{name}__")
        streams.append(_Stream(number, "w", closefd=False) if ours else None)
        if stream := streams[-1]:
            setattr(sys, name, _text_of(stream, old))
    return streams[0]


def _text_of(stream: _Stream, old: io.TextIOWrapper | None) -> io.TextIOWrapper:
    """Return the text stream in place of ``old``."""
    encoding, at_once = (old.encoding, old.line_buffering or old.write_through) if old else ("utf-8", True)
    if old:
        with suppress(OSError):
            old.flush()
    # Names of files need not be UTF-8.
    return io.TextIOWrapper(io.BufferedWriter(stream), encoding, "backslashreplace", line_buffering=at_once)


def disk_full(error: BaseException | None) -> bool:
    """Return whether ``error`` means a full disk or an exceeded quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


_NO_MEMORY = re.compile(
    "DefaultCPUAllocator|CUDA out of memory|CUDA allocation failed|bad_alloc|Insufficient memory|"
    "[Cc](an't|annot) allocate memory|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED|"
    "could not (create|execute) a primitive|can't start new thread"
)
"""What torch, oneDNN, DALI, CUDA's libraries, OpenCV, Python and the system say in errors of all kinds."""


def out_of_memory(error: BaseException | None) -> bool:
    """Return whether ``error`` means that a GPU's or the machine's memory was too little."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return (
        isinstance(error, Exception)
        and not isinstance(error, UserError)
        and bool(type(error).__name__ == "OutOfMemoryError" or _NO_MEMORY.search(str(error)))
    )


class Stopped(SystemExit):
    """The end of this process that a signal asked for, wherever it was; the code is 128 and the signal's number."""


def unwind_on_signals() -> None:
    """Let SIGTERM of service managers and batch systems, and SIGHUP of a terminal that is closed, unwind like Ctrl-C.

    Workers end and partial files are removed. SIGHUP stays ignored where it is, as under nohup.
    """

    def stop(number: int, _frame: object) -> None:
        raise Stopped(128 + number)

    for number in stop_signals():
        signal.signal(number, stop)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals, beside Ctrl-C, that ask a process to stop: SIGTERM, and SIGHUP unless it is ignored."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGTERM,) if ignored else (signal.SIGTERM, signal.SIGHUP)


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


def whole_variable(name: str, missing: int, low: int = 0, high: int = 1 << 31) -> int:
    """Return the whole number in the environment variable ``name``, ``missing`` if it is unset or empty.

    Raises :class:`UserError` for anything but a number from ``low`` to ``high``.
    """
    text = os.environ.get(name, "")
    if not text:
        return missing
    if not re.fullmatch("[0-9]{1,10}", text) or not low <= int(text) <= high:
        raise UserError(
            f"the environment variable {name} is {shown(text)}; it must be a whole number from {low} to {high}: set it "
            "to one, or unset it"
        )
    return int(text)


def _fail(sentence: str, details: Sequence[str] = ()) -> None:
    rank = os.environ.get("RANK", "")
    mine = f"[rank {rank}] " if re.fullmatch("[1-9][0-9]*", rank) else ""
    print(f"error: {mine}{one_line(sentence)}", file=sys.stderr)
    for detail in details:
        print(f"  {one_line(detail)}", file=sys.stderr)
    sys.exit(USER_ERROR)


def one_line(text: str) -> str:
    """``text`` as one printable line: names of files may hold line feeds and a terminal's commands."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
