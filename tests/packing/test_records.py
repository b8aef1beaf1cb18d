"""Records against independent counts in numpy, and what encode refuses."""

import io
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.errors import UserError
from fastseg.labels import IGNORE, cityscapes
from fastseg.packing.records import Codec, Record, encode
from fastseg.packing.sources import open_source
from fastseg.packing.sources.samples import Sample
from layouts import noise, write_cityscapes, write_folder_dataset


def _first(folder: Path) -> tuple[Sample, Path, Path]:
    sample = open_source(folder).samples[0]
    assert sample.mask is not None
    return sample, sample.image.path, sample.mask.path


def _encode(folder: Path, codec: Codec | None = None, measure: bool = False) -> Record:
    source = open_source(folder)
    return encode(source.samples[0], codec or Codec(), source.table, measure=measure)


def _pixels(record: Record, extension: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(record.members[extension])))


@pytest.mark.parametrize("codec", [Codec(), Codec(image="png", mask="png"), Codec(quality=80, chroma="420")])
def test_a_record_holds_the_image_and_the_train_ids(tmp_path: Path, codec: Codec) -> None:
    write_cityscapes(tmp_path, train=1, val=0, size=(96, 48))
    sample, image, mask = _first(tmp_path)
    record = _encode(tmp_path, codec)
    assert set(record.members) == {codec.image, f"mask.{codec.mask}", "json"}
    original = np.asarray(Image.open(image)).astype(int)
    error = np.abs(_pixels(record, codec.image) - original).mean()
    assert error == 0 if codec.image == "png" else 0 < error < 4
    table = cityscapes()
    labels = np.asarray(Image.open(mask))
    expected = np.vectorize(lambda value: table.train_ids[value])(labels)
    np.testing.assert_array_equal(_pixels(record, f"mask.{codec.mask}"), expected)

    statistics = record.statistics
    assert statistics.pixels == tuple(int((expected == c).sum()) for c in [*range(19), IGNORE])
    assert statistics.sums == (*original.sum((0, 1)).tolist(), *(original**2).sum((0, 1)).tolist())
    files = {name: data for name, data in record.members.items() if name != "json"}
    document = json.loads(record.members["json"])
    own = document["crc32"].pop("json")
    assert own == zlib.crc32(json.dumps(document, separators=(",", ":")).encode())
    assert document.pop("crc32") == {name: zlib.crc32(data) for name, data in files.items()}
    assert document == {
        "key": sample.key,
        "name": image.relative_to(tmp_path).as_posix(),
        "original_size": [48, 96],
        "size": [48, 96],
        "pixels": list(statistics.pixels),
        "split": "train",
    }


def test_tiny_images_are_packed(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path, train=1, val=0, size=(4, 3))
    record = _encode(tmp_path)
    assert (record.statistics.height, record.statistics.width) == (3, 4)
    assert sum(record.statistics.pixels) == 12


def test_psnr_is_that_of_the_stored_jpeg(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, train=1, val=0, size=(96, 48))
    record = _encode(tmp_path, measure=True)
    original = np.asarray(Image.open(_first(tmp_path)[1])).astype(float)
    expected = ((_pixels(record, "jpg") - original) ** 2).mean()
    assert record.statistics.squared_error == pytest.approx(expected)
    assert 35 < 10 * math.log10(255**2 / expected) < 60


def test_originals_pass_through_untouched(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path, train=1, val=0)
    _, image, _ = _first(tmp_path)
    assert _encode(tmp_path, Codec(image="png")).members["png"] == image.read_bytes()
    jpeg = image.with_suffix(".jpg")
    noise(0, (64, 32)).save(jpeg, quality=70)
    image.unlink()
    assert _encode(tmp_path).members["jpg"] == jpeg.read_bytes()
    assert _pixels(_encode(tmp_path, Codec(image="png")), "png").shape == (32, 64, 3)


@pytest.mark.parametrize("change", ["progressive", "turned"])
def test_jpegs_that_a_gpu_would_not_read_as_they_are_get_encoded(tmp_path: Path, change: str) -> None:
    write_folder_dataset(tmp_path, train=1, val=0)
    _, image, _ = _first(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 3 if change == "turned" else 1
    picture = noise(0, (64, 32))
    picture.save(image.with_suffix(".jpg"), quality=95, progressive=change == "progressive", exif=exif)
    image.unlink()
    record = _encode(tmp_path)
    stored = Image.open(io.BytesIO(record.members["jpg"]))
    assert "progressive" not in stored.info
    assert stored.getexif().get(0x0112) is None
    expected = picture.rotate(180) if change == "turned" else picture
    assert np.abs(np.asarray(stored).astype(int) - np.asarray(expected)).mean() < 5


def test_height_scales_image_and_mask_alike(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, train=1, val=0, size=(96, 48))
    record, full = _encode(tmp_path, Codec(height=24)), _encode(tmp_path)
    mask = _pixels(record, "mask.tif")
    assert _pixels(record, "jpg").shape == (24, 48, 3)
    # Nearest: pixel (y, x) shows the source at its center, (2y + 1, 2x + 1).
    np.testing.assert_array_equal(mask, _pixels(full, "mask.tif")[1::2, 1::2])
    assert sum(record.statistics.pixels) == 24 * 48
    assert (record.statistics.height, record.statistics.width) == (24, 48)
    document = json.loads(record.members["json"])
    assert (document["size"], document["original_size"]) == ([24, 48], [48, 96])
    assert _encode(tmp_path, Codec(height=480)).members == full.members


def test_images_without_masks(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, train=0, val=0, test=1)
    record = _encode(tmp_path)
    assert set(record.members) == {"jpg", "json"}
    assert record.statistics.pixels == ()


def test_different_sizes_are_refused(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path, train=1, val=0)
    _, _, mask = _first(tmp_path)
    Image.new("L", (63, 32)).save(mask)
    with pytest.raises(UserError, match=r"masks/train_000\.png has 63×32 pixels, its image \S+png 64×32"):
        _encode(tmp_path)


def test_mask_values_outside_the_table_are_refused(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path, train=1, val=0)
    _, _, mask = _first(tmp_path)
    values = np.zeros((32, 64), np.uint8)
    values[3, 4:7] = 77
    Image.fromarray(values).save(mask)
    with pytest.raises(UserError, match=r"masks/train_000\.png has 3 pixels of value 77, which is no label of shapes"):
        _encode(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path, train=1, val=0, size=(128, 96))
    _, image, mask = _first(tmp_path)
    for path, name in ((mask, "masks/train_000.png"), (image, "images/train_000.png")):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=f"{name} is damaged"):
            _encode(tmp_path)
        path.write_bytes(whole)


@pytest.mark.parametrize("options", [{"quality": 0}, {"quality": 101}, {"height": 8}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(UserError, match=f"--{name} is {value}"):
        Codec(**options)  # type: ignore[arg-type]
