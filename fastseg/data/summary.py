"""The statistics of all records, summed into the manifest of a set."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from fastseg.data.manifest import Manifest, Split
from fastseg.data.records import Statistics
from fastseg.data.sources import SPLITS
from fastseg.data.workspace import Part
from fastseg.labels import SegmentationClass


def summarise(
    name: str, classes: tuple[SegmentationClass, ...], parts: Sequence[Part], options: dict[str, Any]
) -> Manifest:
    """The manifest of the shards ``parts`` (in order); ``options`` says how they were packed.

    Mean and standard deviation are those of train, or of the first split there is. ``options["psnr"]`` becomes
    the PSNR of the stored images in dB, from the mean squared error where it was measured; None where it was not.
    """
    splits = {name: [part for part in parts if part.shard.file.startswith(f"{name}-")] for name in SPLITS}
    splits = {name: chosen for name, chosen in splits.items() if chosen}
    mean, std = _moments(_statistics(next(iter(splits.values()))))
    return Manifest(
        name=name,
        classes=classes,
        splits={name: _split(chosen) for name, chosen in splits.items()},
        image_codec=options["image"],
        mask_codec=options["mask"],
        mean=mean,
        std=std,
        options={key: value for key, value in options.items() if key not in ("image", "mask")}
        | {"psnr": _psnr(_statistics(parts))},
    )


def _statistics(parts: Sequence[Part]) -> list[Statistics]:
    return list(chain.from_iterable(part.statistics for part in parts))


def _split(parts: Sequence[Part]) -> Split:
    statistics = _statistics(parts)
    labelled = all(entry.pixels for entry in statistics)
    pixels = tuple(np.sum([entry.pixels for entry in statistics], axis=0).tolist()) if labelled else ()
    sizes = Counter((entry.height, entry.width) for entry in statistics)
    return Split(
        shards=tuple(part.shard for part in parts),
        labelled=labelled,
        sizes=tuple((height, width, count) for (height, width), count in sorted(sizes.items())),
        pixels=pixels,
    )


def _moments(statistics: Sequence[Statistics]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of R, G, B, rounded to 1/1000 of a grey level."""
    sums = [sum(entry.sums[channel] for entry in statistics) for channel in range(6)]
    count = sum(entry.height * entry.width for entry in statistics)
    mean = [total / count for total in sums[:3]]
    std = [math.sqrt(max(0.0, squares / count - m * m)) for squares, m in zip(sums[3:], mean, strict=True)]
    (r, g, b), (sr, sg, sb) = ([round(value, 3) for value in values] for values in (mean, std))
    return (r, g, b), (sr, sg, sb)


def _psnr(statistics: Sequence[Statistics]) -> float | None:
    errors = [entry.squared_error for entry in statistics if entry.squared_error is not None]
    error = sum(errors) / len(errors) if errors else 0.0
    return round(10 * math.log10(255**2 / error), 2) if error else None
