"""Image files: checks, decoding to 8-bit RGB or to labels, and encoding for the shards."""

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from fastseg.errors import UserError
from fastseg.shards.jpeg_tiles import MAX_PIXELS, blocks_per_tile

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
"""Accepted formats; Pillow would also try some that start other programs (EPS)."""

STORED = ("PNG", "JPEG", "TIFF")
"""Formats in records. WebP is excluded because Pillow allocates its pixels on opening."""

ROWS_PER_STRIP = 32
"""Rows per strip of the mask TIFF. A crop decodes only the strips that it touches."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that sets an image upright, by EXIF orientation (CIPA DC-008, tag 274); 1 is upright."""


_LIMIT = Lock()


def read_rgb(data: bytes, where: str, limit: int = MAX_PIXELS, white: int | None = None) -> tuple[Image.Image, bool]:
    """Return the RGB image of a file, and whether the file held exactly that (8-bit RGB, upright).

    Gray and palette images become RGB, alpha is dropped and an EXIF orientation applied; 16 bits are scaled to 8 so
    that ``white`` (65535 by default) becomes 255. Raises :class:`UserError`, which names ``where``, for a damaged or
    unsupported image, several pages or frames, and more than ``limit`` pixels.
    """
    return as_rgb(load_image(data, where, limit=limit), data, where, white)


def as_rgb(image: Image.Image, data: bytes, where: str, white: int | None = None) -> tuple[Image.Image, bool]:
    """Return what :func:`read_rgb` does, of a file that :func:`load_image` has decoded."""
    if image.format != "MPO" and (pages := getattr(image, "n_frames", 1)) > 1:  # MPO: a JPEG with a preview behind it
        raise UserError(f"the image {where} has {pages} pages or frames; save each as a file of its own")
    plain = image.mode == "RGB"
    if (samples := read_deep(image, data, where)) is not None:
        scaled = np.minimum(np.rint(samples * (255 / (white or 65535))), 255).astype(np.uint8)
        image, plain = _keep_exif(Image.fromarray(scaled), image), False
    elif image.mode in ("I", "F"):
        raise UserError(f"the image {where} has 32-bit pixels (mode {image.mode}); convert it to 8 bits")
    upright = set_upright(image)
    # Converting RGB to RGB would copy 6 MB.
    return upright if upright.mode == "RGB" else upright.convert("RGB"), plain and upright is image


def read_deep(image: Image.Image, data: bytes, where: str) -> NDArray[np.uint16] | None:
    """Return the samples of a 16-bit image that Pillow has read, shape (H, W) or (H, W, 3); None for 8 bits.

    Raises :class:`UserError`, which names ``where``, for colors in separate planes, inverted gray and 16-bit PPM.
    """
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    if image.mode.startswith("I;16"):
        if tags.get(262) == 0:
            raise UserError(
                f"the image {where} has 16 bits with PhotometricInterpretation 0 (WhiteIsZero, TIFF tag 262), whose "
                "white is not known; save it with 1 (BlackIsZero), or with 8 bits"
            )
        return np.asarray(image).astype(np.uint16)
    if image.format == "PPM" and image.mode in ("I", "RGB") and netpbm_maximum(data) > 255:
        raise UserError(f"the image {where} is a PPM or PGM of 16 bits; save it as PNG")
    if image.mode not in ("RGB", "RGBA", "LA") or bits_per_sample(image, data) != 16:
        return None
    import cv2  # Pillow keeps only the high bytes of 16-bit colors

    samples: NDArray[Any] | None = None
    if tags.get(284) != 2:  # OpenCV mixes planes up
        stored = _without_orientation(data) if tags else data
        samples = cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.shape[:2] != (image.height, image.width):
        raise UserError(f"the image {where} has colors of 16 bits that cannot be read; save it as PNG")
    if samples.ndim == 2 or samples.shape[2] == 2:
        return samples.reshape(*samples.shape[:2], -1)[..., 0]
    return np.ascontiguousarray(samples[..., 2::-1])


def bits_per_sample(image: Image.Image, data: bytes) -> int:
    """Return the stored bit depth: PNG by its header (IHDR, byte 24), TIFF by tag 258, other formats by the mode."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(258, (1,))))  # type: ignore[attr-defined]
    return 1 if image.mode == "1" else 8


def netpbm_maximum(data: bytes) -> int:
    """Return the sample value of white in a PGM or PPM, by which Pillow scales the samples; 255 for other files."""
    comments = re.compile(rb"#[^\r\n]*")
    kind, _, _, largest = [*comments.sub(b" ", data[:4096]).split(None, 4), *[b""] * 4][:4]
    return int(largest) if kind in (b"P2", b"P3", b"P5", b"P6") and largest.isdigit() else 255


def _keep_exif(image: Image.Image, original: Image.Image) -> Image.Image:
    """Copy the EXIF orientation of ``original`` to an image made from its samples."""
    image.getexif()[ExifTags.Base.Orientation] = orientation(original)
    return image


def read_labels(data: bytes, where: str) -> Image.Image:
    """Decode the mask of a record to train ids, mode ``L``; :class:`UserError` names ``where`` for anything else."""
    mask = load_image(data, where, STORED)
    if mask.mode != "L":
        raise UserError(f"the mask {where} has pixels of mode {mask.mode} instead of train ids; pack the set again")
    return mask


def set_upright(image: Image.Image) -> Image.Image:
    """Turn an image by its EXIF orientation; return the same object if there is none or it is damaged."""
    turn = TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8 (CIPA DC-008, tag 274); 1, upright, if there is none or it is unreadable."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # malformed EXIF: SyntaxError, struct.error, TypeError …; the pixels are intact
        return 1
    return value if value in TURNS else 1


def stored_layout(data: bytes) -> tuple[tuple[int, int], int]:
    """Return width and height of an image as it is stored, and its EXIF orientation, mostly without decoding it."""
    image, turn = _open(data, FORMATS)
    with image:
        return image.size, turn if turn != 1 else orientation(image)


def image_size(data: NDArray[np.uint8], where: str) -> tuple[int, int]:
    """Return height and width of the image or mask of a record, from its header.

    Raises :class:`UserError`, which names ``where``, for other data and for more than :data:`MAX_PIXELS` pixels.
    """
    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=STORED) as image:
            size = image.height, image.width
    except Image.UnidentifiedImageError:
        raise UserError(f"{where} is not an image that can be read ({', '.join(STORED)}), or damaged") from None
    except Exception as error:  # see load_image
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
        # Skip a fill byte, or a segment by its length.
        position += 1 if marker == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def encode_jpeg(image: Image.Image, quality: int, chroma: str) -> bytes:
    """Encode a baseline JPEG that :mod:`fastseg.shards.jpeg_tiles` can cut; ``chroma`` is ``444`` or ``420``.

    Uses the standard Huffman tables: optimized ones save 3 % of the bytes and triple the time (44 ms instead of 15 ms).
    """
    tile = blocks_per_tile(image.width, chroma)
    subsampling = {"444": 0, "420": 2}[chroma]
    return _save(image, "JPEG", quality=quality, subsampling=subsampling, restart_marker_blocks=tile)


def encode_png(image: Image.Image) -> bytes:
    """Encode an RGB image or a mask as PNG."""
    return _save(image, "PNG")


def encode_tiff(mask: Image.Image) -> bytes:
    """Encode a mask (mode ``L``) as TIFF with PackBits in strips of :data:`ROWS_PER_STRIP` rows.

    Street scenes of 2048×1024 on one core take 57 KB, 1.6 ms to encode and 0.7 ms to decode a crop. LZW takes 42 KB,
    10.6 and 1.2 ms; a PNG takes 17 KB and must be decoded whole.
    """
    return _save(mask, "TIFF", compression="packbits", strip_size=ROWS_PER_STRIP * mask.width)


def _save(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def load_image(data: bytes, where: str, formats: tuple[str, ...] = FORMATS, limit: int = MAX_PIXELS) -> Image.Image:
    """Decode a file of ``formats`` (names of Pillow) with at most ``limit`` pixels.

    Raises :class:`UserError`, which names ``where``, for anything else.
    """
    try:
        with _any_size():
            image, turn = _open(data, formats)
            pixels = image.width * image.height
            if MAX_PIXELS < pixels <= limit:
                image.load()
        if pixels <= limit:
            if (decoded := _decode_png(image, data)) is not None:
                return decoded
            image.load()
            if turn != 1:
                image.getexif()[ExifTags.Base.Orientation] = turn
            return image
    except Image.UnidentifiedImageError:
        raise UserError(f"{where} is not an image that can be read ({', '.join(formats)}), or damaged") from None
    except MemoryError:
        raise UserError(f"{where} takes more memory than there is; free some, or cut it into smaller images") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error …
        raise UserError(f"{where} is damaged: {error}; get the file again") from None
    raise UserError(
        f"{where} has an absurd size, {pixels} pixels; at most {limit:,} are read: cut it into smaller images"
    )


def _open(data: bytes, formats: tuple[str, ...]) -> tuple[Image.Image, int]:
    """Read the header of an image; return it, and the orientation that it has been relieved of; 1 for none.

    Pillow turns a TIFF on loading and forgets by what.
    """
    image = Image.open(io.BytesIO(data), formats=formats)
    turn = orientation(image) if image.format == "TIFF" else 1
    if turn != 1:
        image = Image.open(io.BytesIO(_without_orientation(data)), formats=formats)
        image.getexif()[ExifTags.Base.Orientation] = 1  # XMP can hold one, too
    return image, turn


def _without_orientation(data: bytes) -> bytes:
    """Return a TIFF whose orientation (tag 274) is 1, upright (TIFF 6.0, page 14; BigTIFF)."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
    first, size = (start + 8, 20) if big else (start + 2, 12)
    for entry in range(first, min(first + count * size, len(data) - size), size):
        if struct.unpack_from(f"{order}H", data, entry) == (274,):
            upright = struct.pack(f"{order}HH{'QH6x' if big else 'IH2x'}", 274, 3, 1, 1)
            return data[:entry] + upright + data[entry + size :]
    return data


PIXEL_CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"sRGB", b"gAMA", b"cHRM", b"iCCP", b"sBIT", b"pHYs", b"tIME", b"bKGD"}
"""Chunks of a PNG that make no difference to what is read here but for its pixels. Others can hold an orientation (in
EXIF or XMP), transparency or further frames."""


def _decode_png(image: Image.Image, data: bytes) -> Image.Image | None:
    """Decode a plain PNG with 8-bit gray or RGB pixels in a third of Pillow's time; None: leave it to Pillow.

    Rust's decoder refuses all that Pillow refuses, and more (checksums); Pillow then says why.
    """
    if image.format != "PNG" or image.mode not in ("L", "RGB") or data[24] != 8 or not _chunks(data) <= PIXEL_CHUNKS:
        return None
    from kornia_rs.io import decode_image_png_u8  # 70 ms, which few commands need

    try:
        pixels = decode_image_png_u8(data, (image.height, image.width), "rgb" if image.mode == "RGB" else "mono")
    except Exception:  # its errors have no type of their own
        return None
    decoded = Image.fromarray(pixels if image.mode == "RGB" else pixels[..., 0])
    decoded.format = image.format
    return decoded


def _chunks(data: bytes) -> set[bytes]:
    """Return the types of the chunks of a PNG (PNG specification, section 5.3), without mere comments."""
    types, position = set(), 8
    while position + 8 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if kind != b"tEXt" or data.startswith((b"Raw profile", b"XML:"), position + 8):  # EXIF, XMP
            types.add(kind)
        position += 12 + length
    return types


@contextmanager
def _any_size() -> Iterator[None]:
    """Lift Pillow's limit of pixels, which applies to the whole process and also to its TIFF decoder."""
    with _LIMIT:
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = theirs
