"""Verification finds every kind of damage, and names the shard and the record."""

import io
import json
import re
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.errors import UserError
from fastseg.files import sha256
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.sources import open_source
from fastseg.shards.manifest import Manifest, read_manifest
from fastseg.shards.tar import read_index, write_shard
from fastseg.shards.verify import check_files, verify
from layouts import write_folder_dataset

Members = dict[str, bytes]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    source = open_source(write_folder_dataset(tmp_path / "data", train=5, val=2))
    pack(source, tmp_path / "out", PackOptions(samples_per_shard=3), workers=1)
    return tmp_path / "out"


def test_a_whole_set_is_whole(whole: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert verify(whole, workers=2, progress=lambda done, total: seen.append((done, total))) == []
    assert seen == [(0, 7), (3, 7), (5, 7), (7, 7)]


def test_an_unfinished_set_is_refused(whole: Path) -> None:
    (whole / "manifest.json").unlink()
    with pytest.raises(UserError, match="holds no finished set of shards"):
        verify(whole, workers=1)


def test_a_flipped_bit_is_found(whole: Path) -> None:
    entry = read_index((whole / "train-000001.idx").read_text())[0]
    jpg = next(part for part in entry.components if part.extension == "jpg")
    data = bytearray((whole / "train-000001.tar").read_bytes())
    data[jpg.offset + jpg.size // 2] ^= 1
    (whole / "train-000001.tar").write_bytes(data)
    assert verify(whole, workers=1) == [
        "train-000001.tar is changed: its SHA-256 is not the manifest's",
        f"train-000001.tar, record {entry.key} at byte {jpg.offset}: its image is not as it was packed (CRC-32)",
    ]


def test_a_cut_tar_is_found(whole: Path) -> None:
    data = (whole / "val-000000.tar").read_bytes()
    entries = read_index((whole / "val-000000.idx").read_text())
    within, between = entries[1].components[0].offset + 10, entries[1].components[0].offset - 512
    for cut, sentence in ((within, "val-000000.tar is not a whole tar"), (between, "val-000000.tar holds 1 records")):
        (whole / "val-000000.tar").write_bytes(data[:cut])
        damages = verify(whole, workers=1)
        assert damages[0] == f"val-000000.tar has {cut} bytes, the manifest says {len(data)}"
        assert any(damage.startswith(sentence) for damage in damages)


def test_missing_and_changed_files_are_found(whole: Path) -> None:
    (whole / "val-000000.tar").unlink()
    (whole / "train-000000.idx").write_text("v1.2 0\n")
    (whole / "train-000001.idx").unlink()
    damages = verify(whole, workers=1)
    assert damages[:3] == [
        "train-000000.idx is changed: its SHA-256 is not the manifest's",
        "train-000001.idx is missing",
        "val-000000.tar is missing",
    ]


def _png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def _rewrite(folder: Path, change: Callable[[list[tuple[str, Members]]], None]) -> Manifest:
    """Change the records of val's shard; the manifest's sums are made to fit, as a faulty packer would."""
    manifest = read_manifest(folder)
    data = (folder / "val-000000.tar").read_bytes()
    records = [
        (entry.key, {part.extension: data[part.offset : part.offset + part.size] for part in entry.components})
        for entry in read_index((folder / "val-000000.idx").read_text())
    ]
    change(records)
    shard = write_shard(folder / "val-000000.tar", records)
    split = manifest.splits["val"]
    split = replace(split, shards=(shard,), sizes=((32, 64, len(records)),))
    replace(manifest, splits=manifest.splits | {"val": split}).write(folder)
    return manifest


def _value(records: list[tuple[str, Members]]) -> None:
    records[1][1]["mask.tif"] = _png(np.full((32, 64), 77, np.uint8))


def _mask_size(records: list[tuple[str, Members]]) -> None:
    records[1][1]["mask.tif"] = _png(np.zeros((32, 63), np.uint8))


def _no_mask(records: list[tuple[str, Members]]) -> None:
    del records[1][1]["mask.tif"]


def _no_jpeg(records: list[tuple[str, Members]]) -> None:
    records[1][1]["jpg"] = records[1][1]["jpg"][:200]


def _progressive(records: list[tuple[str, Members]]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32)).save(buffer, "JPEG", progressive=True)
    records[1][1]["jpg"] = buffer.getvalue()


def _other_json(records: list[tuple[str, Members]]) -> None:
    records[1][1]["json"] = json.dumps({"key": "val_000", "size": [32, 64]}).encode()


def _deep_json(records: list[tuple[str, Members]]) -> None:
    records[1][1]["json"] = b"[" * 100_000


def _long_json(records: list[tuple[str, Members]]) -> None:
    records[1][1]["json"] = json.dumps({"key": "a" * (1 << 20), "size": [32] * 10**5}).encode()


def _many_files(records: list[tuple[str, Members]]) -> None:
    records[1][1].update({f"x{number:04}": b"" for number in range(2000)})


def _broken_json(records: list[tuple[str, Members]]) -> None:
    records[1][1]["json"] = b"{"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_value, "its mask has the value 77, beyond 3 classes and 255"),
        (_mask_size, "its mask has 63×32 pixels, its image 64×32"),
        (_no_mask, "it holds jpg, json instead of jpg, json, mask.tif"),
        (_no_jpeg, "its image is damaged"),
        (_progressive, "its image is no baseline JPEG of 8-bit RGB"),
        (_other_json, "its JSON describes 'val_000' of size [32, 64], not 'val_001' of (32, 64)"),
        (_broken_json, "its JSON is damaged"),
        (_deep_json, "its JSON is damaged"),
        (_long_json, "its JSON describes 'aaa"),
        (_many_files, "it holds jpg, json, mask.tif, x0000, x0001, x0002 and 1997 more instead of jpg, json, mask.tif"),
    ],
)
def test_wrong_records_are_named(whole: Path, change: Callable, sentence: str) -> None:
    _rewrite(whole, change)
    (damage,) = verify(whole, workers=1)
    assert re.match(rf"val-000000\.tar, record val_001 at byte \d+: {re.escape(sentence)}", damage)
    assert len(damage) < 300


def test_records_that_occur_twice_are_found(whole: Path) -> None:
    _rewrite(whole, lambda records: records.append(records[0]))
    assert "val: the record val_000 occurs 2 times" in verify(whole, workers=1)


def test_an_index_of_another_tar_is_found(whole: Path) -> None:
    manifest = read_manifest(whole)
    split = manifest.splits["val"]
    (whole / "val-000000.idx").write_text((whole / "train-000000.idx").read_text())
    changed = replace(split.shards[0], index_sha256=manifest.splits["train"].shards[0].index_sha256)
    replace(manifest, splits=manifest.splits | {"val": replace(split, shards=(changed,))}).write(whole)
    assert verify(whole, workers=1) == ["val-000000.idx is not the index of val-000000.tar"]


def _fit(folder: Path) -> None:
    """Let the manifest's sums of val's shard be those of its files, as whoever means harm would."""
    manifest = read_manifest(folder)
    split = manifest.splits["val"]
    tar, index = (folder / f"val-000000.{kind}" for kind in ("tar", "idx"))
    sums = {"bytes": tar.stat().st_size, "sha256": sha256(tar), "index_sha256": sha256(index)}
    split = replace(split, shards=(replace(split.shards[0], **sums),))
    replace(manifest, splits=manifest.splits | {"val": split}).write(folder)


@pytest.mark.parametrize("value", ["pax-sparse-map", "pax-size-back", "name-not-utf-8"])
def test_hostile_headers_are_found(whole: Path, value: str) -> None:
    cases = Path(__file__).parents[1] / "faults/cases/tar"
    (whole / "val-000000.tar").write_bytes((cases / value).read_bytes().ljust(4096, b"\0"))
    _fit(whole)
    (damage,) = verify(whole, workers=1)
    assert damage.startswith("val-000000.tar is not a whole tar: it holds ")
    assert check_files(whole, read_manifest(whole).splits["val"].shards, 1) == []  # it is what the manifest says


def test_an_index_that_is_no_text_is_found(whole: Path) -> None:
    index = (whole / "val-000000.idx").read_bytes()
    (whole / "val-000000.idx").write_bytes(index.replace(b"val_000", b"val\xff000"))
    _fit(whole)
    with (whole / "val-000000.tar").open("ab") as tar:
        tar.write(bytes(512))  # only then the index is asked where the damage is
    size = (whole / "val-000000.tar").stat().st_size
    says = f"val-000000.tar has {size} bytes, the manifest says {size - 512}"
    assert verify(whole, workers=1) == [says, "val-000000.idx is not the index of val-000000.tar"]
    assert check_files(whole, read_manifest(whole).splits["val"].shards, 1) == [says]


def test_what_follows_is_read_in_pieces(whole: Path) -> None:
    with (whole / "val-000000.tar").open("r+b") as tar:
        tar.truncate(1 << 29)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (says,) = check_files(whole, read_manifest(whole).splits["val"].shards, 1)
    assert says.startswith(f"val-000000.tar has {1 << 29} bytes")
    with (whole / "val-000000.tar").open("r+b") as tar:
        tar.seek(-1, 2)
        tar.write(b"x")
    (says,) = check_files(whole, read_manifest(whole).splits["val"].shards, 1)
    assert says.endswith("what follows the last record is not empty")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 100


def test_wrong_counts_are_found(whole: Path) -> None:
    manifest = read_manifest(whole)
    split = manifest.splits["train"]
    pixels = (split.pixels[0] + 1, *split.pixels[1:])
    changed = replace(split, pixels=pixels, sizes=((32, 65, 5),))
    replace(manifest, splits=manifest.splits | {"train": changed}).write(whole)
    damages = verify(whole, workers=1)
    assert damages[0].startswith("train: the sizes of the images are {(32, 64): 5}, the manifest says ((32, 65, 5),)")
    assert damages[1].startswith("train: the pixels of the classes are")
    assert len(damages) == 2
