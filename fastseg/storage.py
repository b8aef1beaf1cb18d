"""Reading from a path or from object storage: within bounds, again where that may help, with a sentence where not."""

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
from itertools import count
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from fastseg.errors import UserError

TRIES = 8
"""How often object storage is asked for one thing (or as AWS_MAX_ATTEMPTS says). The pauses between take a minute on
average, two at most, in all; each request may take its time beside."""
CONNECT_TIMEOUT = 10.0
"""Seconds that a connection to the storage may take."""
READ_TIMEOUT = 30.0
"""Seconds of silence after which a request is sent again."""
BLOCK = 1 << 26
"""Bytes that are downloaded at a time."""


def is_remote(path: str | Path) -> bool:
    """Whether ``path`` is an ``s3://`` address rather than a local path."""
    return str(path).startswith("s3://")


def join(folder: str | Path, name: str) -> str:
    """``folder/name`` for a local folder or an ``s3://`` prefix."""
    return f"{str(folder).rstrip('/')}/{name}"


def read_bytes(path: str | Path, most: int) -> bytes:
    """The bytes of a local file or of an ``s3://bucket/key`` object, of which there may be ``most``.

    Raises :class:`FileNotFoundError` where there is none, :class:`ValueError` for more bytes and for what is no plain
    file, and :class:`UserError` where the storage refuses or, asked again and again (:data:`TRIES`), does not answer.
    """
    data = read_range(str(path), 0, most + 1) if is_remote(path) else _first_bytes(path, most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def read_range(path: str, offset: int, size: int, etag: str | None = None) -> bytes:
    """``size`` bytes of an ``s3://`` object from ``offset`` on, fewer at its end; raises as :func:`read_bytes`.

    With the ``etag`` of :func:`look_up` an object that was replaced since is refused.
    """
    same = {"IfMatch": etag} if etag else {}
    return _ask(path, _body, Range=f"bytes={offset}-{offset + size - 1}", **same)


class Listing(NamedTuple):
    """What the storage says of an object without sending it."""

    size: int
    """Bytes."""
    etag: str
    """Changes whenever the content does."""


def look_up(path: str) -> Listing:
    """Size and ETag of an ``s3://`` object; raises as :func:`read_bytes`."""
    found = _ask(path, lambda client, **where: client.head_object(**where))
    return Listing(found["ContentLength"], found["ETag"])


@contextmanager
def local_copy(folder: str | Path, names: Iterable[str]) -> Iterator[Path]:
    """A local folder with the files ``names``: ``folder`` itself, or a temporary copy of what ``s3://`` has of them."""
    if not is_remote(folder):
        yield Path(folder)
        return
    with TemporaryDirectory(prefix="fastseg-") as temporary:
        for name in names:
            with suppress(FileNotFoundError):
                _download(join(folder, name), Path(temporary) / name)
        yield Path(temporary)


def _first_bytes(path: str | Path, size: int) -> bytes:
    # Without O_NONBLOCK a pipe is waited for until somebody writes to it.
    with BufferedReader(FileIO(path, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))) as file:
        if not S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no plain file")
        return file.read(size)


def _download(source: str, path: Path) -> None:
    size, etag = look_up(source)
    with path.open("wb") as file:
        for offset in range(0, size, BLOCK):
            file.write(read_range(source, offset, BLOCK, etag))


def _body(client: Any, **request: str) -> bytes:
    """An object's bytes."""
    from botocore.exceptions import ResponseStreamingError
    from urllib3.exceptions import HTTPError

    stream = client.get_object(**request)["Body"]
    try:
        return bytes(stream.read())
    except HTTPError as error:  # botocore has exceptions of its own for most of them, but not for a broken TLS stream
        raise ResponseStreamingError(error=error) from error


def _ask(path: str, request: Callable[..., Any], **options: str) -> Any:
    """``request(client, Bucket=…, Key=…, **options)``, its errors as a :class:`FileNotFoundError` or one sentence."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError, SSLError
    except ImportError as error:
        raise UserError(f"{path} needs boto3; install it with: pip install 'fastseg-deeplab[s3]'") from error
    bucket, _, key = path.removeprefix("s3://").partition("/")
    tried = 0
    try:
        client = _storage(os.environ.get("AWS_ENDPOINT_URL"))
        for tried in count(1):
            try:
                return request(client, Bucket=bucket, Key=key, **options)
            except (BotoCoreError, ClientError) as error:
                # A busy server may break off a handshake, too; that says the same as a wrong certificate.
                if tried >= _tries() or not (_passes(error) or isinstance(error, SSLError)):
                    raise
            time.sleep(random.random() * 2 ** (tried - 1))
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(path) from error
        if code == "InvalidRange":  # it begins behind the end
            return b""
        if code == "PreconditionFailed":
            raise UserError(f"{path} was replaced while it was being read; run the same command again") from None
        raise _unreadable(path, error, tried) from None
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no address
        raise _unreadable(path, error, tried) from None


def _unreadable(path: str, error: Exception, tried: int) -> UserError:
    tries = f" after {tried} tries" if tried > 1 else ""
    cure = (
        "once the storage answers, the same command goes on"
        if _passes(error)
        else "check the address, the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE), the region "
        "(AWS_DEFAULT_REGION) and the endpoint (AWS_ENDPOINT_URL)"
    )
    return UserError(f"{path} cannot be read{tries} ({' '.join(str(error).split())}); {cure}")


def _passes(error: Exception) -> bool:
    """Whether the same request may be answered later: a busy or broken server, a timeout, a lost connection."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        throttled = error.response["Error"]["Code"] in ("RequestTimeout", "SlowDown", "Throttling")
        return status >= 500 or status == 429 or throttled
    lost = (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError)
    return isinstance(error, lost) and not isinstance(error, exceptions.SSLError)


@cache
def _storage(endpoint: str | None) -> Any:
    """A client, which threads may share; making one takes longer than a request."""
    import boto3
    from botocore.config import Config

    # It repeats nothing by itself: it does not know of bodies that break off, and its newer modes give up after 35
    # repetitions within a short time, of all threads together, which with 32 readers is an outage of a second.
    config = Config(
        max_pool_connections=64,
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        retries={"mode": "legacy", "total_max_attempts": 1},
    )
    return boto3.client("s3", endpoint_url=endpoint, config=config)


def _tries() -> int:
    return int(os.environ.get("AWS_MAX_ATTEMPTS", TRIES))


FOLDER = "fastseg-cache"
"""All that the cache writes lies in a folder of this name, since the user's own may hold other things."""
NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")
"""Of a file of the cache, within that folder."""
CHECK = 4
"""Bytes of CRC-32 at the end of every file."""
SPARE = 0.05
"""Share of the bound that is freed at a time: finding the oldest takes a look at all."""


class Cache:
    """Ranges of remote objects, each in a file, up to a bound; processes and threads of a machine share it.

    A file is named by what it holds (address, ETag, offset, size) and appears whole. Files are not flushed to the disk,
    which would cost more than reading them anew, so each carries a check sum, and a damaged one is fetched again.

    Where the folder is full, what nobody has read since this process opened it makes way, oldest first; the rest stays,
    and what is not in it is read from the storage. Throwing out the least recently used instead would serve epochs of
    a set of twice the bound worse: its order being new every time, 15 % of the reads against 50 %.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        """At most ``bound`` bytes below ``folder``. Raises :class:`UserError` where that cannot be written."""
        self._folder, self._bound, self._full = folder / FOLDER, bound, False
        self._etag = cache(lambda path: look_up(path).etag)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._ledger() as ledger:
                os.utime(ledger.fileno())
                self._begun = os.fstat(ledger.fileno()).st_mtime_ns
                _write(ledger, self._make_room(0))
        except OSError as error:
            raise UserError(f"--cache {folder} cannot be written ({error.strerror}); name another folder") from None

    def read(self, path: str, offset: int, size: int) -> bytes:
        """As :func:`fastseg.storage.read_range`."""
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
            self._full = True  # a run needs no cache
            print(f"warning: the cache {self._folder} takes no more: {error.strerror}", file=sys.stderr)

    def _add(self, ledger: FileIO, file: Path, content: bytes) -> None:
        used = _read(ledger)
        if used is None or used + len(content) > self._bound:
            used = self._make_room(len(content))
            _write(ledger, used)
        if used + len(content) > self._bound:
            self._full = True
            return
        _write(ledger, used + len(content))  # first: killed in between, the folder holds less than it says
        file.parent.mkdir(exist_ok=True)
        (self._folder / "part").write_bytes(content)  # one name is enough while the ledger is locked
        (self._folder / "part").replace(file)

    @contextmanager
    def _ledger(self) -> Iterator[FileIO]:
        """The file that says how many bytes the folder holds, locked against other processes and threads."""
        # Opened anew each time: a lock belongs to what was opened, and threads would share it.
        with FileIO(os.open(self._folder / "used", os.O_RDWR | os.O_CREAT, 0o644), "r+") as ledger:
            fcntl.flock(ledger, fcntl.LOCK_EX)
            yield ledger

    def _make_room(self, size: int) -> int:
        """Remove what is old if there is no room for ``size`` bytes; returns the bytes in the folder."""
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
        """What the cache has written: nothing else may be removed, whoever put it into the folder."""
        named = [file for file in self._folder.glob("??/*") if NAME.fullmatch(f"{file.parent.name}/{file.name}")]
        return {file: status for file in named if S_ISREG((status := file.lstat()).st_mode)}


def _load(file: Path, size: int) -> bytes | None:
    """The bytes of a file of the cache; None where there is none or it is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
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
"""One for the process, as the storage's client is: all readers share it."""


def use_cache(folder: Path | None, gigabytes: float) -> None:
    """From now on keep what :func:`read_cached_range` reads in ``folder``, at most ``gigabytes`` (10⁹ bytes) of it."""
    global _cache
    _cache = Cache(folder, round(gigabytes * 1e9)) if folder else None


def read_cached_range(path: str, offset: int, size: int) -> bytes:
    """As :func:`fastseg.storage.read_range`, through the cache where :func:`use_cache` has named one."""
    return _cache.read(path, offset, size) if _cache else read_range(path, offset, size)


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


def range_reader() -> Callable[[str], Bytes]:
    """From a tar's path or address to its bytes; several threads may call it, and what it returns.

    A tar that makes way for another is closed when the last thread has read from it. Both raise :class:`UserError` for
    a tar that is missing, :class:`OSError` for a local one that cannot be read.
    """
    return lru_cache(OPEN)(_open)


def missing_file(path: str) -> UserError:
    """That a file of a set is not there."""
    return UserError(f"{path} is missing, though the manifest names it; copy or pack the set again")


def cure(error: OSError) -> str:
    """What to do about a tar that cannot be read though its disk is in order."""
    return CURES.get(error.errno or 0, "once that is mended, the same command goes on")


def _open(tar: str) -> Bytes:
    return partial(_range, tar) if is_remote(tar) else _Local(tar).read


def _range(path: str, offset: int, size: int) -> bytes:
    try:
        return read_cached_range(path, offset, size)
    except FileNotFoundError:
        raise missing_file(path) from None


class _Local:
    """A local tar, open as long as somebody holds this."""

    def __init__(self, tar: str) -> None:
        try:
            self._descriptor = os.open(tar, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise missing_file(tar) from None

    def read(self, offset: int, size: int) -> bytes:
        # Not through a memory map: a page that has to come from the disk would be waited for with Python's lock held.
        return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):  # not where it could not be opened
            os.close(self._descriptor)
