"""Every preset against its data set: counts, values, colors; cityscapesscripts' table and VOC's formula for theirs."""

import json
import re
from typing import Any

import pytest
from cityscapesscripts.helpers.labels import labels as cityscapes_labels

from fastseg.errors import UserError
from fastseg.packing.presets import PRESETS, preset_path

Color = tuple[int, int, int]

NO_MASKS = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
"""Ids of COCO less 1 that no mask has: street sign, hat, shoe, eye glasses, plate, mirror, window, …"""
VALUES = {
    "ade20k": (range(1, 151), {0}),
    "bdd100k": (range(19), {255}),
    "camvid": (range(11), {11}),
    "camvid32": (range(32), set()),
    "coco-stuff": ([v for v in range(182) if v not in NO_MASKS], {255}),
    "kitti": (
        [label.id for label in cityscapes_labels if 0 <= label.trainId < 255],
        {*range(7), 9, 10, 14, 15, 16, 18, 29, 30},
    ),
    "mapillary": (range(65), {65}),
    "mapillary2": (range(123), {123}),
    "voc": (range(21), {255}),
}
"""Preset → the values of its classes in order of the train ids, and those it ignores."""
COUNTS = {
    **{"ade20k": 150, "bdd100k": 19, "camvid": 11, "camvid32": 32, "coco-stuff": 171, "kitti": 19},
    **{"mapillary": 65, "mapillary2": 123, "voc": 21},
}
SHARED_COLORS = {"ade20k": 1, "mapillary2": 11}
"""Colors that several classes of the official palette share; their masks hold values."""
ANCHORS = {
    "ade20k": {1: "wall", 13: "person", 21: "car", 84: "truck", 150: "flag"},
    "camvid": {0: "sky", 3: "road", 8: "car", 10: "bicyclist"},
    "camvid32": {0: "Animal", 17: "Road", 30: "Void", 31: "Wall"},
    "coco-stuff": {0: "person", 12: "stop sign", 89: "toothbrush", 91: "banner", 148: "road", 181: "wood"},
    "mapillary": {0: "Bird", 13: "Road", 27: "Sky", 55: "Car", 64: "Ego Vehicle"},
    "mapillary2": {0: "Bird", 21: "Road", 90: "Traffic Light - General (Single)", 108: "Car", 122: "Static"},
    "voc": {0: "background", 7: "car", 15: "person", 20: "tvmonitor"},
}
"""Preset → value → name, typed by hand: a list that slipped by one fails."""

every_preset = pytest.mark.parametrize("name", PRESETS)


def read(name: str) -> dict[str, Any]:
    return json.loads(preset_path(name).read_text(encoding="utf-8"))


def mask_colors(entry: dict[str, Any]) -> list[Color]:
    return [tuple(color) for color in entry.get("colors", [entry["color"]])]


def voc_palette(value: int) -> Color:
    """Return VOC's color: bits 0, 3, 6 of the value are red's highest, 1, 4, 7 green's, 2 and 5 blue's."""
    channel = [sum(((value >> (3 * i + c)) & 1) << (7 - i) for i in range(3)) for c in range(3)]
    return channel[0], channel[1], channel[2]


def test_all_are_known_here() -> None:
    assert set(PRESETS) == VALUES.keys() == COUNTS.keys()


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'cityscape'.*camvid32, coco-stuff"):
        preset_path("cityscape")


@every_preset
def test_grammar(name: str) -> None:
    table = read(name)
    assert table.keys() - {"others"} == {"name", "source", "ignore", "classes"}
    assert table["name"] == name
    assert table.get("others", "ignore") == "ignore"
    assert re.match(r"https?://", table["source"])
    for entry in table["classes"]:
        assert {"value", "name", "color"} <= entry.keys() <= {"value", "name", "color", "colors", "category"}
        assert entry["name"].isprintable()
        assert entry["name"] == entry["name"].strip()
        assert 1 <= len(entry["name"]) <= 100
        for color in [entry["color"], *entry.get("colors", [])]:
            assert len(color) == 3
            assert all(type(c) is int and 0 <= c <= 255 for c in color)
        assert tuple(entry["color"]) in mask_colors(entry)


@every_preset
def test_a_line_is_a_class(name: str) -> None:
    lines = preset_path(name).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line.rstrip(",")) for line in lines[1:-1]] == read(name)["classes"]


@every_preset
def test_counts_names_and_values(name: str) -> None:
    table = read(name)
    classes, (values, ignored) = table["classes"], VALUES[name]
    assert len(classes) == COUNTS[name] == len({entry["name"] for entry in classes})
    assert [entry["value"] for entry in classes] == list(values)
    assert [v for v in table["ignore"] if isinstance(v, int)] == sorted(ignored)


@every_preset
def test_colors_say_which_class(name: str) -> None:
    table = read(name)
    colors = [color for entry in table["classes"] for color in mask_colors(entry)]
    assert len({color for color in colors if colors.count(color) > 1}) == SHARED_COLORS.get(name, 0)
    ignored = [tuple(color) for color in table["ignore"] if isinstance(color, list)]
    assert len(set(ignored)) == len(ignored)
    assert not set(ignored) & set(colors)


@pytest.mark.parametrize("name", ANCHORS)
def test_classes_known_by_heart(name: str) -> None:
    names = {entry["value"]: entry["name"] for entry in read(name)["classes"]}
    assert {value: names[value] for value in ANCHORS[name]} == ANCHORS[name]


def test_voc_has_its_own_palette() -> None:
    table = read("voc")
    assert [tuple(entry["color"]) for entry in table["classes"]] == [voc_palette(i) for i in range(21)]
    assert tuple(table["ignore"][1]) == voc_palette(255) == (224, 224, 192)


def test_coco_stuff_is_shown_in_vocs_palette() -> None:
    for entry in read("coco-stuff")["classes"]:
        assert tuple(entry["color"]) == voc_palette(entry["value"] + 1)


@pytest.mark.parametrize(("name", "value"), [("kitti", "id"), ("bdd100k", "trainId")])
def test_cityscapes_relatives_have_its_table(name: str, value: str) -> None:
    trained = sorted(
        (label for label in cityscapes_labels if 0 <= label.trainId < 255), key=lambda label: label.trainId
    )
    expected = [(getattr(label, value), label.name, label.color, label.category) for label in trained]
    classes = read(name)["classes"]
    assert [(e["value"], e["name"], tuple(e["color"]), e["category"]) for e in classes] == expected


def test_kitti_ignores_every_other_label() -> None:
    ignored = read("kitti")["ignore"]
    trained = {label.color for label in cityscapes_labels if 0 <= label.trainId < 255}
    others = [label for label in cityscapes_labels if label.trainId in (-1, 255)]
    assert {v for v in ignored if isinstance(v, int)} == {label.id for label in others if label.id >= 0}
    assert {tuple(c) for c in ignored if isinstance(c, list)} == {label.color for label in others} - trained


def test_camvid_merges_all_32_classes_but_void() -> None:
    whole = {entry["name"]: tuple(entry["color"]) for entry in read("camvid32")["classes"]}
    table = read("camvid")
    merged = [color for entry in table["classes"] for color in mask_colors(entry)]
    assert sorted(merged) == sorted(color for name, color in whole.items() if name != "Void")
    assert tuple(table["ignore"][1]) == whole["Void"]
    names = {color: name for name, color in whole.items()}
    assert [names[tuple(entry["color"])] for entry in table["classes"]] == [
        *("Sky", "Building", "Column_Pole", "Road", "Sidewalk", "Tree"),
        *("SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
    ]


def test_camvid32_counts_in_the_order_of_label_colors_txt() -> None:
    names = [entry["name"] for entry in read("camvid32")["classes"]]
    assert names == sorted(names, key=str.lower)
