"""Masks in several files, one for each object or part of an image, as in the Data Science Bowl and in BUSI."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fastseg.errors import UserError
from fastseg.packing.masks import DecodedMask
from fastseg.packing.sources.samples import Labeled
from fastseg.packing.sources.tree import Found, Member

OBJECT = 255
"""Value of the pixels of any object."""


@dataclass(frozen=True)
class MergedMask:
    """Several black and white masks of one image: what is an object in any of them is one in all."""

    members: tuple[Member, ...]

    def __str__(self) -> str:
        return f"{self.members[0]} (and {len(self.members) - 1} more)"

    @property
    def filename(self) -> str:
        """Name of the first file."""
        return self.members[0].filename

    @property
    def size(self) -> int:
        """Size of all files in bytes."""
        return sum(member.size for member in self.members)

    @property
    def stamp(self) -> int:
        """Stamp that changes with any of the files."""
        return sum(member.stamp for member in self.members)

    def decode(self, lossy: bool = False) -> DecodedMask:
        """Return 0 and the value of the objects; it is 255 unless all files agree on another one.

        Raises :class:`UserError` for files that hold more than one value beside 0 or differ in size, and as
        :func:`fastseg.packing.masks.decode_mask`.
        """
        decoded = [member.decode(lossy) for member in self.members]
        layers = [_read_object(mask, str(member)) for mask, member in zip(decoded, self.members, strict=True)]
        for layer, member in zip(layers, self.members, strict=True):
            if layer.shape != layers[0].shape:
                raise UserError(
                    f"{member} and {self.members[0]} are masks of one image, but differ in size; save them in one size"
                )
        values = {int(layer.max()) for layer in layers} - {0}
        union = np.any(layers, axis=0)
        value = values.pop() if len(values) == 1 else OBJECT
        bits = decoded[0].bits if len({mask.bits for mask in decoded}) == 1 else 8
        mask = Image.fromarray(union.astype(np.uint8) * np.uint8(value))
        return DecodedMask(mask, bits=bits, orientation=decoded[0].orientation, compression=decoded[0].compression)


def _read_object(mask: DecodedMask, where: str) -> np.ndarray:
    """Return the values of a black and white mask; refuse one with several objects, or with colors."""
    image = mask.image.convert("L") if mask.image.mode != "L" and _is_gray(mask.image) else mask.image
    if mask.palette and image.mode == "L":  # of two grays: white is the object, whatever its index
        image = image.point([*(color[0] for color in mask.palette), *range(len(mask.palette), 256)])
    values = [value for value, count in enumerate(image.histogram()) if count] if image.mode == "L" else []
    colored = any(len(set(color)) > 1 for color in mask.palette)
    if image.mode != "L" or len(set(values) - {0}) > 1 or colored:
        raise UserError(
            f"the mask {where} is one of several of its image, but shows more than one kind of object; several masks "
            "can be merged if they are black and white: say which is meant by --images and --masks"
        )
    return np.asarray(image)


def _is_gray(image: Image.Image) -> bool:
    red, green, blue = image.split()
    return red.tobytes() == green.tobytes() == blue.tobytes()


def merge(masks: Iterable[Found]) -> list[Found | Labeled]:
    """Return one mask for each split and stem; several files become a :class:`MergedMask`."""
    of_image = defaultdict[tuple[str, str], list[Found]](list)
    for mask in masks:
        of_image[mask.split, mask.stem].append(mask)
    return [
        files[0] if len(files) == 1 else Labeled(*at, MergedMask(tuple(f.member for f in files)), files[0].name)
        for at, files in of_image.items()
    ]
