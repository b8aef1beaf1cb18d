"""What ranks see of the shards: disjoint, whole, equally many, the same again after a restart."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from augments import augment_config
from fastseg.data.loader import Batch, EvalLoader, TrainLoader, open_files
from fastseg.errors import UserError
from fastseg.shards.manifest import Manifest, read_manifest

CPU = torch.device("cpu")
WHOLE = augment_config((64, 96), scale=(1.0, 1.0), flip=0.0)
CHANGED = augment_config((48, 64), brightness=0.2, contrast=0.5, saturation=0.5, hue=18)


@pytest.fixture
def manifest(shards: Path) -> Manifest:
    return read_manifest(shards)


@pytest.fixture
def make(shards: Path, manifest: Manifest) -> Callable[..., TrainLoader]:
    def make_loader(
        rank: int = 0, world: int = 1, batch: int = 2, seed: int = 0, state: dict | None = None, augmentation=WHOLE
    ):
        files = open_files(shards, manifest, "train", rank, world)
        return TrainLoader(
            files,
            manifest.split("train"),
            augmentation,
            batch=batch,
            device=CPU,
            threads=1,
            prefetch=2,
            seed=seed,
            state=state,
        )

    return make_loader


def names(batch: Batch) -> list[bytes]:
    """Frames that are cropped to their whole selves know who they are."""
    return [image.numpy().tobytes() for image in batch.image]


def test_batches_are_bytes_in_channels_last_order(make: Callable[..., TrainLoader]) -> None:
    batch = make(augmentation=CHANGED, batch=3).next()
    assert (batch.image.dtype, batch.image.shape) == (torch.uint8, (3, 48, 64, 3))
    assert (batch.label.dtype, batch.label.shape) == (torch.uint8, (3, 48, 64))
    assert batch.valid.tolist() == [True] * 3
    assert batch.image.permute(0, 3, 1, 2).is_contiguous(memory_format=torch.channels_last)
    assert set(batch.label.unique().tolist()) <= {*range(19), 255}


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_see_disjoint_samples_and_equally_many_steps(make: Callable[..., TrainLoader], world: int) -> None:
    loaders = [make(rank, world) for rank in range(world)]
    steps = {loader.steps_per_epoch for loader in loaders}
    assert steps == {11 // world // 2}
    orders = []
    for _ in range(3):
        epoch = [name for _ in range(steps.copy().pop()) for loader in loaders for name in names(loader.next())]
        assert len(set(epoch)) == len(epoch) == steps.copy().pop() * 2 * world
        orders.append(epoch)
    assert orders[0] != orders[1] != orders[2]


def test_every_sample_is_seen_within_a_few_epochs(make: Callable[..., TrainLoader]) -> None:
    loaders = [make(rank, 2) for rank in range(2)]
    seen = {name for _ in range(12 * loaders[0].steps_per_epoch) for loader in loaders for name in names(loader.next())}
    assert len(seen) == 11


def test_the_seed_decides_order_and_augmentation(make: Callable[..., TrainLoader]) -> None:
    first, again, other = (make(seed=seed, augmentation=CHANGED).next() for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)


@pytest.mark.parametrize("done", [0, 3, 5, 7])
def test_a_restored_loader_goes_on_bit_exactly(make: Callable[..., TrainLoader], done: int) -> None:
    loader = make(augmentation=CHANGED)
    for _ in range(done):
        loader.next()
    state = loader.state()
    restored = make(augmentation=CHANGED, state=state)
    for _ in range(8):
        expected, batch = loader.next(), restored.next()
        assert torch.equal(expected.image, batch.image)
        assert torch.equal(expected.label, batch.label)


@pytest.mark.parametrize(("world", "batch"), [(1, 2), (1, 3), (2, 2), (3, 4), (4, 1)])
def test_evaluation_counts_every_sample_once(shards: Path, manifest: Manifest, world: int, batch: int) -> None:
    split, frames, lengths = manifest.split("val"), [], set()
    for rank in range(world):
        files = open_files(shards, manifest, "val", rank, world)
        loader = EvalLoader(files, split, batch=batch, device=CPU, threads=1)
        assert loader.first == len(frames)
        for _ in range(2):  # the second time gives the same
            mine = [name for b in loader for name, valid in zip(names(b), b.valid, strict=True) if valid]
            assert len(mine) == loader.count
        frames += mine
        lengths.add(len(loader))
    assert len(lengths) == 1
    assert len(frames) == len(set(frames)) == 5
    assert loader.sample_keys() == [f"lindau_{i:06d}_000019" for i in range(5)]


def test_an_evaluation_that_was_left_early_starts_anew(shards: Path, manifest: Manifest) -> None:
    loader = EvalLoader(open_files(shards, manifest, "val"), manifest.split("val"), batch=1, device=CPU, threads=1)
    first = next(iter(loader))
    assert torch.equal(next(iter(loader)).image, first.image)


def test_images_survive_the_way(shards: Path, manifest: Manifest) -> None:
    """From the source PNG through JPEG, tar and DALI: close to what it was; the mask exactly."""
    from PIL import Image

    from fastseg.labels import cityscapes

    source = shards.parent / "source"
    loader = EvalLoader(open_files(shards, manifest, "val"), manifest.split("val"), batch=5, device=CPU, threads=1)
    batch = next(iter(loader))
    for i, key in enumerate(loader.sample_keys()):
        image = np.asarray(Image.open(source / "leftImg8bit/val/lindau" / f"{key}_leftImg8bit.png"))
        mask = np.asarray(Image.open(source / "gtFine/val/lindau" / f"{key}_gtFine_labelIds.png"))
        assert np.abs(batch.image[i].numpy().astype(int) - image).mean() < 2.5
        assert (batch.label[i].numpy() == cityscapes().lookup()[mask]).all()


def test_too_few_samples_for_a_step(make: Callable[..., TrainLoader]) -> None:
    with pytest.raises(UserError, match="11 samples"):
        make(batch=12)


def test_files_are_checked(shards: Path, manifest: Manifest, tmp_path: Path) -> None:
    for path in shards.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tar = tmp_path / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"train-000001\.tar has \d+ bytes, the manifest says"):
        open_files(tmp_path, manifest, "train")
    (tmp_path / "val-000000.idx").unlink()
    with pytest.raises(UserError, match=r"val-000000\.idx is missing"):
        open_files(tmp_path, manifest, "val")
    with pytest.raises(UserError, match=r"'test'.*no masks"):
        open_files(tmp_path, manifest, "test")
