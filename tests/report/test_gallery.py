"""The worst frames as layers: what each picture shows, its size, and what comes back from the folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.errors import UserError
from fastseg.evaluation.metrics import Sample
from fastseg.labels import IGNORE, cityscapes
from fastseg.report.gallery import LAYERS, MAX_SIDE, error_picture, shown_size, worst_classes, write_gallery
from fastseg.report.pictures import IGNORED, RIGHT, WRONG
from fastseg.report.run_folder import read_run

CLASSES = cityscapes().classes
ROAD, SKY, CAR = 0, 10, 13


def sample(height: int = 8, width: int = 12, iou: float = 0.5) -> Sample:
    """Truth: road, its first column ignored, one pixel of sky; prediction: road, its last column car."""
    label, prediction = np.full((2, height, width), ROAD, np.uint8)
    label[:, 0], label[0, 1], prediction[:, -1] = IGNORE, SKY, CAR
    return Sample(iou, 0, np.full((height, width, 3), (10, 200, 30), np.uint8), label, prediction)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_each_layer_shows_what_it_says(tmp_path: Path) -> None:
    write_gallery(tmp_path / "overlays", [sample()], ["aachen_1"], CLASSES)
    (shown,) = read_run(tmp_path).gallery
    assert (shown.key, shown.iou, shown.size) == ("aachen_1", 0.5, (12, 8))
    assert list(shown.layers) == list(LAYERS)
    truth, prediction, errors = (pixels(shown.layers[name]) for name in ("truth", "prediction", "errors"))
    assert np.abs(pixels(shown.layers["image"]).astype(int) - (10, 200, 30)).max() <= 4  # a JPEG
    assert [tuple(truth[0, x].tolist()) for x in (0, 1, 2)] == [(0, 0, 0), CLASSES[SKY].color, CLASSES[ROAD].color]
    assert [tuple(prediction[0, x].tolist()) for x in (0, 1, 11)] == [CLASSES[i].color for i in (ROAD, ROAD, CAR)]
    assert [tuple(errors[0, x].tolist()) for x in (0, 1, 2, 11)] == [IGNORED, WRONG, RIGHT, WRONG]
    for name in ("truth", "prediction", "errors"):
        assert Image.open(shown.layers[name]).mode == "P"


@pytest.mark.parametrize(
    ("size", "expected"), [((2048, 1024), (1024, 512)), ((480, 360), (480, 360)), ((700, 2100), (341, 1024))]
)
def test_pictures_are_no_larger_than_a_screen(size: tuple[int, int], expected: tuple[int, int], tmp_path: Path) -> None:
    assert shown_size(*size) == expected
    write_gallery(tmp_path / "overlays", [sample(size[1], size[0])], ["a"], CLASSES)
    (shown,) = read_run(tmp_path).gallery
    assert shown.size == expected
    assert {Image.open(path).size for path in shown.layers.values()} == {expected}


def test_thin_errors_survive_the_smaller_size() -> None:
    label = np.full((2 * MAX_SIDE, 2 * MAX_SIDE), ROAD, np.uint8)
    prediction = label.copy()
    prediction[:, 1001] = SKY
    errors = np.asarray(error_picture(label, prediction, (MAX_SIDE, MAX_SIDE)).convert("RGB")).astype(int)
    reddest = np.argmax(errors[..., 0] - errors[..., 1], axis=1)
    assert set(reddest.tolist()) == {500}
    assert tuple(errors[0, 0].tolist()) == RIGHT


def test_worst_classes_are_those_of_most_wrong_pixels() -> None:
    one = sample()
    # The sky is called road, and eight pixels of the road are called car.
    road = 12 * 8 - 8 - 1
    assert worst_classes(one.label, one.prediction, CLASSES) == [
        {"class": "road", "iou": pytest.approx((road - 8) / (road + 1))},
        {"class": "car", "iou": 0.0},
        {"class": "sky", "iou": 0.0},
    ]
    assert worst_classes(one.label, one.label, CLASSES) == []
    assert worst_classes(np.full((2, 2), IGNORE, np.uint8), np.zeros((2, 2), np.uint8), CLASSES) == []


def test_an_older_gallery_is_replaced_and_an_unfinished_one_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "overlays"
    write_gallery(folder, [sample(iou=0.1), sample(iou=0.2)], ["a", "b"], CLASSES)
    assert [(shown.key, shown.iou) for shown in read_run(tmp_path).gallery] == [("a", 0.1), ("b", 0.2)]
    write_gallery(folder, [sample()], ["c"], CLASSES)
    assert [shown.key for shown in read_run(tmp_path).gallery] == ["c"]
    assert len(list(folder.iterdir())) == 5
    (folder / "gallery.json").unlink()
    assert read_run(tmp_path).gallery == []


def test_pictures_that_the_index_does_not_list_stay(tmp_path: Path) -> None:
    folder = tmp_path / "overlays"
    write_gallery(folder, [sample()], ["a"], CLASSES)
    for name in ("street.jpg", "street.png"):
        (folder / name).write_bytes(b"mine")
    write_gallery(folder, [sample()], ["b"], CLASSES)
    names = {path.name for path in folder.iterdir()}
    assert names == {"street.jpg", "street.png", "gallery.json", *(f"00_b.{ending}" for ending in LAYERS.values())}
    (folder / "gallery.json").write_text("{")
    write_gallery(folder, [sample()], ["b"], CLASSES)
    assert {path.name for path in folder.iterdir()} == names


def test_a_picture_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "overlays"
    write_gallery(folder, [sample()], ["a"], CLASSES)
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.jpg")
    (entry,) = json.loads((folder / "gallery.json").read_text())
    (folder / "gallery.json").write_text(json.dumps([{**entry, "stem": "../secret"}]))
    assert read_run(tmp_path).gallery[0].layers == {}


@pytest.mark.parametrize("text", ["{", "{}", "[3]", '[{"key": "a"}]'])
def test_a_damaged_index_is_named(text: str, tmp_path: Path) -> None:
    write_gallery(tmp_path / "overlays", [sample()], ["a"], CLASSES)
    (tmp_path / "overlays" / "gallery.json").write_text(text)
    with pytest.raises(UserError, match=r"gallery\.json"):
        read_run(tmp_path)
