"""Every layout: recognized by its own entry and no other, wherever it lies; every sample as an independent reading."""

import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from PIL import Image

from fastseg.errors import UserError
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.presets import preset_path
from fastseg.packing.records import Codec
from fastseg.packing.sources import SOURCES, open_source
from fastseg.packing.sources.tree import Tree
from layouts import CLASSES, LAYOUTS, Layout
from records import read_records
from shape_layouts import SHAPE_WRITERS

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))


def write_zip(folder: Path, top: str = "") -> Path:
    path = folder.with_name(f"{folder.name}{len(top)}.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, Path(top) / file.relative_to(folder))
    return path


def write_tar(folder: Path, top: str = ".") -> Path:
    path = folder.with_name(f"{folder.name}{len(top)}.tar")
    with tarfile.open(path, "w") as archive:
        archive.add(folder, top)
    return path


def places(folder: Path) -> Iterator[Path]:
    """The same files in a folder, a folder inside it, linked, and archives of one or two levels."""
    yield folder
    outer = folder.parent / "outer"
    shutil.copytree(folder, outer / "my set")
    (outer / "README.md").write_text("a set")
    yield outer
    (folder.parent / "linked").mkdir()
    for path in folder.iterdir():
        (folder.parent / "linked" / path.name).symlink_to(path)
    yield folder.parent / "linked"
    yield write_zip(folder)
    yield write_zip(folder, "my set")
    yield write_tar(folder)
    yield write_tar(folder, "my set/2012")


def test_every_entry_has_a_layout() -> None:
    names = {layout.source for layout in LAYOUTS.values()}
    assert {source.name for source in SOURCES} - names == set(SHAPE_WRITERS)


@every_layout
def test_a_layout_is_recognized_by_its_own_entry_wherever_it_lies(layout: Layout, tmp_path: Path) -> None:
    folder = layout.write(tmp_path / "set")
    expected = open_source(folder)
    assert expected.layout == layout.source
    for source in SOURCES[:-1]:
        assert source.recognize(Tree(folder, source.archives)) == (source.name == layout.source)
    counts = {split: sum(of == split for of, *_ in layout.pairs) for split in ("train", "val", "test")}
    counted = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
    for place in places(folder):
        found = open_source(place)
        kind = f", {place.suffix[1:]}" if place.suffix else ""
        assert found.summary() == f"{layout.source}{kind}: {counted}"
        assert found.table == expected.table
        for one, other in zip(found.samples, expected.samples, strict=True):
            assert (one.key, one.split, one.name) == (other.key, other.split, other.name)
            assert one.image.read() == other.image.read()
            assert (one.mask and one.mask.read()) == (other.mask and other.mask.read())  # type: ignore[attr-defined]


def train_ids(layout: Layout) -> np.ndarray:
    """The train id of each value, by reading the tables' files."""
    table = np.full(256, 255)
    if layout.preset == "cityscapes":
        for label in cityscapes_labels:
            if label.id >= 0:
                table[label.id] = label.trainId
        return table
    document = json.loads(preset_path(layout.preset).read_text()) if layout.preset else CLASSES
    for index, entry in enumerate(document["classes"]):
        table[entry["value"]] = index
    return table


@every_layout
def test_every_packed_sample_is_its_files(layout: Layout, tmp_path: Path) -> None:
    folder = layout.write(tmp_path / "set")
    pack(open_source(folder), tmp_path / "shards", PackOptions(codec=Codec(image="png", mask="png")), workers=1)
    records = read_records(tmp_path / "shards")
    assert set(records) == {(split, image) for split, image, _ in layout.pairs}
    table = train_ids(layout)
    for split, image, mask in layout.pairs:
        record = records[split, image]
        assert (record["png"] == np.asarray(Image.open(folder / image).convert("RGB"))).all()
        assert ("mask.png" in record) == (mask is not None)
        if mask:
            assert (record["mask.png"] == table[np.asarray(Image.open(folder / mask).convert("L"))]).all()


def test_two_readings_are_refused_or_chosen_by_their_classes(tmp_path: Path) -> None:
    for name in ("mapillary 1.2", "mapillary 2.0"):
        LAYOUTS[name].write(tmp_path)
    with pytest.raises(UserError, match=r"can be read as Mapillary Vistas \(v1.2/labels\) and as .*v2\.0.*--classes"):
        open_source(tmp_path)
    chosen = open_source(tmp_path, Path("mapillary2"))
    assert (chosen.layout, chosen.table.name) == ("Mapillary Vistas (v2.0/labels)", "mapillary2")
