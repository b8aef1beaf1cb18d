"""An inspection as pictures: a contact sheet of crops with their masks, and one self-contained HTML page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fastseg.files import write_atomic
from fastseg.inspection.measure import Crop, Inspection, percent
from fastseg.inspection.output import PAGE, SHEET
from fastseg.labels import SegmentationClass
from fastseg.report.pictures import GAP, INK, PAPER, Font, blend, colorize, names_in, open_font, shortened
from fastseg.shards.manifest import Split

COLUMNS = 6
TILE = 256
"""Width of a crop on the sheet in pixels."""
PAGE_TILE = 480
"""Largest side of a crop on the page in pixels."""
OPACITY = 0.55
"""Opacity of the masks over the images."""


@dataclass(frozen=True)
class Share:
    """Frequency of one class in the set and in training crops."""

    name: str
    color: tuple[int, int, int]
    before: float
    """Share of the set's pixels."""
    after: float
    """Share of the crops' pixels without padding."""
    crops: float
    """Share of the crops that show the class."""

    @property
    def ratio(self) -> str:
        """Ratio of ``after`` to ``before`` as text."""
        return f"{self.after / self.before:.2f}" if self.before else "–"


def shares(inspection: Inspection, split: Split, classes: Sequence[SegmentationClass]) -> list[Share]:
    """Return a row for each class, then one for ignored pixels."""
    rows = [*classes, SegmentationClass("(ignored)", (0, 0, 0))]
    before, after = sum(split.pixels), sum(inspection.pixels)
    return [
        Share(c.name, c.color, old / before, new / after, showing / inspection.crops)
        for c, old, new, showing in zip(rows, split.pixels, inspection.pixels, inspection.showing, strict=True)
    ]


def caption(crop: Crop) -> str:
    """Describe a crop as ``aachen_000000_000019 ×1.25, mirrored``; a stretched frame has two ratios."""
    window = crop.window
    across = window.width / (window.right - window.left)
    stretched = f" down, ×{across:.2f} across" if abs(across / crop.ratio - 1) > 0.1 else ""
    return f"{crop.key} ×{crop.ratio:.2f}{stretched}{', mirrored' if window.flip else ''}"


def contact_sheet(crops: Sequence[Crop], classes: Sequence[SegmentationClass]) -> Image.Image:
    """Draw every crop without and with its mask, with captions, and a legend of the classes below."""
    font = open_font(13)
    line = 20
    height = max(1, round(TILE * crops[0].label.shape[0] / crops[0].label.shape[1]))
    cell = 2 * height + line + GAP
    columns = min(COLUMNS, len(crops))
    rows = -(-len(crops) // columns)
    width = columns * (TILE + GAP) - GAP
    legend = _legend(classes, width, font, line)
    sheet = Image.new("RGB", (width, rows * cell + legend.height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, crop in enumerate(crops):
        left, top = i % columns * (TILE + GAP), i // columns * cell
        # Pillow's default font has no multiplication sign.
        draw.text(
            (left + 2, top + line / 2),
            _truncate(caption(crop).replace("×", "x"), font),
            fill=INK,
            font=font,
            anchor="lm",
        )
        for j, picture in enumerate((crop.image, blend(crop.image, crop.label, classes, OPACITY))):
            small = Image.fromarray(picture).resize((TILE, height), Image.Resampling.BOX)
            sheet.paste(small, (left, top + line + j * height))
    sheet.paste(legend, (0, rows * cell))
    return sheet


def _legend(classes: Sequence[SegmentationClass], width: int, font: Font, line: int) -> Image.Image:
    names = [shortened(name, font, width - 34) for name in names_in(font, classes)]
    corners, x, y = list[tuple[int, int]](), 6, 4
    for name in names:
        length = int(font.getlength(name)) + 34
        if x + length > width and x > 6:
            x, y = 6, y + line
        corners.append((x, y))
        x += length
    legend = Image.new("RGB", (width, y + line + 4), PAPER)
    draw = ImageDraw.Draw(legend)
    for c, name, (x, y) in zip(classes, names, corners, strict=True):
        draw.rectangle((x, y + 4, x + 13, y + 16), fill=c.color, outline=INK)
        draw.text((x + 19, y + line / 2), name, fill=INK, font=font, anchor="lm")
    return legend


def _truncate(text: str, font: Font) -> str:
    while font.getlength(text) > TILE - 4:
        text = "…" + text[2:]
    return text


def write_page(
    folder: Path,
    title: str,
    facts: Sequence[tuple[str, str]],
    sentences: Sequence[str],
    inspection: Inspection,
    split: Split,
    classes: Sequence[SegmentationClass],
) -> tuple[Path, Path]:
    """Write the sheet and the self-contained page into ``folder`` and return their paths."""
    template = page_environment().get_template("inspect.html")
    page = template.render(
        title=title,
        facts=facts,
        findings=sentences,
        crops=[
            (caption(crop), image_url(Image.fromarray(crop.image)), mask_url(crop.label, classes))
            for crop in inspection.shown
        ],
        classes=classes,
        opacity=OPACITY,
        shares=shares(inspection, split, classes),
        largest=max(max(share.before, share.after) for share in shares(inspection, split, classes)),
        percent=percent,
        measured=inspection.crops,
        entries=inspection.entries,
        names={i: c.name for i, c in enumerate(classes)},
    )
    # The page is written first: its mark allows the next inspection to replace both files.
    write_atomic(folder / PAGE, page)
    buffer = io.BytesIO()
    contact_sheet(inspection.shown, classes).save(buffer, "PNG", optimize=True)
    write_atomic(folder / SHEET, buffer.getvalue())
    return folder / SHEET, folder / PAGE


def page_environment() -> Environment:
    """Return the template environment of the pages, which escapes all values."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent.parent / "report" / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def image_url(image: Image.Image) -> str:
    """Return an image for the page as a data URL."""
    return _data_url(image, Image.Resampling.BOX, "JPEG", quality=85)


def mask_url(label: NDArray[np.uint8], classes: Sequence[SegmentationClass]) -> str:
    """Return a mask (uint8 H×W train ids) in its classes' colors as a data URL; ignored pixels are transparent."""
    alpha = np.where(label < len(classes), 255, 0).astype(np.uint8)
    colors = Image.fromarray(np.dstack([colorize(label, classes), alpha]))
    return _data_url(colors, Image.Resampling.NEAREST, "PNG", optimize=True)


def _data_url(picture: Image.Image, how: Image.Resampling, format: str, **options: int) -> str:
    """Return a picture, resized to at most :data:`PAGE_TILE` pixels a side, as a data URL."""
    factor = min(1.0, PAGE_TILE / max(picture.size))
    small = picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), how)
    buffer = io.BytesIO()
    small.save(buffer, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
