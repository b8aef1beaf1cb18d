"""VGG Image Annotator (VIA 1 and 2): a JSON with the regions of all images, as annotations or as a project."""

import math
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from fastseg.errors import UserError, shown
from fastseg.labels import LabelTable
from fastseg.packing.masks import DecodedMask
from fastseg.packing.sources.annotations import (
    class_names,
    class_table,
    number_classes,
    parse_outline,
    read_json,
    upright_size,
)
from fastseg.packing.sources.coco import draw_runs, encode_segmentation
from fastseg.packing.sources.samples import Files
from fastseg.packing.sources.shape_masks import Listed, ShapeMask, find_listed
from fastseg.packing.sources.tree import Member, Tree

MAX_DEPTH = 2
"""Maximum number of folders above a JSON file."""
CLASS_KEYS = ("class", "label", "category", "name", "object", "type")
"""Attributes of regions that name the class, the likeliest first."""
UNNAMED = "object"
"""Class of all regions in a set whose regions have no attributes."""
SNIFFED = 20
"""Number of JSON files whose first bytes are read to recognize a set."""
STEP = 5
"""Angle in degrees between the points of a circle, as in VIA's export to COCO."""
_HEAD = re.compile(rb'"(?:_via_\w+|regions)"\s*:')


class ViaMask(ShapeMask):
    """The regions of one image, drawn as VIA's export to COCO has them: smaller ones over larger ones."""

    listed_in = "the attributes of the regions"

    def decode(self, lossy: bool = False) -> DecodedMask:  # noqa: ARG002 - nothing drawn is lossy
        """Draw the mask. Raises :class:`UserError` with file, image and region for invalid regions."""
        height, width = upright_size(self.image)
        drawn = []
        for place, (label, shape) in enumerate(pickle.loads(self.shapes)):
            where = f"{self}, region {place} ({shown(label)})"
            outline = parse_outline(_outline(shape, where), where).ravel().tolist()
            drawn.append((self.value(label, where), encode_segmentation([outline], height, width, where)))
        return DecodedMask(draw_runs(drawn, height, width))


def _outline(shape: Any, where: str) -> Any:
    """Return the points of a region as numbers x, y, x, y, …"""
    kind = shape.get("name") if isinstance(shape, dict) else None
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        same = isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys)
        return list(zip(xs, ys, strict=True)) if same else None
    if kind == "rect":
        x, y, width, height = (_number(shape, key, where) for key in ("x", "y", "width", "height"))
        return [x, y, x + width, y, x + width, y + height, x, y + height]
    if kind in ("circle", "ellipse"):
        x, y = (_number(shape, key, where) for key in ("cx", "cy"))
        wide, high = (_number(shape, "r" if kind == "circle" else key, where) for key in ("rx", "ry"))
        turn = _number(shape, "theta", where) if "theta" in shape else 0
        around = [math.radians(angle) for angle in range(0, 360, STEP)]
        return [
            (
                x + wide * math.cos(a) * math.cos(turn) - high * math.sin(a) * math.sin(turn),
                y + wide * math.cos(a) * math.sin(turn) + high * math.sin(a) * math.cos(turn),
            )
            for a in around
        ]
    raise UserError(f"{where} is of the kind {shown(kind)}, which has no area; draw a polygon instead, or remove it")


def _number(shape: Mapping[str, Any], key: str, where: str) -> float:
    value = shape.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise UserError(f"{where} has the {key} {shown(value)}, which is no number; draw it again, or remove it")
    return value


class Via:
    """The source: JSON files, and images beside them or in ``images``."""

    name = "VIA"
    archives: tuple[str, ...] = ()

    def recognize(self, tree: Tree) -> bool:
        """Return whether one of the first JSON files is such a JSON."""
        return bool(_files(tree, SNIFFED))

    def find(self, tree: Tree) -> Files:
        """Return images and masks; an image without regions is background only."""
        key, labels = _labels(tree)
        if next(_regions(tree), None) is None:
            raise UserError(f"{tree[_files(tree)[0]]} has no regions; export it with them, or remove it")
        listed = (
            Listed(file, image, "", pickle.dumps([(_label(r, key), r.get("shape_attributes")) for r in regions]))
            for file in _files(tree)
            for image, regions in _read(tree[file])
        )
        return find_listed(tree, listed, ViaMask, number_classes(labels))

    def classes(self, tree: Tree) -> LabelTable:
        """Return the background, value 0, and the values of the regions' attribute for the class, alphabetically."""
        return class_table(tree, class_names(number_classes(_labels(tree)[1])), str(tree[_files(tree)[0]]))


def _files(tree: Tree, most: int | None = None) -> list[str]:
    names = [name for name in tree.ending(".json") if name.count("/") <= MAX_DEPTH][:most]
    return [name for name in names if _HEAD.search(tree[name].head(4096))]


@lru_cache(maxsize=8)
def _read(file: Member) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return name and regions of each image, read once per process."""
    document = read_json(file)
    entries = document.get("_via_img_metadata", document) if isinstance(document, dict) else None
    return [_parse_image(entry, file) for entry in (entries.values() if isinstance(entries, dict) else [entries])]


def _parse_image(entry: Any, file: Member) -> tuple[str, list[dict[str, Any]]]:
    name, regions = (entry.get("filename"), entry.get("regions")) if isinstance(entry, dict) else (None, None)
    listed = list(regions.values()) if isinstance(regions, dict) else regions  # VIA 1 numbers them
    if isinstance(name, str) and isinstance(listed, list) and all(isinstance(region, dict) for region in listed):
        return name, listed
    raise UserError(f'{file} has the image {shown(entry)}; each needs a "filename" and "regions": export it again')


def _regions(tree: Tree) -> Iterator[dict[str, Any]]:
    return (region for name in _files(tree) for _, regions in _read(tree[name]) for region in regions)


def _label(region: Mapping[str, Any], key: str | None) -> Any:
    """Return the class of a region; of an attribute with boxes to check, the only one that is checked."""
    if key is None:
        return UNNAMED
    attributes = region.get("region_attributes")
    value = attributes.get(key) if isinstance(attributes, dict) else None
    checked = [name for name, yes in value.items() if yes] if isinstance(value, dict) else []
    return checked[0] if len(checked) == 1 else value


def _labels(tree: Tree) -> tuple[str | None, list[str]]:
    """Return the attribute that names the classes, None if there is none, and the classes in order.

    Raises :class:`UserError` for several attributes of which none is in :data:`CLASS_KEYS`.
    """
    attributes = (region.get("region_attributes") for region in _regions(tree))
    keys = Counter(key for entry in attributes if isinstance(entry, dict) for key in entry)
    known = {key.lower(): key for key in keys}
    key = next((known[word] for word in CLASS_KEYS if word in known), next(iter(keys), None))
    if len(keys) > 1 and key is not None and key.lower() not in CLASS_KEYS:
        raise UserError(
            f"{tree[_files(tree)[0]]} has regions with the attributes {', '.join(map(shown, sorted(keys)))}; call the "
            "one that names the class 'class'"
        )
    labels = (_label(region, key) for region in _regions(tree))
    return key, sorted({label.strip() for label in labels if isinstance(label, str) and label.strip()})
