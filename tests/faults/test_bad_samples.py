"""Damaged records in training and evaluation: refused in one sentence, or skipped and counted."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from augments import augment_config
from fastseg.config import AugmentConfig
from fastseg.data import loader as loader_module
from fastseg.data.frame_cache import allocate_arena
from fastseg.data.loader import Batch, EvalLoader, TrainLoader, open_files
from fastseg.data.reader import Reader
from fastseg.data.sampler import rank_order
from fastseg.errors import UserError
from fastseg.evaluation.evaluator import EvaluatedModel, EvaluationStats, evaluate
from fastseg.evaluation.frames import WorstFrames
from fastseg.evaluation.metrics import ConfusionMatrix, Sample
from fastseg.shards.manifest import read_manifest
from fastseg.shards.tar import SUMS, Component, read_index
from fastseg.shards.verify import verify
from resealed import change_record

CPU = torch.device("cpu")
AUGMENTATION = augment_config((48, 64))
WHOLE = augment_config((64, 96), scale=(1.0, 1.0), flip=0.0)


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "set"))


def part(folder: Path, shard: str, record: int, extension: str) -> Component:
    entry = read_index((folder / f"{shard}.idx").read_text())[record]
    return next(part for part in entry.components if part.extension == extension)


def overwrite(folder: Path, shard: str, record: int, extension: str, share: float = 0.5, size: int = 9) -> None:
    """Some bytes of one file of a record, from ``share`` of it on."""
    where = part(folder, shard, record, extension)
    with (folder / f"{shard}.tar").open("r+b") as tar:
        tar.seek(where.offset + int(where.size * share))
        tar.write(b"\xff" * min(size, where.size))


def spoil(folder: Path, shard: str, record: int, extension: str) -> str:
    """What neither the header nor a check sum tells: a JPEG's Huffman tables, a mask's strips are nowhere."""

    def change(data: bytes) -> bytes:
        at, size = {"jpg": (216, 150), "mask.tif": (len(data) - 8, 8)}[extension]
        return data[:at] + b"\xff" * size + data[at + size :]

    return change_record(folder, f"{shard}.tar", record, extension, change)


def train_loader(
    folder: Path,
    augmentation: AugmentConfig = AUGMENTATION,
    rank: int = 0,
    world: int = 1,
    max_corrupt: int = 0,
    **options: Any,
) -> TrainLoader:
    manifest = read_manifest(folder)
    files = open_files(folder, manifest, "train", rank, world, max_corrupt)
    common = {"batch": 2, "device": CPU, "threads": 1, "prefetch": 2, "seed": 3}
    arena = allocate_arena(manifest.split("train"), CPU) if options.pop("cached", False) else None
    return TrainLoader(files, manifest.split("train"), augmentation, arena=arena, **common | options)


def eval_loader(folder: Path, rank: int = 0, world: int = 1, max_corrupt: int = 0, batch: int = 2) -> EvalLoader:
    manifest = read_manifest(folder)
    files = open_files(folder, manifest, "val", rank, world, max_corrupt)
    return EvalLoader(files, manifest.split("val"), batch=batch, device=CPU, threads=1)


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.image, other.image) and torch.equal(one.label, other.label)


@pytest.fixture
def damaged(copy: Path) -> Path:
    """Two training records and one validation frame are damaged, silently for their decoders."""
    overwrite(copy, "train-000000", 1, "jpg", share=0.8)
    overwrite(copy, "train-000001", 3, "mask.tif", share=0.6)
    overwrite(copy, "val-000000", 2, "mask.tif", share=0.6)
    return copy


def test_the_next_record_stands_in(damaged: Path, shards: Path) -> None:
    loader, whole = train_loader(damaged, WHOLE, max_corrupt=2), train_loader(shards, WHOLE)
    reader = Reader(open_files(shards, read_manifest(shards), "train"))
    order = [index for epoch in range(4) for index in rank_order(reader, 2, 3, epoch)]
    shown = torch.cat([loader.next().image for _ in range(20)])
    frames = dict(zip(order, torch.cat([whole.next().image for _ in range(20)]), strict=True))
    assert {1, 2, 7, 8} <= frames.keys()
    for image, index in zip(shown, order, strict=True):
        assert torch.equal(image, frames[index + 1 if index in (1, 7) else index])
    assert loader.corrupt_samples() == [1, 7]


def test_other_samples_feel_nothing(damaged: Path, shards: Path) -> None:
    """Their draws are those of a whole set."""
    loaders = [train_loader(folder, max_corrupt=2) for folder in (damaged, shards)]
    found, expected = (torch.cat([loader.next().image for _ in range(20)]) for loader in loaders)
    reader = Reader(open_files(shards, read_manifest(shards), "train"))
    order = [index for epoch in range(4) for index in rank_order(reader, 2, 3, epoch)]
    for index, one, other in zip(order, found, expected, strict=True):
        assert torch.equal(one, other) == (index not in (1, 7))


@pytest.mark.parametrize("world", [1, 2])
def test_streamed_cached_and_resumed_are_one_curve(damaged: Path, world: int) -> None:
    for rank in range(world):
        streamed = train_loader(damaged, AUGMENTATION, rank, world, max_corrupt=2)
        cached = train_loader(damaged, AUGMENTATION, rank, world, max_corrupt=2, cached=True)
        for step in range(12):
            if step == 5:
                resumed = train_loader(damaged, AUGMENTATION, rank, world, max_corrupt=2, state=streamed.state())
            batch = streamed.next()
            assert same(batch, cached.next())
            assert step < 5 or same(batch, resumed.next())
        assert streamed.corrupt_samples() == cached.corrupt_samples() == [1, 7]


def test_two_ranks_see_what_one_would(damaged: Path) -> None:
    alone = train_loader(damaged, max_corrupt=2, batch=4)
    ranks = [train_loader(damaged, AUGMENTATION, rank, 2, max_corrupt=2, batch=2) for rank in range(2)]
    for _ in range(8):
        together = [rank.next() for rank in ranks]
        assert torch.equal(alone.next().image, torch.cat([batch.image for batch in together]))


def test_ranks_apart(damaged: Path) -> None:
    for rank in range(2):
        streamed = train_loader(damaged, AUGMENTATION, rank, 2, max_corrupt=2, rank_local=True)
        cached = train_loader(damaged, AUGMENTATION, rank, 2, max_corrupt=2, rank_local=True, cached=True)
        assert all(same(streamed.next(), cached.next()) for _ in range(8))


@pytest.mark.parametrize("cached", [False, True])
def test_one_too_many(damaged: Path, cached: bool) -> None:
    loader = train_loader(damaged, max_corrupt=1, cached=cached)
    with pytest.raises(UserError) as caught:
        [loader.next() for _ in range(20)]
    assert "copy or pack the set again, or raise --max-corrupt-samples, which is 1" in str(caught.value)
    assert re.search(
        r"train-00000[01]\.tar, record aachen_\d+_000019 at byte \d+: its (image|mask) ", str(caught.value)
    )
    assert len(loader.corrupt_samples()) == 1


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_damaged_frame_does_not_count(damaged: Path, shards: Path, world: int, batch: int) -> None:
    found, expected = [], []
    for folder, kept in ((damaged, found), (shards, expected)):
        for rank in range(world):
            loader = eval_loader(folder, rank, world, max_corrupt=1, batch=batch)
            for _ in range(2):
                frames = [image for b in loader for image, valid in zip(b.image, b.valid, strict=True) if valid]
            kept += frames
    assert len(found) == 4
    assert all(torch.equal(a, b) for a, b in zip(found, expected[:2] + expected[3:], strict=True))


def test_the_score_is_that_of_the_other_frames(damaged: Path, shards: Path) -> None:
    def brightness(image: torch.Tensor) -> torch.Tensor:
        return (image.float().mean(-1) * 19 / 256).to(torch.uint8)

    def evaluated(folder: Path) -> tuple[EvaluationStats, np.ndarray, list[Sample]]:
        matrix, worst = ConfusionMatrix(19, torch.device("cpu")), WorstFrames(8)
        result = evaluate([EvaluatedModel(brightness, [matrix, worst])], eval_loader(folder, max_corrupt=1), 19)
        assert result is not None
        return result, matrix.compute(), worst.compute()

    result, matrix_left, worst_left = evaluated(damaged)
    whole, matrix_whole, worst_whole = evaluated(shards)
    assert (result.images, result.corrupt_samples, whole.images, whole.corrupt_samples) == (4, 1, 5, 0)
    lost = next(sample for sample in worst_whole if sample.index == 2)
    matrix = np.zeros((19, 19), int)
    seen = lost.label != 255
    np.add.at(matrix, (lost.label[seen], brightness(torch.from_numpy(lost.image)).numpy()[seen]), 1)
    assert (matrix_left == matrix_whole - matrix).all()
    assert [sample.index for sample in worst_left] == [s.index for s in worst_whole if s.index != 2]
    with pytest.raises(UserError, match=r"val-000000\.tar, record lindau_000002_000019 at byte \d+: its mask is"):
        evaluate([EvaluatedModel(brightness, [])], eval_loader(damaged), 19)


@pytest.mark.parametrize("by_graph", [False, True], ids=["finisher", "graph"])
@pytest.mark.parametrize("cached", [False, True], ids=["streamed", "cached"])
@pytest.mark.parametrize("extension", ["jpg", "mask.tif"])
def test_what_dali_cannot_decode_is_named(
    copy: Path, extension: str, cached: bool, by_graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed by other programs, or for other versions of DALI: one sentence, not a trace of C++ calls."""
    key = spoil(copy, "train-000001", 2, extension)
    if by_graph:
        monkeypatch.setattr(loader_module, "_resized_on_cpu", loader_module._by_graph)
    loader = train_loader(copy, cached=cached)
    where = part(copy, "train-000001", 2, extension)
    with pytest.raises(UserError) as caught:
        [loader.next() for _ in range(20)]
    assert f"train-000001.tar, record {key} at byte {where.offset}: " in str(caught.value)


def test_a_frame_that_dali_cannot_decode_is_named(copy: Path) -> None:
    spoil(copy, "val-000001", 0, "jpg")
    with pytest.raises(UserError, match=r"val-000001\.tar, record lindau_000004_\d+ at byte 512: its image is damaged"):
        list(eval_loader(copy))


def test_a_record_without_check_sums_is_damaged(copy: Path) -> None:
    def plain(text: bytes) -> bytes:
        return json.dumps({name: value for name, value in json.loads(text).items() if name != SUMS}).encode()

    key = change_record(copy, "train-000001.tar", 2, "json", plain)
    says = rf"train-000001\.tar, record {key} at byte \d+: its JSON is not as it was packed \(CRC-32\)"
    loader = train_loader(copy)
    with pytest.raises(UserError, match=says):
        [loader.next() for _ in range(20)]
    assert any(re.search(says, sentence) for sentence in verify(copy, workers=1))
