"""``fastseg.pack`` and its companions: the sets of fastseg-pack, by arguments."""

from pathlib import Path

import pytest

import fastseg
import layouts
from fastseg.errors import UserError
from fastseg.shards.manifest import read_manifest
from mydata import write_mydata


@pytest.fixture
def mydata(tmp_path: Path) -> Path:
    return write_mydata(tmp_path / "mydata", 8)


def test_a_folder_becomes_a_set(mydata: Path, tmp_path: Path) -> None:
    packed = fastseg.pack(
        mydata, tmp_path / "shards", classes=["road", "car"], val_fraction=0.25, workers=1, quality=90
    )
    assert (packed.path, packed.splits, packed.samples) == (tmp_path / "shards", {"train": 6, "val": 2}, 8)
    assert [entry.name for entry in packed.classes] == ["road", "car"]
    manifest = read_manifest(packed.path)
    assert manifest.options["quality"] == 90
    assert fastseg.pack(mydata, packed, classes=["road", "car"], val_fraction=0.25, workers=1, quality=90) == packed


@pytest.mark.parametrize(
    "classes",
    [
        {"ground": 0, "box": [1]},
        {"classes": [{"name": "ground", "value": 0}, {"name": "box", "values": [1]}], "ignore": [255]},
    ],
)
def test_classes_are_said_in_several_ways(mydata: Path, tmp_path: Path, classes: dict) -> None:
    packed = fastseg.pack(mydata, tmp_path / "shards", classes=classes, val_fraction=0.25, workers=1)
    assert [entry.name for entry in packed.classes] == ["ground", "box"]
    assert read_manifest(packed.path).split("train").pixels[2] == 6 * 2 * 96


def test_parts_are_merged_and_verified(mydata: Path, tmp_path: Path) -> None:
    how = {"classes": ["road", "car"], "val_fraction": 0.25, "workers": 1, "samples_per_shard": 2}
    for part in ("1/2", "2/2"):
        folder = fastseg.pack_part(mydata, tmp_path / "shards", part, **how)  # type: ignore[arg-type]
        assert folder.is_dir()
    merged = fastseg.merge_parts(tmp_path / "shards")
    assert merged.splits == {"train": 6, "val": 2}
    assert fastseg.verify_shards(merged) == []
    tar = next((tmp_path / "shards").glob("train-*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1])
    assert fastseg.verify_shards(merged, workers=1)


def test_classes_are_guessed_and_changed(mydata: Path, tmp_path: Path) -> None:
    path = fastseg.guess_classes(mydata, workers=1)
    assert path == mydata / "classes.json"
    packed = fastseg.pack(mydata, tmp_path / "shards", val_fraction=0.25, workers=1)
    new = tmp_path / "new.json"
    new.write_text('{"classes": [{"name": "a", "values": [0]}, {"name": "b", "values": [1]}]}')
    assert [entry.name for entry in fastseg.relabel(packed, new).classes] == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"val_fraction": 2}, "^val_fraction is 2; it must be between 0 and 1"),
        ({"quality": 0}, "^quality is 0; it must be from 1"),
        ({"quality": "high"}, "^quality is 'high'; it must be int"),
        ({"images": "a*.jpg"}, "^images is given without masks"),
        ({"workers": 0}, "^workers is 0; it must be at least 1"),
        ({"classes": 3}, "^classes is 3; it must be a path, a preset, names"),
        ({"classes": ["road", "road"]}, "names 'road' twice"),
        ({"splits": ["dev"]}, "^splits has 'dev'; it takes train"),
        ({"qualty": 3}, "^qualty is no setting; did you mean quality?"),
        ({"out": "s3://bucket/set"}, "^out is s3://bucket/set; it must be a local folder"),
        ({"source": "nowhere"}, "^nowhere does not exist"),
    ],
)
def test_what_cannot_be_packed_is_said_in_arguments(mydata: Path, tmp_path: Path, changes: dict, says: str) -> None:
    given = {"source": mydata, "out": tmp_path / "shards", "classes": ["road", "car"], "workers": 1} | changes
    with pytest.raises(UserError, match=says) as raised:
        fastseg.pack(given.pop("source"), given.pop("out"), **given)
    assert "--" not in str(raised.value).replace("fastseg-pack --", "")


def test_what_is_odd_is_warned_of(tmp_path: Path) -> None:
    source = layouts.write_cityscapes(tmp_path / "source", 2, 0, 0, size=(96, 64))
    with pytest.warns(UserWarning, match="there is no split 'val'"):
        packed = fastseg.pack(source, tmp_path / "shards", workers=1)
    assert any("no split 'val'" in sentence for sentence in packed.warnings)
