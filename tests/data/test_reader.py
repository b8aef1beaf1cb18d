"""Records by their place: only what the manifest announces reaches a decoder."""

import io
import resource
import shutil
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from augments import augment_config
from fastseg.data.loader import EvalLoader, TrainLoader, open_files
from fastseg.data.reader import Reader
from fastseg.errors import UserError
from fastseg.shards.images import encode_jpeg, encode_png, encode_tiff
from fastseg.shards.manifest import read_manifest
from resealed import change_record

CPU = torch.device("cpu")


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "set"))


def png_of_zeros(width: int, height: int) -> bytes:
    """A mask a thousand times as large as its file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(1), bytes(width + 1)
    rows = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff_of(width: int, height: int) -> bytes:
    """A mask whose header alone is that large."""
    data = bytearray(encode_tiff(Image.new("L", (96, 64))))
    directory = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, directory)[0]):
        at = directory + 2 + 12 * entry
        if (tag := struct.unpack_from("<H", data, at)[0]) in (256, 257):
            struct.pack_into("<HHII", data, at, tag, 4, 1, width if tag == 256 else height)
    return bytes(data)


def jpeg_of(width: int, height: int) -> bytes:
    """An image whose header alone is that large."""
    data = bytearray(encode_jpeg(Image.new("RGB", (96, 64)), 95, "444"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def progressive(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "JPEG", progressive=True)
    return buffer.getvalue()


BOMBS = [
    ("mask.tif", lambda: png_of_zeros(30_000, 30_000), "its mask cannot be read .*900000000 pixels"),
    ("mask.tif", lambda: png_of_zeros(12_000, 8000), "its mask has an absurd size, 12000×8000 pixels"),
    ("mask.tif", lambda: encode_png(Image.new("L", (95, 64))), "its mask has 95×64 pixels, its image 96×64"),
    ("mask.tif", lambda: tiff_of(9000, 9000), "its mask has 9000×9000 pixels, its image 96×64"),
    ("mask.tif", lambda: tiff_of(60_000, 60_000), "its mask cannot be read"),
    ("jpg", lambda: jpeg_of(9000, 9000), "its image has 9000×9000 pixels, the manifest names no such size"),
    ("jpg", lambda: progressive((8000, 8000)), "its image has 8000×8000 pixels, the manifest names no such size"),
    ("jpg", lambda: jpeg_of(65_500, 65_500), "its image cannot be read"),
]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("extension", "bomb", "says"), BOMBS)
def test_bombs_reach_no_decoder(copy: Path, extension: str, bomb: object, says: str) -> None:
    """By training and evaluation alike: named, or skipped, with little memory."""
    assert callable(bomb)
    data = bomb()
    keys = [change_record(copy, f"{split}-000000.tar", 0, extension, lambda _: data) for split in ("train", "val")]
    manifest, before = read_manifest(copy), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = {"batch": 2, "device": CPU, "threads": 1}

    def train(max_corrupt: int) -> TrainLoader:
        files = open_files(copy, manifest, "train", max_corrupt=max_corrupt)
        return TrainLoader(files, manifest.split("train"), augment_config((32, 48)), prefetch=1, seed=0, **options)

    def evaluation(max_corrupt: int) -> EvalLoader:
        return EvalLoader(open_files(copy, manifest, "val", max_corrupt=max_corrupt), manifest.split("val"), **options)

    loader = train(0)
    with pytest.raises(UserError, match=rf"train-000000\.tar, record {keys[0]} at byte \d+: {says}"):
        [loader.next() for _ in range(20)]
    with pytest.raises(UserError, match=rf"val-000000\.tar, record {keys[1]} at byte \d+: {says}"):
        list(evaluation(0))
    loader, frames = train(1), evaluation(1)
    [loader.next() for _ in range(20)]
    assert sum(int(batch.valid.sum()) for batch in frames) == 4
    assert (loader.corrupt_samples(), frames.corrupt_samples()) == ([0], [0])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < 1 << 28, f"{grown >> 20} MB"


def test_sizes_are_looked_at_once(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As check sums are: a header takes as long to read as its record."""
    reader = Reader(open_files(copy, read_manifest(copy), "train"))
    for place in range(len(reader)):
        reader.read(place)
    monkeypatch.setattr("fastseg.data.reader.image_size", None)
    assert len(reader.read(0).image) > 0


def test_an_index_is_read_as_far_as_its_records_go(copy: Path) -> None:
    """Its hash is not waited for: whoever wrote the manifest may have made it of any size."""
    index = copy / "train-000000.idx"
    with index.open("r+b") as file:
        file.truncate(1 << 33)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"train-000000\.idx is damaged \(it has more than 3,600 bytes\); copy or pack"):
        Reader(open_files(copy, read_manifest(copy), "train"))
    with (copy / "train-000000.tar").open("ab") as tar:
        tar.write(b"x")
    with pytest.raises(UserError, match=r"train-000000\.tar has \d+ bytes, the manifest says \d+; copy or pack"):
        open_files(copy, read_manifest(copy), "train")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 100
