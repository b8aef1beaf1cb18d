"""Classes with names, colors and train ids, and the table that maps the pixel values of masks to train ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import labels as cityscapes_labels

from fastseg.errors import UserError, shown

IGNORE = 255
"""Train id of pixels that are neither trained nor scored (void in Cityscapes)."""

MAX_CLASSES = 255
"""Maximum number of classes: train ids are bytes, and 255 is :data:`IGNORE`."""

MAX_NAME = 100
"""Maximum number of characters of a name in a file."""

Color = tuple[int, int, int]
"""RGB, 0–255."""


@dataclass(frozen=True)
class SegmentationClass:
    """One class; its train id is its index in the list of classes."""

    name: str
    """Name in tables and reports."""
    color: Color
    """Color in overlays."""
    category: str = ""
    """Group in which the class is also scored ("vehicle", …); empty for none."""


@dataclass(frozen=True)
class LabelTable:
    """Mapping of a data set's pixel values and colors to train ids (0…C-1, or :data:`IGNORE`)."""

    name: str
    classes: tuple[SegmentationClass, ...]
    train_ids: dict[int, int]
    """Train id of each pixel value (0–255); empty if masks are read by color only."""
    colors: dict[Color, int] = field(default_factory=dict)
    """Train id of each color. Beside values it serves to check palettes and to read RGB masks."""
    others: int | None = None
    """Train id of all values and colors that are not listed; None if those are errors."""

    def lookup(self) -> np.ndarray:
        """Return the train id of every pixel value: uint8, shape (256,); :data:`IGNORE` for unknown values too."""
        table = np.full(256, IGNORE if self.others is None else self.others, np.uint8)
        for value, train_id in self.train_ids.items():
            table[value] = train_id
        return table


def class_difference(one: Sequence[str], other: Sequence[str]) -> tuple[str, str, str]:
    """Return a phrase for the first difference between two lists of classes, and its value in each list."""
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


def parse_class(entry: Any, where: str) -> SegmentationClass:
    """Check a JSON object with ``name``, ``color`` and optional ``category``; error messages start with ``where``."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {shown(entry)}; it must be an object with name and color")
    name, category = parse_name(entry.get("name"), where), entry.get("category", "")
    color = parse_color(entry.get("color"), f"{where} ({name})")
    if category != "":
        parse_name(category, f"{where} ({name})", "category")
    return SegmentationClass(name, color, category)


def parse_color(value: Any, where: str) -> Color:
    """Check that a value from a file is a color; error messages start with ``where``."""
    if not is_color(value):
        raise UserError(f"{where} has the color {shown(value)}; it must be three numbers from 0 to 255")
    return value[0], value[1], value[2]


def parse_name(value: Any, where: str, what: str = "name") -> str:
    """Check that a value from a file is printable text; error messages start with ``where`` and ``what``."""
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= MAX_NAME:
        raise UserError(f"{where} has the {what} {shown(value)}; it must be 1 to {MAX_NAME} printable characters")
    return value


def is_byte(value: Any) -> bool:
    """Return whether a value is a whole number from 0 to 255."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def is_color(value: Any) -> bool:
    """Return whether a value is a list of three bytes."""
    return isinstance(value, list) and len(value) == 3 and all(is_byte(channel) for channel in value)
