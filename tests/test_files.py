"""Files that are whole or absent, and shards in a real object store on this machine."""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import pytest
import torch

from fastseg.data.draws import Augmentation
from fastseg.data.loader import EvalLoader, TrainLoader, open_files
from fastseg.data.manifest import read_manifest
from fastseg.errors import UserError
from fastseg.files import (
    _storage,
    atomic_path,
    check_writable,
    check_writable_file,
    join,
    look_up,
    read_bytes,
    sha256,
    write_atomic,
)
from object_store import BUCKET, CREDENTIALS, Server

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
    assert read_bytes(path, 9) == b"old"
    assert sha256(path) == hashlib.sha256(b"old").hexdigest()


def test_the_longest_names_are_written(tmp_path: Path) -> None:
    for name in ("a" * 251 + ".png", "ü" * 127):
        write_atomic(tmp_path / name, name)
        with atomic_path(tmp_path / name) as temporary:
            temporary.touch()
            assert re.fullmatch(r"\..+\.\d+\.tmp", temporary.name)  # by this, what a kill leaves is found
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    refused = [
        (check_writable, "file", "--out is .*/file, which is a file; name a folder"),
        (check_writable, "gone", "--out is .*/gone, which is a file; name a folder"),
        (check_writable, "file/deep/er", "--out is .*/er, but .*/file is a file; name another folder"),
        (check_writable, "/proc/x", r"--out /proc/x cannot be written: nothing can be made in /proc \(.+\); name"),
        (check_writable_file, "", "--out is .*, which is a folder; name a file"),
        (check_writable_file, "file/x.json", "--out is .*/x.json, but .*/file is a file; name another file"),
        (check_writable_file, "/proc/x/y", "--out /proc/x/y cannot be written: .* name another file"),
    ]
    for check, path, says in refused:
        with pytest.raises(UserError, match=says):
            check(tmp_path / path, "--out")
    check_writable(tmp_path, "--out")
    check_writable(tmp_path / "new" / "folder", "--out")
    check_writable_file(tmp_path / "new" / "file", "--out")
    check_writable_file(tmp_path / "file", "--out")
    check_writable_file("x.json", "--out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "gone"]


def test_join_knows_prefixes() -> None:
    assert join("s3://bucket/set/", "a.tar") == "s3://bucket/set/a.tar"
    assert join(Path("shards"), "a.tar") == "shards/a.tar"


@pytest.fixture
def bucket(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The packed set in an S3 server on loopback."""
    server = Server()
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": server.endpoint}.items():
        monkeypatch.setenv(name, value)
    yield server.upload(shards)
    server.kill()


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
        _storage.cache_clear()
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
    _storage.cache_clear()


def fill(path: Path, given: str | None) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", given)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """What writes and flushes names no file of its own."""
    (tmp_path / "a").write_text("before")
    for given, named in ((None, str(tmp_path / "a")), ("elsewhere", "elsewhere")):
        with pytest.raises(OSError, match="No space left") as full:
            fill(tmp_path / "a", given)
        assert full.value.filename == named
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "before")]
