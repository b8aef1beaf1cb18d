"""Bytes of tars by their place: of local ones, of which few are open at a time, and of objects in storage."""

import errno
import os
from collections.abc import Callable
from functools import lru_cache, partial

from fastseg.data.cache import read_range
from fastseg.errors import UserError
from fastseg.reading import is_remote

Bytes = Callable[[int, int], bytes]
"""``size`` bytes from ``offset`` on; fewer at the end."""

OPEN = 128
"""Local tars that a reader keeps open. A process may have 1,024 files open unless told otherwise, a set may have more
tars than that; opening one anew takes 0.01 ms."""
LOST = {errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA, errno.EREMOTEIO}
"""What the kernel answers where a disk or its file system has lost bytes. Anything else says nothing of the record."""
CURES = {
    errno.EMFILE: "raise this process's limit on open files (ulimit -n)",
    errno.ENFILE: "raise the machine's limit on open files (sysctl fs.file-max)",
    errno.ENOMEM: "leave the machine more memory",
}


def opener() -> Callable[[str], Bytes]:
    """From a tar's path or address to its bytes; several threads may call it, and what it returns.

    A tar that makes way for another is closed when the last thread has read from it. Both raise :class:`UserError` for
    a tar that is missing, :class:`OSError` for a local one that cannot be read.
    """
    return lru_cache(OPEN)(_open)


def no_file(path: str) -> UserError:
    """That a file of a set is not there."""
    return UserError(f"{path} is missing, though the manifest names it; copy or pack the set again")


def cure(error: OSError) -> str:
    """What to do about a tar that cannot be read though its disk is in order."""
    return CURES.get(error.errno or 0, "once that is mended, the same command goes on")


def _open(tar: str) -> Bytes:
    return partial(_range, tar) if is_remote(tar) else _Local(tar).read


def _range(path: str, offset: int, size: int) -> bytes:
    try:
        return read_range(path, offset, size)
    except FileNotFoundError:
        raise no_file(path) from None


class _Local:
    """A local tar, open as long as somebody holds this."""

    def __init__(self, tar: str) -> None:
        try:
            self._descriptor = os.open(tar, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise no_file(tar) from None

    def read(self, offset: int, size: int) -> bytes:
        # Not through a memory map: a page that has to come from the disk would be waited for with Python's lock held.
        return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):  # not where it could not be opened
            os.close(self._descriptor)
