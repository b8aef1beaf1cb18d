"""The page before packing: counts against the files themselves, and what it names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.inspection.preview import SHOWN, preview, write_preview
from fastseg.packing.pack import pack
from fastseg.packing.reading import ReadOptions
from fastseg.packing.sources import open_source
from fastseg.shards.manifest import Manifest
from layouts import LAYOUTS, write_folder_dataset
from shape_layouts import SHAPE_WRITERS


def counts(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    return {name: split.pixels for name, split in manifest.splits.items()}


def test_it_counts_what_packing_would(tmp_path: Path) -> None:
    source = open_source(write_folder_dataset(tmp_path / "set", train=9, val=4))
    found, packed = preview(source, ReadOptions(), workers=2), pack(source, tmp_path / "shards", workers=1)
    assert counts(found.manifest) == counts(packed)
    assert len(found.pictures) == 10  # six of train, all of val
    assert len(found.pictures) <= SHOWN
    assert found.problems == found.warnings == ()


@pytest.mark.parametrize("name", list(SHAPE_WRITERS))
def test_it_counts_what_packing_would_draw(name: str, tmp_path: Path) -> None:
    source = open_source(SHAPE_WRITERS[name](tmp_path / "set"))
    found, packed = preview(source, ReadOptions(), workers=1), pack(source, tmp_path / "shards", workers=1)
    assert counts(found.manifest) == counts(packed)
    assert len(found.pictures) == len(source.samples)


def test_it_names_what_is_left_out(tmp_path: Path) -> None:
    source = open_source(LAYOUTS["voc"].write(tmp_path))
    (warning,) = (text for text in preview(source, ReadOptions(), workers=1).warnings if "left out" in text)
    assert warning.startswith("1 file is left out: no list in ImageSets/Segmentation names it (such as JPEGImages/")


def test_the_page_names_what_stands_out(tmp_path: Path) -> None:
    folder = write_folder_dataset(tmp_path / "<b>set", train=3, val=2)
    for path in (folder / "val" / "masks").iterdir():
        Image.fromarray(np.zeros((32, 64), np.uint8)).save(path)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "train" / "masks" / "train_000.png")
    source = open_source(folder)
    found = preview(source, ReadOptions(), workers=1)
    assert [problem.sample.key for problem in found.problems] == ["train_000"]
    assert found.warnings == ("'box', 'dot' never occur in val",)
    write_preview(tmp_path / "page.html", found, source.summary(), folder)
    page = (tmp_path / "page.html").read_text()
    assert "&#39;box&#39;, &#39;dot&#39; never occur in val" in page
    assert "&lt;b&gt;set" in page
    assert "<b>set" not in page
