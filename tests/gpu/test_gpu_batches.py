"""Batches made on the GPU: what the CPU makes of the same records, and nobody's memory but the caller's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from one_gpu import CUDA, DEVICE, needs_gpu

import layouts
from fastseg.data.draws import Augmentation
from fastseg.data.loader import Batch, EvalLoader, TrainLoader, open_files
from fastseg.data.manifest import read_manifest
from fastseg.data.packing import PackOptions, pack
from fastseg.data.records import Codec
from fastseg.data.sources import open_source

pytestmark = needs_gpu

CPU = torch.device("cpu")
CROP = (256, 384)
WHOLE_PIXELS = Augmentation(CROP, scale=(1.0, 1.0))
"""Crops that need no resizing: what differs is decoding alone."""
RESIZED = Augmentation(CROP)
COLOURED = Augmentation(CROP, brightness=0.125, contrast=0.5, saturation=0.5, hue=18)
BUSY = 200_000_000
"""Clock cycles, a tenth of a second."""


@pytest.fixture(scope="module", params=["444", "420"])
def frames(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames large enough for the GPU's JPEG engine: 8 of 1024×512, and 3 to evaluate on."""
    folder = tmp_path_factory.mktemp(f"frames-{request.param}")
    source = open_source(layouts.write_cityscapes(folder / "source", 8, 3, 0, size=(1024, 512)))
    pack(source, folder / "shards", PackOptions(Codec(chroma=request.param), samples_per_shard=4), workers=1)
    return folder / "shards"


def train_loader(
    shards: Path, device: torch.device, augmentation: Augmentation = RESIZED, **options: Any
) -> TrainLoader:
    manifest = read_manifest(shards)
    files, split = open_files(shards, manifest, "train"), manifest.split("train")
    common: dict[str, Any] = {"batch": 4, "threads": 2, "prefetch": 2, "seed": 3}
    return TrainLoader(files, split, augmentation, device=device, **common | options)


def distance(batch: Batch, expected: Batch) -> torch.Tensor:
    """Grey levels, of every value of the images."""
    return (batch.image.cpu().float() - expected.image.float()).abs()


def differing(batch: Batch, expected: Batch) -> float:
    """Share of the labels."""
    return (batch.label.cpu() != expected.label).float().mean().item()


def assert_decoded_alike(batch: Batch, expected: Batch) -> None:
    """The mean by less than a grey level, one value in a thousand by more than 8, none by more than 24."""
    levels = distance(batch, expected)
    assert levels.mean() < 1
    assert (levels > 8).float().mean() < 0.001
    assert levels.max() <= 24


def test_decoded_pixels_are_the_cpus(frames: Path) -> None:
    """Masks are equal bit by bit, images as far as two decoders round alike."""
    ours, cpu = train_loader(frames, DEVICE, WHOLE_PIXELS), train_loader(frames, CPU, WHOLE_PIXELS)
    for _ in range(4):
        batch, expected = ours.next(), cpu.next()
        assert batch.image.device == batch.label.device == batch.valid.device == DEVICE
        assert torch.equal(batch.label.cpu(), expected.label)
        assert_decoded_alike(batch, expected)
    # Where DALI finds no nvJPEG, "mixed" decodes on the CPU without a word.
    assert not CUDA or "libnvjpeg.so" in Path("/proc/self/maps").read_text(encoding="ascii", errors="replace")


def test_resident_batches_are_the_streams(frames: Path) -> None:
    """Frames decoded whole, and kept, show what crops decoded alone show; one may be the JPEG engine's work and the
    other a kernel's."""
    stream = train_loader(frames, DEVICE, WHOLE_PIXELS)
    resident = train_loader(frames, DEVICE, WHOLE_PIXELS, resident=True)
    for _ in range(6):  # three epochs: decoded in the first
        batch, expected = resident.next(), stream.next()
        assert torch.equal(batch.label, expected.label)
        assert_decoded_alike(batch, Batch(*(part.cpu() for part in expected)))


@pytest.mark.parametrize(("augmentation", "levels"), [(RESIZED, 1.0), (COLOURED, 2.5)], ids=["plain", "coloured"])
def test_resized_batches_are_the_cpus(frames: Path, augmentation: Augmentation, levels: float) -> None:
    """On the mean within a grey level, or 2.5 with colours turned before another resize; of the labels, one in fifty
    may lie between two pixels, where rounding decides."""
    ours, cpu = train_loader(frames, DEVICE, augmentation), train_loader(frames, CPU, augmentation)
    for _ in range(4):
        batch, expected = ours.next(), cpu.next()
        assert distance(batch, expected).mean() < levels
        assert differing(batch, expected) < 0.02


def test_whole_frames_are_the_cpus(frames: Path) -> None:
    manifest = read_manifest(frames)
    ours, cpu = (
        EvalLoader(open_files(frames, manifest, "val"), manifest.split("val"), batch=2, device=device, threads=2)
        for device in (DEVICE, CPU)
    )
    batches = list(zip(ours, cpu, strict=True))
    assert len(batches) == 2
    for batch, expected in batches:
        assert torch.equal(batch.label.cpu(), expected.label)
        assert batch.valid.tolist() == expected.valid.tolist()
        assert_decoded_alike(batch, expected)


@pytest.mark.parametrize("resident", [False, True], ids=["stream", "resident"])
@pytest.mark.parametrize("prefetch", [1, 2])
def test_a_batch_that_is_kept_does_not_change(shards: Path, prefetch: int, resident: bool) -> None:
    """Its memory is DALI's, handed over without a copy: later batches must not be written there."""
    loader = train_loader(shards, DEVICE, prefetch=prefetch, resident=resident)
    kept = loader.next()
    copies = kept.image.clone(), kept.label.clone()
    later = [loader.next() for _ in range(5)]
    assert torch.equal(kept.image, copies[0])
    assert torch.equal(kept.label, copies[1])
    assert len({batch.image.data_ptr() for batch in (kept, *later)}) == 6


@pytest.mark.parametrize("resident", [False, True], ids=["stream", "resident"])
@pytest.mark.parametrize("prefetch", [1, 2])
def test_a_batch_that_is_let_go_has_been_read(shards: Path, prefetch: int, resident: bool) -> None:
    """The host is ahead of the GPU: it lets a batch go whose reading has only been asked for. What DALI writes
    next into that memory must come after."""
    loader, patient = (train_loader(shards, DEVICE, prefetch=prefetch, resident=resident) for _ in range(2))
    sums = []
    for _ in range(8):
        batch = loader.next()
        if CUDA:
            torch.cuda._sleep(BUSY)  # whatever is asked of this stream from now on starts late
        sums.append((batch.image.sum(dtype=torch.int64), batch.label.sum(dtype=torch.int64)))
        del batch
    for image, label in sums:
        expected = patient.next()
        assert image.item() == expected.image.sum(dtype=torch.int64).item()
        assert label.item() == expected.label.sum(dtype=torch.int64).item()


def test_evaluation_frames_that_are_kept_do_not_change(shards: Path) -> None:
    manifest = read_manifest(shards)
    loader = EvalLoader(open_files(shards, manifest, "val"), manifest.split("val"), batch=1, device=DEVICE, threads=1)
    kept, copies = [], []
    for batch in loader:
        kept.append(batch)
        copies.append(batch.image.clone())
    assert len(kept) == 5
    assert all(torch.equal(batch.image, copy) for batch, copy in zip(kept, copies, strict=True))
