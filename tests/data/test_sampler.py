"""Records in order, read ahead, cut: by rank, by epoch, and after a restart."""

import dataclasses
import io
import threading
from collections.abc import Iterator
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from augments import augment_config
from fastseg.data.loader import TrainLoader, open_files
from fastseg.data.reader import Files, Reader
from fastseg.data.sampler import Cropper, crop_batches, frame_batches, rank_order, read_ahead
from fastseg.errors import UserError
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.records import Codec
from fastseg.packing.sources import open_source
from fastseg.shards.manifest import read_manifest
from layouts import reference_crop, write_cityscapes
from resealed import change_record


@pytest.fixture
def files(shards: Path) -> Files:
    return open_files(shards, read_manifest(shards), "train")


def of_rank(files: Files, rank: int, world: int) -> Reader:
    return Reader(dataclasses.replace(files, rank=rank, world=world))


def test_ranks_share_the_batches_that_one_rank_would_have(files: Files) -> None:
    alone = rank_order(of_rank(files, 0, 1), 4, seed=5, epoch=2)
    halves = [rank_order(of_rank(files, rank, 2), 2, seed=5, epoch=2) for rank in range(2)]
    assert len(alone) == len(set(alone)) == 8
    for step in range(2):
        together = [index for half in halves for index in half[step * 2 : step * 2 + 2]]
        assert together == alone[step * 4 : step * 4 + 4]


def test_every_epoch_and_seed_has_its_order(files: Files) -> None:
    reader = of_rank(files, 0, 1)
    orders = {tuple(rank_order(reader, 1, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(11)) for order in orders)


def same(a: tuple, b: tuple) -> bool:
    return all(all(np.array_equal(x, y) for x, y in zip(m, n, strict=True)) for m, n in zip(a, b, strict=True))


def test_batches_start_anywhere(files: Files) -> None:
    def next_batch(epoch: int, step: int):
        settings = augment_config((48, 64), hue=9)
        return crop_batches(Reader(files), settings, batch=3, seed=1, start=(epoch, step), ahead=2)

    from_start = next_batch(0, 0)
    whole = [from_start() for _ in range(9)]  # three steps an epoch
    for epoch, step in ((0, 0), (0, 2), (0, 3), (1, 1), (2, 0)):
        other = next_batch(epoch, step)
        for expected in islice(whole, epoch * 3 + step, None):
            assert same(other(), expected)


def test_a_crop_decodes_to_what_the_whole_shows(files: Files) -> None:
    reader, settings = Reader(files), augment_config((48, 64))
    cropper = Cropper(reader, settings, seed=0)
    for index in range(11):
        crop, window = cropper.crop((1, index)), cropper.crop((1, index)).window
        top, left = crop.origin
        part = np.asarray(Image.open(io.BytesIO(crop.image)))
        whole = np.asarray(Image.open(io.BytesIO(reader.read(index).image)))
        inside = window._replace(
            top=window.top - top, bottom=window.bottom - top, left=window.left - left, right=window.right - left
        )
        expected = reference_crop(whole, window, settings.crop, 0)
        assert (reference_crop(part, inside, settings.crop, 0) == expected).all()


def test_frames_come_in_the_order_given(files: Files) -> None:
    reader = Reader(files)
    next_batch = frame_batches(reader, cycle([3, 4, 4, 4]), batch=2, ahead=1)
    for indexes in ((3, 4), (4, 4), (3, 4)):
        for image, index in zip(next_batch().image, indexes, strict=True):
            assert (image == reader.read(index).image).all()


def test_reading_keeps_a_bounded_distance(files: Files) -> None:
    asked: list[int] = []
    lock = threading.Lock()

    def read(index: int) -> int:
        with lock:
            asked.append(index)
        return index

    items: Iterator[int] = read_ahead(count(), read, Reader(files), depth=5)
    assert list(islice(items, 20)) == list(range(20))
    assert max(asked) <= 25
    items.close()  # type: ignore[attr-defined]


def test_an_error_arrives_where_the_sample_would(files: Files) -> None:
    def read(index: int) -> int:
        if index == 2:
            raise UserError("broken")
        return index

    items = read_ahead(count(), read, Reader(files), depth=5)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(UserError, match="broken"):
        next(items)


def test_a_short_tar_is_named(files: Files, tmp_path: Path) -> None:
    tar = tmp_path / "short.tar"
    tar.write_bytes(Path(files.tars[0]).read_bytes()[:9000])
    reader = Reader(dataclasses.replace(files, tars=(str(tar), *files.tars[1:])))
    with pytest.raises(UserError, match=r"short\.tar ends at byte 9000, within record aachen_\d+_000019, which"):
        [reader.read(index) for index in range(11)]


def test_an_index_of_other_files_is_refused(files: Files) -> None:
    with pytest.raises(UserError, match=r"names no png of record aachen"):
        Reader(dataclasses.replace(files, image_codec="png"))
    with pytest.raises(UserError, match=r"gone\.idx is missing"):
        Reader(dataclasses.replace(files, indexes=("gone.idx", *files.indexes[1:])))


def test_halved_chroma_is_cut_with_its_neighbors(tmp_path: Path) -> None:
    """Windows anywhere show what the whole image does, though chroma is interpolated."""
    source = open_source(write_cityscapes(tmp_path / "source", train=1, val=1, size=(320, 160)))
    pack(source, tmp_path / "set", PackOptions(Codec(chroma="420")), workers=1)
    reader = Reader(open_files(tmp_path / "set", read_manifest(tmp_path / "set"), "train"))
    whole = np.asarray(Image.open(io.BytesIO(reader.read(0).image)))
    cropper = Cropper(reader, augment_config((32, 32), scale=(1.0, 1.0), flip=0.0), seed=0)
    for epoch in range(60):
        crop = cropper.crop((epoch, 0))
        part, (top, left), w = np.asarray(Image.open(io.BytesIO(crop.image))), crop.origin, crop.window
        shown = part[w.top - top : w.bottom - top, w.left - left : w.right - left]
        assert (shown == whole[w.top : w.bottom, w.left : w.right]).all()


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    source = open_source(write_cityscapes(tmp_path / "source", train=1, val=1))
    pack(source, tmp_path / "set", workers=1)
    files = open_files(tmp_path / "set", read_manifest(tmp_path / "set"), "train")
    tar = Path(files.tars[0])
    data = tar.read_bytes()
    at = data.index(b"\xff\xd8\xff")
    record = r"train-000000\.tar, record aachen_000000_000019 at byte 512: "
    tar.write_bytes(data[:at] + bytes(400) + data[at + 400 :])
    with pytest.raises(UserError, match=record + "its image is not as it was packed"):
        Cropper(Reader(files), augment_config((32, 32)), seed=0).crop((0, 0))
    tar.write_bytes(data)
    change_record(tmp_path / "set", tar.name, 0, "jpg", lambda image: bytes(400) + image[400:])
    files = open_files(tmp_path / "set", read_manifest(tmp_path / "set"), "train")
    with pytest.raises(UserError, match=record + "its image is not an image that can be read"):
        Cropper(Reader(files), augment_config((32, 32)), seed=0).crop((0, 0))


def test_indexes_must_fit_the_manifest(shards: Path, files: Files) -> None:
    split = read_manifest(shards).split("train")
    first = {name: getattr(files, name)[:1] for name in ("tars", "indexes", "samples", "index_sha256")}
    fewer = dataclasses.replace(files, **first)
    options = {"batch": 2, "device": torch.device("cpu"), "threads": 1, "prefetch": 1, "seed": 0}
    with pytest.raises(UserError, match="name 4 records, the manifest 11"):
        TrainLoader(fewer, split, augment_config((32, 32)), **options)
