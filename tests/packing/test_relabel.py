"""Relabeled sets against what packing with the merged classes would have given; images byte for byte."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.errors import UserError
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.relabel import relabel, write_classes
from fastseg.packing.sources import open_source
from fastseg.shards.manifest import read_manifest
from fastseg.shards.verify import verify
from layouts import write_folder_dataset

MERGED = {
    "name": "merged",
    "ignore": [0],
    "classes": [{"values": [2, 1], "name": "thing", "color": [1, 2, 3]}],
}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    source = open_source(write_folder_dataset(tmp_path / "set", train=5, val=2))
    pack(source, tmp_path / "shards", PackOptions(samples_per_shard=3), workers=1)
    return tmp_path / "shards"


def classes_file(folder: Path, document: object) -> Path:
    path = folder / "classes.json"
    path.write_text(json.dumps(document))
    return path


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as archive:
            found |= {f"{tar.name}/{m.name}": archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    return found


def test_merged_masks_are_the_old_ones_mapped_and_images_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    manifest = relabel(shards, classes_file(tmp_path, MERGED), out)
    old, new = members(shards), members(out)
    assert old.keys() == new.keys()
    lookup = np.array([255, 0, 0, *[255] * 253], np.uint8)
    for name, data in old.items():
        if name.endswith(".jpg"):
            assert new[name] == data
        elif name.endswith(".mask.tif"):
            before, after = (np.asarray(Image.open(io.BytesIO(d))) for d in (data, new[name]))
            np.testing.assert_array_equal(after, lookup[before])
    assert verify(out, workers=1) == []
    was = read_manifest(shards)
    assert manifest == read_manifest(out)
    for split, pixels in ((name, entry.pixels) for name, entry in was.splits.items()):
        assert manifest.splits[split].pixels == (pixels[1] + pixels[2], pixels[0] + pixels[3])
    assert (manifest.mean, manifest.std, manifest.options) == (was.mean, was.std, was.options)
    assert relabel(shards, tmp_path / "classes.json", out) == manifest  # it is there already


def test_new_names_and_colors_change_the_manifest_alone(shards: Path, tmp_path: Path) -> None:
    before = members(shards)
    path = tmp_path / "classes.json"
    write_classes(shards, path)
    document = json.loads(path.read_text())
    document["classes"][1] |= {"name": "crate", "color": [9, 8, 7]}
    manifest = relabel(shards, classes_file(tmp_path, document))
    assert [(c.name, c.color) for c in manifest.classes][1] == ("crate", (9, 8, 7))
    assert read_manifest(shards) == manifest
    assert members(shards) == before
    assert verify(shards, workers=1) == []


def test_what_is_interrupted_goes_on(shards: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(*_: int) -> None:
        raise Stop

    path = classes_file(tmp_path, MERGED)
    with pytest.raises(Stop):
        relabel(shards, path, tmp_path / "new", stop)
    done = sorted((tmp_path / "new").glob("*.tar"))
    assert len(done) == 1
    stamp = done[0].stat().st_mtime_ns
    relabel(shards, path, tmp_path / "new")
    assert done[0].stat().st_mtime_ns == stamp
    assert verify(tmp_path / "new", workers=1) == []


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({**MERGED, "ignore": []}, r"does not name the value 0, which is 'ground' in shapes"),
        ({**MERGED, "ignore": [0, 7]}, r"names the value 7, but shapes has 3 classes"),
        (MERGED, r"merges, ignores or reorders classes, so that masks change; name a new folder: --out"),
    ],
)
def test_refusals(document: dict, says: str, shards: Path, tmp_path: Path) -> None:
    before = members(shards)
    with pytest.raises(UserError, match=says):
        relabel(shards, classes_file(tmp_path, document))
    assert members(shards) == before


def test_damaged_records_are_named(shards: Path, tmp_path: Path) -> None:
    tar = shards / "train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    with pytest.raises(UserError, match=r"train-000000\.tar: the record \S+ is damaged; check the set with --verify"):
        relabel(shards, classes_file(tmp_path, MERGED), tmp_path / "new")
