"""Masks that are drawn from shapes, and the images that an annotation file with many of them lists."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar, NamedTuple

from fastseg.errors import UserError, shown
from fastseg.packing.masks import DecodedMask
from fastseg.packing.sources.annotations import find_member, find_split, image_bases, join, path_tails, stem_of
from fastseg.packing.sources.samples import Files, Labeled
from fastseg.packing.sources.tree import Found, Member, Tree, is_image


@dataclass(frozen=True)
class ShapeMask(ABC):
    """A mask that is drawn from shapes; pixels outside of all shapes are background, value 0."""

    listed_in: ClassVar[str]
    """Where the classes are listed, for messages."""

    file: Member
    """The annotation file."""
    image: Member
    values: Mapping[str, int]
    """Value of each class."""
    shapes: bytes = b""
    """Pickled shapes of the image, if the file has those of several images."""

    def __str__(self) -> str:
        return f"{self.file} ({self.image.filename})" if self.shapes else str(self.file)

    @property
    def filename(self) -> str:
        """Name of the annotation file."""
        return self.file.filename

    @property
    def size(self) -> int:
        """Size of the shapes in bytes."""
        return len(self.shapes) or self.file.size

    @property
    def stamp(self) -> int:
        """Stamp of the annotation file."""
        return self.file.stamp

    @abstractmethod
    def decode(self, lossy: bool = False) -> DecodedMask:
        """Draw the mask; raise :class:`UserError` for invalid shapes."""

    def value(self, label: Any, where: str) -> int:
        """Return the value of a class; raise :class:`UserError`, which starts with ``where``, for an unknown one."""
        if not isinstance(label, str) or label.strip() not in self.values:
            raise UserError(
                f"{where} has the class {shown(label)}, which is none of the set's; mend it, or add it to "
                f"{self.listed_in}"
            )
        return self.values[label.strip()]


class Listed(NamedTuple):
    """An image that an annotation file lists."""

    file: str
    """Name of the annotation file."""
    image: str
    """Name or path of the image in it."""
    subset: str
    shapes: bytes
    """Pickled shapes."""


def find_listed(tree: Tree, listed: Iterable[Listed], kind: type[ShapeMask], values: Mapping[str, int]) -> Files:
    """Return the images of annotation files, and masks of the given kind; missing images are listed as unread.

    The split is that of the subset, else of the annotation file's path, else of the image's.
    """
    images, masks, unread = list[Found](), list[Labeled](), list[tuple[str, str]]()
    for entry in listed:
        file = tree[entry.file]
        if (place := find_image(tree, entry.file, entry.image, entry.subset)) is None:
            unread.append((f"{file}, image {shown(entry.image)}", "the image is not there"))
            continue
        split = find_split(entry.subset) or find_split(entry.file) or find_split(str(PurePosixPath(place).parent))
        image = Found(split, stem_of(place), tree[place], place)
        images.append(image)
        masks.append(Labeled(split, image.stem, kind(file, image.member, values, entry.shapes), place))
    return Files(images, masks, unread)


def find_image(tree: Tree, file: str, name: str, subset: str = "") -> str | None:
    """Return the image that an annotation file names; None if there is none.

    It may lie in any of :func:`image_bases`; of a path of another machine the last parts count.
    """
    bases = image_bases(file, (subset,) if subset else ())
    places = (join(base, tail) for tail in path_tails(name) for base in bases)
    return next((place for place in places if place and is_image(place) and find_member(tree, place)), None)
