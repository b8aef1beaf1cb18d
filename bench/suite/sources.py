"""Where the frames of a benchmark come from: decoded out of shards, or drawn; written as a data set of own images."""

import io
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from bench.suite.frames import Progress
from fastseg.labels import IGNORE, LabelTable, SegmentationClass
from fastseg.packing.records import Codec
from fastseg.packing.sources import Sample, open_source
from fastseg.parallel import ordered_map, worker_count
from fastseg.shards.manifest import Manifest, Shard, read_manifest
from fastseg.shards.tar import Component, index_bytes, read_index
from fastseg.storage import read_bytes

Place = tuple[Path, int, int]
"""A tar, the offset in it, and a number of bytes."""


def write_from_shards(
    shards: Path, manifest: Manifest, count: int, source: Path, workers: int | None, progress: Progress
) -> None:
    """Write the first ``count`` frames of train, and a quarter as many of val, of a set of shards to ``source``."""
    write_classes(source, manifest.name, manifest.classes)
    tasks = []
    for split, wanted in (("train", count), ("val", max(count // 4, 1))):
        if split in manifest.splits and manifest.splits[split].labeled:
            pairs = _pairs(shards, manifest, manifest.splits[split].shards, wanted)
            tasks += [(source / split, key, image, mask) for key, image, mask in pairs]
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
        write_classes(source, found.table.name, found.table.classes)
        tasks = [(source / sample.split, sample, found.table) for sample in found.samples]
        _run(write_labeled, tasks, workers, progress, "masks")


def write_classes(source: Path, name: str, classes: Sequence[SegmentationClass]) -> None:
    """The classes.json of masks that hold train ids already."""
    source.mkdir(parents=True, exist_ok=True)
    entries = [
        {"value": train_id, "name": c.name, "color": list(c.color), "category": c.category}
        for train_id, c in enumerate(classes)
    ]
    (source / "classes.json").write_text(json.dumps({"name": name, "classes": entries, "ignore": [IGNORE]}))


def write_decoded(split: Path, key: str, image: Place, mask: Place) -> None:
    """Decode a record's image and mask, whatever their codec, and write them as PNG."""
    _save(Image.open(io.BytesIO(_read(image))).convert("RGB"), split / "images" / f"{key}.png")
    _save(Image.open(io.BytesIO(_read(mask))), split / "masks" / f"{key}.png")


def write_labeled(split: Path, sample: Sample, table: LabelTable) -> None:
    """Copy a sample's image, and write its mask as train ids."""
    assert sample.mask is not None
    labels = np.asarray(sample.mask.read_labels())
    _save(Image.fromarray(table.lookup()[labels].astype(np.uint8)), split / "masks" / f"{sample.key}.png")
    (split / "images").mkdir(parents=True, exist_ok=True)
    (split / "images" / f"{sample.key}.png").write_bytes(sample.image.read())


def write_plain(source: Path, plain: Path, workers: int | None, progress: Progress) -> None:
    """The training frames again, their images as JPEGs of our quality without restart markers."""
    images = sorted((source / "train/images").iterdir())
    (plain / "train/images").mkdir(parents=True)
    shutil.copytree(source / "train/masks", plain / "train/masks")
    shutil.copy(source / "classes.json", plain)
    tasks = [(image, plain / "train/images" / f"{image.stem}.jpg") for image in images]
    _run(write_jpeg, tasks, workers, progress, "plain JPEGs")


def write_jpeg(image: Path, path: Path) -> None:
    """An image as Pillow writes it by itself, of the quality and with the chroma that our shards have."""
    codec = Codec()
    subsampling = {"444": 0, "420": 2}[codec.chroma]
    Image.open(image).convert("RGB").save(path, quality=codec.quality, subsampling=subsampling)


def extract(shards: Path, folders: dict[str, Path]) -> None:
    """Write the components of the training records as files: {extension: folder} → ``folder/KEY.suffix``."""
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for shard in read_manifest(shards).split("train").shards:
        for key, components in _records(shards, shard):
            for extension, folder in folders.items():
                component = components[extension]
                place = (shards / shard.file, component.offset, component.size)
                (folder / f"{key}.{extension.rpartition('.')[2]}").write_bytes(_read(place))


def _pairs(shards: Path, manifest: Manifest, files: Iterable[Shard], wanted: int) -> list[tuple[str, Place, Place]]:
    """Key and the places of image and mask of the first ``wanted`` records."""
    pairs: list[tuple[str, Place, Place]] = []
    for shard in files:
        for key, components in _records(shards, shard):
            image, mask = components[manifest.image_codec], components[f"mask.{manifest.mask_codec}"]
            tar = shards / shard.file
            pairs.append((key, (tar, image.offset, image.size), (tar, mask.offset, mask.size)))
        if len(pairs) >= wanted:
            break
    return pairs[:wanted]


def _records(shards: Path, shard: Shard) -> list[tuple[str, dict[str, Component]]]:
    index = shards / shard.index
    entries = read_index(read_bytes(index, index_bytes(shard.samples)).decode("utf-8", "replace"), str(index))
    return [(entry.key, {c.extension: c for c in entry.components}) for entry in entries]


def _read(place: Place) -> bytes:
    path, offset, size = place
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
