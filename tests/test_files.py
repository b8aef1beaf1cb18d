"""Files that are whole or absent, and shards in a real object store on this machine."""

import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import torch

from fastseg.data.draws import Augmentation
from fastseg.data.loader import EvalLoader, TrainLoader, open_files
from fastseg.data.manifest import read_manifest
from fastseg.errors import UserError
from fastseg.files import atomic_path, join, read_bytes, sha256, write_atomic

CPU = torch.device("cpu")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, "old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert read_bytes(str(path)) == b"old"
    assert sha256(path) == hashlib.sha256(b"old").hexdigest()


def test_join_knows_prefixes() -> None:
    assert join("s3://bucket/set/", "a.tar") == "s3://bucket/set/a.tar"
    assert join(Path("shards"), "a.tar") == "shards/a.tar"


@pytest.fixture
def bucket(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The packed set in an S3 server on loopback: a process of its own, as in life."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(port)
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for path in shards.iterdir():
        if path.is_file():
            client.upload_file(str(path), "bucket", f"set/{path.name}")
    yield "s3://bucket/set"
    server.terminate()
    server.wait(timeout=20)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"no server on port {port}")


def test_shards_are_read_from_object_storage(bucket: str, shards: Path) -> None:
    manifest = read_manifest(bucket)
    assert manifest == read_manifest(shards)
    remote, local = (
        EvalLoader(open_files(place, manifest, "val"), manifest.split("val"), batch=2, device=CPU, threads=1)
        for place in (bucket, shards)
    )
    assert remote.sample_keys() == local.sample_keys()
    for a, b in zip(remote, local, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.label, b.label)
    first, again = (
        TrainLoader(
            open_files(place, manifest, "train"),
            manifest.split("train"),
            Augmentation((32, 48)),
            batch=2,
            device=CPU,
            threads=1,
            prefetch=1,
            seed=3,
        )
        for place in (bucket, shards)
    )
    for _ in range(first.steps_per_epoch + 1):
        assert torch.equal(first.next().image, again.next().image)


def test_what_object_storage_has_not(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"s3://bucket/other holds no finished set"):
        read_manifest("s3://bucket/other")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UserError, match=r"s3://bucket/set/manifest\.json cannot be read"):
        read_manifest(bucket)
