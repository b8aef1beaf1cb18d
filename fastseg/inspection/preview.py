"""Preview of a data set before packing, on one page: samples under their masks, class shares and warnings."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fastseg.errors import UserError
from fastseg.files import write_atomic
from fastseg.inspection.page import OPACITY, image_url, mask_url, page_environment
from fastseg.labels import IGNORE, LabelTable
from fastseg.packing.check import Problem, check_agreement
from fastseg.packing.reading import ReadOptions, SampleError, read_pair
from fastseg.packing.records import Statistics
from fastseg.packing.sources import DataSet
from fastseg.packing.sources.samples import Sample
from fastseg.packing.workspace import notes
from fastseg.parallel import ordered_map
from fastseg.shards.manifest import Manifest, Split
from fastseg.shards.set_warnings import set_warnings
from fastseg.shards.tar import SPLITS

SHOWN = 12
"""Number of samples with pictures, spread evenly over each split."""
Progress = Callable[[int, int], None]
"""Callback with the number of samples read so far and the total."""


@dataclass(frozen=True)
class Picture:
    """A sample as the page shows it."""

    caption: str
    image: str
    """Data URL of the image."""
    mask: str
    """Data URL of the class colors, transparent at ignored pixels; empty without a mask."""


@dataclass(frozen=True)
class SampleResult:
    """Statistics and picture of one sample."""

    statistics: Statistics
    picture: Picture | None


@dataclass(frozen=True)
class Preview:
    """Results of reading a whole data set."""

    manifest: Manifest
    """Manifest with counts and notes but without shards."""
    pictures: tuple[Picture, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def preview(source: DataSet, options: ReadOptions, workers: int, progress: Progress | None = None) -> Preview:
    """Read all samples of ``source`` as packing would, with ``workers`` processes."""
    shown = _spread(source.samples)
    results, problems = list[tuple[Sample, SampleResult]](), list[Problem]()
    tasks = ((sample, source.table, options, (sample.split, sample.key) in shown) for sample in source.samples)
    with closing(ordered_map(_read_sample, tasks, min(workers, len(source.samples)))) as found:
        for sample, result in zip(source.samples, found, strict=True):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                results.append((sample, result))
            if progress:
                progress(len(results) + len(problems), len(source.samples))
    manifest = _manifest(source, results)
    pictures = tuple(result.picture for _, result in results if result.picture)
    warnings = _contradictions(results) + set_warnings(manifest) + source.warnings()
    return Preview(manifest, pictures, tuple(problems), tuple(warnings))


def _spread(samples: Sequence[Sample]) -> set[tuple[str, str]]:
    """Return split and key of at most :data:`SHOWN` samples, about as many of each split."""
    splits = [[sample for sample in samples if sample.split == split] for split in SPLITS]
    splits = [chosen for chosen in splits if chosen]
    each = SHOWN // len(splits)
    return {
        (chosen[at].split, chosen[at].key)
        for chosen in splits
        for count in [min(each, len(chosen))]
        for at in (i * len(chosen) // count for i in range(count))
    }


def _read_sample(sample: Sample, table: LabelTable, options: ReadOptions, show: bool) -> SampleResult | Problem:
    try:
        pair = read_pair(sample, table, options)
    except SampleError as error:
        return Problem(sample, str(error))
    counts = pair.mask.histogram() if pair.mask else []
    pixels = (*counts[: len(table.classes)], counts[IGNORE]) if counts else ()
    statistics = Statistics(pair.image.height, pair.image.width, pixels, (), None, pair.facts)
    return SampleResult(statistics, _picture(sample, pair.image, pair.mask, table) if show else None)


def _picture(sample: Sample, image: Image.Image, mask: Image.Image | None, table: LabelTable) -> Picture:
    colors = mask_url(np.asarray(mask), table.classes) if mask is not None else ""
    return Picture(f"{sample.split}: {sample.key}, {image.height}×{image.width}", image_url(image), colors)


def _manifest(source: DataSet, results: Sequence[tuple[Sample, SampleResult]]) -> Manifest:
    splits = {}
    for name in dict.fromkeys(sample.split for sample, _ in results):
        entries = [result.statistics for sample, result in results if sample.split == name]
        labeled = all(entry.pixels for entry in entries)
        pixels = tuple(np.sum([entry.pixels for entry in entries], axis=0).tolist()) if labeled else ()
        sizes = Counter((entry.height, entry.width) for entry in entries)
        splits[name] = Split((), labeled, tuple((*size, count) for size, count in sorted(sizes.items())), pixels)
    counted = notes([result.statistics for _, result in results])
    black = (0.0, 0.0, 0.0)
    return Manifest(source.table.name, source.table.classes, splits, "jpg", "tif", black, black, dict(counted))


def _contradictions(results: Sequence[tuple[Sample, SampleResult]]) -> list[str]:
    try:
        check_agreement((str(sample.mask or sample.image), result.statistics) for sample, result in results)
    except UserError as error:
        return [str(error)]
    return []


def write_preview(path: Path, found: Preview, recognized: str, source: Path) -> None:
    """Write the page, which is self-contained and needs no network."""
    manifest = found.manifest
    total = {name: sum(split.pixels) for name, split in manifest.splits.items() if split.labeled}
    names = [*((entry.name, entry.color) for entry in manifest.classes), ("(ignored)", (0, 0, 0))]
    shares = [
        (name, color, [manifest.splits[split].pixels[i] / count for split, count in total.items()])
        for i, (name, color) in enumerate(names)
    ]
    sizes = Counter[str]()
    for split in manifest.splits.values():
        sizes.update({f"{height}×{width}": count for height, width, count in split.sizes})
    page = (
        page_environment()
        .get_template("preview.html")
        .render(
            title=f"{manifest.name}, before packing",
            recognized=recognized,
            source=str(source),
            sizes=", ".join(f"{size} ({count:,})" for size, count in sizes.most_common(5)),
            problems=[problem.message for problem in found.problems],
            warnings=found.warnings,
            pictures=found.pictures,
            splits=list(total),
            classes=manifest.classes,
            shares=shares,
            opacity=OPACITY,
        )
    )
    write_atomic(path, page)
