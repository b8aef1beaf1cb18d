"""Lists of class names beside masks: CVAT's labelmap.txt, labelme2voc's class_names.txt, class_dict.csv."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.errors import UserError
from fastseg.labels import IGNORE
from fastseg.packing.classes_json import read_classes
from fastseg.packing.guess_classes import write_guess
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.records import Codec
from fastseg.packing.sources import open_source
from layouts import labels, noise
from records import read_records

NAMES = ["background", "car", "person on foot"]
COLORS = np.array([[0, 0, 0], [250, 50, 83], [51, 221, 255]], np.uint8)
LABELMAP = (
    "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:250,50,83::\nperson on foot:51,221,255:head,hand:run\n"
)
CLASS_DICT = "name, r, g, b\nbackground,0,0,0\ncar, 250, 50, 83\nperson on foot,51,221,255\n"
PIXEL_VALUES = "Pixel Value, Class\n0, background\n1, car\n2, person on foot\n"
SIZE = (48, 32)


def as_values(truth: Image.Image) -> Image.Image:
    return truth


def as_palette(truth: Image.Image) -> Image.Image:
    mask = truth.copy()
    mask.putpalette(COLORS.reshape(-1).tolist())
    return mask


def as_colors(truth: Image.Image) -> Image.Image:
    return Image.fromarray(COLORS[np.asarray(truth)])


KINDS = {"values": as_values, "palette": as_palette, "colors": as_colors}


def write(folder: Path, file: str, text: str, kind: str) -> Path:
    """A set in VOC's layout as tools export it; its third image shows nothing but background."""
    for number in range(4):
        truth = labels(number, SIZE, (0, 1, 2)) if number != 2 else Image.new("L", SIZE)
        for part, picture in (("JPEGImages", noise(number, SIZE)), ("SegmentationClass", KINDS[kind](truth))):
            (folder / part).mkdir(parents=True, exist_ok=True)
            picture.save(folder / part / f"2011_00000{number}.png")  # the names of VOC's own images
    (folder / file).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        ("labelmap.txt", LABELMAP, "values"),
        ("labelmap.txt", LABELMAP, "palette"),
        ("labelmap.txt", LABELMAP, "colors"),
        ("class_names.txt", "_background_\ncar\nperson on foot", "values"),
        ("class_names.txt", "_background_\ncar\nperson on foot", "palette"),
        ("_classes.csv", PIXEL_VALUES, "values"),
        ("class_dict.csv", CLASS_DICT, "palette"),
        ("class_dict.csv", CLASS_DICT, "colors"),
    ],
)
def test_a_list_defines_the_classes_of_masks_of(file: str, text: str, kind: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "export", file, text, kind)
    source = open_source(folder)
    assert [entry.name for entry in source.table.classes] == NAMES
    pack(source, tmp_path / "shards", PackOptions(codec=Codec(mask="png")), workers=1)
    records = read_records(tmp_path / "shards")
    assert len(records) == 4
    for number in range(4):
        truth = labels(number, SIZE, (0, 1, 2)) if number != 2 else Image.new("L", SIZE)
        assert (records["train", f"JPEGImages/2011_00000{number}.png"]["mask.png"] == np.asarray(truth)).all()


def test_void_is_ignored_wherever_it_stands(tmp_path: Path) -> None:
    text = CLASS_DICT.replace("car,", "Void,")
    folder = write(tmp_path / "export", "class_dict.csv", text, "colors")
    table = open_source(folder).table
    assert [entry.name for entry in table.classes] == ["background", "person on foot"]
    assert table.colors == {(0, 0, 0): 0, (250, 50, 83): IGNORE, (51, 221, 255): 1}
    _, path = write_guess(folder, workers=1)
    assert read_classes(path).colors == table.colors
    assert json.loads(path.read_text())["ignore"] == [[250, 50, 83]]


@pytest.mark.parametrize(("file", "text"), [("labelmap.txt", LABELMAP), ("class_dict.csv", CLASS_DICT)])
def test_guessed_colors_get_the_names_of_the_list(file: str, text: str, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "export", file, text + ("dog:9,9,9::" if file == "labelmap.txt" else "dog,9,9,9"), "colors"
    )
    guess, path = write_guess(folder, workers=1)
    table = read_classes(path)
    assert {table.classes[i].name: color for color, i in table.colors.items()} == {
        **{name: tuple(color) for name, color in zip(NAMES, COLORS.tolist(), strict=True)},
        "dog": (9, 9, 9),
    }
    assert guess.pixels[9, 9, 9] == 0


def test_guessed_values_get_the_names_of_the_list(tmp_path: Path) -> None:
    folder = write(tmp_path / "export", "class_names.txt", "_background_\ncar\nperson on foot\ndog", "values")
    _, path = write_guess(folder, workers=1)
    table = read_classes(path)
    assert [entry.name for entry in table.classes] == [*NAMES, "dog"]
    assert table.train_ids == {0: 0, 1: 1, 2: 2, 3: 3, IGNORE: IGNORE}


def test_a_classes_json_takes_precedence(tmp_path: Path) -> None:
    folder = write(tmp_path / "export", "labelmap.txt", LABELMAP, "values")
    mine = {"name": "mine", "classes": [{"values": [0, 1, 2], "name": "all"}]}
    (folder / "classes.json").write_text(json.dumps(mine))
    assert open_source(folder).table.name == "mine"


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        ("labelmap.txt", "car\nperson\n", "values"),  # a list of another tool
        ("labelmap.txt", "background:0,0,0::\ncar:250,50,930::", "colors"),
        ("labelmap.txt", "", "colors"),
        ("class_names.txt", "car\nperson\n", "values"),  # does not say what 0 is
        ("class_names.txt", "_background_\ncar\nperson", "colors"),  # names without colors
        ("_classes.csv", PIXEL_VALUES, "colors"),
        ("_classes.csv", PIXEL_VALUES.replace("1,", "4,"), "values"),
        ("_classes.csv", "filename, car\na.jpg, 1", "values"),  # Roboflow's classification
        ("class_dict.csv", CLASS_DICT, "values"),  # colors do not say what a value means
        ("class_dict.csv", "id,name\n0,car", "colors"),
    ],
)
def test_a_list_that_does_not_fit_the_masks_is_not_used(file: str, text: str, kind: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "export", file, text, kind)
    for path in folder.rglob("2011_*"):
        path.rename(path.with_name(f"a{path.name}"))
    with pytest.raises(UserError, match=r"classes\.json does not exist; fastseg-pack --guess-classes makes one"):
        open_source(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LABELMAP + "car:1,2,3::", r"labelmap\.txt names 'car' twice"),
        (LABELMAP + "truck:250,50,83::", r"labelmap\.txt gives two classes one color; write classes\.json"),
    ],
)
def test_a_list_that_cannot_be_followed_is_refused(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        open_source(write(tmp_path / "export", "labelmap.txt", text, "colors"))


def test_roboflow_writes_a_list_for_each_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "_classes.csv").write_text(PIXEL_VALUES)
        for number in range(2):
            stem = tmp_path / split / f"street-{number}_jpg.rf.{split}0{number}"
            noise(number, SIZE).save(f"{stem}.jpg")
            labels(number, SIZE, (0, 1, 2)).save(f"{stem}_mask.png")
    source = open_source(tmp_path)
    assert source.summary().endswith(": 2 train, 2 val")
    assert [entry.name for entry in source.table.classes] == NAMES
