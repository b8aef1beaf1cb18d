"""Supervisely projects: the classes in meta.json, images in folders ``img``, their shapes in JSON files in ``ann``."""

import re
import zlib
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.errors import UserError, shown
from fastseg.labels import LabelTable
from fastseg.packing.masks import DecodedMask
from fastseg.packing.sources.annotations import (
    class_names,
    class_table,
    find_member,
    find_split,
    number_classes,
    parse_hex,
    parse_outline,
    parse_size,
    read_json,
    stem_of,
)
from fastseg.packing.sources.samples import Files, Labeled
from fastseg.packing.sources.shape_masks import ShapeMask
from fastseg.packing.sources.tree import IMAGE_SUFFIXES, Found, Tree
from fastseg.shards.images import load_image
from fastseg.shards.tar import MAX_FILE

META = "meta.json"
_ANNOTATION = re.compile(r"(.*/)?ann/([^/]+)\.json")
_AREAS = ("bitmap", "polygon", "rectangle")
_WITHOUT_AREA = ("point", "line", "graph", "cuboid")
"""Shapes of classes that no mask can hold."""


class SuperviselyMask(ShapeMask):
    """The objects of one JSON, drawn as Supervisely's SDK does: later ones over earlier ones, rectangles filled.

    Coordinates are rounded down; a polygon includes its outline, its holes take their outlines away.
    """

    listed_in = META

    def decode(self, lossy: bool = False) -> DecodedMask:  # noqa: ARG002 - nothing drawn is lossy
        """Draw the mask. Raises :class:`UserError` with file and object for invalid objects."""
        document = read_json(self.file)
        objects = document.get("objects") if isinstance(document, dict) else None
        if not isinstance(objects, list) or not all(isinstance(entry, dict) for entry in objects):
            raise UserError(f'{self.file} has no list of "objects"; export it again')
        self._refuse_boxes(objects)
        size = document.get("size") if isinstance(document.get("size"), dict) else {}
        height, width = parse_size(size.get("height"), size.get("width"), str(self.file))
        canvas = np.zeros((height, width), np.uint8)
        for place, entry in enumerate(objects):
            where = f"{self.file}, object {place} ({shown(entry.get('classTitle'))})"
            canvas[_draw(entry, height, width, where)] = self.value(entry.get("classTitle"), where)
        return DecodedMask(Image.fromarray(canvas))

    def _refuse_boxes(self, objects: list[dict[str, Any]]) -> None:
        """Refuse boxes around objects that have masks, which would hide what lies around those."""
        boxed, drawn = (
            {str(entry.get("classTitle")) for entry in objects if (_kind(entry) == "rectangle") is box}
            for box in (True, False)
        )
        if both := sorted(boxed & drawn):
            raise UserError(
                f"{self.file} has rectangles and masks of {shown(both[0])}; a box is no mask: export it without the "
                "rectangles"
            )


def _kind(entry: Mapping[str, Any]) -> Any:
    return entry.get("geometryType") or ("bitmap" if entry.get("bitmap") else "polygon")  # early projects lack it


def _draw(entry: Mapping[str, Any], height: int, width: int, where: str) -> NDArray[np.bool_]:
    """Return the pixels of an object; errors start with ``where``."""
    import cv2

    kind = _kind(entry)
    if kind not in _AREAS:
        raise UserError(f"{where} is of the kind {shown(kind)}, which has no area; draw a polygon or a mask instead")
    if kind == "bitmap":
        return _paste_bitmap(entry.get("bitmap"), height, width, where)
    points = entry.get("points")
    exterior, holes = (points.get("exterior"), points.get("interior")) if isinstance(points, dict) else (None, None)
    outline = _corners(exterior, where, 3 if kind == "polygon" else 2)
    mask = np.zeros((height, width), np.uint8)
    if kind == "rectangle":
        (left, top), (right, bottom) = outline.min(0).tolist(), outline.max(0).tolist()
        return cv2.rectangle(mask, (left, top), (right, bottom), 1, cv2.FILLED).astype(bool)
    cv2.fillPoly(mask, [outline], 1)
    for hole in holes if isinstance(holes, list) else [holes] if holes else []:
        cv2.fillPoly(mask, [_corners(hole, where, 3)], 0)
    return mask.astype(bool)


def _corners(numbers: Any, where: str, fewest: int) -> NDArray[np.int32]:
    return np.floor(parse_outline(numbers, where, fewest)).astype(np.int32)


def _paste_bitmap(bitmap: Any, height: int, width: int, where: str) -> NDArray[np.bool_]:
    """Return the pixels of a bitmap: base64 of a zlib-compressed PNG, whose alpha channel counts if it has one."""
    data, origin = (bitmap.get("data"), bitmap.get("origin")) if isinstance(bitmap, dict) else (None, None)
    try:
        png = zlib.decompressobj().decompress(b64decode(data or ""), MAX_FILE)
    except (TypeError, ValueError, zlib.error):
        png = b""
    part = load_image(png, f"the bitmap of {where}", ("PNG",))
    inside = np.asarray(part.getchannel("A") if part.mode == "RGBA" else part.convert("L")) > 0
    (left, top), *_ = parse_outline([origin], f"the bitmap of {where}", fewest=1).astype(int).tolist()
    rows, columns = inside.shape
    if left < 0 or top < 0 or left + columns > width or top + rows > height:
        raise UserError(
            f"{where} has a bitmap of {columns}×{rows} pixels at {left}, {top}, outside of its image of "
            f"{width}×{height}; draw it again, or remove it"
        )
    mask = np.zeros((height, width), bool)
    mask[top : top + rows, left : left + columns] = inside
    return mask


class Supervisely:
    """The source: ``meta.json``, and ``DATASET/img/NAME.jpg`` with ``DATASET/ann/NAME.jpg.json``."""

    name = "Supervisely"
    archives: tuple[str, ...] = ()

    def recognize(self, tree: Tree) -> bool:
        """Return whether there are a meta.json with classes and a JSON in a folder ann."""
        return (
            (meta := find_member(tree, META)) is not None
            and b'"classes"' in meta.read()
            and any(map(_ANNOTATION.fullmatch, tree.ending(".json")))
        )

    def find(self, tree: Tree) -> Files:
        """Return images and masks; folders of datasets may name splits. Images without JSON are listed as strays."""
        values = number_classes(title for title, _ in self._classes(tree))
        images, masks, unread = list[Found](), list[Labeled](), list[tuple[str, str]]()
        for match in filter(None, map(_ANNOTATION.fullmatch, tree.ending(".json"))):
            file, folder = tree[match[0]], match[1] or ""
            names = (f"{folder}img/{match[2]}{suffix}" for suffix in ("", *IMAGE_SUFFIXES))
            if (name := next((name for name in names if find_member(tree, name)), None)) is None:
                unread.append((str(file), "its image is not in the folder img beside ann"))
                continue
            split, stem, image = find_split(folder), stem_of(f"{folder}{match[2]}"), tree[name]
            images.append(Found(split, stem, image, name))
            masks.append(Labeled(split, stem, SuperviselyMask(file, image, values), match[0]))
        known = {image.name for image in images}
        bare = [name for name in tree.images if f"/{name}".rpartition("/")[0].endswith("/img") and name not in known]
        return Files(images, masks, unread, [(name, "the image has no JSON in ann") for name in bare])

    def classes(self, tree: Tree) -> LabelTable:
        """Return the background, value 0, and the classes of meta.json that have an area, with their colors."""
        classes = self._classes(tree)
        colors = {title: parse_hex(color) for title, color in classes}
        return class_table(tree, class_names(number_classes(colors)), str(tree[META]), colors)

    def _classes(self, tree: Tree) -> list[tuple[str, Any]]:
        """Return title and color of each class."""
        meta = read_json(tree[META])
        entries = meta.get("classes") if isinstance(meta, dict) else None
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) and isinstance(entry.get("title"), str) for entry in entries
        ):
            raise UserError(f'{tree[META]} needs a list of "classes" with a title each; export the project again')
        kept = [entry for entry in entries if entry.get("shape") not in _WITHOUT_AREA]
        return [(entry["title"].strip(), entry.get("color")) for entry in kept]
