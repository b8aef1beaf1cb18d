"""Write the bench's frames, decoded from shards or drawn, as a data set of images and masks."""

import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from bench.stages.frames import Progress
from fastseg.labels import IGNORE, LabelTable, SegmentationClass
from fastseg.packing.records import Codec
from fastseg.packing.sources import Sample, open_source
from fastseg.parallel import ordered_map, worker_count
from fastseg.shards.manifest import Manifest, read_manifest
from fastseg.shards.tar import Component, index_bytes, read_index
from fastseg.storage import read_bytes


def write_from_shards(
    shards: Path, manifest: Manifest, count: int, source: Path, workers: int | None, progress: Progress
) -> None:
    """Write the first ``count`` frames of a set's train split, and a quarter as many of val, to ``source``."""
    _write_classes(source, manifest.name, manifest.classes)
    tasks = []
    for split, wanted in (("train", count), ("val", max(count // 4, 1))):
        if split in manifest.splits and manifest.splits[split].labeled:
            for key, tar, found in islice(_records(shards, manifest, split), wanted):
                parts = found[manifest.image_codec], found[f"mask.{manifest.mask_codec}"]
                tasks.append((source / split, key, tar, *((part.offset, part.size) for part in parts)))
    _run(write_decoded, tasks, workers, progress, "frames")


def write_scenes(count: int, size: tuple[int, int], source: Path, workers: int | None, progress: Progress) -> None:
    """Write ``count`` procedural scenes for train, and a quarter as many for val, of ``size`` (width, height)."""
    from tools.scenes import write_scene

    with TemporaryDirectory(dir=source.parent) as temporary:
        scenes = Path(temporary)
        counts = {"train": count, "val": max(count // 4, 1)}
        drawn = [(scenes, 0, split, index, size) for split, number in counts.items() for index in range(number)]
        _run(write_scene, drawn, workers, progress, "scenes")
        found = open_source(scenes)
        _write_classes(source, found.table.name, found.table.classes)
        tasks = [(source / sample.split, sample, found.table) for sample in found.samples]
        _run(write_labeled, tasks, workers, progress, "masks")


def _write_classes(source: Path, name: str, classes: Sequence[SegmentationClass]) -> None:
    """Write the classes.json of masks of train ids."""
    source.mkdir(parents=True, exist_ok=True)
    entries = [
        {"value": train_id, "name": c.name, "color": list(c.color), "category": c.category}
        for train_id, c in enumerate(classes)
    ]
    (source / "classes.json").write_text(json.dumps({"name": name, "classes": entries, "ignore": [IGNORE]}))


def write_decoded(split: Path, key: str, tar: Path, image: tuple[int, int], mask: tuple[int, int]) -> None:
    """Decode a record's image and mask (offset and size in the tar), whatever their codec, and write them as PNG."""
    _save(Image.open(io.BytesIO(_read(tar, *image))).convert("RGB"), split / "images" / f"{key}.png")
    _save(Image.open(io.BytesIO(_read(tar, *mask))), split / "masks" / f"{key}.png")


def write_labeled(split: Path, sample: Sample, table: LabelTable) -> None:
    """Copy a sample's image, and write its mask as train ids."""
    assert sample.mask is not None
    labels = np.asarray(sample.mask.decode().image)
    _save(Image.fromarray(table.lookup()[labels].astype(np.uint8)), split / "masks" / f"{sample.key}.png")
    (split / "images").mkdir(parents=True, exist_ok=True)
    (split / "images" / f"{sample.key}.png").write_bytes(sample.image.read())


def write_plain(source: Path, plain: Path, chroma: str, workers: int | None, progress: Progress) -> None:
    """Write the training frames again, with images as JPEGs of fastseg's quality without restart markers.

    ``chroma``: 444 or 420, as in :class:`fastseg.packing.records.Codec`.
    """
    images = sorted((source / "train/images").iterdir())
    (plain / "train/images").mkdir(parents=True)
    shutil.copytree(source / "train/masks", plain / "train/masks")
    shutil.copy(source / "classes.json", plain)
    tasks = [(image, plain / "train/images" / f"{image.stem}.jpg", chroma) for image in images]
    _run(write_jpeg, tasks, workers, progress, "plain JPEGs")


def write_jpeg(image: Path, path: Path, chroma: str) -> None:
    """Write an image as Pillow does by default, but with the quality of fastseg's shards."""
    subsampling = {"444": 0, "420": 2}[chroma]
    Image.open(image).convert("RGB").save(path, quality=Codec().quality, subsampling=subsampling)


def extract_masks(shards: Path, folder: Path) -> None:
    """Write the TIFF masks of the training records as files ``folder/KEY.tif``."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, tar, found in _records(shards, read_manifest(shards), "train"):
        mask = found["mask.tif"]
        (folder / f"{key}.tif").write_bytes(_read(tar, mask.offset, mask.size))


def _records(shards: Path, manifest: Manifest, split: str) -> Iterator[tuple[str, Path, dict[str, Component]]]:
    """Yield key, tar and components by their extensions, of every record of a split."""
    for shard in manifest.split(split).shards:
        index = shards / shard.index
        text = read_bytes(index, index_bytes(shard.samples)).decode("utf-8", "replace")
        for record in read_index(text, str(index)):
            yield record.key, shards / shard.file, {c.extension: c for c in record.components}


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _run(
    function: Callable[..., None],
    tasks: Sequence[tuple[object, ...]],
    workers: int | None,
    progress: Progress,
    what: str,
) -> None:
    progress(what, 0, len(tasks))
    with closing(ordered_map(function, tasks, min(worker_count(workers), len(tasks)))) as results:
        for done, _ in enumerate(results, start=1):
            progress(what, done, len(tasks))
