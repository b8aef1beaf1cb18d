"""One run in a folder at a time: another would remove its half-written checkpoint and replace its records."""

import fcntl
from contextlib import suppress
from pathlib import Path
from typing import IO

from fastseg.errors import UserError

NAME = ".lock"
"""Of a file that says nothing: that a process holds it does."""


def occupy(folder: Path) -> IO[str]:
    """Hold ``folder``, made if need be, for a run, until the file that is returned is closed or the process has ended.

    Whatever ends the process, the file that is left blocks nobody. A file system without locks holds nobody back.
    Raises :class:`UserError` where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / NAME).open("w")
    _lock(file, fcntl.LOCK_EX, folder)
    return file


def check_free(folder: Path) -> None:
    """Refuse a folder that another run holds, and leave nothing there. Raises :class:`UserError`."""
    with suppress(FileNotFoundError, NotADirectoryError), (folder / NAME).open() as file:
        _lock(file, fcntl.LOCK_SH, folder)  # shared: the ranks of one run may all be looking


def _lock(file: IO[str], kind: int, folder: Path) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"another process is training in {folder}; wait until it ends, or choose another --name"
        ) from None
    except OSError:  # no locks here
        pass
