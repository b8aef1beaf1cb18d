"""Helpers for annotation files of all tools: JSON, names and paths in it, classes and outlines."""

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
"""Name of the class of pixels that no shape covers; its value is 0."""
GRAY: Color = (96, 96, 96)
"""Color of the background in overlays."""
MAX_OUTLINE = 1 << 22
"""Maximum length of an outline in pixels: that of an image of 2 million by 1. Longer outlines take hours to draw."""


def read_json(file: Member) -> Any:
    """Return the content of a JSON file; raise :class:`UserError` for a damaged one."""
    try:
        return json.loads(file.read())
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise UserError(f"{file} is not a readable JSON file ({error}); export it again") from None


def find_split(path: str) -> str:
    """Return the split that a path names, the last part first: val for ``instances_val2017.json``; empty for none."""
    for part in reversed(PurePosixPath(path).parts):
        for word in re.findall("[a-z]+", part.lower()):
            if word in SPLIT_WORDS:
                return SPLIT_WORDS[word]
    return ""


def stem_of(name: str) -> str:
    """Return the stem of an image: its name without its ending and without folders that name only splits and kinds."""
    path = PurePosixPath(name)
    folders = [part for part in path.parent.parts if read_folder(part).rest or part in ("..", ".")]
    return "/".join([*folders, path.stem or path.name])


def join(folder: str, name: str) -> str | None:
    """Return the path of ``name`` (of any operating system) as seen from ``folder``; None if it leaves the data set."""
    slashes = name.replace("\\", "/")
    if is_absolute(slashes) or "\0" in slashes:
        return None
    joined = normpath(f"{folder}/{slashes}" if folder else slashes)
    return None if joined.startswith(("..", "/")) else joined


def is_absolute(name: str) -> bool:
    """Return whether a path is absolute on POSIX or Windows."""
    return bool(re.match(r"[A-Za-z]:|[/\\]", name))


def path_tails(path: str) -> list[str]:
    """Return the last parts of a path or URL of any machine, the longest first: ``a/b.jpg``, ``b.jpg``."""
    parts = [part for part in re.split(r"[/\\]|\?d=", path) if part not in ("", ".", "..")]  # ?d=: of Label Studio
    return ["/".join(parts[start:]) for start in range(len(parts))]


def find_member(tree: Tree, name: str | None) -> Member | None:
    """Return a file of the tree; None if it does not exist."""
    try:
        return tree[name] if name else None
    except (KeyError, OSError, ValueError):  # names that are too long or invalid for the file system
        return None


def number_classes(names: Iterable[str]) -> dict[str, int]:
    """Return the value of each name in their order; :data:`BACKGROUND`, whether listed or not, is 0."""
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
    """Return the classes of these names with the values 0, 1, … in their order; 255 is ignored.

    A class without an entry in ``colors`` gets a distinct color; the background is gray. Raises :class:`UserError`,
    which names ``where``, for names that cannot be shown and for too many classes.
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
    """Return one name for each value of :func:`number_classes`, in order; the background keeps its own name."""
    return list({value: name for name, value in values.items()}.values())


def parse_hex(text: Any) -> list[int] | None:
    """Return the channels of a color such as ``#20a0ff``; None for anything else."""
    valid = isinstance(text, str) and re.fullmatch("#[0-9a-fA-F]{6}", text)
    return list(bytes.fromhex(text[1:])) if valid else None


def upright_size(image: Member) -> tuple[int, int]:
    """Return height and width of an upright image; raise :class:`UserError` for unreadable images."""
    data = image.read()
    try:
        (width, height), orientation = stored_layout(data)
    except Exception as error:  # Pillow raises many types for damaged files
        raise UserError(f"{image} cannot be read ({error}); get the file again") from None
    return (width, height) if orientation >= 5 else (height, width)


def parse_size(height: Any, width: Any, where: str) -> tuple[int, int]:
    """Check the size of an image from a file; error messages start with ``where``."""
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in (height, width))
    if not whole or height * width > MAX_PIXELS:
        raise UserError(
            f"{where} has the height {shown(height)} and width {shown(width)}; they must be whole numbers of at most "
            f"{MAX_PIXELS:,} pixels together: export the annotations again"
        )
    return height, width


def parse_outline(numbers: Any, where: str, fewest: int = 3) -> NDArray[np.float64]:
    """Check the points of a shape, given as x, y, x, y, … or as pairs, and return them in pixels, shape (N, 2).

    Error messages start with ``where``.
    """
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
    """Return the folders that may hold the images of an annotation file, the likeliest first.

    ``words`` name its part of the set: ``train2017``, ``train``.
    """
    folder = str(PurePosixPath(file).parent)
    places = dict.fromkeys("" if place == "." else place for place in (folder, str(PurePosixPath(folder).parent)))
    forms = [form for word in words for form in (word, f"images/{word}", f"{word}/images")]
    bases = [f"{place}/{form}" for form in forms for place in places]
    bases += [f"{place}/{form}" for place in places for form in ("", "images", "data")]
    return list(dict.fromkeys(base.strip("/") for base in bases))
