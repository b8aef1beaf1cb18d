"""Measurements of what the loader delivers: augmented crops, their windows, and the frequency of each class."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fastseg.config import AugmentConfig
from fastseg.data.augment import FILL, Color, Window, sample_augmentations
from fastseg.data.loader import TrainLoader
from fastseg.data.reader import Files, Reader
from fastseg.data.sampler import train_samples
from fastseg.inspection.alignment import label_shift, mask_turn
from fastseg.labels import IGNORE, SegmentationClass
from fastseg.shards.images import image_size, read_labels, read_rgb
from fastseg.shards.manifest import Split

ALIGNED = 8
"""Number of frames on which the alignment of masks and images is checked."""

Array = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Callback with the number of crops measured so far and the total."""


class Crop(NamedTuple):
    """A training sample as the network receives it, and its window in the frame."""

    key: str
    """Key of the record."""
    frame: tuple[int, int]
    """Height and width of the whole frame in pixels."""
    window: Window
    image: Array
    """RGB, shape (H, W, 3)."""
    label: Array
    """Train ids, shape (H, W); 255 is ignored or padding."""

    @property
    def ratio(self) -> float:
        """Ratio by which the frame was resized."""
        return self.window.height / (self.window.bottom - self.window.top)


@dataclass(frozen=True)
class Entry:
    """A record as it is stored."""

    key: str
    size: tuple[int, int]
    """Height and width in pixels."""
    image_bytes: int
    mask_bytes: int
    train_ids: tuple[int, ...]
    """Train ids that occur in its mask, including 255 for ignored pixels."""


@dataclass(frozen=True)
class Inspection:
    """Measurements over crops of a split; tuples per class have entries for classes 0…C-1, then for ignored pixels."""

    crops: int
    """Number of crops measured."""
    pixels: tuple[int, ...]
    """Pixels of each class, without padding."""
    showing: tuple[int, ...]
    """Number of crops that show at least one pixel of each class."""
    unlabeled: int
    """Number of crops that hold only ignored pixels."""
    padding: float
    """Share of the crops' pixels that lie outside the frame."""
    seen: float
    """Mean share of the frame that a crop shows."""
    shown: tuple[Crop, ...]
    """The first crops."""
    entries: tuple[Entry, ...]
    """The first records of the split."""
    shift: tuple[float, float] | None
    """Shift of the masks against their images, down and to the right, as shares of the frame; None if aligned."""
    turn: str | None = None
    """Orientation of the masks against their images, a key of :data:`TURNS`; None if aligned."""


def inspect(
    files: Files,
    split: Split,
    augment: AugmentConfig,
    classes: int,
    *,
    fill: Color = FILL,
    seed: int = 0,
    batch: int = 8,
    threads: int = 1,
    crops: int = 256,
    show: int = 24,
    entries: int = 6,
    progress: Progress | None = None,
) -> Inspection:
    """Measure the first ``crops`` crops of a run with this ``seed`` and ``batch``, and keep ``show`` of them.

    They are decoded on the CPU; a run on a GPU draws the same ones. ``fill`` is the color of the padding. Raises
    :class:`fastseg.errors.UserError` for a damaged record.
    """
    tally, shown = _Tally(), list[Crop]()
    endless = train_crops(files, split, augment, seed, batch, threads, fill)
    for done, crop in enumerate(islice(endless, crops), 1):
        tally.add(crop)
        shown += [crop] if done <= show else []
        if progress:
            progress(done, crops)
    frames = list(_frames(files, split))
    return Inspection(
        crops=crops,
        pixels=_by_class(tally.pixels, classes),
        showing=_by_class(tally.showing, classes),
        unlabeled=tally.unlabeled,
        padding=tally.padding / (tally.padding + int(tally.pixels.sum())),
        seen=tally.seen / crops,
        shown=tuple(shown),
        entries=tuple(_entries(files, entries)),
        shift=label_shift(frames),
        turn=mask_turn(frames),
    )


class _Tally:
    """Sums over crops."""

    def __init__(self) -> None:
        self.pixels, self.showing = np.zeros(IGNORE + 1, np.int64), np.zeros(IGNORE + 1, np.int64)
        self.unlabeled, self.padding, self.seen = 0, 0, 0.0

    def add(self, crop: Crop) -> None:
        """Add one crop."""
        window, size = crop.window, crop.label.size
        counts = np.array(Image.fromarray(crop.label).histogram())
        self.unlabeled += int(counts[IGNORE] == size)
        padding = size - window.height * window.width
        counts[IGNORE] -= padding
        self.showing += counts > 0
        self.pixels += counts
        self.padding += padding
        self.seen += (window.bottom - window.top) * (window.right - window.left) / (crop.frame[0] * crop.frame[1])


def train_crops(
    files: Files, split: Split, augment: AugmentConfig, seed: int, batch: int, threads: int, fill: Color = FILL
) -> Iterator[Crop]:
    """Yield the crops of :class:`TrainLoader` in order, endlessly, each with the key of its record and its window."""
    device = torch.device("cpu")
    loader = TrainLoader(
        files, split, augment, fill=fill, batch=batch, device=device, threads=threads, prefetch=1, seed=seed
    )
    reader = Reader(files)
    # Order and augmentations are pure functions of seed, epoch and sample, so they can be recomputed here.
    samples = train_samples(reader, batch, seed, (0, 0))
    while True:
        fed = loader.next()
        for image, label, (epoch, index) in zip(fed.image.numpy(), fed.label.numpy(), samples, strict=False):
            frame = split.sizes[0][:2] if len(split.sizes) == 1 else image_size(reader.read(index).image, "its image")
            window, _ = sample_augmentations(seed, epoch, index, frame, augment)
            yield Crop(reader.key(index), frame, window, image, label)


def _entries(files: Files, count: int) -> Iterator[Entry]:
    reader = Reader(files)
    for index in range(min(count, len(reader))):
        image, mask = reader.read(index)
        counts = read_labels(mask.tobytes(), reader.where(index)).histogram()
        train_ids = tuple(train_id for train_id, count in enumerate(counts) if count)
        yield Entry(reader.key(index), image_size(image, "its image"), len(image), len(mask), train_ids)


def _frames(files: Files, split: Split) -> Iterator[tuple[Image.Image, Image.Image]]:
    """Yield whole images and masks, evenly spaced over the split."""
    reader = Reader(files)
    for index in np.linspace(0, split.samples - 1, min(ALIGNED, split.samples)).astype(int).tolist():
        image, mask = reader.read(index)
        where = reader.where(index)
        yield read_rgb(image.tobytes(), where)[0], read_labels(mask.tobytes(), where)


def _by_class(counts: NDArray[np.int64], classes: int) -> tuple[int, ...]:
    return (*counts[:classes].tolist(), int(counts[IGNORE]))


MIN_VIEW = 0.04
"""Share of a frame below which crops are reported as small: 768² of a Cityscapes frame at the largest ratio, 2, are
0.07."""
MAX_PADDING = 0.25
"""Largest share of padding in the pixels of crops that is not reported."""
MAX_UNLABELED = 0.05
"""Largest share of crops without labels that is not reported."""
MAX_IGNORED = 0.5
"""Largest share of ignored pixels in crops that is not reported."""


def findings(inspection: Inspection, split: Split, classes: tuple[SegmentationClass, ...]) -> list[str]:
    """Return one sentence for each anomaly, the most serious first; an empty list if there are none."""
    return [*_shift(inspection), *_classes(inspection, split, classes), *_crops(inspection), *_small_frames(split)]


def _shift(inspection: Inspection) -> Iterator[str]:
    if inspection.turn is not None:
        yield (
            f"the masks seem {inspection.turn} against their images; look at the overlays (does an EXIF orientation "
            "turn the images? pack again with --masks-drawn stored)"
        )
    elif inspection.shift is not None:
        down, right = inspection.shift
        vertical = f"{percent(abs(down))} of the height {'down' if down > 0 else 'up'}"
        horizontal = f"{percent(abs(right))} of the width to the {'right' if right > 0 else 'left'}"
        words = " and ".join([vertical] * (abs(down) > 0.01) + [horizontal] * (abs(right) > 0.01))
        yield f"the masks seem shifted against their images by {words}; look at the overlays"


def _classes(inspection: Inspection, split: Split, classes: tuple[SegmentationClass, ...]) -> Iterator[str]:
    shares = {c.name: count / sum(split.pixels) for c, count in zip(classes, split.pixels, strict=False)}
    never = [c.name for c, crops in zip(classes, inspection.showing, strict=False) if not crops and shares[c.name]]
    if len(never) == 1:
        share = percent(shares[never[0]])
        yield f"class {never[0]!r} never appeared in {inspection.crops} crops; its share in the set is {share}"
    elif never:
        names = ", ".join(f"{name!r} ({percent(shares[name])})" for name in never)
        yield f"{len(never)} classes never appeared in {inspection.crops} crops, with their shares in the set: {names}"


def _crops(inspection: Inspection) -> Iterator[str]:
    unlabeled = inspection.unlabeled / inspection.crops
    ignored = inspection.pixels[-1] / max(sum(inspection.pixels), 1)
    if unlabeled > MAX_UNLABELED:
        yield f"{inspection.unlabeled} of {inspection.crops} crops show no labeled pixel and teach nothing"
    elif ignored > MAX_IGNORED:
        yield f"{percent(ignored)} of what the crops show is ignored; is a value missing among the classes?"
    if inspection.padding > MAX_PADDING:
        yield (
            f"{percent(inspection.padding)} of the crops' pixels are padding, since frames are smaller than the crop; "
            "choose a smaller --data.crop or a larger --data.scale"
        )
    if inspection.seen < MIN_VIEW:
        yield (
            f"a crop shows {percent(inspection.seen)} of its frame on average; "
            "choose a larger --data.crop or a smaller --data.scale, or pack with --height"
        )


def _small_frames(split: Split) -> Iterator[str]:
    if len(split.sizes) > 1:
        yield f"frames have {len(split.sizes)} sizes: training mixes them, an evaluation takes one frame at a time"


def percent(share: float) -> str:
    """Format a share as ``12 %`` or ``0.020 %``, with two significant digits."""
    if share >= 0.1 or not share:
        return f"{100 * share:.0f} %"
    return f"{100 * share:#.2g} %" if share >= 1e-6 else "< 0.0001 %"
