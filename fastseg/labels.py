"""Classes: their names, colors and train ids, and the table from a mask's pixel values to train ids."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import labels as cityscapes_labels

from fastseg.errors import UserError, shown
from fastseg.storage import read_bytes

IGNORE = 255
"""The train id of pixels that are neither trained nor scored (Cityscapes calls them void)."""

MAX_CLASSES = 255
"""Train ids are bytes and 255 is :data:`IGNORE`."""

MAX_NAME = 100
"""Characters of a name in a file."""

MAX_FILE = 1 << 20
"""Bytes of a classes.json; 255 classes take 20 kB."""


@dataclass(frozen=True)
class SegmentationClass:
    """One class; its train id is its index in the list of classes."""

    name: str
    color: tuple[int, int, int]
    """RGB, 0–255, for overlays."""
    category: str = ""
    """Group in which it is also scored ("vehicle", …); empty for none."""


@dataclass(frozen=True)
class LabelTable:
    """The meaning of a data set's masks: pixel value → train id."""

    name: str
    classes: tuple[SegmentationClass, ...]
    train_ids: dict[int, int]
    """Pixel value (0–255) → train id (0…C-1, or :data:`IGNORE`); other values are errors."""

    def lookup(self) -> np.ndarray:
        """Return the train id of every pixel value: uint8, shape (256,); :data:`IGNORE` for unknown values too."""
        table = np.full(256, IGNORE, np.uint8)
        for value, train_id in self.train_ids.items():
            table[value] = train_id
        return table


def class_difference(one: Sequence[str], other: Sequence[str]) -> tuple[str, str, str]:
    """Return what differs first between two lists of classes, and its value in either, for a sentence."""
    if len(one) != len(other):
        return "number of classes", str(len(one)), str(len(other))
    index = next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one) - 1)
    return f"class {index}", shown(one[index]), shown(other[index])


def cityscapes() -> LabelTable:
    """Return the 19 classes of Cityscapes for labelIds, by the table of cityscapesscripts.

    Ids that the benchmark does not train on (void, parking, polegroup, …) become :data:`IGNORE`.
    """
    trained = sorted((label for label in cityscapes_labels if 0 <= label.trainId < 255), key=lambda x: x.trainId)
    classes = tuple(SegmentationClass(label.name, label.color, label.category) for label in trained)
    train_ids = {label.id: IGNORE for label in cityscapes_labels if label.id >= 0}
    train_ids |= {label.id: label.trainId for label in trained}
    return LabelTable("cityscapes", classes, train_ids)


def cityscapes_ids(classes: Sequence[SegmentationClass]) -> tuple[int, ...] | None:
    """Return Cityscapes' id of each class, for its server and evaluator; None for other classes."""
    table = cityscapes()
    if [c.name for c in classes] != [c.name for c in table.classes]:
        return None
    ids = {train_id: value for value, train_id in table.train_ids.items()}
    return tuple(ids[i] for i in range(len(classes)))


def read_classes(path: Path) -> LabelTable:
    """Read a ``classes.json``: ``{"name", "classes": [{"value", "name", "color"}], "ignore": [values]}``.

    Train ids follow the order of the list; a class may also name its ``category``. Raises :class:`UserError`
    with the field and the value for anything else.
    """
    try:
        text = read_bytes(path, MAX_FILE)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; --classes takes a classes.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable JSON file: {error}") from None
    return parse_classes(text, str(path))


def parse_classes(text: bytes, where: str) -> LabelTable:
    """Parse the text of a ``classes.json``; ``where`` starts the error. Raises as :func:`read_classes`."""
    try:
        document = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not a readable JSON file: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("classes"), list):
        raise UserError(f'{where} needs an object with a list "classes"')
    entries, ignored = document["classes"], document.get("ignore", [])
    if not 1 <= len(entries) <= MAX_CLASSES:
        raise UserError(f"{where} has {len(entries)} classes; a mask holds 1 to {MAX_CLASSES}")
    if not isinstance(ignored, list):
        raise UserError(f'{where}: "ignore" is {shown(ignored)}; it must be a list of pixel values')
    classes = tuple(parse_class(entry, f"{where}, class {i}") for i, entry in enumerate(entries))
    names = [c.name for c in classes]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{where} names {repeated[0]!r} twice; every class needs a name of its own")
    train_ids: dict[int, int] = {}
    pairs = [(entry.get("value"), i) for i, entry in enumerate(entries)] + [(v, IGNORE) for v in ignored]
    for value, train_id in pairs:
        if not _is_byte(value):
            raise UserError(f"{where}: pixel value {shown(value)} is not a whole number from 0 to 255")
        if value in train_ids:
            raise UserError(f"{where} gives pixel value {value} twice")
        train_ids[value] = train_id
    return LabelTable(parse_name(document.get("name") or "custom", where), classes, train_ids)


def parse_class(entry: Any, where: str) -> SegmentationClass:
    """Check one JSON object with ``name``, ``color`` and perhaps ``category``; ``where`` starts the error."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {shown(entry)}; it must be an object with name and color")
    name, color, category = parse_name(entry.get("name"), where), entry.get("color"), entry.get("category", "")
    if not isinstance(color, list) or len(color) != 3 or not all(_is_byte(c) for c in color):
        raise UserError(f"{where} ({name}) has the color {shown(color)}; it must be three numbers from 0 to 255")
    if category != "":
        parse_name(category, f"{where} ({name})", "category")
    return SegmentationClass(name, (color[0], color[1], color[2]), category)


def parse_name(value: Any, where: str, what: str = "name") -> str:
    """Check that a value from a file is text that can be shown; ``where`` and ``what`` start the error."""
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= MAX_NAME:
        raise UserError(f"{where} has the {what} {shown(value)}; it must be 1 to {MAX_NAME} printable characters")
    return value


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255
