"""CVAT for images 1.1: an annotations.xml with the shapes of all images."""

import pickle
import re
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.errors import UserError, shown
from fastseg.labels import LabelTable
from fastseg.packing.masks import DecodedMask
from fastseg.packing.sources.annotations import (
    class_names,
    class_table,
    number_classes,
    parse_hex,
    parse_outline,
    parse_size,
)
from fastseg.packing.sources.samples import Files
from fastseg.packing.sources.shape_masks import Listed, ShapeMask, find_listed
from fastseg.packing.sources.tree import Member, Tree

MAX_DEPTH = 1
"""Maximum number of folders above an XML file: one for each task."""
_WITHOUT_AREA = ("tag", "points", "polyline", "skeleton", "cuboid")
"""Types of labels that no mask can hold."""
_HEAD = re.compile(rb"<annotations>\s*<version>")


class Document(NamedTuple):
    """Content of an XML file that masks need."""

    labels: dict[str, str]
    """Color of each label."""
    images: tuple[tuple[str, str, bytes], ...]
    """Name, subset, and pickled size and shapes of each image."""
    drawn: bool
    """Whether there are any shapes."""


class CvatMask(ShapeMask):
    """The shapes of one image, drawn as CVAT's own export of masks does: by z_order, then in the order of the file.

    Polygons and boxes are filled by pycocotools, ellipses by OpenCV; lines, points, skeletons and tags are left out.
    """

    listed_in = "the labels of the XML"

    def decode(self, lossy: bool = False) -> DecodedMask:  # noqa: ARG002 - nothing drawn is lossy
        """Draw the mask. Raises :class:`UserError` with file, image and shape for invalid shapes."""
        size, listed = pickle.loads(self.shapes)
        height, width = parse_size(size[0], size[1], str(self))
        canvas = np.zeros((height, width), np.uint8)
        shapes = []
        for place, (kind, attributes) in enumerate(listed):
            where = f"{self}, {kind} {place} ({shown(attributes.get('label'))})"
            shapes.append((_number(attributes.get("z_order", "0"), where), place, kind, attributes, where))
        for *_, kind, attributes, where in sorted(shapes, key=lambda shape: shape[:2]):
            canvas[_DRAW[kind](attributes, height, width, where)] = self.value(attributes.get("label"), where)
        return DecodedMask(Image.fromarray(canvas))


def _number(text: str | None, where: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = np.nan
    if not abs(number) < 1e9:  # also rejects NaN
        raise UserError(f"{where} has {shown(text)} in place of a number; export it again")
    return number


def _fill(outline: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    from pycocotools import mask as coco

    return coco.decode(coco.merge(coco.frPyObjects([outline.ravel().tolist()], height, width))).astype(bool)


def _draw_polygon(shape: Mapping[str, str], height: int, width: int, where: str) -> NDArray[np.bool_]:
    pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
    return _fill(parse_outline(pairs, where), height, width)


def _draw_box(shape: Mapping[str, str], height: int, width: int, where: str) -> NDArray[np.bool_]:
    left, top, right, bottom = (_number(shape.get(name), where) for name in ("xtl", "ytl", "xbr", "ybr"))
    corners = np.array([(left, top), (left, bottom), (right, bottom), (right, top)])
    angle, center = np.deg2rad(_number(shape.get("rotation", "0"), where)), corners.mean(0)
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    outline = (corners - center) @ turn + center if angle else corners
    return _fill(parse_outline(outline, where), height, width)


def _draw_ellipse(shape: Mapping[str, str], height: int, width: int, where: str) -> NDArray[np.bool_]:
    import cv2

    x, y, wide, high = (round(_number(shape.get(name), where)) for name in ("cx", "cy", "rx", "ry"))
    parse_outline([(x, y), (x + wide, y), (x, y + high)], where)
    mask = np.zeros((height, width), np.uint8)
    angle = _number(shape.get("rotation", "0"), where)
    return cv2.ellipse(mask, (x, y), (abs(wide), abs(high)), angle, 0, 360, 1, cv2.FILLED).astype(bool)


def _draw_mask(shape: Mapping[str, str], height: int, width: int, where: str) -> NDArray[np.bool_]:
    """Return a mask that is stored as lengths of runs, row by row, the first of which lies outside."""
    left, top, columns, rows = (int(_number(shape.get(name), where)) for name in ("left", "top", "width", "height"))
    fits = 0 <= left < left + columns <= width and 0 <= top < top + rows <= height
    counts = [int(text) if re.fullmatch(r"\s*\d{1,9}\s*", text) else -1 for text in shape.get("rle", "").split(",")]
    if not fits or min(counts) < 0 or sum(counts) > rows * columns:
        raise UserError(
            f"{where} has runs (rle) that do not fit into its box of {columns}×{rows} pixels, or a box outside of its "
            f"image of {width}×{height}; export it again"
        )
    flat = np.zeros(rows * columns, bool)
    filled = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    flat[: filled.size] = filled
    mask = np.zeros((height, width), bool)
    mask[top : top + rows, left : left + columns] = flat.reshape(rows, columns)
    return mask


_DRAW = {"polygon": _draw_polygon, "box": _draw_box, "ellipse": _draw_ellipse, "mask": _draw_mask}


class Cvat:
    """The source: XML files in the folder or one below it, and images beside them or in ``images``."""

    name = "CVAT for images"
    archives: tuple[str, ...] = ()

    def recognize(self, tree: Tree) -> bool:
        """Return whether there is such an XML."""
        return bool(_files(tree))

    def find(self, tree: Tree) -> Files:
        """Return images and masks; the subsets of a project are its splits if they are called so."""
        if not any(_read(tree[name]).drawn for name in _files(tree)):
            raise UserError(
                f"{tree[_files(tree)[0]]} has no shapes with an area; draw polygons, or export it with them"
            )
        listed = (Listed(name, *image) for name in _files(tree) for image in _read(tree[name]).images)
        return find_listed(tree, listed, CvatMask, number_classes(_labels(tree)))

    def classes(self, tree: Tree) -> LabelTable:
        """Return the background, value 0, and the labels in their order, with their colors."""
        labels = _labels(tree)
        colors = {name: parse_hex(color) for name, color in labels.items()}
        return class_table(tree, class_names(number_classes(labels)), str(tree[_files(tree)[0]]), colors)


def _files(tree: Tree) -> list[str]:
    names = [name for name in tree.ending(".xml") if name.count("/") <= MAX_DEPTH]
    named = [name for name in names if "/" not in name or PurePosixPath(name).name == "annotations.xml"]
    return [name for name in named if _HEAD.search(tree[name].head(1024))]


def _labels(tree: Tree) -> dict[str, str]:
    return {label: color for name in _files(tree) for label, color in _read(tree[name]).labels.items()}


@lru_cache(maxsize=8)
def _read(file: Member) -> Document:
    """Read an XML once per process; raise :class:`UserError` for damaged ones and for those of videos."""
    labels, images, drawn = dict[str, str](), list[tuple[str, str, bytes]](), False
    try:
        for _, element in ElementTree.iterparse(BytesIO(file.read())):
            if element.tag == "label" and element.findtext("type") not in _WITHOUT_AREA:
                labels[(element.findtext("name") or "").strip()] = (element.findtext("color") or "").strip()
            elif element.tag == "track":
                raise UserError(f"{file} is of CVAT for video; export the task as CVAT for images 1.1")
            elif element.tag == "image":
                shapes = [(shape.tag, dict(shape.attrib)) for shape in element if shape.tag in _DRAW]
                drawn = drawn or bool(shapes)
                sides = (element.get("height", ""), element.get("width", ""))
                size = [int(side) if side.isdecimal() and len(side) < 9 else side for side in sides]
                images.append((element.get("name", ""), element.get("subset", ""), pickle.dumps((size, shapes))))
                element.clear()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise UserError(f"{file} is not a readable XML file ({error}); export it again") from None
    return Document(labels, tuple(images), drawn)
