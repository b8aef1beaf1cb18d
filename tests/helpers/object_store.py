"""An S3 server on loopback, a process of its own as in life, and a network in front of it that really breaks.

To read, Google's and Azure's libraries send what S3's does, GET with a range and HEAD; only paths, further headers and
signatures differ. So the server answers them, too, where no signatures are asked for. How those two sign is not tested.
Google's also writes, lists and removes as S3's does; Azure's lists and removes in ways of its own.
"""

import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import boto3
import pytest

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
SIGNATURE = (
    b"\r\nauthorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, "
    b"Signature=0"
)
"""What moto takes without a look at the number."""
BUCKET = "bucket"
ACCOUNT = "account"
"""Azure's, a bucket of which its containers are folders."""


def environment(endpoint: str) -> dict[str, str]:
    """Variables with which every scheme is read from the server, or a network before it, at ``endpoint``."""
    account = {"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": True}
    key = json.dumps({**account, "gcs_base_url": endpoint})
    google = {"GOOGLE_BASE_URL": endpoint, "GOOGLE_SKIP_SIGNATURE": "true", "GOOGLE_SERVICE_ACCOUNT_KEY": key}
    azure = {
        "AZURE_STORAGE_ENDPOINT": f"{endpoint}/{ACCOUNT}",
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_SKIP_SIGNATURE": "true",
    }
    return {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint, **google, **azure}


class Server:
    """moto's S3 server, which forgets everything when it ends."""

    def __init__(self) -> None:
        self.port = 0  # any that is free, which only who listens on it can know
        self.start()

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, or start it again where it was."""
        self._log = TemporaryFile("a+b")  # noqa: SIM115 (as long as the server lives)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        self.port = self._listens_on()
        for bucket in (BUCKET, ACCOUNT):
            self.client().create_bucket(Bucket=bucket)

    def _listens_on(self) -> int:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            self._log.seek(0)
            if found := re.search(rb"Running on http://127\.0\.0\.1:(\d+)\n", self._log.read()):
                return int(found[1])
            time.sleep(0.1)
        self._log.seek(0)
        pytest.fail(f"no S3 server: {self._log.read().decode()}")

    def client(self) -> "boto3.client":
        """For what the tests do to the storage."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )

    def put(self, key: str, body: bytes) -> None:
        """Store an object where every scheme finds it."""
        client = self.client()
        for bucket, name in ((BUCKET, key), (ACCOUNT, f"{BUCKET}/{key}")):
            client.put_object(Bucket=bucket, Key=name, Body=body, ACL="public-read")

    def upload(self, folder: Path, prefix: str = "set") -> str:
        """Copy a set as the README says; returns its address."""
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("."):
                self.put(f"{prefix}/{path.name}", path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


Fault = Callable[[str, int], str]
"""From a request ("GET /bucket/key bytes=0-9") and which try of it this is, from 1, to one of the faults below."""


def none(_request: str, _attempt: int) -> str:
    """A network without faults."""
    return "none"


class Network:
    """A TCP proxy before a server: passes requests on, counts them, and breaks what ``fault`` names.

    ``busy``: 503; ``denied``: 403; ``reset``: the connection ends without an answer; ``cut``: it is reset in the middle
    of the body; ``short``: it ends there in peace; ``slow``: the answer takes a while; ``silent``: it never comes. Of a
    request with a body, ``cut`` and ``short`` are in the middle of that.
    """

    def __init__(self, server: Server, fault: Fault = none) -> None:
        self._server, self.fault = server, fault
        self.requests: list[str] = []
        self.faults: Counter[str] = Counter()
        self._tries: Counter[str] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:  # closed
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._answer(connection)
            except OSError:  # the server is gone, or who asked: so is the connection
                _reset(connection)

    def _answer(self, connection: socket.socket) -> None:
        head, body = _receive(connection)
        if not head:
            return
        whole = head + body
        match self._choose(head):
            case "busy":
                connection.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            case "denied":
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            case "reset":
                _reset(connection)
            case "silent":
                connection.recv(1)  # until who asked gives up
            case "slow":
                time.sleep(0.5)
                connection.sendall(self._ask(whole))
            case ("cut" | "short") as how:
                if body:
                    self._ask(head + body[: len(body) // 2])
                else:
                    connection.sendall(_half(self._ask(whole)))
                if how == "cut":
                    _reset(connection)
            case _:
                connection.sendall(self._ask(whole))

    def _choose(self, head: bytes) -> str:
        line, _, rest = head.decode().partition(" HTTP/")
        extent = re.search(r"\r\nrange: *(\S+)", rest, re.IGNORECASE)
        request = f"{line} {extent[1]}" if extent else line
        self.requests.append(request)
        self._tries[request] += 1
        chosen = self.fault(request, self._tries[request])
        self.faults[chosen] += 1
        return chosen

    def _ask(self, request: bytes) -> bytes:
        """The server's whole answer; it speaks HTTP/1.0 and closes after each. Who writes has to sign, as S3 does."""
        head, _, body = request.partition(b"\r\n\r\n")
        head = re.sub(rb"(?i)\r\nauthorization: Bearer [^\r]*", b"", head)
        signed = head if re.search(rb"(?i)\r\nauthorization:", head) else head + SIGNATURE
        request = signed + b"\r\n\r\n" + body
        answer = b""
        with socket.create_connection(("127.0.0.1", self._server.port)) as server:
            server.sendall(request)
            server.shutdown(socket.SHUT_WR)
            while received := server.recv(1 << 20):
                answer += received
        return answer


def _receive(connection: socket.socket) -> tuple[bytes, bytes]:
    """A request's head and body."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        if not part:
            return b"", b""
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    if re.search(rb"\r\nexpect: *100-continue", head, re.IGNORECASE):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    parts, missing = [body], int(length[1]) - len(body) if length else 0
    while missing > 0 and (part := connection.recv(1 << 20)):
        parts.append(part)
        missing -= len(part)
    return head + b"\r\n\r\n", b"".join(parts)


def _half(answer: bytes) -> bytes:
    head, separator, body = answer.partition(b"\r\n\r\n")
    return head + separator + body[: len(body) // 2]


def _reset(connection: socket.socket) -> None:
    # With no time to linger the kernel sends RST instead of FIN.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
