"""An exported network beside its checkpoint: the same images through both."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from fastseg.data.images import read_rgb
from fastseg.data.loader import open_files
from fastseg.data.manifest import read_manifest
from fastseg.data.reader import Reader as ShardReader
from fastseg.errors import UserError
from fastseg.model.deeplab import DeepLab
from fastseg.reading import is_remote
from fastseg.use.card import Difference
from fastseg.use.formats import Picture, Reader, Whole, reader_of

TOLERANCE = 1e-3
"""Of logits, over the largest logit: float32 sums in another order differ by about 1e-6, in TF32 by 1e-3."""
LONGEST = 640
"""Pixels of a side: enough to compare, and quick on a CPU."""


def compare(model: DeepLab, exported: Reader, batches: Iterable[Picture], name: str) -> list[Difference]:
    """Both networks on the CPU, batch for batch. Raises :class:`UserError` where they differ by more than rounding."""
    return [_compare(reader_of(Whole(model)), exported, batch, name) for batch in batches]


def _compare(wanted: Reader, exported: Reader, batch: Picture, name: str) -> Difference:
    ours, theirs = wanted(batch), exported(batch)
    difference = np.abs(ours.logits - theirs.logits)
    largest, limit = float(difference.max()), TOLERANCE * max(1.0, float(np.abs(ours.logits).max()))
    # A class may differ only where rounding decides.
    second, first = np.partition(ours.logits, -2, axis=1)[:, -2:].swapaxes(0, 1) if ours.logits.shape[1] > 1 else (0, 1)
    changed = ours.classes != theirs.classes
    clear = changed & (first - second > 2 * largest)
    if not largest <= limit or clear.any():  # not <=: also what is no number
        raise UserError(
            f"{name} is not written: its logits differ from the checkpoint's by {largest:.1e} on a batch of "
            f"{'×'.join(map(str, batch.shape[:3]))} pixels, {limit:.1e} is allowed; please report it with the versions "
            "of torch and of the format's library"
        )
    shape = (batch.shape[0], batch.shape[1], batch.shape[2])
    return Difference(shape, largest, int(changed.sum()))


def comparison_images(paths: tuple[Path, ...], shards: str) -> tuple[list[Picture], str]:
    """The first image alone, and all of them, two at a time, in another, odd size; and what they are of, in words."""
    images, source = _images(paths, shards)
    ratio = min(1.0, LONGEST / max(images[0].size))
    width, height = (max(round(side * ratio), 32) for side in images[0].size)
    other = (max(width * 3 // 4 | 1, 33), max(height * 2 // 3 | 1, 33))
    alone, small = images[0].resize((width, height)), [np.asarray(image.resize(other)) for image in images]
    # An odd one out goes with the first.
    pairs = [np.stack([small[i], small[(i + 1) % len(small)]]) for i in range(0, len(small), 2)]
    return [np.array(alone)[None], *pairs], source


def _images(paths: tuple[Path, ...], shards: str) -> tuple[list[Image.Image], str]:
    if paths:
        first, *others = (path.name for path in paths)
        more = [f"{len(others)} more"] if len(others) > 1 else others
        return [_read(path) for path in paths], " and ".join([first, *more])
    if not is_remote(shards) and (Path(shards) / "manifest.json").is_file():
        manifest = read_manifest(shards)
        split = "val" if "val" in manifest.splits else next(iter(manifest.splits))
        reader = ShardReader(open_files(shards, manifest, split))
        places = range(min(len(reader), 2))
        frames = [read_rgb(reader.read(place).image.tobytes(), reader.where(place))[0] for place in places]
        return frames, f"frames of {Path(shards).name}'s split {split}"
    noise = np.random.default_rng(0).integers(0, 256, (2, 256, 512, 3), np.uint8)
    return [Image.fromarray(image) for image in noise], "noise (the training's shards are not here)"


def _read(path: Path) -> Image.Image:
    try:
        return read_rgb(path.read_bytes(), str(path))[0]
    except OSError as error:
        raise UserError(f"--images {path} cannot be read ({error.strerror})") from None
