"""Read from a path or object storage, and write there: bounded, with retries, and a sentence for each failure."""

import errno
import fcntl
import hashlib
import os
import random
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache, partial
from io import BufferedReader, FileIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryDirectory
from typing import BinaryIO, TypeVar

from fastseg.errors import UserError, whole_variable
from fastseg.files import open_lock, remove_temporary, write_atomic
from fastseg.object_stores import STORAGES, Listing, RequestError, Storage

Result = TypeVar("Result")
TRIES = 8
"""Attempts for one request to object storage (or AWS_MAX_ATTEMPTS). The pauses between them add up to a minute on
average, two at most, beside the time of the requests."""
WHEN_IT_ANSWERS = "once the storage answers, run the same command again to resume"
BLOCK = 1 << 26
"""Bytes to download at a time."""


class StorageError(UserError):
    """Object storage refuses a request, or does not answer."""

    def __init__(self, what: str, advice: str, passes: bool) -> None:
        """Take both halves of the sentence, and whether the failure may pass by itself."""
        super().__init__(f"{what}; {advice}")
        self.what, self.advice, self.passes = what, advice, passes


def is_remote(path: str | Path) -> bool:
    """Return whether ``path`` is an address in object storage (``s3://``, ``gs://``, ``az://``), not a local path."""
    return "://" in str(path) and _scheme(path) in STORAGES


def join(folder: str | Path, name: str) -> str:
    """Return ``folder/name`` for a local folder or a prefix in object storage."""
    return f"{str(folder).rstrip('/')}/{name}"


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return the bytes, at most ``most``, of a local file or of an object such as ``s3://bucket/key``.

    Raises :class:`FileNotFoundError` if there is none, :class:`ValueError` for more bytes and for anything but a
    regular file, and :class:`StorageError` if the storage refuses or does not answer in :data:`TRIES` attempts.
    """
    data = read_range(str(path), 0, most + 1) if is_remote(path) else _first_bytes(path, most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def read_range(path: str, offset: int, size: int, etag: str | None = None) -> bytes:
    """Return ``size`` bytes of an object from ``offset`` on, fewer at its end; raise as :func:`read_bytes`.

    With the ``etag`` of :func:`look_up` an object that was replaced since is refused.
    """
    return _ask(path, lambda storage: storage.read(path, offset, size, etag))


def look_up(path: str) -> Listing:
    """Return size and ETag of an object; raise as :func:`read_bytes`."""
    return _ask(path, lambda storage: storage.look_up(path))


def write(path: str, data: bytes | mmap) -> None:
    """Make or replace an object, whole or not at all; raise :class:`StorageError` as :func:`read_bytes`."""
    _ask(path, lambda storage: storage.write(path, data), "written")


def upload(file: BinaryIO, path: str) -> None:
    """Write an open local file, which must not be empty, as :func:`write` does."""
    with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        write(path, data)


def list_names(folder: str) -> list[str]:
    """Return the names of the objects in a remote folder; raise :class:`StorageError` as :func:`read_bytes`."""
    return _ask(folder, lambda storage: storage.names(folder), "listed")


def remove(path: str) -> None:
    """Remove an object, if it is there; raise :class:`StorageError` as :func:`read_bytes`."""
    _ask(path, lambda storage: storage.remove(path), "removed")


def download(source: str, path: Path, on_block: Callable[[], None] = lambda: None) -> None:
    """Copy an object to a local file; raise as :func:`read_bytes`. ``on_block`` is called after every 64 MB."""
    size, etag = look_up(source)
    with path.open("wb") as file:
        for offset in range(0, size, BLOCK):
            file.write(read_range(source, offset, BLOCK, etag))
            on_block()


@contextmanager
def local_copy(folder: str | Path, names: Iterable[str]) -> Iterator[Path]:
    """Yield a local folder with the files ``names``: ``folder`` itself, or a temporary copy of remote ones."""
    if not is_remote(folder):
        yield Path(folder)
        return
    with TemporaryDirectory(prefix="fastseg-") as temporary:
        for name in names:
            with suppress(FileNotFoundError):
                download(join(folder, name), Path(temporary) / name)
        yield Path(temporary)


def _first_bytes(path: str | Path, size: int) -> bytes:
    # Without O_NONBLOCK opening a pipe waits for a writer.
    with BufferedReader(FileIO(path, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))) as file:
        if not S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no plain file")
        return file.read(size)


def _ask(path: str, request: Callable[[Storage], Result], done: str = "read") -> Result:
    """Return the storage's answer to ``request``, with retries if they may help; ``done`` says what it asks for."""
    storage, tried, most = STORAGES[_scheme(path)], 1, whole_variable("AWS_MAX_ATTEMPTS", TRIES, 1)
    while True:
        try:
            return request(storage)
        except RequestError as error:
            if tried >= most or not error.retry:
                tries = f" after {tried} tries" if tried > 1 else ""
                advice = WHEN_IT_ANSWERS if error.passes else storage.hint
                raise StorageError(f"{path} cannot be {done}{tries} ({error})", advice, error.passes) from None
        time.sleep(random.random() * 2 ** (tried - 1))
        tried += 1


def _scheme(path: str | Path) -> str:
    return str(path).partition("://")[0]


FOLDER = "fastseg-cache"
"""Folder of the cache's files, below the user's own, which may hold other things."""
NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")
"""Pattern of a cache file's name, within that folder."""
CHECK = 4
"""Bytes of the CRC-32 at the end of every file."""
SPARE = 0.05
"""Share of the bound that is freed at a time: finding the oldest files means looking at all."""


class Cache:
    """Bounded cache of ranges of remote objects, one file each, shared by the processes and threads of a machine.

    A file is named after its contents (address, ETag, offset, size) and written atomically. Files are not flushed to
    the disk, which would cost more than reading them again, so each carries a checksum, and a damaged one is fetched
    again.

    A full cache evicts files that were not read since this process opened it, oldest first; it keeps the rest, and what
    is not in it is read from the storage. Least-recently-used eviction would be worse for epochs of a set of twice the
    bound: with a new order each time, it would serve 15 % of the reads instead of 50 %.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        """Keep at most ``bound`` bytes below ``folder``. Raises :class:`UserError` if that cannot be written."""
        self._folder, self._bound, self._full = folder / FOLDER, bound, False
        self._etag = cache(lambda path: look_up(path).etag)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._folder.is_symlink():
                raise UserError(f"--cache has {self._folder}, which is a link; remove it, or name another folder")
            with self._ledger() as ledger:
                for folder in self._folder.glob("??"):
                    remove_temporary(folder)
                os.utime(ledger.fileno())
                self._begun = os.fstat(ledger.fileno()).st_mtime_ns
                _write(ledger, self._make_room(0))
        except OSError as error:
            raise UserError(f"--cache {folder} cannot be written ({error.strerror}); name another folder") from None

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Read as :func:`read_range` does."""
        etag = self._etag(path)
        name = hashlib.sha256(f"{path} {etag} {offset} {size}".encode()).hexdigest()
        file = self._folder / name[:2] / name
        data = _load(file, size)
        if data is None:
            data = read_range(path, offset, size, etag)
            if len(data) == size and not self._full:
                self._keep(file, data)
        return data

    def _keep(self, file: Path, data: bytes) -> None:
        try:
            with self._ledger() as ledger:
                if _load(file, len(data)) is None:  # another process may have been quicker
                    self._add(ledger, file, data + _check(data))
        except OSError as error:
            self._full = True  # a run can do without a cache
            print(f"warning: the cache {self._folder} stores no more: {error.strerror}", file=sys.stderr)

    def _add(self, ledger: FileIO, file: Path, content: bytes) -> None:
        used = _read(ledger)
        if used is None or used + len(content) > self._bound:
            used = self._make_room(len(content))
            _write(ledger, used)
        if used + len(content) > self._bound:
            self._full = True
            return
        _write(ledger, used + len(content))  # first: if killed in between, the folder holds less than this says
        write_atomic(file, content, flush=False)

    @contextmanager
    def _ledger(self) -> Iterator[FileIO]:
        """Yield the file with the number of bytes in the folder, locked against other processes and threads."""
        # Opened anew each time: a lock belongs to the open file, which threads would share.
        with open_lock(self._folder / "used", fcntl.LOCK_EX) as ledger:
            yield ledger

    def _make_room(self, size: int) -> int:
        """Evict old files if there is no room for ``size`` bytes; return the bytes in the folder."""
        stats = self._files()
        used = sum(stat.st_size for stat in stats.values())
        if used + size <= self._bound:
            return used
        for file, stat in sorted(stats.items(), key=lambda item: item[1].st_mtime_ns):
            if used + size <= self._bound * (1 - SPARE) or stat.st_mtime_ns >= self._begun:
                break
            file.unlink()
            used -= stat.st_size
        return used

    def _files(self) -> dict[Path, os.stat_result]:
        """Return the cache's own files; nothing else in the folder may be removed."""
        named = [file for file in self._folder.glob("??/*") if NAME.fullmatch(f"{file.parent.name}/{file.name}")]
        return {file: status for file in named if S_ISREG((status := file.lstat()).st_mode)}


def _load(file: Path, size: int) -> bytes | None:
    """Return the bytes of a file of the cache; None if it is missing or damaged."""
    try:
        content = _first_bytes(file, size + CHECK + 1)
    except (OSError, ValueError):
        return None
    data, check = content[:-CHECK], content[-CHECK:]
    if len(data) != size or check != _check(data):
        return None
    with suppress(FileNotFoundError):  # another process may just have removed it
        os.utime(file)
    return data


def _check(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CHECK, "big")


def _read(ledger: FileIO) -> int | None:
    text = os.pread(ledger.fileno(), 32, 0).strip()
    return int(text) if text.isdigit() else None


def _write(ledger: FileIO, used: int) -> None:
    os.pwrite(ledger.fileno(), f"{used:20}".encode(), 0)


_cache: Cache | None = None
"""The process's cache, which all readers share, as the storage's client."""


def use_cache(folder: Path | None, gigabytes: float) -> None:
    """Cache what :func:`read_cached_range` reads from now on in ``folder``, at most ``gigabytes`` (10⁹ bytes)."""
    global _cache
    _cache = Cache(folder, round(gigabytes * 1e9)) if folder else None


def read_cached_range(path: str, offset: int, size: int) -> bytes:
    """Read as :func:`read_range` does, through the cache if :func:`use_cache` has set one."""
    return _cache.read(path, offset, size) if _cache else read_range(path, offset, size)


Bytes = Callable[[int, int], bytes]
"""(offset, size) → ``size`` bytes from ``offset`` on; fewer at the end."""

OPEN = 128
"""Local tars that a reader keeps open. A process may by default have 1,024 files open, and a set may have more tars;
reopening one takes 0.01 ms."""
LOST = {errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA, errno.EREMOTEIO}
"""The kernel's error codes for bytes that a disk or file system has lost. Other errors do not concern the record."""
HINTS = {
    errno.EMFILE: "raise this process's limit on open files (ulimit -n)",
    errno.ENFILE: "raise the machine's limit on open files (sysctl fs.file-max)",
    errno.ENOMEM: "leave the machine more memory",
}


def range_reader() -> Callable[[str], Bytes]:
    """Return a function from a tar's path or address to its bytes; threads may share both.

    An evicted tar is closed when the last thread has read from it. Both raise :class:`UserError` for a tar that is
    missing, :class:`OSError` for a local one that cannot be read.
    """
    return lru_cache(OPEN)(_open)


def missing_file(path: str) -> UserError:
    """Return the error that a file of a set is missing."""
    return UserError(f"{path} is missing, though the manifest names it; copy or pack the set again")


def hint(error: OSError) -> str:
    """Return what to do about a tar that cannot be read although its disk is intact."""
    return HINTS.get(error.errno or 0, "fix that, then run the same command again to resume")


def _open(tar: str) -> Bytes:
    return partial(_range, tar) if is_remote(tar) else _Local(tar).read


def _range(path: str, offset: int, size: int) -> bytes:
    try:
        return read_cached_range(path, offset, size)
    except FileNotFoundError:
        raise missing_file(path) from None


class _Local:
    """A local tar, open as long as this object is referenced."""

    def __init__(self, tar: str) -> None:
        try:
            self._descriptor = os.open(tar, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise missing_file(tar) from None

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``, fewer at the end of the file."""
        # No memory map: a page fault would wait for the disk with Python's lock held.
        return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):  # unless it could not be opened
            os.close(self._descriptor)
