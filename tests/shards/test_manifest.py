"""The manifest: read back as written, refused where it is damaged."""

import json
import os
from pathlib import Path

import pytest

from fastseg.errors import UserError
from fastseg.shards.manifest import MAX_FILE, parse_manifest, read_manifest


def document(shards: Path) -> dict:
    return json.loads((shards / "manifest.json").read_text())


def test_reads_back_what_was_written(shards: Path, tmp_path: Path) -> None:
    manifest = read_manifest(shards)
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert (tmp_path / "manifest.json").read_bytes() == (shards / "manifest.json").read_bytes()
    assert read_manifest(tmp_path).digest() == manifest.digest()
    assert manifest.split("train").samples == 11
    assert [shard.samples for shard in manifest.split("train").shards] == [4, 4, 3]
    assert manifest.split("train").shards[0].index == "train-000000.idx"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["format"], "tar", "not a manifest"),
        (["version"], 1, "has format version 1, this fastseg reads 2; pack the set again, with --overwrite"),
        (["version"], 99, "99"),
        (["image_codec"], "exe", "exe"),
        (["mean"], [1, 2], "damaged"),
        (["classes", 0, "color"], [1], "color"),
        (["splits", "train", "shards", 0, "file"], "../evil.tar", "evil"),
        (["splits", "train", "shards", 0, "file"], "pipe:touch x", "pipe"),
        (["splits", "train", "shards", 0, "samples"], 10**12, "damaged"),
        (["splits", "train", "shards", 0, "samples"], "many", "damaged"),
        (["splits", "train", "pixels"], [1], "pixel counts"),
        (["ignore"], 0, "255"),
        (["splits"], None, "damaged"),
    ],
)
def test_refuses_damage(shards: Path, path: list, value: object, says: str) -> None:
    damaged = inner = document(shards)
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(UserError, match=says):
        parse_manifest(damaged, "manifest.json")


def test_a_folder_without_one_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fastseg-pack"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match="fastseg-pack"):
        read_manifest(tmp_path / "missing")


def test_the_sets_beside_a_missing_one_are_named(shards: Path, tmp_path: Path) -> None:
    for name in ("camvid-11", "demo"):
        read_manifest(shards).write(tmp_path / name)
    for asked in (tmp_path, tmp_path / "camvid"):
        with pytest.raises(
            UserError, match=rf"name a finished one \({tmp_path}/camvid-11, {tmp_path}/demo\), or .* --out {asked}"
        ):
            read_manifest(asked)
    for i in range(4):
        read_manifest(shards).write(tmp_path / f"e{i}")
    with pytest.raises(UserError, match=r"e1 and 2 more\), or pack"):
        read_manifest(tmp_path)


def test_unknown_splits_are_named(shards: Path) -> None:
    with pytest.raises(UserError, match=r"'dev'.*train, val"):
        read_manifest(shards).split("dev")


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"manifest\.json is damaged \(it is no plain file\)"):
        read_manifest(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"manifest\.json is damaged \(it is no plain file\)"):
        read_manifest(tmp_path)


def test_lists_of_nothing_take_little_memory(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"[" + b"[]," * (MAX_FILE // 3) + b"0]")
    with pytest.raises(UserError, match=r"manifest\.json is damaged \(it has more than 33,554,432 bytes\)"):
        read_manifest(tmp_path)
