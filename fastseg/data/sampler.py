"""Order samples, draw augmentations, read records ahead and cut them: the batches that DALI's graphs take.

Order and draws are pure functions of (seed, epoch, index): training resumes exactly after any step, on any machine, and
N ranks together see what one would see with N times the batch.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, count, islice
from typing import NamedTuple, TypeVar

import numpy as np

from fastseg.config import AugmentConfig
from fastseg.data.augment import Window, parameter_names, sample_augmentations
from fastseg.data.dali_graph import Array, Crops, Frames
from fastseg.data.reader import Damaged, Encoded, Reader
from fastseg.errors import UserError
from fastseg.shards.images import image_size
from fastseg.shards.jpeg_tiles import Bytes, Tiles, cut, find_tiles

Index = TypeVar("Index")
Sample = TypeVar("Sample")

ORDER = 1
"""Separates the random numbers of an epoch's order from those of its samples, under one seed."""
LOCAL_THREADS = 4
"""Threads that read local records: the page cache is quick, and a disk serves several requests at once."""
REMOTE_THREADS = 32
"""Threads that read remote records: object storage takes tens of milliseconds, for any number of requests."""
REMEMBERED = 4096
"""Number of images whose tiles are cached: 8 KB each at 2048×1024."""


class Crop(NamedTuple):
    """One training sample on its way to the graph."""

    image: Array
    """Encoded: the tiles under the window, or all; or the decoded frame."""
    origin: tuple[int, int]
    """Row and column of the frame where ``image`` begins."""
    mask: Array
    """Encoded or decoded, whole."""
    window: Window
    parameters: tuple[float, ...]
    """Values of :func:`fastseg.data.augment.parameter_names`."""
    record: int
    """Index of the record in the split."""


def crop_batches(
    reader: Reader,
    augment: AugmentConfig,
    *,
    batch: int,
    seed: int,
    start: tuple[int, int],
    ahead: int,
    rank_local: bool = False,
) -> Callable[[], Crops]:
    """Return a function that returns this rank's next batch, from (epoch, step) ``start`` on, endlessly."""
    cropper = Cropper(reader, augment, seed)
    samples = train_samples(reader, batch, seed, start, rank_local)
    crops = read_ahead(samples, cropper.crop, reader, ahead * batch)
    return lambda: collate(list(islice(crops, batch)))


def frame_batches(reader: Reader, indexes: Iterable[int], *, batch: int, ahead: int) -> Callable[[], Frames]:
    """Return a function that returns the next batch of whole frames, of ``indexes`` without an end."""

    def read(index: int) -> tuple[Bytes, Bytes, int]:
        return reader.read_first_valid(index, lambda found, record: (*record, found))

    frames = read_ahead(indexes, read, reader, ahead * batch)
    return lambda: Frames(*(list(part) for part in zip(*islice(frames, batch), strict=True)))


def train_samples(
    reader: Reader, batch: int, seed: int, start: tuple[int, int], rank_local: bool = False
) -> Iterator[tuple[int, int]]:
    """Yield (epoch, index) of this rank's samples, endlessly from (epoch, step) ``start`` on; :func:`rank_order`."""
    epochs = (
        ((epoch, index) for index in rank_order(reader, batch, seed, epoch, rank_local)) for epoch in count(start[0])
    )
    return islice(chain.from_iterable(epochs), start[1] * batch, None)


def epoch_steps(samples: int, world: int, batch: int) -> int:
    """Count the full steps of an epoch; the samples left over differ from epoch to epoch."""
    return samples // (world * batch)


def rank_order(reader: Reader, batch: int, seed: int, epoch: int, rank_local: bool = False) -> list[int]:
    """Return the indexes that this rank reads in an epoch: its part of each step's global batch.

    ``rank_local``: only its :func:`own_indexes`.
    """
    rank, world, samples = reader.files.rank, reader.files.world, len(reader)
    order = np.random.default_rng((seed, epoch, samples, ORDER)).permutation(samples)
    steps = epoch_steps(samples, world, batch)
    if rank_local:
        return order[np.isin(order, own_indexes(reader, rank_local))][: steps * batch].tolist()
    return order[: steps * world * batch].reshape(steps, world, batch)[:, rank].ravel().tolist()


def own_indexes(reader: Reader, rank_local: bool) -> range:
    """Return the indexes from which a rank draws: all of the split's, or with ``rank_local`` its share of them."""
    return range(reader.files.rank, len(reader), reader.files.world) if rank_local else range(len(reader))


def read_ahead(
    indexes: Iterable[Index], read: Callable[[Index], Sample], reader: Reader, depth: int
) -> Iterator[Sample]:
    """Yield ``read(index)`` of endless ``indexes`` in order, at least ``depth`` samples ahead of the consumer."""
    waiting: deque[Future[Sample]] = deque()
    threads = REMOTE_THREADS if reader.remote else LOCAL_THREADS
    depth = max(depth, 2 * threads) if reader.remote else depth
    pool = ThreadPoolExecutor(threads, "fastseg-read")
    try:
        for index in indexes:
            waiting.append(pool.submit(read, index))
            if len(waiting) > depth:
                yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Cropper:
    """Draw a sample's augmentations, and cut what its window needs from its record."""

    def __init__(self, reader: Reader, augment: AugmentConfig, seed: int) -> None:
        self._reader, self._augment, self._seed = reader, augment, seed
        self._known: OrderedDict[int, tuple[tuple[int, int], Tiles | None]] = OrderedDict()

    def crop(self, sample: tuple[int, int]) -> Crop:
        """Return the crop of (epoch, index); if its record is damaged, of another record with the same draws."""
        return self._reader.read_first_valid(sample[1], partial(self._crop, sample))

    def _crop(self, sample: tuple[int, int], index: int, record: Encoded) -> Crop:
        image, mask = record
        size, tiles = self._look_up(index, image)
        window, parameters = sample_augmentations(self._seed, *sample, size, self._augment)
        if tiles is None:
            return Crop(image, (0, 0), mask, window, parameters, index)
        part, top, left = cut(image, tiles, *_with_neighbors(window, tiles))
        return Crop(part, (top, left), mask, window, parameters, index)

    def _look_up(self, index: int, image: Bytes) -> tuple[tuple[int, int], Tiles | None]:
        """Return height and width of an image, and its tiles, cached because finding them takes longer than cutting."""
        found = self._known.get(index)
        if found is None:
            tiles = find_tiles(image)
            try:
                found = ((tiles.height, tiles.width) if tiles else image_size(image, "its image")), tiles
            except UserError as error:
                raise Damaged(f"{self._reader.where(index)}: {error}") from None
            self._known[index] = found
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found


def _with_neighbors(window: Window, tiles: Tiles) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of a window; halved chroma is interpolated from a pixel around it."""
    more = int(tiles.tile_height > 8)
    return (
        max(window.top - more, 0),
        min(window.bottom + more, tiles.height),
        max(window.left - more, 0),
        min(window.right + more, tiles.width),
    )


def collate(crops: list[Crop]) -> Crops:
    """Batch crops for the graph: all numbers are computed here, none by the graph."""
    windows = [crop.window for crop in crops]
    start = np.array([(w.top, w.left) for w in windows], np.int32)
    shape = np.array([(w.bottom - w.top, w.right - w.left) for w in windows], np.int32)
    sides = shape.astype(np.float32)
    flip = np.array([window.flip for window in windows])
    mirrored = np.stack([np.zeros_like(flip), flip], 1) * sides
    parameters = np.array([crop.parameters for crop in crops], np.float32).T.copy()
    return Crops(
        image=[crop.image for crop in crops],
        mask=[crop.mask for crop in crops],
        image_start=start - np.array([crop.origin for crop in crops], np.int32),
        mask_start=start,
        shape=shape,
        region_start=mirrored,
        region_end=sides - mirrored,
        size=np.array([(w.height, w.width) for w in windows], np.float32),
        pad_start=-np.array([(w.pad_top, w.pad_left) for w in windows], np.int32),
        flip=flip,
        parameters=dict(zip(parameter_names(), parameters, strict=True)),
        records=[crop.record for crop in crops],
    )
