"""Reading from a path or from object storage: within bounds, again where that may help, with a sentence where not."""

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
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
