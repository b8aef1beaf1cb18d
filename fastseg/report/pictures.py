"""Draw masks in class colors, masks over images, errors and confusion matrices, with numpy and Pillow only."""

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fastseg.labels import IGNORE, SegmentationClass

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MISSING = "\U0010fffe"
"""Not a character: fonts draw their glyph for missing characters."""


def open_font(size: int) -> Font:
    """Open DejaVu Sans, which has most alphabets, or else Pillow's own font, which has English."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def names_in(font: Font, classes: Sequence[SegmentationClass]) -> list[str]:
    """Return the classes' names if ``font`` has their letters, else without accents (ß is ss), else ``class 7``."""
    return [
        next((name for name in (c.name, _plain(c.name)) if _has(font, name)), f"class {i}")
        for i, c in enumerate(classes)
    ]


def shortened(text: str, font: Font, width: float) -> str:
    """Shorten ``text`` with an ellipsis to at most ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _has(font: Font, name: str) -> bool:
    missing = bytes(font.getmask(MISSING))
    return all(bytes(font.getmask(letter)) != missing for letter in set(name) if not letter.isspace())


Picture = NDArray[np.uint8]
"""RGB, H×W×3."""
Mask = NDArray[np.uint8]
"""Train ids, H×W; 255 = ignored."""

RIGHT, WRONG, IGNORED = (232, 232, 232), (214, 39, 40), (0, 0, 0)
HIT, MISS = (45, 110, 230), (214, 39, 40)
GAP, PAPER, INK, EMPTY = 4, (28, 30, 34), (230, 230, 230), (40, 43, 48)
CELL, LONGEST = 32, 240
"""Pixels of a cell of a confusion matrix, and of a name beside it at most."""
MATRIX_CLASSES = 40
"""Classes in a confusion matrix at most: those with the most pixels."""
CAPTIONS = ("image", "truth", "prediction", "errors (red)")


def colorize(mask: Mask, classes: Sequence[SegmentationClass]) -> Picture:
    """Paint each pixel in its class's color; ignored and unknown train ids are black."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(classes)] = [c.color for c in classes]
    return colors[mask]


def blend(image: Picture, mask: Mask, classes: Sequence[SegmentationClass], alpha: float = 0.6) -> Picture:
    """Blend class colors over the image with weight ``alpha`` (0…1); ignored pixels show the image alone."""
    mixed = (1 - alpha) * image + alpha * colorize(mask, classes)
    return np.where((mask == IGNORE)[..., None], image, np.rint(mixed)).astype(np.uint8)


def error_map(label: Mask, prediction: Mask) -> Picture:
    """Paint right pixels light gray, wrong ones red, ignored ones black."""
    wrong = np.where((label != prediction)[..., None], WRONG, RIGHT)
    return np.where((label == IGNORE)[..., None], IGNORED, wrong).astype(np.uint8)


def panel(
    image: Picture, label: Mask, prediction: Mask, classes: Sequence[SegmentationClass], max_width: int = 1600
) -> Picture:
    """Draw image, truth, prediction and errors side by side with captions, at most ``max_width`` pixels wide."""
    tiles = (image, colorize(label, classes), colorize(prediction, classes), error_map(label, prediction))
    height, width = label.shape
    tile_width = min(width, (max_width - 3 * GAP) // 4)
    tile_height = max(1, round(height * tile_width / width))
    font_size = max(10, tile_width // 26)
    font, caption_height = open_font(font_size), 5 * font_size // 3

    sheet = Image.new("RGB", (4 * tile_width + 3 * GAP, caption_height + tile_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (tile, caption) in enumerate(zip(tiles, CAPTIONS, strict=True)):
        left = i * (tile_width + GAP)
        # Averaging keeps thin errors visible, as a paler red; nearest would drop them.
        small = Image.fromarray(tile).resize((tile_width, tile_height), Image.Resampling.BOX)
        sheet.paste(small, (left, caption_height))
        draw.text((left + 2, caption_height / 2), caption, fill=INK, font=font, anchor="lm")
    return np.asarray(sheet)


def matrix_picture(matrix: NDArray[np.int64], classes: Sequence[SegmentationClass]) -> Picture:
    """Draw a confusion matrix (C×C pixels, rows the truth) with class names: right pixels blue, wrong ones red.

    A cell's strength and number are its share of the row in per cent; rows of classes that do not occur stay empty.
    Of more than :data:`MATRIX_CLASSES` classes those with the most pixels are drawn.
    """
    truth = matrix.sum(1)
    drawn = np.sort(np.argsort(-truth, kind="stable")[:MATRIX_CLASSES])
    shares = matrix[np.ix_(drawn, drawn)] / np.maximum(truth[drawn, None], 1)
    font = open_font(15)
    names = [shortened(name, font, LONGEST) for name in names_in(font, [classes[i] for i in drawn])]
    grid, margin = _cells(shares, font), 16 + round(max(map(font.getlength, names)))
    sheet = Image.new("RGB", (margin + grid.width, CELL + margin + grid.height), PAPER)
    sheet.paste(grid, (margin, CELL + margin))
    columns = Image.new("RGB", (margin, grid.height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(names):
        draw.text((margin - 8, CELL + margin + (i + 0.5) * CELL), name, fill=INK, font=font, anchor="rm")
        ImageDraw.Draw(columns).text((8, (i + 0.5) * CELL), name, fill=INK, font=font, anchor="lm")
    sheet.paste(columns.transpose(Image.Transpose.ROTATE_90), (margin, CELL))
    some = "" if len(drawn) == len(classes) else f", {len(drawn)} of {len(classes)} classes"
    caption = shortened(f"% of each row; rows: truth, columns: prediction{some}", font, sheet.width - 16)
    draw.text((8, CELL / 2), caption, fill=INK, font=font, anchor="lm")
    return np.asarray(sheet)


def _cells(shares: NDArray[np.float64], font: Font) -> Image.Image:
    """Draw shares of rows as squares with a thin gap, and their numbers in per cent from half a per cent on."""
    count = len(shares)
    color = np.where(np.eye(count, dtype=bool)[..., None], HIT, MISS)
    mixed = np.rint(shares[..., None] * color + (1 - shares[..., None]) * EMPTY).astype(np.uint8)
    grid = Image.new("RGB", (count * CELL, count * CELL), PAPER)
    draw = ImageDraw.Draw(grid)
    for i, j in np.ndindex(count, count):
        left, top = j * CELL, i * CELL
        draw.rectangle((left + 1, top + 1, left + CELL - 1, top + CELL - 1), fill=tuple(mixed[i, j].tolist()))
        if shares[i, j] >= 0.005:
            text = f"{100 * shares[i, j]:.0f}"
            draw.text((left + CELL / 2, top + CELL / 2), text, fill=(255, 255, 255), font=font, anchor="mm")
    return grid
