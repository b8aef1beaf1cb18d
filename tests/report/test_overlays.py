"""Legends and outlines: what is named, where it is drawn, and what is left as it was."""

import numpy as np
import pytest

from fastseg.labels import SegmentationClass, cityscapes
from fastseg.report import overlays
from fastseg.report.overlays import classes_by_size, draw_contours, draw_legend, draw_overlay
from fastseg.report.pictures import blend

CLASSES = cityscapes().classes


def test_classes_are_sorted_by_their_pixels() -> None:
    mask = np.array([[3, 3, 3, 0], [7, 7, 255, 200]], np.uint8)
    assert classes_by_size(mask, 19) == [3, 7, 0]
    assert classes_by_size(np.full((2, 2), 255, np.uint8), 19) == []


def swatches(picture: np.ndarray) -> list[int]:
    """The classes whose colors stand in the picture's left margin, from top to bottom."""
    found: list[int] = []
    for row in picture[:, : picture.shape[1] // 4]:
        for i, c in enumerate(CLASSES):
            if (row == c.color).all(1).sum() >= 6 and i not in found:
                found.append(i)
    return found


@pytest.mark.parametrize("size", [(256, 512), (1024, 2048), (2000, 600)])
def test_a_legend_names_the_classes_from_top_to_bottom(size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 200, np.uint8)
    draw_legend(picture, CLASSES, (11, 0, 8))
    assert swatches(picture) == [11, 0, 8]
    assert (picture[:, size[1] // 2 :] == 200).all()
    assert (picture[: size[0] // 3] == 200).all()


def test_what_has_no_room_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(overlays, "shortened", lambda text, *_: lines.append(text) or text)
    picture = np.full((128, 256, 3), 200, np.uint8)
    draw_legend(picture, CLASSES, range(19))
    assert lines[-1] == f"+ {19 - len(lines) + 1} more"
    assert lines[:2] == ["road", "sidewalk"]
    assert swatches(picture) == list(range(len(lines) - 1))


def test_a_long_name_is_shortened() -> None:
    picture = np.full((300, 300, 3), 200, np.uint8)
    draw_legend(picture, [SegmentationClass("an endless name " * 6, (255, 0, 0))], [0])
    assert (picture[:, 150:] == 200).all()
    assert (picture[-20:, :100] != 200).any()


def test_a_small_picture_has_no_room_for_a_legend() -> None:
    picture = np.full((127, 900, 3), 200, np.uint8)
    draw_legend(picture, CLASSES, (0, 1))
    assert (picture == 200).all()


def test_outlines_run_where_classes_meet() -> None:
    mask = np.zeros((200, 300), np.uint8)
    mask[:, 150:] = 13
    mask[50:60, 20:30] = 255
    picture = np.full((*mask.shape, 3), 100, np.uint8)
    draw_contours(picture, mask, CLASSES)
    changed = (picture != 100).any(2)
    assert changed[100, 149:151].any()
    assert not changed[100, :140].any()
    assert not changed[100, 160:].any()
    assert (picture[100] == 255).all(1).any()
    assert changed[50:60, 20:30].any()


def test_an_overlay_is_blended_all_over() -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 140, 3), np.uint8)
    mask = np.random.default_rng(1).choice(np.array([0, 5, 255], np.uint8), (150, 140))
    np.testing.assert_array_equal(draw_overlay(image, mask, CLASSES, 0.3), blend(image, mask, CLASSES, 0.3))
    kept = draw_overlay(image, mask, CLASSES, 0.3, legend=[5])
    assert (kept != blend(image, mask, CLASSES, 0.3)).any()
