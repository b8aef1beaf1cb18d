"""Decoding of mask files to values or colors, and mapping of those to train ids by a label table.

The result must not depend on how a library displays a file: samples of 1, 2 and 4 bits are read as they are stored, not
scaled to 0–255 as Pillow does, and a palette index is compared with its color.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.errors import UserError
from fastseg.labels import IGNORE, Color, LabelTable
from fastseg.shards.images import bits_per_sample, load_image, netpbm_maximum, orientation

FORMATS = ("PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG", "PPM")
LOSSY = "loses labels; save masks as PNG, or read values as the nearest class with --color-tolerance 64"
MIN_DISTANCE = 16
"""Smallest difference between two classes, in a value or in any channel, that lossy compression does not blur."""
By = Literal["auto", "value", "color"]
"""Reading of a mask by pixel value (or palette index), by color, or by whichever of the two the table defines."""


@dataclass(frozen=True)
class DecodedMask:
    """Samples of a mask file as they are stored, before its EXIF orientation is applied."""

    image: Image.Image
    """Mode ``L`` with a label, gray value or palette index per pixel, or mode ``RGB`` with a color per pixel."""
    palette: tuple[Color, ...] = ()
    """Color of each palette index; empty for a mask without a palette."""
    bits: int = 8
    """Bits per sample in the file; in a 1-bit file white can mean 1 or 255."""
    orientation: int = 1
    """EXIF orientation (CIPA DC-008, tag 274); 1 is upright."""
    compression: str | None = None
    """Name of the lossy compression of the file; None if it is lossless."""

    @cached_property
    def histogram(self) -> list[int]:
        """Number of pixels of each value 0 to 255 of a mask of mode ``L``."""
        return self.image.histogram()


def decode_mask(data: bytes, where: str, lossy: bool = False) -> DecodedMask:
    """Decode a mask file of any format that stores one label or one color per pixel.

    Raises :class:`UserError`, which names ``where``, for a damaged file, several pages, frames or bands, values below 0
    or above 255, partly transparent pixels, 16-bit colors, a TIFF whose tag 262 inverts its samples, and, unless
    ``lossy``, a compression that changes labels.
    """
    image = load_image(data, where, FORMATS)
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise UserError(
            f"the mask {where} has {pages} pages or frames; save the one that is the mask as a file of its own"
        )
    if (compression := _lossy_compression(image, data)) and not lossy:
        raise UserError(f"the mask {where} is compressed by {compression}, which {LOSSY}")
    bits = bits_per_sample(image, data)
    _refuse_inverted(image, where)
    turned = orientation(image)
    if image.mode == "P":
        return DecodedMask(Image.fromarray(np.asarray(image)), _palette(image), bits, turned, compression)
    if image.mode in ("RGB", "RGBA", "RGBX", "RGBa", "LA", "La", "PA"):
        if bits > 8:
            raise UserError(f"the mask {where} has colors of {bits} bits; save it with 8 bits per channel")
        return DecodedMask(_opaque(image, where), (), bits, turned, compression)
    return DecodedMask(_labels(image, data, bits, where), (), bits, turned, compression)


def _labels(image: Image.Image, data: bytes, bits: int, where: str) -> Image.Image:
    """Return gray samples as they are stored, mode ``L``."""
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    if (bands := tags.get(277, 1)) > 1 == len(image.getbands()):
        raise UserError(f"the mask {where} has {bands} bands; save the one that is the mask as a file of its own")
    if image.mode == "1":
        return image.convert("L").point([int(value > 0) for value in range(256)])
    largest = netpbm_maximum(data) if image.format == "PPM" else min(2**bits - 1, 255)
    if image.mode == "L":
        if 2 in tags.get(339, ()):  # signed samples, which Pillow takes as unsigned
            return Image.fromarray(_as_bytes(np.asarray(image).astype(np.int8), where))
        # Pillow stretches the samples of 2 and 4 bits, and those of a PGM, to 0–255.
        return image if largest == 255 else image.point([round(value * largest / 255) for value in range(256)])
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        stretched = image.format == "PPM" and largest < 65535
        samples = np.rint(np.asarray(image) * (largest / 65535)) if stretched else np.asarray(image)
        return Image.fromarray(_as_bytes(samples, where))
    raise UserError(
        f"the mask {where} has pixels of mode {image.mode}; it must have a label (gray or palette) or a color (RGB) "
        "per pixel"
    )


def _as_bytes(labels: NDArray[np.generic], where: str) -> NDArray[np.uint8]:
    with np.errstate(invalid="ignore"):  # NaN becomes a number, so the comparison below rejects it
        whole = labels.astype(np.int64)
    if (wrong := labels[(whole < 0) | (whole > 255) | (whole != labels)]).size:
        raise UserError(
            f"the mask {where} has {wrong.size} pixels that are no label, such as {wrong[0]}; labels are 0 to 255: "
            "do these number objects rather than classes?"
        )
    return whole.astype(np.uint8)


def _opaque(image: Image.Image, where: str) -> Image.Image:
    """Return the image without its alpha channel, mode ``L`` or ``RGB``; refuse partly transparent pixels."""
    if image.mode in ("RGBA", "RGBa", "PA", "LA", "La"):
        straight = image.convert("LA" if image.mode == "La" else "RGBA")
        if straight.getchannel("A").getextrema()[0] < 255:  # type: ignore[operator]
            raise UserError(
                f"the mask {where} has transparent pixels, whose class is not known; flatten it onto the color that "
                "they stand for"
            )
    return image.convert("L" if image.mode in ("LA", "La") else "RGB")


def _palette(image: Image.Image) -> tuple[Color, ...]:
    flat = image.getpalette("RGB") or []
    return tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3))


def _lossy_compression(image: Image.Image, data: bytes) -> str | None:
    """Return the name of the lossy compression of the file; None if it is lossless."""
    if image.format == "JPEG":
        return "JPEG"
    if image.format == "WEBP" and b"VP8 " in _webp_chunks(data):
        return "lossy WebP"
    if image.format == "TIFF" and image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        return f"TIFF's {image.info['compression']}"
    return None


def _webp_chunks(data: bytes) -> set[bytes]:
    """Return the types of the chunks of a WebP (RFC 9649, section 2.3)."""
    types, position = set(), 12
    while position + 8 <= len(data):
        types.add(data[position : position + 4])
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + size + size % 2
    return types


def _refuse_inverted(image: Image.Image, where: str) -> None:
    # Viewers invert such samples and OpenCV does not, so the file is ambiguous.
    if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
        raise UserError(
            f"the mask {where} has PhotometricInterpretation 0 (WhiteIsZero, TIFF tag 262): programs disagree whether "
            "its values are inverted; save it with 1 (BlackIsZero), or as PNG"
        )


@dataclass(frozen=True)
class TrainIds:
    """A mask as train ids."""

    image: Image.Image
    """Mode ``L`` with values 0…C-1 or :data:`IGNORE`."""
    unmatched: int = 0
    """Number of pixels farther than the tolerance from all classes; they are ignored."""
    gray_rgb: bool | None = None
    """True if an RGB mask was read as grays, and its colors do not say the same; None for other masks. All masks of one
    set must agree."""
    white: Literal["alone", "beside"] | None = None
    """Whether 255 is ignored beside pixels of one class only (it could be the object in them), or of several; None for
    masks without such pixels."""
    histogram: tuple[int, ...] = ()
    """Number of pixels of each value 0 to 255 of ``image``; empty: not counted."""


Ids = dict[int, int | None]
"""Train id of each pixel value; None for values that the table does not define."""


def read_train_ids(mask: DecodedMask, table: LabelTable, where: str, by: By = "auto", tolerance: int = 0) -> TrainIds:
    """Map a mask to train ids by ``table``.

    A mask with a palette, or an RGB mask of grays, can be read by value and by color. If the table defines both and
    they disagree, :class:`UserError` names the two readings, unless ``by`` chooses one. A palette that holds only grays
    is read as grays; if one of these is ignored, though its index is a class, the two readings disagree as well.
    ``tolerance`` is the largest difference in each channel of a color, or in a value; pixels farther from all classes
    are ignored and counted. With a tolerance of 0, :class:`UserError` names a value or color that the table does not
    define; for a lossy file, two classes that are nearer than :data:`MIN_DISTANCE`.
    """
    if mask.image.mode == "L":
        _refuse_blurred(mask, table.colors if by == "color" else table.train_ids or table.colors, table, where)
        mask = _as_its_grays(mask, table, where, by)
        return _map_values(mask, _read_indexes(mask, table, where, by, tolerance), table, where, tolerance)
    if table.train_ids and by != "color" and (gray := _as_gray(mask.image)):
        ramp = DecodedMask(gray, tuple((value, value, value) for value in range(256)))
        by_value, by_color = _by_value(ramp, table, tolerance), _by_color(ramp, table, tolerance)
        if by == "auto":
            _refuse_two_readings(ramp, table, where, by_value, by_color)
        known, known_colors = (sum(train_id is not None for train_id in ids.values()) for ids in (by_value, by_color))
        if by == "value" or known == len(by_value) or known > known_colors:  # others are mixtures at soft edges
            _refuse_blurred(mask, table.train_ids, table, where)
            read = _map_values(ramp, by_value, table, where, tolerance)
            return replace(read, gray_rgb=None if by_value == by_color else True)
    if by == "value":
        raise UserError(f"the mask {where} has colors, which cannot be read by value; leave out --mask-values value")
    _refuse_blurred(mask, table.colors, table, where)
    return _read_colors(mask.image, table, where, tolerance)


def _as_gray(image: Image.Image) -> Image.Image | None:
    """Return the single channel of an RGB image that holds only grays."""
    red, green, blue = image.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else None


def _as_its_grays(mask: DecodedMask, table: LabelTable, where: str, by: By) -> DecodedMask:
    """Return a mask with a palette of nothing but grays as these grays; any other mask as it is.

    Raises :class:`UserError` if all indexes are values of the table, and a gray is ignored whose index is a class.
    """
    if not mask.palette or by != "auto" or not table.train_ids or any(len(set(color)) > 1 for color in mask.palette):
        return mask
    by_value, by_color = _by_value(mask, table, 0), _by_color(mask, table, 0)
    if None not in by_value.values() and by_value == by_color:
        return mask
    grays = {value: _color_of(value, mask)[0] for value in range(256)}
    by_gray: Ids = {value: table.train_ids.get(grays[value]) for value in by_value}
    if None not in by_value.values():  # white that is ignored may be the object in a mask of two indexes
        _refuse_two_readings(mask, table, where, {v: i for v, i in by_value.items() if by_gray[v] == IGNORE}, by_gray)
    return replace(mask, image=mask.image.point([grays[value] for value in range(256)]), palette=())


def _read_indexes(mask: DecodedMask, table: LabelTable, where: str, by: By, tolerance: int) -> Ids:
    """Return the train id of each value of a mask of mode ``L``."""
    by_value, by_color = _by_value(mask, table, tolerance), _by_color(mask, table, tolerance)
    if by == "color" or not table.train_ids:
        return by_color
    if by == "auto" and mask.palette:
        _refuse_two_readings(mask, table, where, by_value, by_color)
    return by_value


def _by_value(mask: DecodedMask, table: LabelTable, tolerance: int) -> Ids:
    return {v: _lookup(table.train_ids, _stored_value(v, mask, table), tolerance) for v in _used(mask)}


def _by_color(mask: DecodedMask, table: LabelTable, tolerance: int) -> Ids:
    return {value: _lookup(table.colors, _color_of(value, mask), tolerance) for value in _used(mask)}


def _used(mask: DecodedMask) -> list[int]:
    return [value for value, count in enumerate(mask.histogram) if count]


def _color_of(value: int, mask: DecodedMask) -> Color:
    """Return the color that a pixel shows: that of its palette, or its gray."""
    return mask.palette[value] if value < len(mask.palette) else (value, value, value)


def _map_values(mask: DecodedMask, ids: Ids, table: LabelTable, where: str, tolerance: int) -> TrainIds:
    """Replace each value of a mask of mode ``L`` by its train id."""
    unknown = [value for value, train_id in ids.items() if train_id is None]
    histogram = mask.histogram
    if unknown and table.others is None and not tolerance:
        first = unknown[0]
        name = f"value {first}" if table.train_ids else f"color {list(_color_of(first, mask))}"
        raise UserError(_unknown(where, histogram[first], name, table))
    default = IGNORE if table.others is None else table.others
    lookup = [default if (train_id := ids.get(value)) is None else train_id for value in range(256)]
    unmatched = sum(histogram[value] for value in unknown) if table.others is None else 0
    labeled = {*ids.values()} - {None, IGNORE} if ids.get(255) == IGNORE else set()
    white: Literal["alone", "beside"] | None = None if not labeled else "beside" if len(labeled) > 1 else "alone"
    counts = np.bincount(lookup, weights=histogram, minlength=256).astype(int)
    return TrainIds(mask.image.point(lookup), unmatched, white=white, histogram=tuple(counts.tolist()))


def _stored_value(value: int, mask: DecodedMask, table: LabelTable) -> int:
    """Return the value that the table defines: white in a 1-bit mask is stored as 1 and often called 255."""
    white = mask.bits == 1 and value == 1 and not mask.palette and 1 not in table.train_ids
    return 255 if white and table.train_ids.get(255, IGNORE) != IGNORE else value


def _lookup(known: Mapping[Any, int], key: Any, tolerance: int) -> int | None:
    """Return the train id of a value or color, or of the nearest one within ``tolerance``; None if there is none."""
    if key in known or not tolerance:
        return known.get(key)
    nearest = min(known, key=lambda other: _distance(other, key), default=None)
    return known[nearest] if nearest is not None and _distance(nearest, key) <= tolerance else None


def _distance(one: Any, other: Any) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) if isinstance(one, tuple) else abs(one - other)


def _refuse_two_readings(mask: DecodedMask, table: LabelTable, where: str, by_value: Ids, by_color: Ids) -> None:
    names = {IGNORE: "ignored", **{i: repr(entry.name) for i, entry in enumerate(table.classes)}}
    for value, train_id in by_value.items():
        shown = by_color[value]
        if train_id is not None and shown is not None and train_id != shown:
            raise UserError(
                f"the mask {where} has pixels of value {value}, which is {names[train_id]} in {table.name}, in the "
                f"color {list(_color_of(value, mask))}, which is {names[shown]}; say which of them holds: "
                "--mask-values value or color"
            )


def _refuse_blurred(mask: DecodedMask, known: Mapping[Any, int], table: LabelTable, where: str) -> None:
    """Refuse a lossy mask if two of the values or colors in ``known`` are too near to be told apart."""
    if mask.compression and (near := _nearest_classes(tuple(known.items()))):
        names = {IGNORE: "what is ignored", **{i: repr(entry.name) for i, entry in enumerate(table.classes)}}
        raise UserError(
            f"the mask {where} is compressed by {mask.compression}, which changes values by more than the "
            f"{near[2]} between {names[near[0]]} and {names[near[1]]} in {table.name}; save masks as PNG"
        )


@lru_cache(maxsize=2)
def _nearest_classes(known: tuple[tuple[Any, int], ...]) -> tuple[int, int, int] | None:
    """Return the two train ids that are nearest, and their distance; None if it is at least :data:`MIN_DISTANCE`."""
    pairs = ((_distance(a, b), one, other) for (a, one), (b, other) in combinations(known, 2) if one != other)
    distance, one, other = min(pairs, default=(MIN_DISTANCE, 0, 0))
    return (one, other, distance) if distance < MIN_DISTANCE else None


def _unknown(where: str, count: int, name: str, table: LabelTable) -> str:
    return (
        f"the mask {where} has {count} pixels of {name}, which is no label of {table.name}; mend the mask or name it "
        'in a classes.json (under "classes" or "ignore", or all that is not named: "others")'
    )


def _read_colors(image: Image.Image, table: LabelTable, where: str, tolerance: int) -> TrainIds:
    if not table.colors:
        raise UserError(
            f"the mask {where} has colors, but {table.name} names none; give each class its color in classes.json "
            "(fastseg-pack --guess-classes writes one)"
        )
    codes = color_codes(np.asarray(image))
    ids = _color_lookup(tuple(table.colors.items()))[codes]
    unknown = ids < 0
    if not unknown.any():
        return TrainIds(Image.fromarray(ids.astype(np.uint8)), gray_rgb=False)
    found, where_found, counts = np.unique(codes[unknown], return_inverse=True, return_counts=True)
    matches = [_lookup(table.colors, decode_color(code), tolerance) for code in found.tolist()]
    lost = np.array([match is None for match in matches])
    if lost.any() and table.others is None and not tolerance:
        most = int(np.where(lost, counts, 0).argmax())
        raise UserError(_unknown(where, int(counts[most]), f"color {list(decode_color(int(found[most])))}", table))
    default = IGNORE if table.others is None else table.others
    ids[unknown] = np.array([default if match is None else match for match in matches])[where_found]
    unmatched = int(counts[lost].sum()) if table.others is None else 0
    return TrainIds(Image.fromarray(ids.astype(np.uint8)), unmatched, gray_rgb=False)


def color_codes(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Encode the color of each pixel as one number: shape (H, W, 3) → (H, W)."""
    wide = rgb.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def decode_color(code: int) -> Color:
    """Return the color of a number from :func:`color_codes`."""
    return code >> 16, code >> 8 & 255, code & 255


@lru_cache(maxsize=2)
def _color_lookup(colors: tuple[tuple[Color, int], ...]) -> NDArray[np.int16]:
    """Return the train id of each of the 2²⁴ colors, -1 for unknown ones.

    The table takes 32 MB and reduces the time for a mask from 200 to 20 ms.
    """
    table = np.full(1 << 24, -1, np.int16)
    for (red, green, blue), train_id in colors:
        table[red << 16 | green << 8 | blue] = train_id
    return table
