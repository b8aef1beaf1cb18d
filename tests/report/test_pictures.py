"""Pictures of masks: every pixel's color, and the panel's layout."""

import subprocess
import sys

import numpy as np
import pytest

from fastseg.labels import IGNORE, SegmentationClass, cityscapes
from fastseg.report.pictures import (
    CELL,
    EMPTY,
    GAP,
    HIT,
    IGNORED,
    MATRIX_CLASSES,
    MISS,
    PAPER,
    RIGHT,
    WRONG,
    blend,
    colorize,
    error_map,
    matrix_picture,
    panel,
)

CLASSES = cityscapes().classes
ROAD, SKY = 0, 10


def test_colorize_gives_every_class_its_color_and_void_black() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = colorize(mask, CLASSES)
    assert picture.dtype == np.uint8
    assert picture.shape == (16, 16, 3)
    for i, c in enumerate(CLASSES):
        assert tuple(picture[i // 16, i % 16]) == c.color
    assert not picture.reshape(256, 3)[len(CLASSES) :].any()


def test_blend_mixes_by_alpha_and_leaves_ignored_pixels() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    mask = np.array([[ROAD, SKY, IGNORE]], np.uint8)
    picture = blend(image, mask, CLASSES, alpha=0.25)
    expected = [[round(0.75 * 100 + 0.25 * channel) for channel in CLASSES[i].color] for i in (ROAD, SKY)]
    assert picture.dtype == np.uint8
    assert picture[0].tolist() == [*expected, [100, 100, 100]]
    assert np.array_equal(blend(image, mask, CLASSES, alpha=0), image)


def test_error_map_marks_right_wrong_and_ignored() -> None:
    label = np.array([[ROAD, ROAD, IGNORE]], np.uint8)
    prediction = np.array([[ROAD, SKY, SKY]], np.uint8)
    assert [tuple(pixel) for pixel in error_map(label, prediction)[0].tolist()] == [RIGHT, WRONG, IGNORED]


@pytest.mark.parametrize(("height", "width", "max_width"), [(256, 512, 1600), (64, 96, 1600), (720, 960, 800)])
def test_panel_shows_the_four_tiles_in_order(height: int, width: int, max_width: int) -> None:
    image = np.full((height, width, 3), (10, 200, 30), np.uint8)
    label = np.full((height, width), ROAD, np.uint8)
    prediction = np.full((height, width), SKY, np.uint8)
    picture = panel(image, label, prediction, CLASSES, max_width)
    assert picture.shape[1] <= max_width
    tile = (picture.shape[1] - 3 * GAP) // 4
    assert tile == min(width, (max_width - 3 * GAP) // 4)
    row = picture[-round(height * tile / width) // 2]
    centers = [tuple(row[i * (tile + GAP) + tile // 2].tolist()) for i in range(4)]
    assert centers == [(10, 200, 30), CLASSES[ROAD].color, CLASSES[SKY].color, WRONG]
    assert len(np.unique(picture[:8].reshape(-1, 3), axis=0)) > 2  # captions are drawn


def test_matrix_picture_is_blue_where_right_and_red_where_wrong() -> None:
    three = CLASSES[:3]
    matrix = np.array([[8, 0, 0], [0, 0, 5], [0, 0, 0]])
    picture = matrix_picture(matrix, three)
    cells = picture[-3 * CELL :, -3 * CELL :]
    corners = [[tuple(cells[CELL * i + 2, CELL * j + 2].tolist()) for j in range(3)] for i in range(3)]
    assert corners == [[HIT, EMPTY, EMPTY], [EMPTY, EMPTY, MISS], [EMPTY] * 3]
    assert (picture[CELL:, : -3 * CELL] != PAPER).any()  # names
    assert (picture[:CELL] != PAPER).any()  # what rows and columns are


def test_of_many_classes_the_matrix_has_those_with_the_most_pixels() -> None:
    many = [SegmentationClass(f"class {i}", (i, i, i)) for i in range(255)]
    picture = matrix_picture(np.diag(np.arange(255)), many)
    assert (picture[-CELL + 2, -CELL + 2] == HIT).all()
    assert picture.shape[0] < (MATRIX_CLASSES + 6) * CELL


def test_overlays_need_no_torch() -> None:
    code = "import sys, fastseg.report.pictures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
