"""Image files: checked and decoded to 8-bit RGB or to labels, and encoded for the shards."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from fastseg.errors import UserError
from fastseg.shards.jpeg_tiles import MAX_PIXELS, blocks_per_tile

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
"""Accepted formats; Pillow would also try some that start other programs (EPS)."""

STORED = ("PNG", "JPEG", "TIFF")
"""Formats that records hold. Not WebP: Pillow allocates its pixels on opening."""

ROWS_PER_STRIP = 32
"""Rows of a strip of the mask's TIFF. A crop decodes only the strips that it touches."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → the transposition that sets an image upright (CIPA DC-008, tag 274); 1 is upright."""


_LIMIT = Lock()


def read_rgb(data: bytes, where: str, limit: int = MAX_PIXELS) -> tuple[Image.Image, bool]:
    """Decode an image file: an RGB image, and whether the file held just that (8-bit RGB, upright).

    Gray, palette and 16-bit images become 8-bit RGB, alpha is dropped, an EXIF orientation applied. Raises
    :class:`UserError`, which names ``where``, for a damaged or an unsupported image and for one of more than ``limit``
    pixels.
    """
    image = _load(data, where, limit)
    plain = image.mode == "RGB" and not _is_deep_png(image, data)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UserError(f"the image {where} has 32-bit pixels (mode {image.mode}); convert it to 8 bits")
    upright = set_upright(image)
    # Converting RGB to RGB would copy 6 MB.
    return upright if upright.mode == "RGB" else upright.convert("RGB"), plain and upright is image


def read_labels(data: bytes, where: str) -> Image.Image:
    """Decode a mask file to mode ``L``, one byte a pixel: its gray value, or its palette *index*.

    16 bits are read, too, if no value is above 255. Raises :class:`UserError`, which names ``where``, for a damaged
    mask, for colors and for larger values.
    """
    mask = set_upright(_load(data, where))
    if mask.mode == "P":
        return Image.fromarray(np.asarray(mask))
    if mask.mode == "I" or mask.mode.startswith("I;16"):
        return Image.fromarray(_as_bytes(np.asarray(mask), where))
    if mask.mode not in ("1", "L"):
        raise UserError(
            f"the mask {where} has pixels of mode {mask.mode}; it must have one 8-bit label per pixel (gray or "
            "palette): docs/data.md shows how to turn colors into labels"
        )
    return mask if mask.mode == "L" else mask.convert("L")


def set_upright(image: Image.Image) -> Image.Image:
    """Turn an image by its EXIF orientation; return the same object if there is none or it is damaged."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # SyntaxError, struct.error, TypeError, AttributeError …: malformed EXIF, good pixels
        return image
    return image if turn is None else image.transpose(turn)


def read_palette(data: bytes) -> list[tuple[int, int, int]]:
    """Return the RGB of each palette index of a mask for :func:`read_labels`; empty for gray ones."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as mask:
        flat = (mask.getpalette("RGB") or []) if mask.mode == "P" else []
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]


def stored_size(data: bytes) -> tuple[int, int]:
    """Return width and height of an image for :func:`read_rgb`, before its EXIF orientation is applied."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.size


def _as_bytes(labels: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if (wrong := labels[(labels < 0) | (labels > 255)]).size:
        raise UserError(
            f"the mask {where} has {wrong.size} pixels that no byte holds, such as {wrong[0]}; labels are 0 to 255: "
            "do these number objects rather than classes?"
        )
    return labels.astype(np.uint8)


def image_size(data: NDArray[np.uint8], where: str) -> tuple[int, int]:
    """Return height and width of a record's image or mask, from its header.

    Raises :class:`UserError`, which names ``where``, for anything but an image of at most :data:`MAX_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=STORED) as image:
            size = image.height, image.width
    except Image.UnidentifiedImageError:
        raise UserError(f"{where} is not an image that can be read ({', '.join(STORED)}), or damaged") from None
    except Exception as error:  # see _load
        raise UserError(f"{where} cannot be read ({error})") from None
    if not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise UserError(f"{where} has an absurd size, {size[1]}×{size[0]} pixels")
    return size


def is_baseline_jpeg(data: bytes) -> bool:
    """Return whether a file is a baseline JPEG (its frame header is SOF0, ITU-T T.81 table B.1)."""
    if data[:2] != b"\xff\xd8":
        return False
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker == 0xC0
        # A fill byte, or a segment with its length.
        position += 1 if marker == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def encode_jpeg(image: Image.Image, quality: int, chroma: str) -> bytes:
    """Encode as a baseline JPEG that can be cut (:mod:`fastseg.shards.jpeg_tiles`); ``chroma``: ``444`` or ``420``.

    Uses the standard Huffman tables: optimized ones save 3 % of the bytes and triple the time (44 ms for 15 ms).
    """
    tile = blocks_per_tile(image.width, chroma)
    subsampling = {"444": 0, "420": 2}[chroma]
    return _save(image, "JPEG", quality=quality, subsampling=subsampling, restart_marker_blocks=tile)


def encode_png(image: Image.Image) -> bytes:
    """Encode an RGB image or a mask as PNG."""
    return _save(image, "PNG")


def encode_tiff(mask: Image.Image) -> bytes:
    """Encode a mask (mode ``L``) as TIFF: PackBits in strips of :data:`ROWS_PER_STRIP` rows.

    On street scenes of 2048×1024, one core: 57 KB, encoded in 1.6 ms, a crop decoded in 0.7. LZW has 42 KB, 10.6 and
    1.2 ms; a PNG 17 KB and has to be decoded whole.
    """
    return _save(mask, "TIFF", compression="packbits", strip_size=ROWS_PER_STRIP * mask.width)


def _save(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _load(data: bytes, where: str, limit: int = MAX_PIXELS) -> Image.Image:
    try:
        with _any_size():
            image = Image.open(io.BytesIO(data), formats=FORMATS)  # reads the header
            pixels = image.width * image.height
            if MAX_PIXELS < pixels <= limit:
                image.load()
        if pixels <= limit:
            image.load()
            return image
    except Image.UnidentifiedImageError:
        raise UserError(f"{where} is not an image that can be read ({', '.join(FORMATS)}), or damaged") from None
    except MemoryError:
        raise UserError(f"{where} takes more memory than there is; free some, or cut it into smaller images") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error …
        raise UserError(f"{where} is damaged: {error}; get the file again") from None
    raise UserError(
        f"{where} has an absurd size, {pixels} pixels; at most {limit:,} are read: cut it into smaller images"
    )


@contextmanager
def _any_size() -> Iterator[None]:
    """Lift Pillow's limit of pixels, which applies to the whole process and to its TIFF decoder as well."""
    with _LIMIT:
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = theirs


def _is_deep_png(image: Image.Image, data: bytes) -> bool:
    """Return whether it is a PNG of 16 bits per channel, which Pillow reduced to 8 (byte 24: IHDR's bit depth)."""
    return image.format == "PNG" and data[24] != 8
