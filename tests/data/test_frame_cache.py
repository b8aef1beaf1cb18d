"""Frames kept in memory: decoded once, and the same batches as from files."""

import dataclasses
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import pytest
import torch

from augments import augment_config
from fastseg.config import AugmentConfig
from fastseg.data import frame_cache
from fastseg.data import loader as loader_module
from fastseg.data.frame_cache import allocate_arena, cache_bytes, first_times
from fastseg.data.loader import Batch, TrainLoader, open_files
from fastseg.packing.pack import pack
from fastseg.packing.sources import open_source
from fastseg.shards.manifest import read_manifest
from layouts import write_folder_dataset, write_pair

AUGMENTATION = augment_config((48, 64), scale=(0.5, 2.0))
COLORED = dataclasses.replace(AUGMENTATION, brightness=0.2, contrast=0.5, saturation=0.5, hue=18)


def loader(
    shards: Path,
    augmentation: AugmentConfig = AUGMENTATION,
    rank: int = 0,
    world: int = 1,
    cached: bool = False,
    **options: Any,
) -> TrainLoader:
    manifest = read_manifest(shards)
    files, split = open_files(shards, manifest, "train", rank, world), manifest.split("train")
    common = {"batch": 2, "device": torch.device("cpu"), "threads": 1, "prefetch": 2, "seed": 3}
    arena = allocate_arena(split, common["device"], world if options.get("rank_local") else 1) if cached else None
    return TrainLoader(files, split, augmentation, arena=arena, **common | options)


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.image, b.image) and torch.equal(a.label, b.label)


@pytest.mark.parametrize("augmentation", [AUGMENTATION, COLORED], ids=["plain", "colored"])
@pytest.mark.parametrize("by_graph", [False, True], ids=["finisher", "graph"])
def test_batches_are_those_of_the_files(
    shards: Path, augmentation: AugmentConfig, by_graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through what finishes on a CPU, and through the graph that a GPU runs."""
    if by_graph:
        monkeypatch.setattr(loader_module, "_resized_on_cpu", loader_module._by_graph)
    streamed, cached = loader(shards, augmentation), loader(shards, augmentation, cached=True)
    assert all(same(streamed.next(), cached.next()) for _ in range(14))


def test_it_goes_on_after_any_step(shards: Path) -> None:
    first = loader(shards, cached=True)
    for _ in range(7):
        first.next()
    again = loader(shards, cached=True, state=first.state())
    assert all(same(first.next(), again.next()) for _ in range(6))


def test_it_is_filled_once_every_frame_was_drawn(shards: Path) -> None:
    """On one of two ranks that takes more steps than an epoch has: it sees half of the frames in each."""
    one, two = loader(shards, cached=True), loader(shards, world=2, cached=True)
    for cached in (one, two):
        assert cached.filling
        while cached.filling:
            cached.next()
    assert two.state()["epoch"] > one.state()["epoch"]
    assert not loader(shards).filling


def test_each_frame_is_decoded_once(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    whole = frame_cache.decoded_frames

    def counted(*arguments: Any, **options: Any) -> Any:
        frames = whole(*arguments, **options)
        try:
            for frame in frames:
                decoded.append(1)
                yield frame
        finally:
            frames.close()

    monkeypatch.setattr(frame_cache, "decoded_frames", counted)
    cached = loader(shards, cached=True)
    for _ in range(30):
        cached.next()
    assert len(decoded) == 11


def test_frames_of_several_sizes(tmp_path: Path) -> None:
    source = write_folder_dataset(tmp_path / "source", train=3)
    write_pair(source, "train", "portrait", seed=9, size=(40, 72))
    pack(open_source(source), tmp_path / "set", workers=1)
    streamed, cached = loader(tmp_path / "set"), loader(tmp_path / "set", cached=True)
    assert all(same(streamed.next(), cached.next()) for _ in range(6))


def test_ranks_apart_hold_disjoint_shares(shards: Path) -> None:
    whole = augment_config((64, 96), scale=(1.0, 1.0), flip=0.0)
    seen = []
    for rank in range(2):
        batches = loader(shards, whole, rank, 2, cached=True, rank_local=True)
        assert batches.steps_per_epoch == 2
        seen.append({image.numpy().tobytes() for _ in range(30) for image in batches.next().image})
    assert len(seen[0]) == 6
    assert len(seen[1]) == 5
    assert not seen[0] & seen[1]


def test_a_resumed_run_keeps_its_order(shards: Path) -> None:
    """Whether the memory of the machine it goes on with has room or not."""
    rank_local = loader(shards, rank=1, world=2, cached=True, rank_local=True)
    rank_local.next()
    streamed = loader(shards, rank=1, world=2, state=rank_local.state())
    assert all(same(rank_local.next(), streamed.next()) for _ in range(5))


def test_a_whole_order_is_not_served_from_a_share(shards: Path) -> None:
    streamed = loader(shards, rank=1, world=2)
    streamed.next()
    rank_local = loader(shards, rank=1, world=2, cached=True, rank_local=True, state=streamed.state())
    assert all(same(streamed.next(), rank_local.next()) for _ in range(5))


def test_first_times() -> None:
    indexes = chain([3, 1, 3, 0, 1], cycle([2, 0, 4]))
    assert list(islice(first_times(indexes, 5), 8)) == [3, 1, 0, 2, 4, 4, 4, 4]


def test_bytes_of_a_split(shards: Path) -> None:
    split = read_manifest(shards).split("train")
    assert cache_bytes(split) == 11 * 96 * 64 * 4
    assert cache_bytes(split, world=2) == 6 * 96 * 64 * 4
    mixed = dataclasses.replace(split, sizes=((10, 10, 2), (20, 10, 1)))
    assert cache_bytes(mixed, world=3) == 20 * 10 * 4
