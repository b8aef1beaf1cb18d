"""Reading of one sample: an upright RGB image and a mask of train ids of the same size."""

from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image

from fastseg.errors import UserError
from fastseg.labels import Color, LabelTable
from fastseg.packing.masks import By, DecodedMask, read_train_ids
from fastseg.packing.sources.samples import Sample
from fastseg.shards.images import TURNS, as_rgb, bits_per_sample, load_image, orientation

DEEP = (".png", ".tif", ".tiff")
"""Endings of the files that may hold 16 bits per channel."""


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading files that have more than one possible meaning."""

    mask_values: By = "auto"
    """Read masks by pixel value (or palette index) or by color. auto: by whichever classes.json defines; packing is
    refused if a palette contradicts it."""
    color_tolerance: int = 0
    """Largest difference of a mask's color or value, 0 to 255. For soft edges and JPEG masks; other pixels are
    ignored."""
    resize_masks: bool = False
    """Resize masks of the same proportions to their image, by nearest neighbors."""
    masks_drawn: Literal["auto", "upright", "stored"] = "auto"
    """Masks match images with an EXIF orientation upright, or as stored. auto: judged by the sizes."""
    white: int | None = None
    """Value of white in 16-bit images. Default: the largest in the set."""

    def __post_init__(self) -> None:
        if not 0 <= self.color_tolerance <= 255:
            raise UserError(f"--color-tolerance is {self.color_tolerance}; it must be from 0 to 255")
        if self.white is not None and not 1 <= self.white <= 65535:
            raise UserError(f"--white is {self.white}; it must be from 1 to 65535")


@dataclass(frozen=True)
class Facts:
    """Findings from reading one sample that must agree over a set or are worth a warning."""

    palette: tuple[tuple[int, Color], ...] = ()
    """Values that occur in a mask with a palette and their colors, if it was read by value."""
    gray_rgb: bool | None = None
    """True if an RGB mask was read as grays, and its colors do not say the same; None for other masks."""
    white: Literal["alone", "beside"] | None = None
    """Whether a mask has ignored pixels of value 255 beside one class only, or beside several, if nobody has said that
    values hold; None for masks without such pixels."""
    drawn: Literal["upright", "stored", "undecided"] | None = None
    """Orientation in which the mask was drawn if its image has an EXIF orientation; None for other images."""
    resized: bool = False
    """True if the mask was resized."""
    unmatched: int = 0
    """Pixels of the mask that were near no class's color."""


@dataclass(frozen=True)
class Pair:
    """An image and its mask, upright and of the same size."""

    image: Image.Image
    """Mode ``RGB``."""
    untouched: bytes | None
    """Bytes of the image file if they decode to exactly ``image``; None otherwise."""
    mask: Image.Image | None
    """Train ids, mode ``L``; None for an image without a mask."""
    facts: Facts
    histogram: tuple[int, ...] = ()
    """Number of pixels of each value 0 to 255 of ``mask``; empty: not counted."""


class SampleError(UserError):
    """A sample that cannot be packed, with the reason."""


def read_pair(sample: Sample, table: LabelTable, options: ReadOptions) -> Pair:
    """Read one sample. Raises :class:`SampleError` with the file and the value if it cannot be packed."""
    try:
        return _read_pair(sample, table, options)
    except UserError as error:
        raise SampleError(*error.args) from None


def _read_pair(sample: Sample, table: LabelTable, options: ReadOptions) -> Pair:
    data = sample.image.read()
    stored = load_image(data, str(sample.image))
    if bits_per_sample(stored, data) == 16 and not sample.image.filename.lower().endswith(DEEP):
        raise UserError(
            f"the image {sample.image} is a {stored.format} of 16 bits, but its name does not end so; rename it: what "
            "is white is searched in files that are named like that"
        )
    image, plain = as_rgb(stored, data, str(sample.image), options.white)
    untouched = data if plain else None
    if sample.mask is None:
        return Pair(image, untouched, None, Facts())
    mask = sample.mask.decode(lossy=options.color_tolerance > 0)
    labels = read_train_ids(mask, table, str(sample.mask), options.mask_values, options.color_tolerance)
    white = labels.white if options.mask_values == "auto" else None
    facts = Facts(_used_palette(mask, table, options), labels.gray_rgb, white, unmatched=labels.unmatched)
    turned, drawn = _turn(labels.image, mask.orientation, orientation(stored), image.size, stored.size, options)
    resized = turned.size != image.size
    if resized:
        if not (options.resize_masks and _same_proportions(turned.size, image.size)):
            raise UserError(_sizes(sample, turned.size, image.size, options))
        turned = turned.resize(image.size, Image.Resampling.NEAREST)
    counted = () if resized else labels.histogram
    return Pair(image, untouched, turned, replace(facts, drawn=drawn, resized=resized), counted)


def _used_palette(mask: DecodedMask, table: LabelTable, options: ReadOptions) -> tuple[tuple[int, Color], ...]:
    """Return the values that occur and their colors, if nobody has said which of the two holds."""
    by_color = not table.train_ids
    if by_color or options.mask_values != "auto" or all(len(set(color)) == 1 for color in mask.palette):
        return ()
    return tuple((value, color) for value, color in enumerate(mask.palette) if mask.histogram[value])


def _turn(
    mask: Image.Image,
    own: int,
    of_image: int,
    upright: tuple[int, int],
    stored: tuple[int, int],
    options: ReadOptions,
) -> tuple[Image.Image, Literal["upright", "stored", "undecided"] | None]:
    """Turn a mask upright by its own EXIF orientation, or by that of its image if it was drawn on the stored pixels."""
    if own in TURNS:
        return mask.transpose(TURNS[own]), None
    if of_image not in TURNS:
        return mask, None
    drawn = options.masks_drawn
    if drawn == "auto":
        fits = _same_proportions if options.resize_masks else tuple.__eq__
        on_upright, on_stored = fits(mask.size, upright), fits(mask.size, stored)
        if on_upright and on_stored:
            return mask, "undecided"
        drawn = "stored" if on_stored else "upright"
    return (mask.transpose(TURNS[of_image]) if drawn == "stored" else mask), drawn


def _same_proportions(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two sizes have the same proportions, up to rounding by one pixel of the smaller one."""
    (width, height), (wide, high) = sorted((one, other))
    return abs(width - wide * height / high) <= 1 or abs(height - high * width / wide) <= 1


def _sizes(sample: Sample, mask: tuple[int, int], image: tuple[int, int], options: ReadOptions) -> str:
    alike = _same_proportions(mask, image) and not options.resize_masks
    return (
        f"the mask {sample.mask} has {mask[0]}×{mask[1]} pixels, its image {sample.image} {image[0]}×{image[1]}; "
        + ("--resize-masks brings it to its image's size" if alike else "they must show the same, in one size")
    )
