"""labelme sets: a JSON beside each image, with shapes that are drawn as in labelme's own export."""

import binascii
import json
import re
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from posixpath import commonpath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fastseg.errors import UserError, shown
from fastseg.labels import IGNORE, LabelTable
from fastseg.packing.masks import DecodedMask
from fastseg.packing.sources.annotations import (
    BACKGROUND,
    class_names,
    class_table,
    find_member,
    find_split,
    join,
    number_classes,
    parse_outline,
    parse_size,
    read_json,
    stem_of,
    upright_size,
)
from fastseg.packing.sources.samples import Files, Labeled
from fastseg.packing.sources.shape_masks import ShapeMask
from fastseg.packing.sources.tree import IMAGE_SUFFIXES, Found, Member, Tree, is_image
from fastseg.shards.images import load_image

IGNORED = "__ignore__"
"""Label of pixels that are neither trained nor scored."""
LABELS = "labels.txt"
"""List of the labels in order, one a line, as labelme's own converters take it."""
SNIFFED = 20
"""Number of JSON files whose first bytes are read to recognize a set."""
_HEAD = re.compile(rb'"(?:shapes|imagePath|imageData)"\s*:')
_FLAT = ("line", "linestrip", "point", "points")
"""Shapes without an area."""


@dataclass(frozen=True)
class _Header:
    """Facts about a JSON that are needed before it is drawn."""

    labels: tuple[Any, ...] = ()
    image: Any = None
    embedded: bool = False
    """True if the JSON contains the image."""


class EmbeddedImage(Member):
    """An image that is stored inside a labelme JSON as base64."""

    def _read(self) -> bytes:
        return b64decode(json.loads(super()._read())["imageData"])


class LabelmeMask(ShapeMask):
    """The shapes of one JSON, later ones over earlier ones; all other pixels are background, value 0."""

    listed_in = LABELS

    def decode(self, lossy: bool = False) -> DecodedMask:  # noqa: ARG002 - nothing drawn is lossy
        """Draw the mask. Raises :class:`UserError` with file and shape for invalid shapes."""
        document = read_json(self.file)
        shapes = document.get("shapes") if isinstance(document, dict) else None
        if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
            raise UserError(f'{self.file} has no list of "shapes"; save it again with labelme')
        if flat := Counter(f"{s['shape_type']} {shown(s.get('label'))}" for s in shapes if _is_flat(s)):
            first = flat.most_common(1)[0][0]
            raise UserError(
                f"{self.file} has {sum(flat.values())} shapes without an area, such as the {first}; draw polygons "
                "instead, or convert the set with labelme2voc.py, which makes lines 10 pixels wide"
            )
        height, width = self._size(document)
        mask = Image.new("L", (width, height))
        for place, shape in enumerate(shapes):
            where = f"{self.file}, shape {place} ({shown(shape.get('label'))})"
            draw_shape(mask, shape, self.value(shape.get("label"), where), where)
        return DecodedMask(mask)

    def _size(self, document: Mapping[str, Any]) -> tuple[int, int]:
        height, width = document.get("imageHeight"), document.get("imageWidth")
        if height is None and width is None:
            return upright_size(self.image)
        return parse_size(height, width, str(self.file))


def draw_shape(mask: Image.Image, shape: Mapping[str, Any], value: int, where: str) -> None:
    """Draw a shape and its outline onto a mask as labelme's ``shape_to_mask`` does; errors start with ``where``."""
    kind, draw = shape.get("shape_type") or "polygon", ImageDraw.Draw(mask)
    if kind in ("polygon", "oriented_rectangle", "rotation"):
        draw.polygon(_pairs(parse_outline(shape.get("points"), where)), fill=value, outline=value)
        return
    if kind not in ("rectangle", "circle", "mask"):
        raise UserError(f"{where} is of the kind {shown(kind)}, which labelme does not have; draw a polygon instead")
    points = parse_outline(shape.get("points"), where, fewest=2)
    if kind == "rectangle" and len(points) == 4:  # as X-AnyLabeling writes it
        points = np.array([points.min(0), points.max(0)])
    if len(points) != 2:
        raise UserError(f"{where} has {len(points)} points, but a {kind} has two; draw it again, or remove it")
    if kind == "rectangle":
        draw.rectangle(_pairs(np.sort(points, axis=0)), fill=value, outline=value)
    elif kind == "circle":
        center, radius = points[0], float(np.hypot(*(points[1] - points[0])))
        draw.ellipse(_pairs(np.array([center - radius, center + radius])), fill=value, outline=value)
    else:
        _paste_mask(mask, shape.get("mask"), points, value, where)


def _pairs(points: np.ndarray) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points.tolist()]


def _paste_mask(mask: Image.Image, data: Any, points: np.ndarray, value: int, where: str) -> None:
    """Draw a mask stored as a base64 PNG between two corners, both inclusive."""
    try:
        png = b64decode(data, validate=True)
    except (TypeError, ValueError, binascii.Error):
        png = b""
    part = load_image(png, f"the mask of {where}", ("PNG",)).convert("L").point([0] + [255] * 255)
    (left, top), (right, bottom) = points.astype(int).tolist()
    if part.size != (right - left + 1, bottom - top + 1):
        raise UserError(
            f"{where} has a mask of {part.width}×{part.height} pixels between corners for {right - left + 1}×"
            f"{bottom - top + 1}; draw it again, or remove it"
        )
    mask.paste(value, (left, top, right + 1, bottom + 1), part)


def _is_flat(shape: Mapping[str, Any]) -> bool:
    return shape.get("shape_type") in _FLAT


class Labelme:
    """The source: labelme JSON files, and the images that they name, contain or have beside them."""

    name = "labelme"
    archives: tuple[str, ...] = ()

    def recognize(self, tree: Tree) -> bool:
        """Return whether one of the first JSON files begins as labelme's do."""
        return any(_HEAD.search(tree[name].head(4096)) for name in tree.ending(".json")[:SNIFFED])

    def find(self, tree: Tree) -> Files:
        """Return images and masks; JSON files without image are listed as unread, images without JSON as strays."""
        values = self._numbers(tree) | {IGNORED: IGNORE}
        images, masks, unread = list[Found](), list[Labeled](), list[tuple[str, str]]()
        files = _labelme_files(tree)
        common = commonpath([f"/{PurePosixPath(name).parent}" for name, _, _ in files] or ["/"])
        elsewhere = defaultdict[str, list[str]](list)
        for image_name in tree.images:
            elsewhere[PurePosixPath(image_name).name].append(image_name)
        for name, file, header in files:
            place, image = _find_image(tree, name, file, header, elsewhere)
            if image is None:
                unread.append((str(file), "its image is not beside it"))
                continue
            split = find_split(str(PurePosixPath(name).parent))
            stem = stem_of(f"/{name}".removeprefix(common).strip("/"))
            images.append(Found(split, stem, image, place))
            masks.append(Labeled(split, stem, LabelmeMask(file, image, values), name))
        known = {image.name for image in images}
        strays = [(name, "the image has no JSON of labelme") for name in tree.images if name not in known]
        return Files(images, masks, unread, strays)

    def classes(self, tree: Tree) -> LabelTable:
        """Return the background, value 0, and the labels, in the order of labels.txt or else alphabetically.

        ``__ignore__`` is ignored, and ``_background_`` is the background.
        """
        return class_table(tree, [_shown_name(name) for name in class_names(self._numbers(tree))], str(tree.root))

    def _numbers(self, tree: Tree) -> dict[str, int]:
        if listed := find_member(tree, LABELS):
            lines = listed.read().decode("utf-8-sig", "replace").splitlines()
            labels = dict.fromkeys(line.strip() for line in lines if line.strip())
        else:
            texts = (
                label for _, _, header in _labelme_files(tree) for label in header.labels if isinstance(label, str)
            )
            labels = dict.fromkeys(sorted({text.strip() for text in texts}))
        return number_classes(label for label in labels if label and label != IGNORED)


def _shown_name(name: str) -> str:
    return BACKGROUND if name == f"_{BACKGROUND}_" else name


def _labelme_files(tree: Tree) -> list[tuple[str, Member, _Header]]:
    """Return the JSON files of labelme; others are left out."""
    files = [(name, tree[name]) for name in tree.ending(".json")]
    headers = _read_headers(tuple(file for _, file in files))
    return [(name, file, header) for (name, file), header in zip(files, headers, strict=True) if header]


@lru_cache(maxsize=2)
def _read_headers(files: tuple[Member, ...]) -> tuple[_Header | None, ...]:
    """Read the facts of JSON files once per process."""
    return tuple(_read_header(file) for file in files)


def _read_header(file: Member) -> _Header | None:
    try:
        document = read_json(file)
    except UserError:  # decode() raises it again, so that packing lists all damaged files together
        return _Header()
    if not isinstance(document, dict) or not {"shapes", "imagePath", "imageData"} & document.keys():
        return None
    shapes = document.get("shapes")
    labels = dict.fromkeys(
        label
        for shape in (shapes if isinstance(shapes, list) else [])
        if isinstance(shape, dict) and isinstance(label := shape.get("label"), str)
    )
    return _Header(tuple(labels), document.get("imagePath"), isinstance(document.get("imageData"), str))


def _find_image(
    tree: Tree, name: str, file: Member, header: _Header, elsewhere: Mapping[str, list[str]]
) -> tuple[str, Member | None]:
    """Return the image of a JSON.

    The image is the one that the JSON names, else one beside it of that name or of the JSON's own name, else the
    embedded one, else the only one of that name in the data set or in the JSON's split.
    """
    folder, stem = str(PurePosixPath(name).parent).removeprefix("."), name[: -len(".json")]
    named = header.image if isinstance(header.image, str) else ""
    bare = re.split(r"[/\\]", named)[-1]
    places = [join(folder, named), join(folder, bare)] if named.strip() else []
    beside = [stem + suffix for suffix in (*IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES))]
    for place in (*places, *beside):
        if place and is_image(place) and (image := find_member(tree, place)):
            return place, image
    if header.embedded:
        return name, EmbeddedImage(file.path, file.size, file.stamp, file.name, file.offset)
    likely = (bare, *(PurePosixPath(place).name for place in beside))
    others = next((elsewhere[file_name] for file_name in likely if file_name in elsewhere), [])
    alike = [other for other in others if find_split(other) == find_split(name)] if len(others) > 1 else others
    return (alike[0], tree[alike[0]]) if len(alike) == 1 else (name, None)
