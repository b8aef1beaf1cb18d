"""Write files atomically, check in advance that they can be written, and lock run folders."""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from fastseg.errors import UserError, disk_full


def describe_missing(path: Path, cure: str) -> str:
    """Return a message for a path that does not exist; an address, which is none, is named as it was typed."""
    if address := re.match(r"([a-z][a-z0-9]+):/+(?=[^/])", str(path)):  # Path makes one slash of two
        typed = f"{address[1]}://{str(path)[address.end() :]}"
        return f"{typed} is an address; download it, and name the file or folder on this machine"
    return f"{path} does not exist; {cure}"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it to ``path`` if the block succeeds.

    After a crash at any instant ``path`` holds the old bytes or the new ones, never a part: the file is
    flushed to the disk before the rename, the folder after it (see "fsync" in https://lwn.net/Articles/457667/).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    long = len(os.fsencode(path.name)) > 200  # a name may have 255 bytes
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest() if long else path.name
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield temporary
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let a full disk's error that names no file, as from writing and flushing, name ``path``."""
    try:
        yield
    except OSError as error:
        if disk_full(error) and error.filename is None:
            error.filename = str(path)
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
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


LOCK = ".lock"
"""Name of the lock file. Its contents mean nothing: the run folder is in use while a process locks it."""


def lock_run_folder(folder: Path, flag: str = "--name") -> IO[str]:
    """Lock ``folder``, made if missing, for a run, until the returned file is closed or the process has ended.

    However the process ends, the remaining file blocks no other run. Without locks in the file system, nothing is
    refused. Raises :class:`UserError` if another process holds the lock; ``flag`` is the one that names another folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("w")
    _lock(file, fcntl.LOCK_EX, folder, flag)
    return file


def check_free(folder: Path) -> None:
    """Refuse a folder that another run has locked; leave nothing there. Raises :class:`UserError`."""
    with suppress(FileNotFoundError, NotADirectoryError), (folder / LOCK).open() as file:
        _lock(file, fcntl.LOCK_SH, folder)  # shared: all ranks of a run may check at once


def _lock(file: IO[str], kind: int, folder: Path, flag: str = "--name") -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"another process is training in {folder}; wait until it ends, or choose another {flag}"
        ) from None
    except OSError:  # no locks in this file system
        pass
