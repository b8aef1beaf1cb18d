"""Reading shards from a real object store on this machine, and what is said where that cannot be."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import pytest
import torch

from augments import augment_config
from fastseg.data.loader import EvalLoader, TrainLoader, open_files
from fastseg.errors import UserError
from fastseg.object_stores import STORAGES, Listing, RequestError, _s3_client
from fastseg.shards.manifest import read_manifest
from fastseg.storage import is_remote, join, look_up, read_bytes, read_range
from object_store import ACCOUNT, BUCKET, Server, environment

CPU = torch.device("cpu")


def test_join_knows_prefixes() -> None:
    assert join("s3://bucket/set/", "a.tar") == "s3://bucket/set/a.tar"
    assert join(Path("shards"), "a.tar") == "shards/a.tar"


def test_files_are_read_within_bounds(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123456789")
    assert read_bytes(tmp_path / "file", 9) == b"123456789"
    with pytest.raises(ValueError, match="it has more than 8 bytes"):
        read_bytes(tmp_path / "file", 8)
    os.mkfifo(tmp_path / "pipe")  # nobody is waited for
    with pytest.raises(ValueError, match="it is no plain file"):
        read_bytes(tmp_path / "pipe", 9)


@pytest.fixture
def bucket(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The packed set in an S3 server on loopback."""
    server = Server()
    for name, value in environment(server.endpoint).items():
        monkeypatch.setenv(name, value)
    yield server.upload(shards)
    server.kill()


@pytest.mark.parametrize("scheme", STORAGES)
def test_shards_are_read_from_object_storage(scheme: str, bucket: str, shards: Path) -> None:
    bucket = bucket.replace("s3", scheme)
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
            augment_config((32, 48)),
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
    time.sleep(1)  # what is still being read ahead would ask the network of another test once this server is gone


def test_what_object_storage_has_not(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"s3://bucket/other holds no finished set"):
        read_manifest("s3://bucket/other")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UserError, match=r"s3://bucket/set/manifest\.json cannot be read .*; once the storage answers"):
        read_manifest(bucket)


def test_a_bucket_is_checked_at_the_start(bucket: str) -> None:
    """By sizes alone, before anything is read: a tar that is cut, one of another size, one that is missing."""
    manifest, storage = read_manifest(bucket), boto3.client("s3")
    for split, number in (("train", 1), ("val", 0)):
        shard = manifest.split(split).shards[number]
        where = {"Bucket": BUCKET, "Key": f"set/{shard.file}"}
        whole = storage.get_object(**where)["Body"].read()
        for wrong in (whole[:-512], whole + bytes(1)):
            storage.put_object(**where, Body=wrong)
            sentence = rf"^{bucket}/{shard.file} has {len(wrong)} bytes, the manifest says {shard.bytes}; copy"
            with pytest.raises(UserError, match=sentence):
                open_files(bucket, manifest, split)
        storage.delete_object(**where)
        with pytest.raises(UserError, match=rf"^{bucket}/{shard.file} is missing, though the manifest names it; copy"):
            open_files(bucket, manifest, split)
        storage.put_object(**where, Body=whole)
        assert len(open_files(bucket, manifest, split).tars) == len(manifest.split(split).shards)


def test_what_waiting_does_not_cure(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket, an endpoint or credentials that are wrong stay wrong: the sentence says what to look at."""

    def refused(path: str, why: str) -> None:
        _s3_client.cache_clear()
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # which remembers credentials
        with pytest.raises(UserError, match=rf"^{path} cannot be read \(.*{why}.*\); check the .*AWS_ENDPOINT_URL\)$"):
            read_bytes(path, 9)

    manifest = f"{bucket}/manifest.json"
    refused("s3://no-such-bucket/manifest.json", "NoSuchBucket")
    refused("s3://Not a bucket/manifest.json", "Invalid bucket name")
    switch = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    urlopen(Request(switch, data=b"0", headers={"Content-Type": "text/plain"})).close()  # keys are checked from now on
    refused(manifest, "InvalidAccessKeyId")
    with pytest.raises(UserError, match=r"cannot be read \(.*403.*Forbidden.*\); check the .*"):
        look_up(manifest)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    refused(manifest, "Unable to locate credentials")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no address")
    refused(manifest, "Invalid endpoint: no address")
    _s3_client.cache_clear()


@pytest.mark.usefixtures("bucket")
def test_what_waiting_does_not_cure_in_other_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    for where, key in ((BUCKET, "private"), (ACCOUNT, f"{BUCKET}/private")):
        boto3.client("s3").put_object(Bucket=where, Key=key, Body=b"x")

    def refused(path: str, why: str) -> None:
        hint = {"gs": "GOOGLE_APPLICATION_CREDENTIALS", "az": "AZURE_STORAGE_ACCOUNT_NAME"}[path[:2]]
        with pytest.raises(UserError, match=rf"^{path} cannot be read \(.*{why}.*\); check the .*{hint}"):
            read_bytes(path, 9)

    refused("gs://no-such-bucket/it", "NoSuchBucket")
    refused("gs://bucket/private", "403 Forbidden")
    refused("az://bucket/private", "403 Forbidden")
    monkeypatch.setenv("GOOGLE_BASE_URL", "no address")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "no address")
    refused("gs://bucket/it", "no address")
    refused("az://bucket/it", "no address")


class Memory:
    """A storage of one object."""

    hint = "check the memory"

    def __init__(self) -> None:
        self.fails = 0

    def look_up(self, path: str) -> Listing:
        if path != "memory://it":
            raise FileNotFoundError(path)
        return Listing(3, "tag")

    def read(self, path: str, offset: int, size: int, etag: str | None) -> bytes:
        assert etag in (None, self.look_up(path).etag)
        if self.fails:
            self.fails -= 1
            raise RequestError("forgotten", passes=True)
        return b"abc"[offset : offset + size]


def test_a_storage_is_an_entry_in_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_remote("memory://it")
    monkeypatch.setitem(STORAGES, "memory", memory := Memory())
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert is_remote("memory://it")
    assert (look_up("memory://it").size, read_bytes("memory://it", 3), read_range("memory://it", 1, 9)) == (
        3,
        b"abc",
        b"bc",
    )
    with pytest.raises(FileNotFoundError):
        look_up("memory://other")
    memory.fails = 7
    assert read_bytes("memory://it", 3) == b"abc"
    memory.fails = 8
    with pytest.raises(UserError, match=r"^memory://it cannot be read after 8 tries \(forgotten\); once the storage"):
        read_bytes("memory://it", 3)
