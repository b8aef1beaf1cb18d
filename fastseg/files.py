"""Files that are whole or absent, and reading from a path or from object storage."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from fastseg.errors import UserError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it to ``path`` if the block succeeds.

    After a crash at any instant ``path`` holds the old bytes or the new ones, never a part: the file is
    flushed to the disk before the rename, the folder after it (see "fsync" in https://lwn.net/Articles/457667/).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_remote(path: str | Path) -> bool:
    """Whether ``path`` is an ``s3://`` address rather than a local path."""
    return str(path).startswith("s3://")


def join(folder: str | Path, name: str) -> str:
    """``folder/name`` for a local folder or an ``s3://`` prefix."""
    return f"{str(folder).rstrip('/')}/{name}"


def read_bytes(path: str) -> bytes:
    """The bytes of a local file or of an ``s3://bucket/key`` object.

    Raises :class:`FileNotFoundError` where there is none, and :class:`UserError` where the storage cannot be
    asked.
    """
    return _get(path) if is_remote(path) else Path(path).read_bytes()


def read_range(path: str, offset: int, size: int) -> bytes:
    """``size`` bytes of an ``s3://`` object from ``offset`` on, fewer at its end; raises as :func:`read_bytes`."""
    return _get(path, Range=f"bytes={offset}-{offset + size - 1}")


def _get(path: str, **options: str) -> bytes:
    try:
        from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError, ResponseStreamingError
    except ImportError as error:
        raise UserError(f"{path} needs boto3; install it with: pip install 'fastseg-deeplab[s3]'") from error
    bucket, _, key = path.removeprefix("s3://").partition("/")
    client = _storage(os.environ.get("AWS_ENDPOINT_URL"))
    try:
        # The client tries requests again by itself, but not the reading of what they bring.
        with suppress(ResponseStreamingError, ReadTimeoutError):
            return client.get_object(Bucket=bucket, Key=key, **options)["Body"].read()
        return client.get_object(Bucket=bucket, Key=key, **options)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "NoSuchBucket", "404"):
            raise FileNotFoundError(path) from error
        if error.response["Error"]["Code"] == "InvalidRange":  # it begins behind the end
            return b""
        raise UserError(f"{path} cannot be read: {error}") from error
    except BotoCoreError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


@cache
def _storage(endpoint: str | None) -> Any:
    """A client, which threads may share; making one takes longer than a request."""
    import boto3
    from botocore.config import Config

    return boto3.client("s3", endpoint_url=endpoint, config=Config(max_pool_connections=64))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
