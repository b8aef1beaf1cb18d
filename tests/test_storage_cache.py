"""The cache of what object storage has sent: it makes room among its own files alone."""

import os
from pathlib import Path

import pytest

from fastseg import storage
from fastseg.storage import FOLDER, Cache


@pytest.fixture(autouse=True)
def object_of_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object of zeros without an end."""
    monkeypatch.setattr(storage, "look_up", lambda _: storage.Listing(1 << 40, "tag"))
    monkeypatch.setattr(storage, "read_range", lambda _path, _offset, size, _etag: bytes(size))


def strangers(folder: Path) -> dict[Path, bytes]:
    """Files of others, in every place where the cache could take them for its own; old, and larger than its bound."""
    names = ("db/thesis.sqlite", "ab/" + "c" * 64, "used", "part", f"{FOLDER}/db/thesis.sqlite", f"{FOLDER}/README")
    names += (f"{FOLDER}/ab/{'c' * 63}g", f"{FOLDER}/zz/{'c' * 64}", f"{FOLDER}/ab/{'c' * 64}.bak")
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 100)
        os.utime(path, (1, 1))
    (folder / FOLDER / "ab" / ("d" * 64)).mkdir()
    (folder / FOLDER / "ab" / ("e" * 64)).symlink_to(folder / "db/thesis.sqlite")
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_of_others_stay_and_do_not_count(tmp_path: Path) -> None:
    before = strangers(tmp_path)
    for _ in range(3):  # opened anew, what was kept before makes way
        cache = Cache(tmp_path, 2500)
        for offset in range(5):
            assert cache.read("s3://bucket/x", offset, 1000) == bytes(1000)
        kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == 1004]
        assert len(kept) == 2
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / FOLDER / "ab" / ("d" * 64)).is_dir()
