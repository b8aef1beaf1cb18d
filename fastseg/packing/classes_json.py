"""The file classes.json, which maps the pixel values or colors of masks to classes."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastseg.errors import UserError, shown
from fastseg.labels import (
    IGNORE,
    MAX_CLASSES,
    Color,
    LabelTable,
    SegmentationClass,
    is_byte,
    is_color,
    parse_class,
    parse_color,
    parse_name,
)
from fastseg.storage import read_bytes

MAX_FILE = 1 << 20
"""Maximum size of a classes.json in bytes; 255 classes take 20 kB."""

KEYS = {"name", "source", "classes", "ignore", "others"}
CLASS_KEYS = {"name", "value", "values", "color", "colors", "category"}


def read_classes(path: Path) -> LabelTable:
    """Read a ``classes.json``, which maps pixel values or colors to classes (format: docs/data.md).

    Train ids follow the order of the list ``classes``. Raises :class:`UserError` with the field and the value if the
    file is not valid.
    """
    try:
        text = read_bytes(path, MAX_FILE)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; --classes takes a classes.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable JSON file: {error}") from None
    return parse_classes(text, str(path))


def parse_classes(text: bytes, where: str) -> LabelTable:
    """Parse the text of a ``classes.json``; error messages start with ``where``. Raises as :func:`read_classes`."""
    try:
        document = json.loads(text, object_pairs_hook=_unique_keys)  # bytes, with a byte-order mark or without
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not a readable JSON file: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("classes"), list):
        raise UserError(f'{where} needs an object with a list "classes"')
    document = _from_supervisely(document)
    _refuse_unknown_keys(document, KEYS, where)
    entries, ignored = document["classes"], document.get("ignore", [])
    if not 1 <= len(entries) <= MAX_CLASSES:
        raise UserError(f"{where} has {len(entries)} classes; a mask holds 1 to {MAX_CLASSES}")
    if not isinstance(ignored, list):
        raise UserError(f'{where}: "ignore" is {shown(ignored)}; it must be a list of pixel values or colors')
    classes = _parse_entries(entries, where)
    train_ids, colors = _parse_values(entries, ignored, where), _parse_colors(entries, classes, ignored, where)
    others = _parse_others(document.get("others"), classes, where)
    return LabelTable(parse_name(document.get("name") or "custom", where), classes, train_ids, colors, others)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raise :class:`ValueError` for a key that it holds twice."""
    document = dict(pairs)
    if repeated := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"an object has the key {shown(repeated[0])} twice")
    return document


def _from_supervisely(document: dict[str, Any]) -> dict[str, Any]:
    """Return Supervisely's list of classes (``"title"``, ``"color": "#50e3c2"``) in this format; others as they are."""
    entries = [entry for entry in document["classes"] if isinstance(entry, dict)]
    pairs: list[tuple[Any, Any]] = [(entry.get("title"), entry.get("color")) for entry in entries]
    hexadecimal = re.compile(r"#[0-9a-fA-F]{6}")
    if not pairs or not all(
        title and isinstance(color, str) and hexadecimal.fullmatch(color) for title, color in pairs
    ):
        return document
    return {"classes": [{"name": title, "color": [*bytes.fromhex(color[1:])]} for title, color in pairs]}


def _parse_entries(entries: list[Any], where: str) -> tuple[SegmentationClass, ...]:
    """Return the classes; a class without a color gets one that is distinct from the others."""
    for i, entry in enumerate(entries):
        if isinstance(entry, dict):
            _refuse_unknown_keys(entry, CLASS_KEYS, f"{where}, class {i}")
    free = distinct_colors(entry.get("color") for entry in entries if isinstance(entry, dict))
    classes = []
    for i, entry in enumerate(entries):
        if isinstance(entry, dict) and "color" not in entry:
            several = entry.get("colors")
            first = several[0] if isinstance(several, list) and several else list(next(free))
            entry = {**entry, "color": first}
        classes.append(parse_class(entry, f"{where}, class {i}"))
    names = [c.name for c in classes]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{where} names {repeated[0]!r} twice; every class needs a name of its own")
    return tuple(classes)


def _parse_values(entries: list[Any], ignored: list[Any], where: str) -> dict[int, int]:
    """Return the train id of each pixel value."""
    pairs: list[tuple[Any, int]] = []
    for i, entry in enumerate(entries):
        pairs += [(value, i) for value in _one_or_many(entry, "value", "values", f"{where}, class {i}")]
    if bare := [entry["name"] for entry in entries if not {"value", "values"} & entry.keys()]:
        if pairs:
            raise UserError(
                f'{where} gives the class {bare[0]!r} no "value", but others have one; give it to all, or to none'
            )
        if uncolored := [entry["name"] for entry in entries if not {"color", "colors"} & entry.keys()]:
            raise UserError(
                f'{where} gives the class {uncolored[0]!r} neither "value" nor "color"; masks need one of them'
            )
    pairs += [(value, IGNORE) for value in ignored if not isinstance(value, list)]
    train_ids: dict[int, int] = {}
    for value, train_id in pairs:
        if not is_byte(value):
            raise UserError(f"{where}: pixel value {shown(value)} is not a whole number from 0 to 255")
        if value in train_ids:
            raise UserError(f"{where} gives pixel value {value} twice")
        train_ids[value] = train_id
    return train_ids


def _parse_colors(
    entries: list[Any], classes: Sequence[SegmentationClass], ignored: list[Any], where: str
) -> dict[Color, int]:
    """Return the train id of each color.

    Two classes may share a color only if masks are read by value; the shared color is then left out.
    """
    pairs: list[tuple[Color, int]] = []
    for i, (entry, known) in enumerate(zip(entries, classes, strict=True)):
        several = entry.get("colors", [list(known.color)] if "color" in entry else [])
        if not isinstance(several, list):
            raise UserError(
                f'{where}, class {i} ({known.name}) has "colors" {shown(several)}; it must be a list of colors'
            )
        pairs += [(parse_color(color, f"{where}, class {i} ({known.name})"), i) for color in several]
    pairs += [(parse_color(color, f'{where}, "ignore"'), IGNORE) for color in ignored if isinstance(color, list)]
    by_value = any({"value", "values"} & entry.keys() for entry in entries)
    colors: dict[Color, int] = {}
    shared = {color for color, train_id in pairs if colors.setdefault(color, train_id) != train_id}
    if shared and not by_value:
        raise UserError(
            f"{where} gives two classes the color {list(min(shared))}; masks of colors could not tell them apart"
        )
    return {color: train_id for color, train_id in colors.items() if color not in shared}


def _parse_others(value: Any, classes: Sequence[SegmentationClass], where: str) -> int | None:
    """Return the train id of all values and colors that are not listed; None if there is none."""
    if value is None:
        return None
    names = ["ignore", *(c.name for c in classes)]
    if value not in names:
        raise UserError(f'{where}: "others" is {shown(value)}; it must be "ignore" or the name of a class')
    return IGNORE if value == "ignore" else names.index(value) - 1


def _one_or_many(entry: dict[str, Any], one: str, many: str, where: str) -> list[Any]:
    """Return the list that ``{"value": 7}`` and ``{"values": [7, 8]}`` both stand for."""
    if one in entry and many in entry:
        raise UserError(f'{where} has "{one}" and "{many}"; give one of them')
    several = entry.get(many, [entry[one]] if one in entry else [])
    if not isinstance(several, list):
        raise UserError(f'{where} has "{many}" {shown(several)}; it must be a list')
    return several


def reduce_zero_label(table: LabelTable) -> LabelTable:
    """Return the table for masks that mmsegmentation reads with ``reduce_zero_label``.

    Values 0 and 255 are ignored, and value n gets the class that ``table`` gives n-1. Raises :class:`UserError` if the
    table already ignores 0 or has no values.
    """
    if not table.train_ids or table.train_ids.get(0) == IGNORE:
        why = "ignores 0 already" if table.train_ids else "has colors only"
        raise UserError(f"--reduce-zero-label does not go with the classes of {table.name}, which {why}; leave it out")
    shifted = {value + 1: train_id for value, train_id in table.train_ids.items() if value < 254}
    return replace(table, train_ids={0: IGNORE, **shifted, 255: IGNORE})


def _refuse_unknown_keys(document: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(document.keys() - known):
        raise UserError(
            f"{where} has the key {shown(unknown[0])}, which means nothing; known are {', '.join(sorted(known))}"
        )


def distinct_colors(taken: Iterable[Any] = ()) -> Iterator[Color]:
    """Yield colors that are visually distinct from each other, from ``taken``, from black and from red.

    Overlays use black for ignored pixels and red for wrong ones. Each color is the point of an RGB grid with the
    largest CIELAB distance (CIE 1976) to all earlier colors.
    """
    grid = np.array(
        [(r, g, b) for r in range(0, 256, 32) for g in range(0, 256, 32) for b in range(0, 256, 32)], np.uint8
    )
    lab = _to_lab(grid)
    near = [(0, 0, 0), (255, 0, 0), *(tuple(color) for color in taken if is_color(color))]
    distance = np.linalg.norm(lab[:, None] - _to_lab(np.array(near, np.uint8)), axis=2).min(1)
    while True:
        best = int(distance.argmax())
        yield int(grid[best, 0]), int(grid[best, 1]), int(grid[best, 2])
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=1))


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB colors, shape (N, 3), uint8, to CIELAB under D65, float64 (IEC 61966-2-1, CIE 15)."""
    linear = rgb / 255
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    x, y, z = np.moveaxis(np.cbrt(xyz / (0.9505, 1.0, 1.089) + 1e-9), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
