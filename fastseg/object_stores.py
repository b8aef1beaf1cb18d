"""Object storage by scheme: one request to S3, Google Cloud Storage or Azure, with its errors explained."""

import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from mmap import mmap
from typing import Any, NamedTuple, Protocol

from fastseg.errors import UserError

CONNECT_TIMEOUT = 10.0
"""Maximum seconds to connect to the storage."""
READ_TIMEOUT = 30.0
"""Seconds of silence after which a request is sent again."""
SLOWEST = 1e6
"""Bytes per second of an upload that is slow but no failure, where the library counts its time as silence."""


class Listing(NamedTuple):
    """An object's metadata."""

    size: int
    """Bytes."""
    etag: str
    """Changes whenever the content does."""


class RequestError(Exception):
    """A failed request."""

    def __init__(self, reason: object, passes: bool, retry: bool | None = None) -> None:
        """Set whether the failure may pass (``passes``) and whether to retry now (``retry``)."""
        super().__init__(" ".join(str(reason).split()))
        self.passes, self.retry = passes, passes if retry is None else retry


class Storage(Protocol):
    """The storage behind one scheme. Threads share it; a method sends one request, and the caller retries.

    Methods raise :class:`FileNotFoundError` if there is no such object, :class:`RequestError` for other failures.
    """

    hint: str
    """Advice if a request is refused."""

    def look_up(self, path: str) -> Listing:
        """Return size and ETag of an object."""

    def read(self, path: str, offset: int, size: int, etag: str | None) -> bytes:
        """Return ``size`` bytes from ``offset`` on, fewer at the object's end, none behind it; never a partial body.

        Raises the error of :func:`replaced` if the object has another ETag than ``etag``.
        """

    def write(self, path: str, data: bytes | mmap) -> None:
        """Make or replace an object: others see all of ``data`` or nothing of it, however the request ends."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects in a folder (not of deeper ones), of a thousand at most; [] without any."""

    def remove(self, path: str) -> None:
        """Remove an object, if it is there."""


def replaced(path: str) -> UserError:
    """Return the error that an object was replaced."""
    return UserError(f"{path} was replaced while it was being read; run the same command again")


def split_path(path: str) -> tuple[str, str]:
    """Return bucket and key of ``scheme://bucket/key``."""
    bucket, _, key = path.partition("://")[2].partition("/")
    return bucket, key


class S3:
    """``s3://``, by boto3: it knows the profiles and sign-ins of ~/.aws."""

    hint = (
        "check the address, the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE), the region "
        "(AWS_DEFAULT_REGION) and the endpoint (AWS_ENDPOINT_URL)"
    )

    def look_up(self, path: str) -> Listing:
        """Return size and ETag of an object."""
        found = _ask_s3(path, lambda client, **where: client.head_object(**where))
        return Listing(found["ContentLength"], found["ETag"])

    def read(self, path: str, offset: int, size: int, etag: str | None) -> bytes:
        """Return bytes, as :meth:`Storage.read`."""
        same = {"IfMatch": etag} if etag else {}
        return bytes(_ask_s3(path, _s3_body, Range=f"bytes={offset}-{offset + size - 1}", **same))

    def write(self, path: str, data: bytes | mmap) -> None:
        """Write as :meth:`Storage.write`: in one request, since parts of several would stay if it broke off."""
        if isinstance(data, mmap):
            data.seek(0)  # boto3 reads it as a file, from where an earlier request left it
        _ask_s3(path, lambda client, **where: client.put_object(Body=data, **where))

    def names(self, folder: str) -> list[str]:
        """Return names as :meth:`Storage.names`."""
        inside = f"{split_path(folder)[1].rstrip('/')}/".removeprefix("/")

        def ask(client: Any, **where: str) -> Any:
            return client.list_objects_v2(Bucket=where["Bucket"], Prefix=inside, Delimiter="/")

        return [entry["Key"].removeprefix(inside) for entry in _ask_s3(folder, ask).get("Contents", [])]

    def remove(self, path: str) -> None:
        """Remove as :meth:`Storage.remove`."""
        _ask_s3(path, lambda client, **where: client.delete_object(**where))


def _s3_body(client: Any, **request: str) -> bytes:
    from botocore.exceptions import ResponseStreamingError
    from urllib3.exceptions import HTTPError

    stream = client.get_object(**request)["Body"]
    try:
        return bytes(stream.read())
    except HTTPError as error:  # botocore wraps most of them, but not a broken TLS stream
        raise ResponseStreamingError(error=error) from error


def _ask_s3(path: str, request: Callable[..., Any], **options: str) -> Any:
    """Return ``request(client, Bucket=…, Key=…, **options)``; raise as :class:`Storage`."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError, SSLError
    except ImportError as error:
        raise UserError(f"{path} needs boto3; install it with: pip install 'fastseg-deeplab[s3]'") from error
    bucket, key = split_path(path)
    try:
        return request(_s3_client(os.environ.get("AWS_ENDPOINT_URL")), Bucket=bucket, Key=key, **options)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(path) from error
        if code == "InvalidRange":  # the range begins behind the end
            return b""
        if code == "PreconditionFailed":
            raise replaced(path) from None
        raise RequestError(error, _passes(error)) from None
    except (BotoCoreError, ValueError) as error:  # ValueError: an invalid endpoint address
        # A busy server may break off a handshake, which looks like a wrong certificate.
        raise RequestError(error, _passes(error), _passes(error) or isinstance(error, SSLError)) from None


_PASSING = ("RequestTimeout", "SlowDown", "Throttling", "IncompleteBody", "BadDigest")
"""Codes of requests that came late, too often, or broken."""


def _passes(error: Exception) -> bool:
    """Return whether boto3's error is a busy or broken server, a timeout, or a lost connection."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or error.response["Error"]["Code"] in _PASSING
    lost = (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError)
    return isinstance(error, lost) and not isinstance(error, exceptions.SSLError)


@cache
def _s3_client(endpoint: str | None) -> Any:
    """Return a client that threads may share; making one takes longer than a request."""
    import boto3
    from botocore.config import Config

    # Without its own retries: they do not cover bodies that break off, and its newer modes give up after 35
    # repetitions within a short time, of all threads together, which with 32 readers is an outage of a second.
    config = Config(
        max_pool_connections=64,
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        retries={"mode": "legacy", "total_max_attempts": 1},
    )
    return boto3.client("s3", endpoint_url=endpoint, config=config)


class Cloud:
    """``gs://`` or ``az://``, by obstore."""

    def __init__(self, store: str, endpoint: str, hint: str) -> None:
        """Take the name of obstore's class, the environment variable for another address, and the hint."""
        self._class, self._endpoint, self.hint = store, endpoint, hint

    def look_up(self, path: str) -> Listing:
        """Return size and ETag of an object."""
        found = self._ask(path, lambda store, key: store.head(key))
        return Listing(found["size"], found["e_tag"])

    def read(self, path: str, offset: int, size: int, etag: str | None) -> bytes:
        """Return bytes, as :meth:`Storage.read`."""
        options = {"range": (offset, offset + size)} | ({"if_match": etag} if etag else {})
        return bytes(self._ask(path, lambda store, key: store.get(key, options=options).bytes()))

    def write(self, path: str, data: bytes | mmap) -> None:
        """Write as :meth:`Storage.write`, in one request, as for S3."""
        patience = READ_TIMEOUT + math.ceil(len(data) / SLOWEST)
        self._ask(path, lambda store, key: store.put(key, data, use_multipart=False), patience)

    def names(self, folder: str) -> list[str]:
        """Return names as :meth:`Storage.names`."""
        found = self._ask(folder, lambda store, key: store.list_with_delimiter(key))["objects"]
        return [str(entry["path"]).rpartition("/")[2] for entry in found]

    def remove(self, path: str) -> None:
        """Remove as :meth:`Storage.remove`."""
        with suppress(FileNotFoundError):
            self._ask(path, lambda store, key: store.delete(key))

    def _ask(self, path: str, request: Callable[[Any, str], Any], patience: float | None = None) -> Any:
        try:
            from obstore.exceptions import BaseError, PreconditionError
        except ImportError as error:
            raise UserError(f"{path} needs obstore; install it with: pip install 'fastseg-deeplab[cloud]'") from error
        bucket, key = split_path(path)
        try:
            endpoint = os.environ.get(self._endpoint)
            return request(_cloud_store(self._class, bucket, endpoint, patience or READ_TIMEOUT), key)
        except PreconditionError:
            raise replaced(path) from None
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise _cloud_error(error) from None
            raise FileNotFoundError(path) from error
        except (BaseError, ValueError) as error:
            if _BEHIND.search(str(error)):
                return b""
            raise _cloud_error(error) from None


_BEHIND = re.compile("status code: 416|Wanted range starting at")
"""A range that begins behind the object's end."""
_NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound")
_XML = re.compile(r"<\?xml.*?<Code>(.*?)</Code>.*", re.DOTALL)
_STATUS = re.compile(r"status code: (\d+)")
_CAUSE = re.compile(r'message: "([^"]+)"|\b(IncompleteBody|IncompleteMessage|TimedOut)\b')
_SIGN_IN = re.compile(r"169\.254\.|metadata\.google")
"""Addresses that obstore asks for credentials if none are configured."""


def _cloud_error(error: Exception) -> RequestError:
    """Classify obstore's error, which tells its cause in words only."""
    reason, _, details = str(error).partition("\n\nDebug source")
    reason = _XML.sub(r"\1", reason)
    cause = _CAUSE.findall(details)
    status = _STATUS.search(reason)
    busy = int(status[1]) >= 500 or int(status[1]) in (408, 429) if status else "HTTP error" in reason
    busy = busy or any(code in reason for code in _PASSING)
    wrong = "certificate" in details or _SIGN_IN.search(reason) is not None
    why = f"{reason}: {''.join(cause[-1])}" if cause else reason
    return RequestError(why, busy and not wrong, busy)


@cache
def _cloud_store(name: str, bucket: str, endpoint: str | None, patience: float) -> Any:
    """Return a store that threads may share, without retries of its own, as S3's client.

    ``patience``: seconds until an answer begins, the sending of the request included, and between its parts.
    """
    from obstore import store

    if endpoint and not re.fullmatch(r"https?://\S+", endpoint):  # which obstore 0.12 does not survive
        raise ValueError(f"Invalid endpoint: {endpoint}")
    return getattr(store, name)(
        bucket,
        client_options={
            "allow_http": True,  # if the endpoint is one
            "connect_timeout": f"{CONNECT_TIMEOUT:g}s",
            "read_timeout": f"{patience:.0f}s",
            "timeout": "1 day",  # for the whole answer, however slow
        },
        retry_config={"max_retries": 0},
    )


STORAGES: dict[str, Storage] = {
    "s3": S3(),
    "gs": Cloud(
        "GCSStore",
        "GOOGLE_BASE_URL",
        "check the address and the credentials (GOOGLE_APPLICATION_CREDENTIALS, or those of "
        "gcloud auth application-default login)",
    ),
    "az": Cloud(
        "AzureStore",
        "AZURE_STORAGE_ENDPOINT",
        "check the address, the account (AZURE_STORAGE_ACCOUNT_NAME) and the credentials (AZURE_STORAGE_ACCOUNT_KEY, "
        "AZURE_STORAGE_SAS_TOKEN or, with AZURE_USE_AZURE_CLI=true, az login)",
    ),
}
"""Scheme of an address → its storage."""
