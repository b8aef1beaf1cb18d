"""Annotation files, whatever tool wrote them: JSON, names and places in it, classes, outlines."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import UserError, shown
from fastseg.labels import IGNORE, MAX_CLASSES, Color, LabelTable, SegmentationClass, is_color, parse_name
from fastseg.packing.classes_json import distinct_colors
from fastseg.packing.sources.tree import Member, Tree
from fastseg.packing.sources.words import SPLIT_WORDS, read_folder
from fastseg.shards.images import stored_layout
from fastseg.shards.jpeg_tiles import MAX_PIXELS

BACKGROUND = "background"
"""Name of the class of the pixels that no shape covers; its value is 0."""
GRAY: Color = (96, 96, 96)
"""Color of the background in overlays."""
MAX_OUTLINE = 1 << 22
"""Pixels around a shape: what an image of 2 million by 1 would have. Longer ones take hours to draw."""


def read_json(file: Member) -> Any:
    """Return what a JSON file holds; raise :class:`UserError` for a damaged one."""
    try:
        return json.loads(file.read())
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise UserError(f"{file} is not a readable JSON file ({error}); export it again") from None


def find_split(path: str) -> str:
    """Return the split that a path names, the last part first: val of ``instances_val2017.json``; empty for none."""
    for part in reversed(PurePosixPath(path).parts):
        for word in re.findall("[a-z]+", part.lower()):
            if word in SPLIT_WORDS:
                return SPLIT_WORDS[word]
    return ""


def stem_of(name: str) -> str:
    """Return an image's name as a stem: without its ending, and without folders that only tell splits and kinds."""
    path = PurePosixPath(name)
    folders = [part for part in path.parent.parts if read_folder(part).rest or part in ("..", ".")]
    return "/".join([*folders, path.stem or path.name])


def join(folder: str, name: str) -> str | None:
    """Return where ``name``, written by any system, lies as seen from ``folder``; None where it leaves the data set."""
    slashes = name.replace("\\", "/")
    if is_absolute(slashes) or "\0" in slashes:
        return None
    joined = normpath(f"{folder}/{slashes}" if folder else slashes)
    return None if joined.startswith(("..", "/")) else joined


def is_absolute(name: str) -> bool:
    """Return whether a path begins at a root, of POSIX or of Windows."""
    return bool(re.match(r"[A-Za-z]:|[/\\]", name))


def find_member(tree: Tree, name: str | None) -> Member | None:
    """Return a file of the tree; None where there is none."""
    try:
        return tree[name] if name else None
    except (KeyError, OSError, ValueError):  # too long a name, or one that no file system takes
        return None


def number_classes(names: Iterable[str]) -> dict[str, int]:
    """Return the value of each name, in their order; :data:`BACKGROUND`, which may be among them, is 0."""
    values = {BACKGROUND: 0}
    for name in names:
        if _is_background(name):
            values[name] = 0
        else:
            values.setdefault(name, len(set(values.values())))
    return values


def _is_background(name: str) -> bool:
    return name.strip("_").lower() == BACKGROUND


def class_table(tree: Tree, names: Iterable[str], where: str, colors: Mapping[str, Any] | None = None) -> LabelTable:
    """Return the classes of these names, whose values are 0, 1, … in their order; 255 is ignored.

    Each has its color of ``colors``, or else one that is told apart from the others; the background is gray.
    Raises :class:`UserError`, which names ``where``, for names that cannot be shown and for too many.
    """
    names = [parse_name(name, where) for name in names]
    if len(names) > MAX_CLASSES:
        raise UserError(
            f"{where} has {len(names):,} classes; a mask holds {MAX_CLASSES} with the background: merge the rare ones"
        )
    given: dict[str, Color] = {name: GRAY for name in names if _is_background(name)}
    given |= {name: (c[0], c[1], c[2]) for name, c in (colors or {}).items() if is_color(c)}
    free = distinct_colors(list(color) for color in given.values())
    classes = tuple(SegmentationClass(name, given[name] if name in given else next(free)) for name in names)
    values = {value: value for value in range(len(names))} | {IGNORE: IGNORE}
    title = tree.root.resolve()
    return LabelTable(parse_name(title.stem if title.is_file() else title.name or "custom", where), classes, values)


def class_names(values: Mapping[str, int]) -> list[str]:
    """Return one name for each value of :func:`number_classes`, in order; a data set's own for the background."""
    return list({value: name for name, value in values.items()}.values())


def upright_size(image: Member) -> tuple[int, int]:
    """Return height and width of an image file as it is shown; raise :class:`UserError` where it has none."""
    data = image.read()
    try:
        (width, height), orientation = stored_layout(data)
    except Exception as error:  # Pillow raises all kinds for damaged files
        raise UserError(f"{image} cannot be read ({error}); get the file again") from None
    return (width, height) if orientation >= 5 else (height, width)


def parse_size(height: Any, width: Any, where: str) -> tuple[int, int]:
    """Check an image's size from a file; ``where`` starts the complaint."""
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in (height, width))
    if not whole or height * width > MAX_PIXELS:
        raise UserError(
            f"{where} has the height {shown(height)} and width {shown(width)}; they must be whole numbers of at most "
            f"{MAX_PIXELS:,} pixels together: export the annotations again"
        )
    return height, width


def parse_outline(numbers: Any, where: str, fewest: int = 3) -> NDArray[np.float64]:
    """Check the points of a shape, as x, y, x, y, … or pairs: (N, 2) in pixels; ``where`` starts the complaint."""
    try:
        points = np.array(numbers, np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError):
        points = np.full(1, np.nan)
    if points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < fewest or not np.isfinite(points).all():
        raise UserError(
            f"{where} has the points {shown(numbers)}; at least {fewest} pairs of numbers make an outline: draw it "
            "again, or remove it"
        )
    around = np.abs(np.diff(points, axis=0, append=points[:1])).sum()
    if max(around, np.abs(points).max()) > MAX_OUTLINE:
        raise UserError(f"{where} has an outline far larger than any image; draw it again, or remove it")
    return points


def image_bases(file: str, words: Iterable[str]) -> list[str]:
    """Return the folders in which the images of an annotation file may lie, the likeliest first.

    ``words`` name its part of the set: ``train2017``, ``train``.
    """
    folder = str(PurePosixPath(file).parent)
    places = dict.fromkeys("" if place == "." else place for place in (folder, str(PurePosixPath(folder).parent)))
    forms = [form for word in words for form in (word, f"images/{word}", f"{word}/images")]
    bases = [f"{place}/{form}" for form in forms for place in places]
    bases += [f"{place}/{form}" for place in places for form in ("", "images", "data")]
    return list(dict.fromkeys(base.strip("/") for base in bases))
