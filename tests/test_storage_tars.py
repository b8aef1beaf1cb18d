"""Tars of which few are open at a time, and what the kernel's refusals mean."""

import errno
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fastseg import storage
from fastseg.data.loader import open_files
from fastseg.data.reader import Files, Reader
from fastseg.errors import UserError
from fastseg.shards.manifest import read_manifest
from fastseg.storage import range_reader

READ_ALL = """
import pickle, resource, sys
from concurrent.futures import ThreadPoolExecutor
from random import Random
from fastseg.data.reader import Reader
files = pickle.load(sys.stdin.buffer)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
reader = Reader(files)
indexes = list(range(len(reader))) * 3
Random(0).shuffle(indexes)
with ThreadPoolExecutor(8) as pool:
    images = (lambda index: bytes(reader.read_first_valid(index, lambda _, record: record).image))
    records = list(pool.map(images, indexes))
assert all(record == bytes(reader.read(index % 4).image) for record, index in zip(records, indexes))
print(len(records), len(reader.skipped))
"""


@pytest.fixture
def files(shards: Path) -> Files:
    return open_files(shards, read_manifest(shards), "train", max_corrupt=5)


def test_more_tars_than_may_be_open(files: Files, tmp_path: Path) -> None:
    """By several threads, of which one may close what another is reading from."""
    linked = [tmp_path / f"{i}.tar" for i in range(400)]
    for link in linked:
        link.symlink_to(files.tars[0])
    many = {
        "samples": files.samples[:1] * 400,
        "indexes": files.indexes[:1] * 400,
        "index_sha256": files.index_sha256[:1] * 400,
    }
    document = pickle.dumps(replace(files, tars=tuple(map(str, linked)), **many))
    result = subprocess.run([sys.executable, "-c", READ_ALL], input=document, capture_output=True, timeout=100)
    assert result.stdout == b"4800 0\n", result.stderr.decode()


def opened() -> int:
    """Tars that this process has open."""
    return sum(path.resolve().suffix == ".tar" for path in Path("/proc/self/fd").iterdir())


def test_a_tar_is_closed_when_nobody_reads_it(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "OPEN", 2)
    before, of = opened(), range_reader()
    read = of(files.tars[0])
    for name in ("a.tar", "b.tar", "c.tar"):
        (tmp_path / name).write_bytes(name.encode())
        assert of(str(tmp_path / name))(0, 9) == name.encode()
    assert read(0, 9) == Path(files.tars[0]).read_bytes()[:9]
    assert opened() == before + 3
    del read, of
    assert opened() == before


def refusing(error: int) -> Callable[..., bytes]:
    def refuse(*_: object) -> bytes:
        raise OSError(error, os.strerror(error))

    return refuse


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ("open", errno.EMFILE, r"cannot be read \(Too many open files\); raise this process's limit .*ulimit"),
        ("open", errno.ENFILE, r"cannot be read \(Too many open files in system\); raise the machine's limit"),
        ("open", errno.EACCES, r"cannot be read \(Permission denied\); fix that, then run the same command again"),
        ("pread", errno.ENOMEM, r"cannot be read \(Cannot allocate memory\); leave the machine more memory"),
        ("pread", errno.ESTALE, r"cannot be read \(Stale file handle\); fix that, then run the same command again"),
    ],
)
def test_what_says_nothing_of_a_record(
    files: Files, monkeypatch: pytest.MonkeyPatch, call: str, error: int, says: str
) -> None:
    """Is no damaged record, of which five may be skipped here."""
    reader = Reader(files)
    monkeypatch.setattr(storage.os, call, refusing(error))
    with pytest.raises(UserError, match=says):
        reader.read_first_valid(0, lambda _, record: record)
    assert not reader.skipped


def test_a_bad_sector_is_a_damaged_record(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(files)
    real = os.pread
    broken = [refusing(errno.EIO)]
    monkeypatch.setattr(storage.os, "pread", lambda *where: broken.pop()() if broken else real(*where))
    reader.read_first_valid(0, lambda index, _: index)
    assert list(reader.skipped) == [0]
    assert "cannot be read (Input/output error)" in reader.skipped[0]
