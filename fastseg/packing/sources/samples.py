"""Samples: an image and its mask, found by their names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from PIL import Image

from fastseg.errors import UserError
from fastseg.packing.sources.tree import Found, Member
from fastseg.shards.tar import KEY, MAX_KEY, SPLITS

File = TypeVar("File")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


class Mask(Protocol):
    """What a sample's labels are made from: a file, as :class:`Member`, or shapes to draw; workers unpickle it."""

    @property
    def filename(self) -> str:
        """The last part of its path."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def stamp(self) -> int:
        """Changes with the content."""

    def read_labels(self) -> Image.Image:
        """Return the labels, mode ``L``; raise :class:`UserError` where they cannot be had."""


@dataclass(frozen=True)
class Sample:
    """One image and its mask, before decoding."""

    key: str
    """Name in the shards, ``[a-z0-9_-]+``, unique in its split."""
    split: str
    image: Member
    mask: Mask | None
    """None in a split that is packed for prediction."""


Labeled = tuple[str, str, Mask]
"""Split, stem and mask, as a :class:`Found` has them."""


def pair(images: Iterable[Found], masks: Iterable[Labeled]) -> tuple[Sample, ...]:
    """Return samples ordered by split and key; only a test split may be without masks.

    Raises :class:`UserError` for an image without its mask, a mask without its image, and names that cannot be keys.
    """
    image_of, mask_of = _by_key(images), _by_key(masks)
    unlabeled = {"test"} - {split for split, _ in mask_of}
    if lonely := [image_of[key] for key in sorted(image_of.keys() - mask_of.keys()) if key[0] not in unlabeled]:
        raise UserError(f"the image {lonely[0]} has no mask{_more(lonely)}; add the mask or remove the image")
    if orphans := [mask_of[key] for key in sorted(mask_of.keys() - image_of.keys())]:
        raise UserError(f"the mask {orphans[0]} has no image{_more(orphans)}; add the image or remove the mask")
    order = sorted(image_of, key=lambda key: (SPLITS.index(key[0]), key[1]))
    return tuple(Sample(key, split, image_of[split, key], mask_of.get((split, key))) for split, key in order)


def check_lossless(masks: Iterable[Labeled]) -> None:
    """Raise :class:`UserError` for a mask file of a kind that changes labels."""
    files = [mask for _, _, mask in masks if isinstance(mask, Member)]
    if wrong := [mask for mask in files if not mask.filename.lower().endswith(MASK_SUFFIXES)]:
        raise UserError(f"the mask {wrong[0]} must be one of {', '.join(MASK_SUFFIXES)}: lossy files change labels")


def _by_key(files: Iterable[tuple[str, str, File]]) -> dict[tuple[str, str], File]:
    found: dict[tuple[str, str], File] = {}
    for split, stem, member in files:
        key = stem.lower()
        if not KEY.fullmatch(key) or len(key) > MAX_KEY:
            raise UserError(
                f"the name of {member} is not allowed; rename it to at most {MAX_KEY} letters, digits, _ and -"
            )
        if (split, key) in found:
            raise UserError(f"{found[split, key]} and {member} both have the key {key!r}; rename one of them")
        found[split, key] = member
    return found


def _more(members: Sequence[object]) -> str:
    return f" (and {len(members) - 1} more)" if len(members) > 1 else ""
