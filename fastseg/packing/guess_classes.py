"""A table of classes guessed from the masks themselves, for a person to write the names in."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastseg.errors import UserError
from fastseg.files import write_atomic
from fastseg.labels import IGNORE
from fastseg.packing.sources import CLASSES, find_masks
from fastseg.packing.sources.tree import Member
from fastseg.parallel import ordered_map, worker_count
from fastseg.shards.images import read_labels, read_palette

Color = tuple[int, int, int]
Progress = Callable[[int, int], None]
"""Called with the masks that are read and all there are."""


@dataclass(frozen=True)
class Guess:
    """The values that occur in a data set's masks."""

    masks: int
    pixels: dict[int, int]
    """Value → its pixels in all masks, ascending."""
    colors: dict[int, Color]
    """Value → RGB, from the masks' palette or, where they are gray, from PASCAL VOC's."""

    @property
    def ignored(self) -> bool:
        """Whether 255 is taken for "ignore": as usual, unless masks are black and white."""
        return set(self.pixels) - {IGNORE} not in (set(), {0}) or IGNORE not in self.pixels

    @property
    def classes(self) -> list[int]:
        """The values that become classes."""
        return [value for value in self.pixels if not (self.ignored and value == IGNORE)]

    def name(self, value: int) -> str:
        """Return a name to be replaced."""
        return f"class {value}"

    def to_json(self, name: str) -> str:
        """Return the text of a ``classes.json``, a line for each class."""
        classes = [{"value": v, "name": self.name(v), "color": self.colors[v]} for v in self.classes]
        lines = ",\n".join("  " + json.dumps(entry) for entry in classes)
        ignore = [IGNORE] if self.ignored else []
        return f'{{"name": {json.dumps(name)}, "ignore": {ignore}, "classes": [\n{lines}\n]}}\n'


def write_guess(root: Path, workers: int | None = None, progress: Progress | None = None) -> tuple[Guess, Path]:
    """Read all masks of the data set in ``root`` and write ``root/classes.json``; return the guess and that path.

    Raises :class:`UserError` where that file exists, and for masks that are damaged, colored, above 255 or of several
    palettes.
    """
    path = root / CLASSES
    if root.is_file():
        raise UserError(f"{root} is a file, into which {CLASSES} cannot be written; unpack it and name the folder")
    if path.exists():
        raise UserError(f"{path} is there already; remove it to have it guessed anew")
    guess = guess_classes(find_masks(root), workers, progress)
    write_atomic(path, guess.to_json(root.resolve().name))
    return guess, path


def guess_classes(masks: list[Member], workers: int | None = None, progress: Progress | None = None) -> Guess:
    """Return what values ``masks`` hold, and in which colors; see :func:`write_guess`."""
    total, colors, first = np.zeros(256, np.int64), dict[int, Color](), dict[int, Member]()
    with closing(ordered_map(read_mask, ((mask,) for mask in masks), min(worker_count(workers), len(masks)))) as looks:
        for done, (mask, (histogram, palette)) in enumerate(zip(masks, looks, strict=True), 1):
            total += histogram
            for value in np.flatnonzero(histogram).tolist():
                color = palette[value] if value < len(palette) else None
                if color and colors.setdefault(value, color) != color:
                    raise UserError(
                        f"the value {value} has the color {colors[value]} in the palette of {first[value]} and {color} "
                        f"in that of {mask}; give all masks one palette"
                    )
                first.setdefault(value, mask)
            if progress:
                progress(done, len(masks))
    pixels = {value: int(total[value]) for value in np.flatnonzero(total).tolist()}
    # A ramp of grays tells labels apart for a program, not for an eye.
    tell_apart = any(len(set(color)) > 1 for color in colors.values())
    shown = {value: colors[value] if tell_apart and value in colors else voc_color(value) for value in pixels}
    return Guess(len(masks), pixels, shown)


def read_mask(mask: Member) -> tuple[list[int], list[Color]]:
    """Return the pixels of each value 0…255 of one mask, and its palette, if it has one."""
    data = mask.read()
    return read_labels(data, str(mask)).histogram(), read_palette(data)


def voc_color(value: int) -> Color:
    """Return the color of a label in PASCAL VOC's development kit, which many tools use: far apart for small labels."""
    red, green, blue = (
        sum((value >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)
    )
    return red, green, blue
