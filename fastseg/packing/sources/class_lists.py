"""Lists of class names that tools write beside masks: labelmap.txt, class_names.txt, _classes.csv, class_dict.csv."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from fastseg.errors import UserError, shown
from fastseg.labels import IGNORE, Color, LabelTable
from fastseg.packing.sources.annotations import BACKGROUND, class_table
from fastseg.packing.sources.data_yaml import find_yaml, mask_classes, names_masks
from fastseg.packing.sources.samples import Labeled
from fastseg.packing.sources.tree import Found, Tree

MAX_LIST = 1 << 16
"""Maximum size of a list in bytes; 255 classes take 10 kB."""
SAMPLED_MASKS = 5
"""Number of masks that tell what the masks of a set hold."""
IGNORED = {"void", "ignore", "ignored"}
"""Names of what is neither trained nor scored."""


Kind = Literal["color", "palette", "value"]
"""What masks hold: RGB colors, indexes of a palette of colors, or values."""


class Row(NamedTuple):
    """One class of a list."""

    name: str
    color: Color | None = None


def parse_labelmap(lines: Sequence[str]) -> list[Row]:
    """Parse CVAT's ``labelmap.txt``: lines such as ``car:250,50,83::`` (name:color_rgb:parts:actions)."""
    return _parse_rows([line for line in lines if not line.startswith("#")], r"(.+?):(\d+),(\d+),(\d+):[^:]*:[^:]*")


def parse_class_names(lines: Sequence[str]) -> list[Row]:
    """Parse labelme2voc's ``class_names.txt``: a name per line, that of the background first."""
    background = lines and lines[0].strip("_").lower() == BACKGROUND
    return [Row(BACKGROUND), *(Row(line) for line in lines[1:])] if background else []


def parse_class_dict(lines: Sequence[str]) -> list[Row]:
    """Parse a ``class_dict.csv``, as many sets on Kaggle have it: columns name, r, g, b."""
    headed = lines and re.fullmatch(r"(name|class)\s*,\s*r\s*,\s*g\s*,\s*b", lines[0], re.IGNORECASE)
    return _parse_rows(lines[1:], r"([^,]+?)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)") if headed else []


def parse_pixel_values(lines: Sequence[str]) -> list[Row]:
    """Parse Roboflow's ``_classes.csv``: columns "Pixel Value" and "Class", the values from 0 without a gap."""
    headed = lines and re.fullmatch(r"pixel value\s*,\s*class", lines[0], re.IGNORECASE)
    cells = [[cell.strip() for cell in line.split(",", 1)] for line in lines[1:]] if headed else []
    in_order = all(len(row) == 2 and row[0] == str(value) and row[1] for value, row in enumerate(cells))
    return [Row(name) for _, name in cells] if in_order else []


def _parse_rows(lines: Iterable[str], pattern: str) -> list[Row]:
    """Return name, red, green and blue of each line; no rows if a line does not fit or a number is above 255."""
    matches = [re.fullmatch(pattern.replace(r"\d+", r"0*\d{1,3}"), line) for line in lines]
    rows = [Row(name, (int(r), int(g), int(b))) for name, r, g, b in (match.groups() for match in matches if match)]
    return rows if all(matches) and all(max(row.color) <= 255 for row in rows if row.color) else []


class ClassList(NamedTuple):
    """Kind of list."""

    parse: Callable[[Sequence[str]], list[Row]]
    """Turns non-empty lines into rows; no rows for a file of another kind."""
    numbered: bool = True
    """True if masks of values hold the places of the rows, counted from 0."""


CLASS_LISTS = {
    "labelmap.txt": ClassList(parse_labelmap),
    "class_names.txt": ClassList(parse_class_names),
    "_classes.csv": ClassList(parse_pixel_values),
    "class_dict.csv": ClassList(parse_class_dict, numbered=False),
    "class_dict_seg.csv": ClassList(parse_class_dict, numbered=False),
}
"""Lists by the names of their files."""


def listed_classes(tree: Tree, find_masks: Callable[[], Iterable[Found | Labeled]]) -> LabelTable | None:
    """Return the classes of the first of :data:`CLASS_LISTS` that fits the masks; None if there is none.

    ``find_masks`` is called only if there is a list. Masks with colors are read by the colors of the list, or by its
    numbers if they have a palette and the list no colors. Raises :class:`UserError` for two classes of one name, or of
    one color if colors count, and as :func:`class_table`.
    """
    kind: Kind | None = None
    for file, (parse, numbered) in CLASS_LISTS.items():
        for name in _named(tree, file):
            rows = parse(_lines(tree[name].read())) if tree[name].size <= MAX_LIST else []
            kind = kind or (_kind(find_masks()) if rows else None)
            if rows and rows[0].color and kind != "value":
                return _by_color(tree, rows, str(tree[name]))
            if rows and numbered and kind != "color":
                return _by_number(tree, rows, str(tree[name]))
    return None


def yaml_classes(tree: Tree, find_masks: Callable[[], Iterable[Found | Labeled]]) -> LabelTable | None:
    """Return the classes that Ultralytics' data.yaml names for masks of values; None if there is none.

    ``find_masks`` is called only if there is a YAML. Raises :class:`UserError` as :func:`mask_classes`.
    """
    found = find_yaml(tree)
    if found is None or not names_masks(tree, found[1]) or _kind(find_masks()) == "color":
        return None
    return mask_classes(tree, *found)


def _named(tree: Tree, file: str) -> list[str]:
    """Return the files of this name, in any case, the outermost first."""
    found = [name for name in tree.ending(file) if PurePosixPath(name).name.lower() == file]
    return sorted(found, key=lambda name: name.count("/"))


def _lines(text: bytes) -> list[str]:
    lines = text.decode("utf-8-sig", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _kind(masks: Iterable[Found | Labeled]) -> Kind:
    """Return what the first masks hold; those that cannot be read are left to packing, which names them all."""
    kinds = {"value"}
    for mask in islice(masks, SAMPLED_MASKS):
        with suppress(UserError):
            decoded = mask.member.decode(lossy=True)
            colored = any(len(set(color)) > 1 for color in decoded.palette)
            kinds.add("color" if decoded.image.mode == "RGB" else "palette" if colored else "value")
    return "color" if "color" in kinds else "palette" if "palette" in kinds else "value"


def _by_color(tree: Tree, rows: Sequence[Row], where: str) -> LabelTable:
    table, ids = _table(tree, rows, where)
    colors = {row.color: i for row, i in zip(rows, ids, strict=True) if row.color}
    if len(colors) < len(rows):
        raise UserError(f"{where} gives two classes one color; write classes.json, in which they are one class")
    return replace(table, train_ids={}, colors=colors)


def _by_number(tree: Tree, rows: Sequence[Row], where: str) -> LabelTable:
    table, ids = _table(tree, rows, where)
    return replace(table, train_ids={IGNORE: IGNORE, **dict(enumerate(ids))})


def _table(tree: Tree, rows: Sequence[Row], where: str) -> tuple[LabelTable, list[int]]:
    """Return the classes and the train id of each row."""
    if repeated := [name for name, count in Counter(row.name for row in rows).items() if count > 1]:
        raise UserError(f"{where} names {shown(repeated[0])} twice; every class needs a name of its own")
    kept = [row for row in rows if row.name.lower() not in IGNORED]
    colors = {row.name: list(row.color) for row in kept if row.color}
    table = class_table(tree, [row.name for row in kept], where, colors)
    return table, [kept.index(row) if row in kept else IGNORE for row in rows]
