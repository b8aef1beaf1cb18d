"""Image files: what each kind of file becomes, what DALI reads of the masks, and every refusal."""

import io
import random
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import pytest
from nvidia.dali import pipeline_def
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from fastseg.errors import UserError
from fastseg.shards import images
from fastseg.shards.images import (
    encode_jpeg,
    encode_png,
    encode_tiff,
    is_baseline_jpeg,
    load_image,
    read_labels,
    read_rgb,
    set_upright,
)
from layouts import CITYSCAPES_IDS, labels, noise


def _bytes(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_rgb_is_read_as_it_is(format: str) -> None:
    picture = noise(0, (20, 10))
    options = {"lossless": True} if format == "WEBP" else {}
    image, plain = read_rgb(_bytes(picture, format, **options), "x")
    assert plain
    np.testing.assert_array_equal(np.asarray(image), np.asarray(picture))


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("P"),
        Image.fromarray(np.dstack([GREY, GREY, GREY, 255 - GREY])),
        Image.fromarray(np.dstack([GREY, 255 - GREY])),
        Image.fromarray(GREY.astype(np.uint16) * 257),
    ],
    ids=["gray", "palette", "rgba", "gray-alpha", "16-bit"],
)
def test_other_modes_become_rgb(picture: Image.Image) -> None:
    image, plain = read_rgb(_bytes(picture), "x")
    assert not plain
    np.testing.assert_array_equal(np.asarray(image), np.dstack([GREY] * 3))


def test_16_bit_color_is_not_taken_for_8_bit() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + np.full((4, 3), 0x80FF, ">u2").tobytes() for _ in range(2))
    header = struct.pack(">IIBBBBB", 4, 2, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    image, plain = read_rgb(png, "x")
    assert not plain
    assert np.unique(np.asarray(image)).tolist() == [0x80]


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(format: str) -> None:
    picture = noise(0, (24, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90° clockwise to see it upright.
    image, plain = read_rgb(_bytes(picture, format, exif=exif, quality=95, subsampling=0), "x")
    assert not plain
    assert image.size == (16, 24)
    expected = np.rot90(np.asarray(picture).astype(int), -1)
    assert np.abs(np.asarray(image) - expected).mean() < (1 if format == "PNG" else 6)


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(io.BytesIO(_bytes(noise(0, (24, 16)), exif=exif)))
    turned = set_upright(image)
    assert (turned is image) == (orientation not in range(2, 9))
    np.testing.assert_array_equal(np.asarray(turned), np.asarray(ImageOps.exif_transpose(image)))
    # The finished image does not ask to be turned again.
    assert read_rgb(encode_png(turned), "x")[0].size == turned.size


def _damage_exif(data: bytes, size: int, rng: random.Random) -> bytes:
    """The same file with one to three bytes of its EXIF drawn anew; a PNG's checksum is that of what it then holds."""
    start = max(data.find(mark) for mark in (b"II*\0", b"MM\0*"))
    broken = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        broken[start + rng.randrange(size)] = rng.randrange(256)
    if data.startswith(b"\x89PNG"):
        stop = start + int.from_bytes(data[start - 8 : start - 4], "big")
        broken[stop : stop + 4] = zlib.crc32(broken[start - 4 : stop]).to_bytes(4, "big")
    return bytes(broken)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it finds
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_no_exif_stops_an_image(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A], exif[0x8298] = 6, "cam", 72.0, "a photographer"
    data, size, rng = _bytes(noise(0, (24, 16)), format, exif=exif), len(exif.tobytes()) - 6, random.Random(0)
    for _ in range(500):
        image, _ = read_rgb(_damage_exif(data, size, rng), "x")
        assert image.size in ((24, 16), (16, 24))


@pytest.mark.filterwarnings("ignore")
def test_exif_that_is_none_is_passed_over() -> None:
    for garbage in (b"Exif\0\0garbage!!", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        image, plain = read_rgb(_bytes(noise(0, (24, 16)), "JPEG", exif=garbage), "x")
        assert plain
        assert image.size == (24, 16)


def test_a_records_mask_is_one_byte_a_pixel() -> None:
    mask = labels(0, (40, 24), (0, 1, 4, 9))
    for data in (encode_png(mask), encode_tiff(mask)):
        np.testing.assert_array_equal(np.asarray(read_labels(data, "x")), np.asarray(mask))
    with pytest.raises(UserError, match="the mask m has pixels of mode RGB instead of train ids"):
        read_labels(_bytes(mask.convert("RGB")), "m")


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_become_8_by_one_scale(format: str, channels: int) -> None:
    samples = np.random.default_rng(0).integers(0, 4096, (9, 7, channels)).astype(np.uint16)
    ok, data = cv2.imencode("." + format.lower(), samples[..., ::-1].squeeze())
    assert ok
    for white in (4095, None):
        image, plain = read_rgb(data.tobytes(), "x", white=white)
        assert not plain
        expected = np.rint(samples * (255 / (white or 65535)))
        np.testing.assert_array_equal(np.asarray(image), np.broadcast_to(expected, (9, 7, 3)))


def test_an_image_of_several_pages_is_refused() -> None:
    one, two = noise(0, (8, 8)), noise(1, (8, 8))
    for format in ("TIFF", "GIF", "WEBP", "PNG"):
        with pytest.raises(UserError, match=r"the image x has 2 pages or frames"):
            read_rgb(_bytes(one, format, save_all=True, append_images=[two]), "x")
    image, _ = read_rgb(_bytes(one, "MPO", save_all=True, append_images=[two]), "x")  # a camera's, with a preview
    assert image.size == (8, 8)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_truncated_images_are_refused(format: str, share: float) -> None:
    data = _bytes(noise(0, (80, 60)), format)
    with pytest.raises(UserError, match=r"cut\.png is (damaged|not an image)"):
        read_rgb(data[: int(share * len(data))], "cut.png")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_damaged_png_is_read_as_pillow_reads_it_or_refused(mode: str) -> None:
    """One bit of each byte flipped: the faster decoder never returns other pixels."""
    whole = _bytes(noise(0, (24, 16)).convert(mode))
    rng, same = np.random.default_rng(0), 0
    for position in range(8, len(whole)):
        data = bytearray(whole)
        data[position] ^= 1 << int(rng.integers(8))
        try:
            found = np.asarray(read_rgb(bytes(data), "x")[0])
        except UserError:
            continue
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))
        same += 1
    assert same > 0


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_plain_pngs_are_left_to_the_faster_decoder_and_others_to_pillow(mode: str) -> None:
    picture = noise(0, (24, 16)).convert(mode)
    comment, text = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    comment.add_text("Software", "a camera's")
    plain = _bytes(picture, pnginfo=comment)
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    turned = _bytes(picture, pnginfo=text)
    for data, faster in (
        (plain, True),
        (turned, False),
        (_bytes(picture, transparency=(0, 0, 0) if mode == "RGB" else 0), False),
    ):
        decoded = load_image(data, "x")
        assert (type(decoded) is Image.Image) is faster
        assert decoded.format == "PNG"
        np.testing.assert_array_equal(np.asarray(decoded), np.asarray(picture))
    assert [read_rgb(data, "x")[0].size for data in (plain, turned)] == [(24, 16), (16, 24)]


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_absurd_sizes_are_refused_before_they_are_decoded(side: int) -> None:
    png = bytearray(_bytes(Image.new("RGB", (4, 4))))
    png[16:24] = struct.pack(">II", side, side)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    with pytest.raises(UserError, match=rf"huge\.png has an absurd size, {side * side} pixels; at most 89,478,485 are"):
        read_rgb(bytes(png), "huge.png")


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_a_limit_may_be_higher_than_pillows(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = noise(0, (40, 30))
    data = _bytes(picture, format, **({"lossless": True} if format == "WEBP" else {}))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    np.testing.assert_array_equal(np.asarray(read_rgb(data, "x", 1200)[0]), np.asarray(picture))
    with pytest.raises(UserError, match="x has an absurd size, 1200 pixels; at most 1,199 are read"):
        read_rgb(data, "x", 1199)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_what_memory_does_not_hold_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Image.Image) -> None:
        raise MemoryError

    data = _bytes(noise(0, (8, 8)), "BMP")
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(UserError, match="x takes more memory than there is"):
        read_rgb(data, "x")


def test_other_formats_are_refused() -> None:
    for data in (b"", b"%!PS-Adobe-3.0 EPSF-3.0\n", _bytes(noise(0, (8, 8)), "TGA")):
        with pytest.raises(UserError, match=r"x\.eps is not an image"):
            read_rgb(data, "x.eps")
    with pytest.raises(UserError, match="32-bit pixels"):
        read_rgb(_bytes(Image.new("F", (8, 8)), "TIFF"), "x.tif")


def test_jpegs_are_baseline_with_the_chroma_that_was_asked_for() -> None:
    picture = noise(0, (64, 48))
    for chroma, factors in (("444", (1, 1)), ("420", (2, 2))):
        data = encode_jpeg(picture, 95, chroma)
        assert is_baseline_jpeg(data)
        decoded: Any = Image.open(io.BytesIO(data))
        assert decoded.layer[0][1:3] == factors
    assert not is_baseline_jpeg(_bytes(picture, "JPEG", progressive=True))
    assert not is_baseline_jpeg(_bytes(picture))
    assert not is_baseline_jpeg(b"\xff\xd8\xff")


@pytest.mark.parametrize("size", [(64, 32), (203, 101), (1, 1), (7, 65)])
def test_dali_reads_masks_pixel_equal(size: tuple[int, int]) -> None:
    width, height = size
    mask = labels(3, size, CITYSCAPES_IDS) if min(size) > 8 else Image.new("L", size, 11)
    crop = (max(1, height // 2), max(1, width // 3))

    @pipeline_def(batch_size=2, num_threads=1, device_id=None)
    def graph() -> tuple:
        files = fn.external_source(source=lambda: [np.frombuffer(d, np.uint8) for d in data], batch=True, ndim=1)
        start = types.Constant(np.array([height - crop[0], width - crop[1]], np.int32))
        part = fn.decoders.image_slice(files, start, crop, axes=(0, 1), output_type=types.GRAY)
        return fn.decoders.image(files, output_type=types.GRAY), part

    data = [encode_tiff(mask), encode_png(mask)]
    pipeline = graph()
    pipeline.build()
    whole, part = pipeline.run()
    expected = np.asarray(mask)[:, :, None]
    for index in range(2):
        np.testing.assert_array_equal(whole.at(index), expected)
        np.testing.assert_array_equal(part.at(index), expected[height - crop[0] :, width - crop[1] :])
