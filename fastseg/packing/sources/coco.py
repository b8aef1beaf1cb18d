"""COCO instances: polygons and run-length encodings in JSON files, drawn as masks."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from fastseg.errors import UserError, shown
from fastseg.labels import LabelTable
from fastseg.packing.masks import DecodedMask
from fastseg.packing.sources.annotations import (
    class_names,
    class_table,
    number_classes,
    parse_outline,
    parse_size,
    upright_size,
)
from fastseg.packing.sources.coco_file import (
    ARCHIVES,
    Document,
    ImageShapes,
    Picture,
    coco_files,
    find_images,
    is_panoptic,
    is_text,
    merge_categories,
    orphans,
    read_coco,
    refuse_many,
)
from fastseg.packing.sources.samples import Files, Labeled
from fastseg.packing.sources.tree import Found, Member, Tree
from fastseg.packing.sources.words import any_mask

_OTHER_TASKS = ("captions_", "person_keypoints_", "image_info_")
_RUNS = re.compile(rb"(?:[P-o]{0,5}[0-O])*")
"""Compressed run-length encoding (COCO API, maskApi.c): digits of five bits; a sixth bit marks that more follow."""


class InstanceMask(ImageShapes):
    """The instances of one image, drawn as COCO's ``annToMask`` does, smaller ones over larger ones.

    Groups (``iscrowd``) count as their class, as in COCO's own maps of pixels: CVAT marks whatever is drawn with its
    brush as a group. All other pixels are background, value 0.
    """

    def decode(self, lossy: bool = False) -> DecodedMask:  # noqa: ARG002 - nothing drawn is lossy
        """Draw the mask. Raises :class:`UserError` with file, image and annotation for invalid annotations."""
        height, width = self._size()
        drawn = []
        for place, entry in enumerate(self.load()):
            where = f"{self}, annotation {shown(entry.get('id', place))}"
            runs = encode_segmentation(entry.get("segmentation"), height, width, where)
            drawn.append((self.value(entry, where), runs))
        return DecodedMask(draw_runs(drawn, height, width))

    def _size(self) -> tuple[int, int]:
        if self.picture.height is None and self.picture.width is None:
            return upright_size(self.image)
        return parse_size(self.picture.height, self.picture.width, str(self))


def encode_segmentation(segmentation: Any, height: int, width: int, where: str) -> dict[str, Any]:
    """Encode polygons or run-length encodings as pycocotools' compressed runs, as its ``annToRLE`` does.

    Raises :class:`UserError`, which starts with ``where``, for anything else.
    """
    from pycocotools import mask as coco

    if isinstance(segmentation, dict):
        return _encode_runs(segmentation, height, width, where)
    if not isinstance(segmentation, list) or not segmentation:
        raise UserError(
            f"{where} has no segmentation (found: {shown(segmentation)}); a box is no mask: export outlines, or remove "
            "the annotation"
        )
    outlines = [parse_outline(part if isinstance(part, list) else None, where).ravel() for part in segmentation]
    return coco.merge(coco.frPyObjects([outline.tolist() for outline in outlines], height, width))


def _encode_runs(segmentation: dict[str, Any], height: int, width: int, where: str) -> dict[str, Any]:
    from pycocotools import mask as coco

    counts, size = segmentation.get("counts"), segmentation.get("size")
    if size != [height, width]:
        raise UserError(
            f"{where} has runs (RLE) of the size {shown(size)}, its image {[height, width]}; export the set again"
        )
    total = -1
    if isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts):
        total = sum(counts)
        if total == height * width:
            return coco.frPyObjects({"counts": counts, "size": size}, height, width)
    if isinstance(counts, str) and counts.isascii() and _RUNS.fullmatch(counts.encode()):
        runs = {"counts": counts.encode(), "size": size}
        try:
            coco.decode(runs)
        except ValueError:
            pass
        else:
            return runs
    raise UserError(
        f"{where} has runs (RLE), {shown(counts)}, that do not fill its {height}×{width} pixels; export the set again"
    )


def draw_runs(drawn: Sequence[tuple[int, dict[str, Any]]], height: int, width: int) -> Image.Image:
    """Draw compressed run-length encodings, larger ones before smaller ones."""
    from pycocotools import mask as coco

    canvas = np.zeros((height, width), np.uint8)
    areas = coco.area([runs for _, runs in drawn]).tolist() if drawn else []
    for place in sorted(range(len(drawn)), key=lambda place: -areas[place]):
        value, runs = drawn[place]
        canvas[coco.decode(runs) > 0] = value
    return Image.fromarray(canvas)


def _mask(file: Member, document: Document, picture: Picture, image: Found, values: dict[int, int]) -> Labeled:
    shapes = document.shapes_of(picture)
    return Labeled(image.split, image.stem, InstanceMask(file, picture, image.member, shapes, values), image.name)


class CocoInstances:
    """The source: JSON files in COCO's format with outlines, and the images that they name.

    Covers COCO's own folders and exports of Roboflow, CVAT, Label Studio and FiftyOne; stuff_*.json is read if there
    are no instances.
    """

    name = "COCO JSON"
    archives = (*ARCHIVES, "stuff_annotations_trainval2017.zip")

    def recognize(self, tree: Tree) -> bool:
        """Return whether there is such a JSON, by its first bytes, and no panoptic one, which has more labels.

        Where there are masks, a JSON that has only boxes does not count.
        """
        files = self._files(tree)
        if not files or any(map(is_panoptic, coco_files(tree))):
            return False
        return not any_mask(tree.images) or any(read_coco(tree[name]).drawn for name in files)

    def find(self, tree: Tree) -> Files:
        """Return the images that the JSON files list, and their masks.

        A JSON without a split is left out if others list its images with one. Raises :class:`UserError` if there are no
        images, or no annotations in a file.
        """
        files = self._files(tree)
        values = self._values([read_coco(tree[name]) for name in files])[1]
        listed = [
            (tree[name], read_coco(tree[name]), *find_images(tree, name, read_coco(tree[name]))) for name in files
        ]
        sorted_out = {image.name for _, _, found, _ in listed for _, image in found if image.split}
        images, masks, unread, strays = list[Found](), list[Labeled](), list[tuple[str, str]](), list[tuple[str, str]]()
        for file, document, found, missing in listed:
            strays += orphans(file, document)
            if sorted_out.issuperset(image.name for _, image in found if not image.split) and not all(
                image.split for _, image in found
            ):
                strays.append((str(file), "other files list its images with their splits"))
                continue
            images += [image for _, image in found]
            unread += missing
            if document.annotations:
                masks += [_mask(file, document, picture, image, values) for picture, image in found]
            elif not (found and found[0][1].split == "test"):
                raise UserError(f"{file} has no annotations; export it with them, or remove it")
        return Files(images, masks, unread, strays)

    def classes(self, tree: Tree) -> LabelTable:
        """Return the background, value 0, and the categories in the order of their ids.

        A category that is only the supercategory of others, as Roboflow writes it, is left out; categories of equal
        name are one class.
        """
        files = self._files(tree)
        return class_table(
            tree, class_names(self._values([read_coco(tree[name]) for name in files])[0]), str(tree[files[0]])
        )

    def _files(self, tree: Tree) -> list[str]:
        names = [name for name in coco_files(tree) if not is_panoptic(name)]
        for prefix in ("instances", "stuff"):
            if kind := [name for name in names if PurePosixPath(name).name.startswith(prefix)]:
                return kind
        return [name for name in names if not PurePosixPath(name).name.startswith(_OTHER_TASKS)]

    def _values(self, documents: Sequence[Document]) -> tuple[dict[str, int], dict[int, int]]:
        """Return the value of each name, and of each category."""
        categories = merge_categories(documents)
        used = frozenset[int]().union(*(document.used for document in documents))
        groups = {entry.get("supercategory") for entry in categories.values() if is_text(entry.get("supercategory"))}
        names = {i: e["name"] for i, e in categories.items() if i in used or e["name"] not in groups}
        values = number_classes(names.values())
        refuse_many(len(set(values.values())))
        return values, {category: values[name] for category, name in names.items()}
