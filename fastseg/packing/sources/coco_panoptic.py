"""COCO panoptic sets: PNG masks of segment numbers, and JSON files with the category of each segment."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from fastseg.errors import UserError, shown
from fastseg.labels import IGNORE, LabelTable
from fastseg.packing.masks import DecodedMask, color_codes, decode_mask
from fastseg.packing.sources.annotations import class_table, find_member, image_bases, join
from fastseg.packing.sources.coco_file import (
    ARCHIVES,
    Document,
    ImageShapes,
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


@dataclass(frozen=True)
class PanopticMask(ImageShapes):
    """A panoptic PNG, whose colors are segment numbers (R + 256 G + 65536 B), read as the categories of the segments.

    Groups count as segments, as in panopticapi's converter; pixels without a segment (0, black) are ignored.
    """

    png: Member

    def __str__(self) -> str:
        return str(self.png)

    @property
    def filename(self) -> str:
        """Name of the PNG."""
        return self.png.filename

    @property
    def size(self) -> int:
        """Size of PNG and annotations in bytes."""
        return self.png.size + len(self.annotations)

    @property
    def stamp(self) -> int:
        """Stamp that changes with either file."""
        return self.png.stamp + self.file.stamp

    def decode(self, lossy: bool = False) -> DecodedMask:  # noqa: ARG002 - numbers of segments are exact, or lost
        """Read the mask. Raises :class:`UserError` for segments that the JSON does not list, and as ``decode_mask``."""
        mask = decode_mask(self.png.read(), str(self.png))
        if mask.image.mode != "RGB":
            raise UserError(f"the panoptic mask {self.png} has no colors (RGB), which number segments; export it again")
        rgb = color_codes(np.asarray(mask.image))
        numbers = (rgb & 255) << 16 | rgb & 0xFF00 | rgb >> 16
        found, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        values = {0: IGNORE} | self._segments()
        if lost := [place for place, number in enumerate(found.tolist()) if number not in values]:
            raise UserError(
                f"the panoptic mask {self.png} has {counts[lost[0]]} pixels of the segment {found[lost[0]]}, which "
                f"{self.file} does not list for image {shown(self.picture.id)}; export both again"
            )
        lookup = np.array([values[number] for number in found.tolist()], np.uint8)
        return DecodedMask(Image.fromarray(lookup[places.reshape(numbers.shape)]), orientation=mask.orientation)

    def _segments(self) -> dict[int, int]:
        """Return the value of each segment number."""
        values = {}
        for annotation in self.load():
            segments = annotation.get("segments_info")
            if not isinstance(segments, list) or not all(isinstance(entry, dict) for entry in segments):
                raise UserError(
                    f'{self.file}, image {shown(self.picture.id)} has no list "segments_info"; export it again'
                )
            for entry in segments:
                where = f"{self.file}, image {shown(self.picture.id)}, segment {shown(entry.get('id'))}"
                if type(entry.get("id")) is not int:
                    raise UserError(f"{where} has no number; export it again")
                values[entry["id"]] = self.value(entry, where)
        return values


class CocoPanoptic:
    """The source: ``panoptic_*.json``, the PNG masks in a folder of that name, and the images."""

    name = "COCO panoptic"
    archives = (*ARCHIVES, "panoptic_annotations_trainval2017.zip", "annotations/panoptic_*.zip", "panoptic_*2017.zip")

    def recognize(self, tree: Tree) -> bool:
        """Return whether there is such a JSON."""
        return bool(self._files(tree))

    def find(self, tree: Tree) -> Files:
        """Return images and masks, and the missing files of either kind."""
        files = self._files(tree)
        values = self._values([read_coco(tree[name]) for name in files])[1]
        images, masks, unread = list[Found](), list[Labeled](), list[tuple[str, str]]()
        strays = [stray for name in files for stray in orphans(tree[name], read_coco(tree[name]))]
        for name in files:
            file, document = tree[name], read_coco(tree[name])
            _refuse_nested(tree, name)
            bases = [name.removesuffix(".json"), *image_bases(name, (PurePosixPath(name).stem,))]
            found, missing = find_images(tree, name, document)
            unread += missing
            for picture, image in found:
                annotations = document.shapes_of(picture)
                if annotations and (png := _find_png(tree, annotations, bases)):
                    images.append(image)
                    mask = PanopticMask(file, picture, image.member, annotations, values, png)
                    masks.append(Labeled(image.split, image.stem, mask, image.name))
                elif annotations or image.split != "test":
                    where = tree.root / name.removesuffix(".json")
                    unread.append((f"{file}, image {shown(picture.id)}", f"its panoptic mask is not in {where}"))
                else:
                    images.append(image)
        return Files(images, masks, unread, strays)

    def classes(self, tree: Tree) -> LabelTable:
        """Return the categories with their colors, in the order of their ids; there is no background."""
        files = self._files(tree)
        documents = [read_coco(tree[name]) for name in files]
        colors = {entry["name"]: entry.get("color") for entry in merge_categories(documents).values()}
        return class_table(tree, self._values(documents)[0], str(tree[files[0]]), colors)

    def _files(self, tree: Tree) -> list[str]:
        return [name for name in coco_files(tree) if is_panoptic(name)]

    def _values(self, documents: Sequence[Document]) -> tuple[dict[str, int], dict[int, int]]:
        categories = merge_categories(documents)
        names = dict.fromkeys(entry["name"] for entry in categories.values())
        values = {name: value for value, name in enumerate(names)}
        refuse_many(len(values))
        return values, {category: values[entry["name"]] for category, entry in categories.items()}


def _refuse_nested(tree: Tree, name: str) -> None:
    """Refuse COCO's own download as it is: a zip with two zips of masks inside."""
    inner = find_member(tree, name.removesuffix(".json") + ".zip")
    if inner and inner.name:
        raise UserError(
            f"{inner} is a zip in a zip, which cannot be read without extracting it; unzip {inner.path.name} into "
            f"{inner.path.parent}"
        )


def _find_png(tree: Tree, annotations: bytes, bases: Sequence[str]) -> Member | None:
    """Return the panoptic mask that the annotations of an image name."""
    for annotation in pickle.loads(annotations) if annotations else ():
        if is_text(name := annotation.get("file_name")):
            return next((file for base in bases if (file := find_member(tree, join(base, name)))), None)
    return None
