"""classes.json: every way to say what values and colors mean, and what it may not say."""

import json
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from fastseg.errors import UserError
from fastseg.labels import IGNORE
from fastseg.packing.classes_json import _to_lab, distinct_colors, parse_classes, read_classes

GOOD = {
    "name": "two",
    "classes": [
        {"value": 3, "name": "a", "color": [1, 2, 3]},
        {"value": 0, "name": "b", "color": [4, 5, 6], "category": "things"},
    ],
    "ignore": [255],
}


def write(folder: Path, document: object) -> Path:
    path = folder / "classes.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_reads_classes(tmp_path: Path) -> None:
    table = read_classes(write(tmp_path, GOOD))
    assert table.train_ids == {3: 0, 0: 1, 255: IGNORE}
    assert [c.name for c in table.classes] == ["a", "b"]
    assert table.classes[1].category == "things"
    assert table.lookup().tolist()[:5] == [1, IGNORE, IGNORE, 0, IGNORE]
    for code in ("utf-8-sig", "utf-16"):  # as Windows writes it
        assert parse_classes(json.dumps(GOOD).encode(code), "x") == table


def changed(**fields: object) -> dict:
    return {**GOOD, "classes": [{**GOOD["classes"][0], **fields}, GOOD["classes"][1]]}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "not a readable JSON"),
        ("[" * 100_000, "not a readable JSON"),
        ('{"classes": [], "classes": []}', "has the key 'classes' twice"),
        ([], "list"),
        ({"classes": []}, "0 classes"),
        ({"classes": [{"value": 0, "name": str(i), "color": [0, 0, 0]} for i in range(300)]}, "300 classes"),
        (changed(value=256), "256"),
        (changed(value=True), "True"),
        (changed(value=0), "value 0 twice"),
        (changed(value=255), "value 255 twice"),
        (changed(name="b"), "'b' twice"),
        (changed(name="\x1b[31m"), "printable"),
        (changed(name=7), "7"),
        (changed(color=[1, 2]), r"\[1, 2\]"),
        (changed(color="red"), "red"),
        (changed(category=3), "3"),
        ({**GOOD, "ignore": 255}, "list of pixel values or colors"),
        ({**GOOD, "others": "c"}, '"others" is \'c\'; it must be "ignore" or the name of a class'),
        ({**GOOD, "clases": []}, "key 'clases', which means nothing; known are"),
        (changed(colour=[1, 2, 3]), "key 'colour'"),
        (changed(values=[7]), "give one of them"),
        (changed(colors=7), "must be a list of colors"),
        (changed(colors=[[7]]), r"color \[7\]"),
        ({"classes": [{"name": "a", "value": 0}, {"name": "b"}]}, "class 'b' no \"value\""),
        ({"classes": [{"name": "a"}]}, 'neither "value" nor "color"'),
        ({"classes": [{"name": n, "color": [1, 2, 3]} for n in "ab"]}, r"two classes the color \[1, 2, 3\]"),
        ({**GOOD, "classes": ["a"]}, "'a'"),
    ],
)
def test_refuses(document: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says) as caught:
        read_classes(write(tmp_path, document))
    assert "classes.json" in str(caught.value)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match=r"pipe\.json is not a readable JSON file: it is no plain file"):
        read_classes(tmp_path / "pipe.json")
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        read_classes(tmp_path / "none.json")


def test_values_and_colors_merge(tmp_path: Path) -> None:
    document = {
        "classes": [
            {"values": [7, 8], "name": "ground"},
            {"value": 11, "colors": [[70, 70, 70], [1, 1, 1]], "name": "house"},
        ],
        "ignore": [255, [0, 0, 0]],
        "others": "ground",
    }
    table = read_classes(write(tmp_path, document))
    assert table.train_ids == {7: 0, 8: 0, 11: 1, 255: IGNORE}
    assert table.colors == {(70, 70, 70): 1, (1, 1, 1): 1, (0, 0, 0): IGNORE}
    assert table.others == 0
    assert table.classes[1].color == (70, 70, 70)
    assert table.lookup()[[7, 9, 11, 255]].tolist() == [0, 0, 1, IGNORE]


def test_a_color_of_two_classes_tells_nothing_where_values_do(tmp_path: Path) -> None:
    document = {"classes": [{"value": i, "name": n, "color": [1, 2, 3]} for i, n in enumerate("ab")]}
    assert read_classes(write(tmp_path, document)).colors == {}


def test_colors_are_told_apart() -> None:
    """Each is far from the others, from black and from red: 20 in CIELAB is ten times what an eye notices."""
    chosen = list(islice(distinct_colors([[0, 0, 255]]), 20))
    lab = _to_lab(np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255), *chosen], np.uint8))
    distance = np.linalg.norm(lab[:, None] - lab, axis=2) + 1e3 * np.eye(len(lab))
    assert distance.min() > 20


def test_lab_is_the_published_one() -> None:
    """sRGB's red, green, blue and white in CIELAB, D65 (Lindbloom)."""
    rgb = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)], np.uint8)
    expected = [(53.24, 80.09, 67.20), (87.73, -86.18, 83.18), (32.30, 79.19, -107.86), (100, 0, 0)]
    np.testing.assert_allclose(_to_lab(rgb), expected, atol=0.1)


def test_supervisely_list_of_classes_is_read_as_it_is() -> None:
    entries = [
        {"title": "Water", "shape": "polygon", "color": "#50E3C2", "geometry_config": {}},
        {"title": "Road", "color": "#6ec1e4"},
    ]
    table = parse_classes(json.dumps({"classes": entries, "tags": []}).encode(), "classes.json")
    assert table.colors == {(80, 227, 194): 0, (110, 193, 228): 1}
    assert [entry.name for entry in table.classes] == ["Water", "Road"]
    entries[1]["color"] = [1, 2, 3]
    with pytest.raises(UserError, match="has the key 'geometry_config', which means nothing"):
        parse_classes(json.dumps({"classes": entries}).encode(), "classes.json")
