"""Write files atomically, check in advance that they can be written, and lock run folders."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from io import FileIO
from itertools import chain, count
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryFile

from fastseg.errors import UserError, disk_full


def describe_missing(path: Path, cure: str) -> str:
    """Return a message for a path that does not exist; an address, which is none, is named as it was typed."""
    if address := re.match(r"([a-z][a-z0-9]+):/+(?=[^/])", str(path)):  # Path makes one slash of two
        typed = f"{address[1]}://{str(path)[address.end() :]}"
        return f"{typed} is an address; download it, and name the file or folder on this machine"
    return f"{path} does not exist; {cure}"


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


@contextmanager
def atomic_path(path: Path, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it to ``path`` if the block succeeds.

    After a crash at any instant ``path`` holds the old bytes or the new ones, never a part: with ``flush`` the file is
    flushed to the disk before the rename, the folder after it (see "fsync" in https://lwn.net/Articles/457667/). Nobody
    can have put a link or a pipe at the temporary path, since its name cannot be guessed; one at ``path`` is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    long = len(os.fsencode(path.name)) > 200  # a name may have 255 bytes
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest() if long else path.name
    temporary = path.with_name(f".{name}.{secrets.token_hex(8)}.tmp")
    try:
        with naming(path):
            yield temporary
            if flush:
                _fsync(temporary)
            temporary.replace(path)
            if flush:
                _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files that a process killed within :func:`atomic_path` left in ``folder``."""
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let a full disk's error that names no file, as from writing and flushing, name ``path``."""
    try:
        yield
    except OSError as error:
        if disk_full(error) and error.filename is None:
            error.filename = str(path)
        raise


def write_atomic(path: Path, data: bytes | str, flush: bool = True) -> None:
    """Write ``data`` (text as UTF-8) to ``path`` as :func:`atomic_path` does, whole or not at all."""
    with atomic_path(path, flush) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def check_writable(path: str | Path, flag: str) -> None:
    """Refuse a folder, existing or not, that cannot be written into; ``flag`` names it in the sentence.

    Leaves nothing behind. Raises :class:`UserError`.
    """
    _check_path(Path(path), Path(path), flag, "folder")


def check_writable_file(path: str | Path, flag: str) -> None:
    """Refuse a file, existing or not, that :func:`write_atomic` cannot write; as :func:`check_writable`."""
    if Path(path).is_dir():
        raise UserError(f"{flag} is {path}, which is a folder; name a file")
    _check_path(Path(path), Path(path).parent, flag, "file")


def _check_path(path: Path, folder: Path, flag: str, kind: str) -> None:
    # Not Path.exists, which raises if a parent folder may not be searched.
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        if nearest.is_dir():
            with TemporaryFile(dir=nearest):  # the only reliable test: permission bits do not apply to root
                return
    except OSError as error:
        where = f"nothing can be made in {nearest} ({error.strerror})"
        raise UserError(f"{flag} {path} cannot be written: {where}; name another {kind}") from None
    if nearest == path:
        raise UserError(f"{flag} is {path}, which is a file; name a {kind}")
    raise UserError(f"{flag} is {path}, but {nearest} is a file; name another {kind}")


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_lock(path: Path, kind: int = fcntl.LOCK_EX | fcntl.LOCK_NB, make: bool = True) -> FileIO:
    """Open the file ``path``, made if missing and ``make``, and lock it until it is closed or the process has ended.

    Whoever may write to the folder can have put something else there: a link is not followed, a pipe not waited for,
    and nothing is emptied. A lock on a file that was removed or replaced meanwhile excludes nobody and is taken anew.
    ``kind``: as of :func:`fcntl.flock`; without locks in the file system there is none, which is said once. Raises
    :class:`UserError` for anything but a plain file, :class:`BlockingIOError` if another process holds it, other
    :class:`OSError` as open.
    """
    while True:
        file = _open_plain(path, make)
        try:
            _flock(file, kind)
            if _still_at(path, file):
                if kind & fcntl.LOCK_EX:
                    _warn_without_locks(path.parent)
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _open_plain(path: Path, make: bool) -> FileIO:
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_RDWR | os.O_CREAT if make else os.O_RDONLY)
    refusal = UserError(f"{path} is not the plain file that a lock is, but a link, a pipe or the like; remove it")
    try:
        file = FileIO(os.open(path, flags, 0o666), "r+" if make else "r")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a socket
            raise refusal from None
        raise
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise refusal
    return file


def _flock(file: FileIO, kind: int) -> None:
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        raise
    except OSError:  # no locks in this file system
        pass


@cache
def _warn_without_locks(folder: Path) -> None:
    """Warn once if the file system of ``folder`` refuses locks, or grants the same one twice, as network ones may."""
    try:
        with TemporaryFile(dir=folder) as one, FileIO(f"/proc/self/fd/{one.fileno()}") as other:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError as error:
        if disk_full(error):
            return
    print(
        f"warning: the file system of {folder} keeps no locks: let no other process write there at the same time, for "
        "that would not be refused (NFS: mount it without nolock)",
        file=sys.stderr,
    )


def _still_at(path: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def set_aside(folder: Path) -> Path:
    """Rename a folder, so that nothing in it is lost; return its new path, which has the time behind its name."""
    now = folder.with_name(f"{folder.name}.{datetime.now():%Y%m%d-%H%M%S}")
    others = (now.with_name(f"{now.name}-{number}") for number in count(2))  # set aside within the same second
    return folder.rename(next(path for path in chain([now], others) if not path.exists()))


LOCK = ".lock"
"""Name of the lock file. Its contents mean nothing: the run folder is in use while a process locks it."""


def lock_run_folder(folder: Path, flag: str = "--name") -> FileIO:
    """Lock ``folder``, made if missing, for a run, until the returned file is closed or the process has ended.

    However the process ends, the remaining file blocks no other run. Without locks in the file system, nothing is
    refused. Raises :class:`UserError` if another process holds the lock; ``flag`` is the one that names another folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _refusing(folder, flag):
        return open_lock(folder / LOCK)


def check_free(folder: Path) -> None:
    """Refuse a folder that another run has locked; leave nothing there. Raises :class:`UserError`."""
    shared = fcntl.LOCK_SH | fcntl.LOCK_NB  # all ranks of a run may check at once
    with suppress(FileNotFoundError, NotADirectoryError), _refusing(folder, "--name"):
        open_lock(folder / LOCK, shared, make=False).close()


@contextmanager
def _refusing(folder: Path, flag: str) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        raise UserError(
            f"another process is training in {folder}; wait until it ends, or choose another {flag}"
        ) from None
