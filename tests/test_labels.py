"""The label tables against cityscapesscripts' own, and what a classes.json may not say."""

import json
import os
from pathlib import Path

import pytest
from cityscapesscripts.helpers.labels import id2label, trainId2label

from fastseg.errors import UserError
from fastseg.labels import IGNORE, cityscapes, class_difference, read_classes

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


def test_cityscapes_is_the_official_table() -> None:
    table = cityscapes()
    lookup = table.lookup()
    for value, label in id2label.items():
        if value >= 0:
            assert lookup[value] == (label.trainId if 0 <= label.trainId < 19 else IGNORE)
            assert value in table.train_ids
    assert [c.name for c in table.classes] == [trainId2label[i].name for i in range(19)]
    assert [c.category for c in table.classes] == [trainId2label[i].category for i in range(19)]
    assert 34 not in table.train_ids


def test_reads_classes(tmp_path: Path) -> None:
    table = read_classes(write(tmp_path, GOOD))
    assert table.train_ids == {3: 0, 0: 1, 255: IGNORE}
    assert [c.name for c in table.classes] == ["a", "b"]
    assert table.classes[1].category == "things"
    assert table.lookup().tolist()[:5] == [1, IGNORE, IGNORE, 0, IGNORE]


def changed(**fields: object) -> dict:
    return {**GOOD, "classes": [{**GOOD["classes"][0], **fields}, GOOD["classes"][1]]}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "not a readable JSON"),
        ("[" * 100_000, "not a readable JSON"),
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
        ({**GOOD, "ignore": 255}, "list of pixel values"),
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


def test_the_first_difference_of_two_tables_is_named() -> None:
    names = [c.name for c in cityscapes().classes]
    assert class_difference(names, [*names[:-1], "tram"]) == ("class 18", "'bicycle'", "'tram'")
    assert class_difference(names, names[:-1]) == ("number of classes", "19", "18")
    what, one, other = class_difference(names, list(names))
    assert one == other
    assert what == "class 18"
