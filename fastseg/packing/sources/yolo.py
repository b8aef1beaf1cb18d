"""Sets in Ultralytics' format: a data.yaml, images, and a text file of outlines or a mask for each image."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.errors import UserError, shown
from fastseg.labels import LabelTable
from fastseg.packing.masks import DecodedMask
from fastseg.packing.sources.annotations import class_names, class_table, find_member, number_classes, upright_size
from fastseg.packing.sources.data_yaml import (
    MASKS,
    Config,
    find_yaml,
    label_name,
    list_images,
    mask_classes,
    mask_stem,
    masks_dir,
    names_masks,
    parse_names,
)
from fastseg.packing.sources.samples import Files, Labeled
from fastseg.packing.sources.tree import Found, Member, Tree
from fastseg.packing.sources.words import SPLIT_WORDS, any_mask, without_ending
from fastseg.shards.tar import SPLITS

CLASSES = ("classes.txt", "labels/classes.txt")
"""Lists of the class names in place of a YAML."""
_LINE = re.compile(rb"(?m)^\s*\d+(?:\s+[\d.eE+-]+){6}")
"""Beginning of a line with an outline."""
SNIFFED = 50
"""Number of text files that are read to recognize a set without a YAML or with masks."""
MAX_OFF = 0.01
"""Largest distance of a coordinate from 0…1 that is accepted, as in Ultralytics."""


@dataclass(frozen=True)
class YoloMask:
    """The outlines of one text file, smaller ones over larger ones; all other pixels are background, value 0."""

    file: Member | None
    """The text file; None for background only."""
    image: Member
    values: tuple[int, ...]
    """Value of each class of the set."""

    def __str__(self) -> str:
        return str(self.file or f"{self.image} (without a text file)")

    @property
    def filename(self) -> str:
        """Name of the text file; empty without one."""
        return self.file.filename if self.file else ""

    @property
    def size(self) -> int:
        """Size of the text file in bytes."""
        return self.file.size if self.file else 0

    @property
    def stamp(self) -> int:
        """Stamp of the text file."""
        return self.file.stamp if self.file else 0

    def decode(self, lossy: bool = False) -> DecodedMask:  # noqa: ARG002 - nothing drawn is lossy
        """Draw the mask. Raises :class:`UserError` with file and line for invalid outlines."""
        height, width = upright_size(self.image)
        drawn = [(value, points * np.array((width, height), np.float32)) for value, points in self._outlines()]
        return DecodedMask(fill_outlines(drawn, height, width))

    def _outlines(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Return value and points of each object, relative to width and height."""
        lines = self.file.read().decode("utf-8-sig", "replace").splitlines() if self.file else []
        rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
        if boxes := [number for number, row in rows if len(row) == 5]:
            raise UserError(
                f"{self} has {len(boxes)} boxes, such as in line {boxes[0]}; a box is no mask: export the set as YOLO "
                "segmentation, with outlines"
            )
        return [self._parse(row, f"{self}, line {number}") for number, row in rows]

    def _parse(self, row: list[str], where: str) -> tuple[int, NDArray[np.float32]]:
        try:
            number, points = float(row[0]), np.array(row[1:], np.float32)
        except ValueError:
            raise UserError(f"{where} has {shown(' '.join(row))}, which are no numbers; export the set again") from None
        if number not in range(len(self.values)):
            raise UserError(
                f"{where} has the class {shown(row[0])}, but data.yaml names {len(self.values)}; add it there, or "
                "remove the line"
            )
        if points.size < 6 or points.size % 2:
            raise UserError(
                f"{where} has {points.size} coordinates; an outline has at least 3 pairs: draw it again, or remove the "
                "line"
            )
        inside = (points >= -MAX_OFF) & (points <= 1 + MAX_OFF)  # False for NaN
        if not inside.all():
            raise UserError(
                f"{where} has coordinates that are not from 0 to 1, such as {row[1 + int(np.argmin(inside))][:20]}; "
                "they are shares of width and height: export the set again"
            )
        return self.values[int(number)], points.reshape(-1, 2)


def fill_outlines(drawn: Sequence[tuple[int, NDArray[np.float32]]], height: int, width: int) -> Image.Image:
    """Fill outlines, given in pixels, with values as Ultralytics does, smaller ones on top.

    Points are truncated to whole pixels; OpenCV fills the polygons.
    """
    import cv2  # lazily, as other layouts need it not

    parts = []
    for value, points in drawn:
        part = np.zeros((height, width), np.uint8)
        parts.append((int(cv2.countNonZero(cv2.fillPoly(part, [points.astype(np.int32)], 1))), value, points))
    canvas = np.zeros((height, width), np.uint8)
    for _, value, points in sorted(parts, key=lambda part: -part[0]):
        cv2.fillPoly(canvas, [points.astype(np.int32)], value)
    return Image.fromarray(canvas)


class YoloSegmentation:
    """The source: a data.yaml (or any .yaml with names and splits), images, and labels/…/STEM.txt.

    Label Studio writes a classes.txt instead of the YAML: a name per line. An image without a text file is background
    only.
    """

    name = "YOLO segmentation"
    archives: tuple[str, ...] = ()

    def recognize(self, tree: Tree) -> bool:
        """Return whether there is such a YAML, or a text file of outlines; if there are masks, both are needed."""
        if YoloMasks().recognize(tree):
            return False
        if any_mask(tree.images):
            return self._config(tree) is not None and _has_outlines(tree)
        return self._config(tree) is not None or _has_outlines(tree)

    def find(self, tree: Tree) -> Files:
        """Return images and masks; a split of the YAML that is not there is listed as a stray.

        Raises :class:`UserError` if none is there, or if all images of a split other than test lack text files.
        """
        file, config = self._require_config(tree)
        names = parse_names(file, config)
        numbers = number_classes(names)
        values = tuple(numbers[name] for name in names)
        images, absent = list_images(tree, file, config)
        masks = list[Labeled]()
        for split in SPLITS:
            masks += _masks_of(tree, [image for image in images if image.split == split], values, split, file)
        return Files(images, masks, strays=[*absent, *_without_image(tree, images)])

    def classes(self, tree: Tree) -> LabelTable:
        """Return the background, value 0, and the names of the YAML; class n has the value n + 1."""
        file, config = self._require_config(tree)
        return class_table(tree, class_names(number_classes(parse_names(file, config))), str(file))

    def _require_config(self, tree: Tree) -> Config:
        if (found := self._config(tree)) is None:
            raise UserError(
                f"{tree.root} has text files of YOLO, but no data.yaml that names classes and splits; write one: "
                "train: images/train, val: images/val, names: [road, car]"
            )
        return found

    def _config(self, tree: Tree) -> Config | None:
        if found := find_yaml(tree):
            return found
        listed = next((file for name in CLASSES if (file := find_member(tree, name))), None)
        return (listed, _without_yaml(tree, listed)) if listed and _has_outlines(tree) else None


class YoloMasks:
    """The source: Ultralytics' semantic segmentation, a data.yaml, images, and a mask of each in ``masks_dir``.

    Without ``masks_dir`` the masks lie in the folder masks, unless text files of shapes lie in labels.
    """

    name = "YOLO semantic segmentation"
    archives: tuple[str, ...] = ()

    def recognize(self, tree: Tree) -> bool:
        """Return whether there is such a YAML that names ``masks_dir``, or has masks where they lie without it."""
        if (found := find_yaml(tree)) is None or not names_masks(tree, found[1]):
            return False
        try:
            return masks_dir(found[1]) is not None or bool(self.find(tree).masks)
        except UserError:
            return False

    def find(self, tree: Tree) -> Files:
        """Return images and masks; strays are splits of the YAML that are not there, and masks without an image.

        Raises :class:`UserError` if no image or no mask is there.
        """
        file, config = self._require_config(tree)
        listed, absent = list_images(tree, file, config)
        by_stem = {without_ending(name): name for name in sorted(tree.images, key=_is_png)}  # PNGs before others
        mask_of = {image.name: by_stem.get(mask_stem(image.name, config) or "") for image in listed}
        masked = {name for name in mask_of.values() if name}
        images = [image for image in listed if image.name not in masked]
        masks = [Found(i.split, i.stem, tree[name], name) for i in images if (name := mask_of[i.name])]
        if not masks:
            raise UserError(
                f"{file} names the images {images[0].member}, …, but none has a mask in the folder "
                f"{masks_dir(config) or MASKS} beside images; name the folder in masks_dir"
            )
        folders = {name.rpartition("/")[0] for name in masked}
        others = [name for name in tree.images if name.rpartition("/")[0] in folders and name not in masked]
        return Files(images, masks, strays=[*absent, *((name, "the mask has no image") for name in others)])

    def classes(self, tree: Tree) -> LabelTable:
        """Return the names of the YAML in order: value n is the n-th of them (:func:`mask_classes`)."""
        return mask_classes(tree, *self._require_config(tree))

    def _require_config(self, tree: Tree) -> Config:
        if (found := find_yaml(tree)) is None:
            raise UserError(f"{tree.root} has no data.yaml that names classes and splits; write one")
        return found


def _is_png(name: str) -> bool:
    return name.lower().endswith(".png")


def _masks_of(tree: Tree, images: Sequence[Found], values: tuple[int, ...], split: str, file: Member) -> list[Labeled]:
    labels = [find_member(tree, label_name(image.name)) for image in images]
    if any(labels):
        return [
            Labeled(split, image.stem, YoloMask(label, image.member, values), image.name)
            for image, label in zip(images, labels, strict=True)
        ]
    if images and split != "test":
        raise UserError(
            f"the images of {split} in {file} have no text files, such as {tree.root / label_name(images[0].name)}; "
            "put the folder labels beside images"
        )
    return []


def _without_image(tree: Tree, images: Sequence[Found]) -> list[tuple[str, str]]:
    """Return the text files of outlines that lie beside those of ``images``, but belong to none."""
    known = {label_name(image.name) for image in images}
    folders = {name.rpartition("/")[0] for name in known}
    others = (name for name in tree.ending(".txt") if name not in known and name.rpartition("/")[0] in folders)
    return [(name, "the text file has no image") for name in others if _LINE.search(tree[name].head(4096))]


def _has_outlines(tree: Tree) -> bool:
    """Return whether one of the first text files beside images has an outline, and not only boxes."""
    if not tree.ending(".txt"):
        return False
    labels = (find_member(tree, label_name(name)) for name in tree.images if "images/" in name)
    return any(_LINE.search(label.head(4096)) for label in islice(filter(None, labels), SNIFFED))


def _without_yaml(tree: Tree, classes: Member) -> dict[str, Any]:
    """Return what a YAML would say: the names of a list, and the folders of splits, or else all images as train."""
    names = [line.strip() for line in classes.read().decode("utf-8-sig", "replace").splitlines() if line.strip()]
    folders = {folder for name in tree.images for folder in map(str, PurePosixPath(name).parents)}
    forms = ("images/{}", "{}/images")
    splits = {w: place for w in SPLIT_WORDS for form in forms if (place := form.format(w)) in folders}
    return {"names": names, **(splits or {"train": "images"})}
