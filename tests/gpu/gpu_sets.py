"""Packed sets as the GPU may meet them, loaders over them, and how alike two decoders' batches are."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import layouts
from augments import augment_config
from fastseg.config import AugmentConfig
from fastseg.data.frame_cache import allocate_arena
from fastseg.data.loader import Batch, EvalLoader, TrainLoader, open_files
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.records import Codec
from fastseg.packing.sources import open_source
from fastseg.shards.manifest import read_manifest

KINDS = ("444", "420", "444 as it came", "420 as it came", "sizes", "png")
"""JPEGs of ours, with restart markers; users' own, which have none and are packed as they are, of one size and of many;
PNGs, which no GPU decodes."""
SIZE = (1024, 512)
"""Width and height: large enough for the GPU's JPEG engine."""
SIZES = ((1024, 512), (640, 480), (333, 217), (100, 64), (1920, 1080), (97, 511), (800, 600), (512, 512))
CROP = (256, 384)
WHOLE_PIXELS = augment_config(CROP, scale=(1.0, 1.0))
"""Crops that need no resizing: what differs is decoding alone."""
RESIZED = augment_config(CROP)
COLORED = augment_config(CROP, brightness=0.125, contrast=0.5, saturation=0.5, hue=18)


def pack_kind(kind: str, folder: Path) -> Path:
    """Draw and pack 8 frames to train on and 3 to evaluate on; returns the folder of the shards."""
    if kind in ("444", "420", "png"):
        source = layouts.write_cityscapes(folder / "source", 8, 3, 0, size=SIZE)
        codec = Codec("png") if kind == "png" else Codec(chroma=kind)  # type: ignore[arg-type]
    else:
        source, codec = folder / "source", Codec()
        sizes = SIZES if kind == "sizes" else [SIZE] * 8
        write_jpegs(source, "train", sizes, 0 if kind.startswith("444") else 2)
        write_jpegs(source, "val", sizes[:3], 0 if kind.startswith("444") else 2)
    pack(open_source(source), folder / "shards", PackOptions(codec, samples_per_shard=4), workers=1)
    return folder / "shards"


def write_jpegs(folder: Path, split: str, sizes: Iterable[tuple[int, int]], subsampling: int) -> None:
    """Write images as cameras and browsers make them: baseline JPEGs without restart markers, and masks."""
    (folder / split / "images").mkdir(parents=True, exist_ok=True)
    (folder / split / "masks").mkdir(parents=True, exist_ok=True)
    (folder / "classes.json").write_text(json.dumps(layouts.CLASSES))
    for number, size in enumerate(sizes):
        path = folder / split / "images" / f"{number}.jpg"
        layouts.noise(number, size).save(path, quality=95, subsampling=subsampling)
        layouts.labels(number, size, (0, 1, 4, 9)).save(folder / split / "masks" / f"{number}.png")


def train_loader(
    shards: Path,
    device: torch.device,
    augmentation: AugmentConfig = RESIZED,
    *,
    cached: bool = False,
    poison: int | None = None,
    **options: Any,
) -> TrainLoader:
    """Batches of 4; ``cached``: of frames that stay decoded, in memory that is filled with ``poison`` before."""
    manifest = read_manifest(shards)
    files, split = open_files(shards, manifest, "train"), manifest.split("train")
    arena = allocate_arena(split, device) if cached else None
    if arena is not None and poison is not None:
        arena.fill_(poison)
    common: dict[str, Any] = {"batch": 4, "threads": 2, "prefetch": 2, "seed": 3}
    return TrainLoader(files, split, augmentation, device=device, arena=arena, **common | options)


def eval_loader(shards: Path, device: torch.device, batch: int = 2, **options: Any) -> EvalLoader:
    """Whole frames of the split val."""
    manifest = read_manifest(shards)
    files, split = open_files(shards, manifest, "val"), manifest.split("val")
    return EvalLoader(files, split, batch=batch, device=device, threads=2, **options)


def distance(batch: Batch, expected: Batch) -> torch.Tensor:
    """Return by how many gray levels each value of the images differs."""
    return (batch.image.cpu().float() - expected.image.cpu().float()).abs()


def differing(batch: Batch, expected: Batch) -> float:
    """Return the share of labels that differ."""
    return (batch.label.cpu() != expected.label.cpu()).float().mean().item()


def assert_decoded_alike(batch: Batch, expected: Batch) -> None:
    """Masks are equal; images differ by less than a gray level on average, one value in a thousand by more than 8, none
    by more than 24: as far as two decoders round alike."""
    levels = distance(batch, expected)
    assert differing(batch, expected) == 0
    assert levels.mean() < 1
    assert (levels > 8).float().mean() < 0.001
    assert levels.max() <= 24
