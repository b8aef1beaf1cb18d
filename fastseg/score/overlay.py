"""Masks as pictures: class colours, masks laid over images, and where a prediction is wrong. Numpy and Pillow only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fastseg.labels import IGNORE, SegmentationClass

Picture = NDArray[np.uint8]
"""RGB, H×W×3."""
Mask = NDArray[np.uint8]
"""Train ids, H×W; 255 = ignored."""

RIGHT, WRONG, IGNORED = (232, 232, 232), (214, 39, 40), (0, 0, 0)
GAP, PAPER, INK = 4, (28, 30, 34), (230, 230, 230)
CAPTIONS = ("image", "truth", "prediction", "errors (red)")


def colorize(mask: Mask, classes: Sequence[SegmentationClass]) -> Picture:
    """Each pixel in the colour of its class; ignored and unknown train ids are black."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(classes)] = [c.color for c in classes]
    return colors[mask]


def blend(image: Picture, mask: Mask, classes: Sequence[SegmentationClass], alpha: float = 0.6) -> Picture:
    """The class colours over the image, ``alpha`` (0…1) of the colour; the image shows where the mask ignores."""
    mixed = (1 - alpha) * image + alpha * colorize(mask, classes)
    return np.where((mask == IGNORE)[..., None], image, np.rint(mixed)).astype(np.uint8)


def error_map(label: Mask, prediction: Mask) -> Picture:
    """Right pixels light grey, wrong ones red, ignored ones black."""
    wrong = np.where((label != prediction)[..., None], WRONG, RIGHT)
    return np.where((label == IGNORE)[..., None], IGNORED, wrong).astype(np.uint8)


def panel(
    image: Picture, label: Mask, prediction: Mask, classes: Sequence[SegmentationClass], max_width: int = 1600
) -> Picture:
    """Image, truth, prediction and errors side by side with captions, at most ``max_width`` pixels wide."""
    tiles = (image, colorize(label, classes), colorize(prediction, classes), error_map(label, prediction))
    height, width = label.shape
    tile_width = min(width, (max_width - 3 * GAP) // 4)
    tile_height = max(1, round(height * tile_width / width))
    font_size = max(10, tile_width // 26)
    font, caption_height = ImageFont.load_default(font_size), 5 * font_size // 3

    sheet = Image.new("RGB", (4 * tile_width + 3 * GAP, caption_height + tile_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (tile, caption) in enumerate(zip(tiles, CAPTIONS, strict=True)):
        left = i * (tile_width + GAP)
        # Averaging keeps thin errors visible, as a paler red; nearest would drop them.
        small = Image.fromarray(tile).resize((tile_width, tile_height), Image.Resampling.BOX)
        sheet.paste(small, (left, caption_height))
        draw.text((left + 2, caption_height / 2), caption, fill=INK, font=font, anchor="lm")
    return np.asarray(sheet)
