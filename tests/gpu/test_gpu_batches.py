"""Batches made on the GPU: what the CPU makes of the same records, and nobody's memory but the caller's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_sets import (
    COLORED,
    KINDS,
    RESIZED,
    WHOLE_PIXELS,
    assert_decoded_alike,
    differing,
    distance,
    eval_loader,
    pack_kind,
    train_loader,
)
from one_gpu import CPU, CUDA, DEVICE, keep_busy, needs_gpu

from fastseg.config import AugmentConfig

pytestmark = needs_gpu

WAYS: dict[str, dict[str, Any]] = {"stream": {}, "cached": {"cached": True}, "cpu decodes": {"decoder": "cpu"}}
"""How a rank on a GPU may get its batches."""


@pytest.fixture(scope="module", params=KINDS)
def frames(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of every kind."""
    return pack_kind(request.param, tmp_path_factory.mktemp("frames"))


def test_decoded_pixels_are_the_cpus(frames: Path) -> None:
    """Masks are equal bit by bit, images as far as two decoders round alike."""
    ours, cpu = train_loader(frames, DEVICE, WHOLE_PIXELS), train_loader(frames, CPU, WHOLE_PIXELS)
    for _ in range(4):
        batch, expected = ours.next(), cpu.next()
        assert batch.image.device == batch.label.device == DEVICE
        assert_decoded_alike(batch, expected)


def test_cached_batches_are_the_streams(frames: Path) -> None:
    """Frames decoded whole, and kept, show what crops decoded alone show; one may be the JPEG engine's work and the
    other a kernel's."""
    stream = train_loader(frames, DEVICE, WHOLE_PIXELS)
    cached = train_loader(frames, DEVICE, WHOLE_PIXELS, cached=True)
    for _ in range(6):  # three epochs: decoded in the first
        assert_decoded_alike(cached.next(), stream.next())


@pytest.mark.parametrize(("augmentation", "levels"), [(RESIZED, 1.0), (COLORED, 2.5)], ids=["plain", "colored"])
def test_resized_batches_are_the_cpus(frames: Path, augmentation: AugmentConfig, levels: float) -> None:
    """On the mean within a gray level, or 2.5 with colors turned before another resize; of the labels, one in fifty
    may lie between two pixels, where rounding decides."""
    ours, cpu = train_loader(frames, DEVICE, augmentation), train_loader(frames, CPU, augmentation)
    for _ in range(4):
        batch, expected = ours.next(), cpu.next()
        assert distance(batch, expected).mean() < levels
        assert differing(batch, expected) < 0.02


@pytest.mark.parametrize("decoder", ["gpu", "cpu"])
def test_whole_frames_are_the_cpus(frames: Path, decoder: str) -> None:
    """As evaluations see them; to the bit where the CPU decodes."""
    batches = list(zip(eval_loader(frames, DEVICE, decoder=decoder), eval_loader(frames, CPU), strict=True))
    assert sum(sum(expected.valid.tolist()) for _, expected in batches) == 3
    for batch, expected in batches:
        assert batch.image.device == batch.label.device == DEVICE
        assert batch.valid.tolist() == expected.valid.tolist()
        assert_decoded_alike(batch, expected)
        assert decoder == "gpu" or torch.equal(batch.image.cpu(), expected.image)


@pytest.mark.parametrize("augmentation", [RESIZED, COLORED], ids=["plain", "colored"])
def test_what_the_cpu_decodes_for_a_gpu_is_the_cpus_to_the_bit(frames: Path, augmentation: AugmentConfig) -> None:
    """The second road: the CPU's loader, its batches copied to the GPU while that computes."""
    ours, cpu = train_loader(frames, DEVICE, augmentation, decoder="cpu"), train_loader(frames, CPU, augmentation)
    for _ in range(6):
        keep_busy(0.2)
        batch, expected = ours.next(), cpu.next()
        assert batch.image.device == batch.label.device == DEVICE
        assert torch.equal(batch.image.cpu(), expected.image)
        assert torch.equal(batch.label.cpu(), expected.label)
        assert batch.valid.tolist() == expected.valid.tolist()
    assert ours.state() == cpu.state()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prefetch", [1, 2])
def test_a_batch_that_is_kept_does_not_change(shards: Path, prefetch: int, way: str) -> None:
    """Later batches must not be written into its memory."""
    loader = train_loader(shards, DEVICE, prefetch=prefetch, **WAYS[way])
    kept = loader.next()
    copies = kept.image.clone(), kept.label.clone()
    later = [loader.next() for _ in range(5)]
    assert torch.equal(kept.image, copies[0])
    assert torch.equal(kept.label, copies[1])
    assert len({batch.image.data_ptr() for batch in (kept, *later)}) == 6


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prefetch", [1, 2])
def test_a_batch_that_is_let_go_has_been_read(shards: Path, prefetch: int, way: str) -> None:
    """The host is ahead of the GPU: it lets a batch go whose reading has only been asked for. What is written next into
    that memory must come after."""
    loader, patient = (train_loader(shards, DEVICE, prefetch=prefetch, **WAYS[way]) for _ in range(2))
    sums = []
    for _ in range(8):
        batch = loader.next()
        keep_busy()  # whatever is asked of this stream from now on starts late
        sums.append((batch.image.sum(dtype=torch.int64), batch.label.sum(dtype=torch.int64)))
        del batch
    for image, label in sums:
        expected = patient.next()
        assert image.item() == expected.image.sum(dtype=torch.int64).item()
        assert label.item() == expected.label.sum(dtype=torch.int64).item()


@pytest.mark.skipif(not CUDA, reason="a CPU is never waited for")
@pytest.mark.parametrize("way", WAYS)
def test_batches_are_handed_out_while_the_gpu_is_busy(shards: Path, way: str) -> None:
    """Neither torch nor DALI waits for what the GPU has been asked for, be it to decode, to copy or to give memory
    back: a step that takes long would otherwise be followed by a pause."""
    loader = train_loader(shards, DEVICE, **WAYS[way])
    for _ in range(6):  # three epochs: frames that are cached have been decoded
        loader.next()
    torch.cuda.synchronize()
    keep_busy(20)
    done = torch.cuda.Event()
    done.record()
    for _ in range(2):
        batch = loader.next()
        del batch
        assert not done.query()


def test_evaluation_frames_that_are_kept_do_not_change(shards: Path) -> None:
    kept, copies = [], []
    for batch in eval_loader(shards, DEVICE, batch=1):
        kept.append(batch)
        copies.append(batch.image.clone())
    assert len(kept) == 5
    assert all(torch.equal(batch.image, copy) for batch, copy in zip(kept, copies, strict=True))
