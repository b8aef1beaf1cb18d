"""Masks of every kind of file against the labels that were drawn, and the ones that have no single meaning."""

import io
import struct
import zlib
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fastseg.errors import UserError
from fastseg.labels import IGNORE, Color, LabelTable, SegmentationClass
from fastseg.packing.masks import decode_mask, read_train_ids

COLORS = ((0, 0, 0), (128, 64, 128), (0, 0, 142))
CLASSES = tuple(SegmentationClass(name, color) for name, color in zip("abc", COLORS, strict=True))
BY_VALUE = LabelTable("values", CLASSES, {0: 0, 1: 1, 2: 2, 255: IGNORE}, {color: i for i, color in enumerate(COLORS)})
BY_COLOR = LabelTable("colors", CLASSES, {}, {color: i for i, color in enumerate(COLORS)})
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, (12, 20)).astype(np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def packed_bits(labels: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    per = 8 // bits
    rows = np.pad(labels, ((0, 0), (0, -labels.shape[1] % per))).reshape(len(labels), -1, per).astype(np.uint16)
    return (rows << np.arange(per - 1, -1, -1) * bits).sum(2).astype(np.uint8)


def gray_png(labels: NDArray[np.uint8], bits: int) -> bytes:
    """A gray PNG whose samples of ``bits`` bits are the labels (ISO/IEC 15948)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], bits, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in packed_bits(labels, bits))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pgm(labels: NDArray[np.uint8], bits: int, kind: str = "P5") -> bytes:
    """A PGM, binary or (P2) of text, whose largest value is that of ``bits`` bits."""
    head = f"{kind}\n# 9 9\n{labels.shape[1]} {labels.shape[0]} # 9\n{2**bits - 1}\n".encode()
    text = " ".join(map(str, labels.ravel().tolist())).encode()
    return head + (text if kind == "P2" else labels.astype(">u2" if bits > 8 else ">u1").tobytes())


def pgm_text(labels: NDArray[np.uint8], bits: int) -> bytes:
    return pgm(labels, bits, "P2")


def gray_tiff(
    labels: NDArray[np.uint8], bits: int, photometric: int = 1, bands: int = 1, sample_format: int = 1
) -> bytes:
    """An uncompressed gray TIFF whose samples are the labels (TIFF 6.0)."""
    data = packed_bits(labels, bits).tobytes()
    height, width = labels.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, bands), (278, 3, height), (279, 4, len(data)), (339, 3, sample_format)]
    if bands == 2:
        labels, tags[2] = np.repeat(labels, 2, 1), (258, 3, bits | bits << 16)
        data, tags = labels.tobytes(), [*tags[:-2], (279, 4, labels.size), (338, 3, 0)]
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, kind, bands if tag == 258 else 1, n) for tag, kind, n in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def palette_mask(labels: NDArray[np.uint8], colors: list[Color]) -> Image.Image:
    image = Image.fromarray(labels)
    image.putpalette([channel for color in colors for channel in color])
    return image


def read(data: bytes, table: LabelTable = BY_VALUE, **options: object) -> NDArray[np.uint8]:
    return np.asarray(read_train_ids(decode_mask(data, "m.png"), table, "m.png", **options).image)


@pytest.mark.parametrize(
    ("write", "bits"),
    [*product((gray_png, gray_tiff), (1, 2, 4, 8)), *product((pgm, pgm_text), (1, 2, 3, 5, 8, 9, 16))],
)
def test_samples_of_few_bits_are_labels_as_they_are_stored(bits: int, write) -> None:
    labels = RNG.integers(0, min(2**bits, 256), (9, 13)).astype(np.uint8)
    table = LabelTable("all", CLASSES, {value: value for value in range(256)})
    np.testing.assert_array_equal(read(write(labels, bits), table), labels)


def test_the_white_of_one_bit_is_255_where_the_table_says_so_and_is_never_ignored_in_silence() -> None:
    labels = LABELS % 2
    black_and_white = LabelTable("bw", CLASSES[:2], {0: 0, 255: 1})
    np.testing.assert_array_equal(read(gray_png(labels, 1), black_and_white), labels)
    with pytest.raises(UserError, match=r"pixels of value 1, which is no label of one"):
        read(gray_png(labels, 1), LabelTable("one", CLASSES[:1], {0: 0, 255: IGNORE}))
    palette = encoded(palette_mask(labels, [(0, 0, 0), (255, 255, 255)]), bits=1)
    np.testing.assert_array_equal(read(palette, black_and_white), labels)
    with pytest.raises(UserError, match=r"value 1, which is 'b' in values, in the color \[255, 255, 255\], .* ignored"):
        read(palette)
    np.testing.assert_array_equal(read(palette, by="value"), labels)


GRAY = Image.fromarray(LABELS)


@pytest.mark.parametrize(
    "data",
    [
        encoded(GRAY),
        encoded(GRAY, "TIFF", compression="tiff_lzw"),
        encoded(GRAY, "BMP"),
        encoded(GRAY, "GIF"),
        encoded(GRAY.convert("RGB")),
        encoded(GRAY.convert("RGB"), "WEBP", lossless=True),
        encoded(GRAY.convert("RGB"), "WEBP", lossless=True, icc_profile=bytes(99)),
        encoded(GRAY.convert("RGBA")),
        encoded(GRAY.convert("LA")),
        encoded(Image.fromarray(LABELS.astype(np.uint16))),
        encoded(Image.fromarray(LABELS.astype(np.uint16)), "TIFF"),
        encoded(Image.fromarray(LABELS.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(LABELS.astype(np.float32)), "TIFF"),
        encoded(palette_mask(LABELS, list(COLORS))),
        encoded(palette_mask(LABELS, list(COLORS)), "GIF"),
        encoded(palette_mask(LABELS, list(COLORS)), "TIFF"),
        encoded(palette_mask(LABELS, list(COLORS)), "BMP"),
        encoded(palette_mask(LABELS, [(9, 9, 200), (7, 200, 7), (200, 5, 5)])),  # colors of the tool, no class's
        encoded(palette_mask(LABELS, list(COLORS)), bits=2),
        encoded(palette_mask(2 - LABELS, [(2, 2, 2), (1, 1, 1), (0, 0, 0)])),  # a palette of grays: its grays
    ],
)
def test_any_lossless_file_is_the_labels_that_were_drawn(data: bytes) -> None:
    np.testing.assert_array_equal(read(data), LABELS)


def test_colors_are_read_exactly_and_with_a_tolerance() -> None:
    rgb = np.array(COLORS, np.uint8)[LABELS]
    np.testing.assert_array_equal(read(encoded(Image.fromarray(rgb)), BY_COLOR), LABELS)
    np.testing.assert_array_equal(read(encoded(Image.fromarray(rgb)), BY_VALUE), LABELS)
    np.testing.assert_array_equal(read(encoded(palette_mask(2 - LABELS, list(COLORS[::-1]))), BY_COLOR), LABELS)
    near = np.clip(rgb.astype(int) + RNG.integers(-3, 4, rgb.shape), 0, 255).astype(np.uint8)
    with pytest.raises(UserError, match=r"pixels of color \[\d+, \d+, \d+\], which is no label of colors"):
        read(encoded(Image.fromarray(near)), BY_COLOR)
    np.testing.assert_array_equal(read(encoded(Image.fromarray(near)), BY_COLOR, tolerance=3), LABELS)
    near[0, :5] = 255, 255, 0
    found = read_train_ids(decode_mask(encoded(Image.fromarray(near)), "m"), BY_COLOR, "m", tolerance=3)
    assert found.unmatched == 5
    assert (np.asarray(found.image)[0, :5] == IGNORE).all()


def test_others_are_what_the_table_says() -> None:
    table = LabelTable("some", CLASSES[:2], {1: 0}, others=1)
    np.testing.assert_array_equal(read(encoded(GRAY), table), np.where(LABELS == 1, 0, 1))
    colors = LabelTable("some", CLASSES[:2], {}, {COLORS[1]: 0}, others=IGNORE)
    rgb = Image.fromarray(np.array(COLORS, np.uint8)[LABELS])
    np.testing.assert_array_equal(read(encoded(rgb), colors), np.where(LABELS == 1, 0, IGNORE))


def test_a_palette_that_contradicts_the_table_is_refused_with_both_readings() -> None:
    data = encoded(palette_mask(LABELS, [COLORS[2], COLORS[0], COLORS[1]]))
    with pytest.raises(UserError, match=r"value 0, which is 'a' in values, in the color \[0, 0, 142\], which is 'c'"):
        read(data)
    np.testing.assert_array_equal(read(data, by="value"), LABELS)
    np.testing.assert_array_equal(read(data, by="color"), np.array([2, 0, 1])[LABELS])


def test_grays_saved_as_rgb_that_are_other_classes_by_color_are_refused() -> None:
    table = LabelTable("void is black", CLASSES, {0: 1, 1: 0, 2: 2}, {(0, 0, 0): IGNORE, (9, 0, 0): 0})
    with pytest.raises(UserError, match="--mask-values value or color"):
        read(encoded(GRAY.convert("RGB")), table)
    black = Image.new("RGB", (4, 4))
    assert (read(encoded(black), table, by="color") == IGNORE).all()
    assert (read(encoded(black), table, by="value") == 1).all()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (gray_tiff(LABELS, 8, photometric=0), r"PhotometricInterpretation 0 .*tag 262.* save it with 1"),
        (gray_tiff(LABELS % 2, 1, photometric=0), r"PhotometricInterpretation 0"),
        (gray_tiff(LABELS, 8, bands=2), "has 2 bands"),
        (gray_tiff(LABELS + 254, 8, sample_format=2), "no label, such as -[12]"),
        (encoded(GRAY, "TIFF", save_all=True, append_images=[GRAY]), "has 2 pages or frames"),
        (encoded(GRAY.convert("P"), "GIF", save_all=True, append_images=[GRAY.point(lambda v: 2 - v)]), "2 pages"),
        (encoded(GRAY, "JPEG"), "compressed by JPEG, which loses labels"),
        (encoded(GRAY.convert("RGB"), "WEBP", quality=80), "lossy WebP"),
        (encoded(GRAY, "TIFF", compression="jpeg"), "TIFF's jpeg"),
        (encoded(Image.new("RGBA", (4, 4))), "transparent pixels"),
        (encoded(Image.new("LA", (4, 4))), "transparent pixels"),
        (encoded(Image.fromarray(np.array([[0, 1001]], np.uint16))), r"1 pixels that are no label, such as 1001"),
        (encoded(Image.fromarray(np.array([[0, -1]], np.int32)), "TIFF"), "such as -1"),
        (encoded(Image.fromarray(np.array([[0, 0.5]], np.float32)), "TIFF"), "such as 0.5"),
        (encoded(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"), "such as nan"),
        (encoded(Image.new("CMYK", (4, 4)), "TIFF"), "mode CMYK"),
        (b"nothing", "not an image"),
    ],
)
def test_what_has_no_single_meaning_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(UserError, match=rf"m\.png.*{says}"):
        read(data)


def test_a_tolerance_takes_lossy_files() -> None:
    labels = np.repeat(np.repeat(LABELS % 2, 16, 0), 16, 1) * 255
    data = encoded(Image.fromarray(labels.astype(np.uint8)), "JPEG", quality=95)
    table = LabelTable("bw", CLASSES[:2], {0: 0, 255: 1})
    mask = decode_mask(data, "m.jpg", lossy=True)
    np.testing.assert_array_equal(np.asarray(read_train_ids(mask, table, "m", tolerance=60).image), labels // 255)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossy_files_are_refused_if_classes_are_too_near(mode: str) -> None:
    """The noise of a JPEG would make other classes of all pixels, in silence."""
    table = LabelTable("near", CLASSES, {0: 0, 1: 1, 2: 2})
    mask = decode_mask(encoded(GRAY.convert(mode), "JPEG"), "m.jpg", lossy=True)
    with pytest.raises(UserError, match=r"m\.jpg is compressed by JPEG, .* the 1 between 'a' and 'b' in near; save"):
        read_train_ids(mask, table, "m.jpg", tolerance=64)


@pytest.mark.parametrize(
    ("values", "white"), [([0, 1], None), ([0, 255], "alone"), ([0, 1, 255], "beside"), ([255], None)]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_white_that_is_ignored_is_told(values: list[int], white: str | None, mode: str) -> None:
    mask = Image.fromarray(np.array([values], np.uint8)).convert(mode)
    assert read_train_ids(decode_mask(encoded(mask), "m"), BY_VALUE, "m").white == white
