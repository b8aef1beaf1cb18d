"""Letters on pictures: a font, and names in the letters that it has."""

import unicodedata
from collections.abc import Sequence

from PIL import ImageFont

from fastseg.labels import SegmentationClass

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MISSING = "\U0010fffe"
"""No character: every font draws the sign for those that it lacks."""


def open_font(size: int) -> Font:
    """DejaVu Sans where the system has it, which knows most alphabets; else Pillow's own, which knows English."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def names_in(font: Font, classes: Sequence[SegmentationClass]) -> list[str]:
    """The classes' names where ``font`` has their letters, else without accents (ß is ss), else ``class 7``."""
    return [
        next((name for name in (c.name, _plain(c.name)) if _has(font, name)), f"class {i}")
        for i, c in enumerate(classes)
    ]


def shortened(text: str, font: Font, width: float) -> str:
    """``text``, or its beginning and an ellipsis, at most ``width`` pixels wide."""
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
