"""A split without masks: whole frames in order, labels that say nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastseg.data.loader import EvalLoader, open_files
from fastseg.errors import UserError
from fastseg.shards.manifest import read_manifest

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch", [1, 2])
def test_frames_without_masks(shards: Path, batch: int) -> None:
    manifest = read_manifest(shards)
    assert not manifest.split("test").labeled
    with pytest.raises(UserError, match="has no masks"):
        open_files(shards, manifest, "test")
    files = open_files(shards, manifest, "test", unlabeled=True)
    loader = EvalLoader(files, manifest.split("test"), batch=batch, device=CPU, threads=1)
    assert loader.sample_keys() == ["berlin_000000_000019", "berlin_000001_000019"]
    images = []
    for found in loader:
        assert found.valid.all()
        assert found.label.shape == found.image.shape[:3]
        assert (found.label == 255).all()
        images += [image.numpy().copy() for image in found.image]
    assert [image.shape for image in images] == [(64, 96, 3)] * 2
    assert np.abs(images[0].astype(int) - images[1]).mean() > 5  # two frames, not one twice


@pytest.mark.parametrize(("most", "world"), [(3, 1), (3, 2), (1, 2), (99, 2)])
def test_only_the_first_frames(shards: Path, most: int, world: int) -> None:
    manifest = read_manifest(shards)
    split = manifest.split("val")
    whole = EvalLoader(open_files(shards, manifest, "val"), split, batch=1, device=CPU, threads=1)
    expected = [batch.image[0].numpy().copy() for batch in whole][:most]
    found = []
    for rank in range(world):
        files = open_files(shards, manifest, "val", rank, world)
        for batch in EvalLoader(files, split, batch=2, device=CPU, threads=1, most=most):
            found += [image.numpy().copy() for image, valid in zip(batch.image, batch.valid, strict=True) if valid]
    assert len(found) == len(expected) == min(most, 5)
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
