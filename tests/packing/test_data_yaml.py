"""Classes of PNG masks by Ultralytics' data.yaml: names in order, one name, label_mapping, and contradictions."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.errors import UserError
from fastseg.labels import IGNORE
from fastseg.packing.guess_classes import write_guess
from fastseg.packing.pack import pack
from fastseg.packing.sources import open_source
from layouts import noise

SIZE = (24, 16)
SPLITS = "train: images/train\nval: images/val\n"


def write(folder: Path, text: str, values: Sequence[int] = (0, 1, 2, 255), masks: str = "masks") -> Path:
    """Write two pairs in train and one in val; each mask has every value in a block of columns."""
    for split, stem in (("train", "a"), ("train", "b"), ("val", "c")):
        truth = np.repeat(np.array(values, np.uint8)[None], SIZE[1], 0).repeat(SIZE[0] // len(values), 1)
        for kind, picture in (("images", noise(1, truth.shape[::-1])), (masks, Image.fromarray(truth))):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
            picture.save(folder / kind / split / f"{stem}.png")
    (folder / "data.yaml").write_text(text)
    return folder


def table_of(folder: Path) -> tuple[list[str], dict[int, int]]:
    table = open_source(folder).table
    return [entry.name for entry in table.classes], table.train_ids


@pytest.mark.parametrize("names", ["[sky, no, 7]", "{2: 7, 0: sky, 1: no}", "\n  0: sky\n  1: no\n  2: 7"])
@pytest.mark.parametrize("masks", ["masks", "sem", "labels/png"])
def test_names_count_the_values_from_0(names: str, masks: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", f"{SPLITS}masks_dir: {masks}\nnc: 3\nnames: {names}\n", masks=masks)
    assert open_source(folder).summary() == "YOLO semantic segmentation: 2 train, 1 val"
    assert table_of(folder) == (["sky", "no", "7"], {0: 0, 1: 1, 2: 2, 255: IGNORE})
    manifest = pack(open_source(folder), tmp_path / "shards", workers=1)
    assert [entry.name for entry in manifest.classes] == ["sky", "no", "7"]
    assert set(manifest.splits["train"].pixels) == {2 * SIZE[1] * 6}


def test_the_folder_masks_needs_no_name_unless_text_files_have_the_shapes(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", f"{SPLITS}names: [a, b, c]\n")
    assert table_of(folder)[0] == ["a", "b", "c"]
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match=r"classes\.json does not exist"):
        open_source(folder)


def test_other_layouts_take_the_names_too(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", f"{SPLITS}names: [a, b, c]\n")
    for split in ("train", "val"):
        for path in (folder / "masks" / split).iterdir():
            path.rename(folder / "images" / split / f"{path.stem}_mask.png")
    assert open_source(folder).layout == "images and masks by their names"
    assert table_of(folder) == (["a", "b", "c"], {0: 0, 1: 1, 2: 2, 255: IGNORE})


def test_splits_are_those_of_the_yaml(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train: [images/val]\nval: mine.txt\ntest: images/test\nnames: [a, b, c]\n")
    (folder / "mine.txt").write_text("./images/train/a.png\n")
    found = open_source(folder)
    assert [(sample.split, sample.name) for sample in found.samples] == [
        ("train", "images/val/c.png"),
        ("val", "images/train/a.png"),
    ]
    assert [name for name, _ in found.skipped] == ["'images/test' (test)", "masks/train/b.png", "images/train/b.png"]


def test_one_name_is_that_of_value_1(tmp_path: Path) -> None:
    assert table_of(write(tmp_path, f"{SPLITS}names: [crack]\n", (0, 1))) == (
        ["background", "crack"],
        {0: 0, 1: 1, 255: IGNORE},
    )


def test_a_label_mapping_comes_before_the_names(tmp_path: Path) -> None:
    mapping = "\n  -1: ignore_label\n  0: ignore_label\n  7: 0\n  8: 1\n  1:\n"
    folder = write(tmp_path / "set", f"{SPLITS}names: [road, curb]\nlabel_mapping:{mapping}", (0, 1, 7, 8))
    assert table_of(folder) == (["road", "curb"], {0: IGNORE, 1: IGNORE, 7: 0, 8: 1, 255: IGNORE})
    manifest = pack(open_source(folder), tmp_path / "shards", workers=1)
    assert len({*manifest.splits["val"].pixels[:2], manifest.splits["val"].pixels[2] // 2}) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("names: [a, b]", r"the mask \S+a\.png has 96 pixels of value 2, which is no label of set; mend the mask or"),
        ("nc: 4\nnames: [a, b, c]", r"data\.yaml says nc: '4', but names 3 classes; mend whichever is wrong"),
        ("names: [a, b, a]", r"data\.yaml names 'a' twice; every class needs a name of its own"),
        ("names: {0: a, 2: b}", r"data\.yaml has the names .*write a list of them, or numbers from 0 with a name each"),
        ("names: [a, b, c]\nlabel_mapping: {2: 3}", r"maps the value 2 to the class 3, but names 3 classes; name it"),
        ("names: [a, b, c]\nlabel_mapping: {2: sky}", r"has the label_mapping \{'2': 'sky'\}; write a value of the"),
        ("names: [a, b, c]\nlabel_mapping: [2]", r"has the label_mapping \['2'\]; write a value of the masks"),
        ("names: [a, b, c]\nmasks_dir: sem", r"none has a mask in the folder sem beside images; name the folder in"),
        ("names: [a, b, c]\nmasks_dir: ../../masks", r"none has a mask in the folder \.\./\.\./masks beside images"),
    ],
)
def test_contradictions_are_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", f"{SPLITS}{text}\n")
    with pytest.raises(UserError) as caught:
        pack(open_source(folder), tmp_path / "shards", workers=1)
    assert re.search(says, " ".join((str(caught.value), *caught.value.details)))


def test_white_objects_are_not_ignored_in_silence(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", f"{SPLITS}names: [crack]\n", (0, 255))
    with pytest.raises(UserError, match=r"3 masks hold 255, which is ignored, .* and no mask shows another class: it"):
        pack(open_source(folder), tmp_path / "shards", workers=1)


def test_known_names_are_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is YOLO semantic segmentation, whose classes are known"):
        write_guess(write(tmp_path, f"{SPLITS}names: [a, b, c]\n"), workers=1)
