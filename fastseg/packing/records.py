"""Encoding of one sample as a record: the image, the mask as train ids, a small JSON, and statistics."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageChops

from fastseg.errors import UserError
from fastseg.labels import IGNORE, LabelTable
from fastseg.packing.reading import Facts, ReadOptions, read_pair
from fastseg.packing.sources.samples import Sample
from fastseg.shards.images import (
    encode_jpeg,
    encode_png,
    encode_tiff,
    is_baseline_jpeg,
    read_rgb,
)
from fastseg.shards.tar import add_crc32


@dataclass(frozen=True)
class Codec:
    """Storage format of images and masks."""

    image: Literal["jpg", "png"] = "jpg"
    """jpg: baseline, decodable on a GPU (a baseline JPEG is stored byte for byte); png: lossless."""
    quality: int = 95
    """JPEG quality, 1–100."""
    chroma: Literal["444", "420"] = "444"
    """Chroma at full resolution (444) or halved (420: a quarter fewer bytes)."""
    mask: Literal["tif", "png"] = "tif"
    """tif: a crop decodes only its rows; png: fewer bytes, decoded whole."""
    height: int | None = None
    """Maximum height of an image in pixels; its width is scaled in proportion. None: no limit."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality is {self.quality}; it must be from 1 to 100")
        if self.height is not None and self.height < 16:
            raise UserError(f"--height is {self.height}; it must be at least 16 pixels")


@dataclass(frozen=True)
class Statistics:
    """Contribution of one record to the manifest."""

    height: int
    width: int
    pixels: tuple[int, ...]
    """Pixels of each class 0…C-1, then ignored pixels; empty without a mask."""
    sums: tuple[int, ...]
    """Sums of R, G and B over all pixels, then the sums of their squares."""
    squared_error: float | None = None
    """Mean squared error of the stored image against the original over all channels; None if not measured."""
    facts: Facts = field(default_factory=Facts)
    """Findings from reading the sample."""


@dataclass(frozen=True)
class Record:
    """One sample as it is written to a shard."""

    key: str
    members: dict[str, bytes]
    """Bytes of each member by extension (``jpg``, ``mask.tif``, ``json``, …)."""
    statistics: Statistics


def encode(
    sample: Sample, codec: Codec, table: LabelTable, reading: ReadOptions | None = None, measure: bool = False
) -> Record:
    """Read, check and encode one sample; ``measure`` also measures the JPEG loss (30 ms more).

    Raises :class:`UserError` as :func:`fastseg.packing.reading.read_pair`.
    """
    pair = read_pair(sample, table, reading or ReadOptions())
    image, untouched, mask, histogram = pair.image, pair.untouched, pair.mask, pair.histogram
    original = image.size
    if codec.height is not None and codec.height < image.height:
        size = (max(1, round(image.width * codec.height / image.height)), codec.height)
        # LANCZOS keeps the fine texture that a box or bilinear filter blurs; labels must not be mixed.
        image, untouched = image.resize(size, Image.Resampling.LANCZOS), None
        mask, histogram = mask and mask.resize(size, Image.Resampling.NEAREST), ()
    # Counting the pixels of a large mask takes as long as encoding it.
    pixels = () if mask is None else _count(histogram or mask.histogram(), len(table.classes))
    stored = _encode_image(image, untouched, codec)
    members: dict[str, bytes] = {codec.image: stored}
    if mask is not None:
        members[f"mask.{codec.mask}"] = encode_mask(mask, codec.mask)
    members["json"] = add_crc32(_describe(sample, original, image.size, pixels), members)
    statistics = Statistics(
        height=image.height,
        width=image.width,
        pixels=pixels,
        sums=_channel_sums(image),
        squared_error=_squared_error(image, stored) if measure else None,
        facts=pair.facts,
    )
    return Record(sample.key, members, statistics)


def encode_mask(mask: Image.Image, codec: str) -> bytes:
    """Encode train ids (mode ``L``) as ``tif`` or ``png``."""
    return encode_tiff(mask) if codec == "tif" else encode_png(mask)


def _count(histogram: Sequence[int], classes: int) -> tuple[int, ...]:
    return (*histogram[:classes], histogram[IGNORE])


def _encode_image(image: Image.Image, untouched: bytes | None, codec: Codec) -> bytes:
    """Return the stored bytes; ``untouched`` is the input file if it holds exactly ``image``."""
    if codec.image == "png":
        is_png = untouched is not None and untouched.startswith(b"\x89PNG")
        return untouched if untouched is not None and is_png else encode_png(image)
    if untouched is not None and is_baseline_jpeg(untouched):
        return untouched
    return encode_jpeg(image, codec.quality, codec.chroma)


def _describe(
    sample: Sample, original: tuple[int, int], size: tuple[int, int], pixels: tuple[int, ...]
) -> dict[str, Any]:
    """Return the content of the record's JSON; sizes are height, width."""
    return {
        "key": sample.key,
        "name": sample.name,
        "original_size": original[::-1],
        "pixels": pixels,
        "size": size[::-1],
        "split": sample.split,
    }


def _channel_sums(image: Image.Image) -> tuple[int, ...]:
    histogram = np.array(image.histogram(), np.int64).reshape(3, 256)
    values = np.arange(256, dtype=np.int64)
    return (*(histogram @ values).tolist(), *(histogram @ values**2).tolist())


def _squared_error(image: Image.Image, stored: bytes) -> float:
    decoded, _ = read_rgb(stored, "the stored image")
    histogram = np.array(ImageChops.difference(image, decoded).histogram(), np.int64).reshape(3, 256).sum(0)
    return float(histogram @ np.arange(256, dtype=np.int64) ** 2 / histogram.sum())
