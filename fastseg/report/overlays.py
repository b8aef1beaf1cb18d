"""Draw a mask over its image: class colors, outlines, and a legend of the classes that occur."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from PIL import Image, ImageDraw

from fastseg.labels import IGNORE, Color, SegmentationClass
from fastseg.report.pictures import INK, PAPER, Mask, Picture, blend, colorize, names_in, open_font, shortened

ALPHA = 0.6
"""Default weight of the class colors over the image."""
ROWS = 64
"""Rows to blend at a time: blending makes large float copies."""
SMALLEST = 128
"""Minimum pixels of the shorter side for a legend, which would cover too much of a smaller picture."""
PART = (0.7, 0.45)
"""Largest part of the picture's height and width that a legend covers."""
PANEL = 0.78
"""Opacity of the legend's background."""


def draw_overlay(
    image: Picture,
    mask: Mask,
    classes: Sequence[SegmentationClass],
    alpha: float = ALPHA,
    *,
    contours: bool = False,
    legend: Sequence[int] = (),
) -> Picture:
    """Return the image under the colors of its classes, uint8 H×W×3; ignored pixels show the image alone.

    ``alpha``: weight of the colors, 0…1. ``contours``: outline the classes. ``legend``: train ids to name, in order
    (:func:`classes_by_size`); none of them: no legend.
    """
    picture = np.empty_like(image)
    for top in range(0, len(image), ROWS):
        rows = slice(top, top + ROWS)
        picture[rows] = blend(image[rows], mask[rows], classes, alpha)
    if contours:
        draw_contours(picture, mask, classes)
    if len(legend):
        draw_legend(picture, classes, legend)
    return picture


def classes_by_size(mask: Mask, count: int) -> list[int]:
    """Return the train ids below ``count`` that occur in a mask, the one with the most pixels first."""
    pixels = np.bincount(mask.ravel(), minlength=256)[:count]
    return [int(i) for i in np.argsort(-pixels, kind="stable") if pixels[i]]


def draw_contours(picture: Picture, mask: Mask, classes: Sequence[SegmentationClass]) -> None:
    """Outline the classes of ``mask`` in place: a white line where two meet, edged in the color of each.

    The lines' width grows with the picture: 3 pixels of white at 2048×1024.
    """
    width = max(1, round(sqrt(mask.size) / 1000))
    edge = _near_another(mask, 2 * width + 1) & (mask != IGNORE)
    picture[edge] = colorize(mask[edge], classes)
    line = _near_another(mask, width)
    picture[line] = 255


def _near_another(mask: Mask, reach: int) -> np.ndarray:
    """Mark the pixels with another id within ``reach`` pixels, bool H×W."""
    import cv2  # takes time, which fastseg-predict --help and other overlays do not need

    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach + 1, reach + 1))
    return np.asarray(cv2.dilate(mask, kernel) != cv2.erode(mask, kernel))


def draw_legend(picture: Picture, classes: Sequence[SegmentationClass], shown: Sequence[int]) -> None:
    """Name the classes ``shown`` (train ids, in order) in place, on a dark panel in the lower left corner.

    Letters grow with the picture; what has no room is counted in the last line. A picture with a side below
    :data:`SMALLEST` pixels stays as it is.
    """
    height, width = picture.shape[:2]
    if min(height, width) < SMALLEST:
        return
    size = max(11, round(sqrt(height * width) / 48))
    row, pad = round(1.5 * size), round(0.6 * size)
    room = max(int(PART[0] * height - 2 * pad) // row, 1)
    font = open_font(size)
    names = names_in(font, classes)
    lines: list[tuple[str, Color | None]] = [(names[i], classes[i].color) for i in shown]
    if len(lines) > room:
        rest = len(lines) - (room - 1)
        lines = [*lines[: room - 1], (f"+ {rest} more", None)]
    letters = PART[1] * width - 3 * pad - size
    texts = [shortened(name, font, letters) for name, _ in lines]
    panel_width = round(3 * pad + size + max(map(font.getlength, texts)))
    panel_height = 2 * pad + row * len(lines)
    top = height - panel_height
    corner = picture[top:, :panel_width]
    corner[:] = np.rint((1 - PANEL) * corner + PANEL * np.array(PAPER))
    panel = Image.fromarray(corner)
    draw = ImageDraw.Draw(panel)
    for i, (text, (_, color)) in enumerate(zip(texts, lines, strict=True)):
        middle = pad + (i + 0.5) * row
        if color is not None:
            box = (pad, middle - size / 2, pad + size, middle + size / 2)
            draw.rectangle(box, fill=color, outline=INK, width=max(1, size // 16))
        draw.text((2 * pad + size, middle), text, fill=INK, font=font, anchor="lm")
    corner[:] = np.asarray(panel)
