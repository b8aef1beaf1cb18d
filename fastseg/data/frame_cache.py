"""Frames kept decoded in the device's memory, so that a step only has to cut and resize.

A decoded frame of 2048×1024 with its mask takes 8.4 MB; Cityscapes' training split takes 25 GB, which fits into a GPU
of 80 GB beside the network. NVIDIA's MLPerf code for DeepCAM feeds DALI the same way, by an external source on the GPU
(https://github.com/mlcommons/hpc_results_v1.0).
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice, repeat
from math import ceil, prod
from typing import Any, NamedTuple

import torch

from fastseg.config import AugmentConfig
from fastseg.data.augment import sample_augmentations
from fastseg.data.dali_graph import Array, Crops, eval_graph, to_torch
from fastseg.data.decoding import Decoder
from fastseg.data.reader import Reader
from fastseg.data.sampler import Crop, collate, frame_batches
from fastseg.shards.manifest import Split

BYTES_PER_PIXEL = 4
"""Bytes of a decoded pixel: three of the image and one of the mask."""


class Frame(NamedTuple):
    """One decoded record on the device, as DALI takes it: tensors on a GPU, arrays on a CPU."""

    image: Array
    """uint8 H×W×3."""
    mask: Array
    """uint8 H×W×1."""


def cache_bytes(split: Split, world: int = 1) -> int:
    """Return the bytes of a split's decoded frames; or the most that one of ``world`` ranks' shares may take."""
    pixels = sorted((height * width for height, width, samples in split.sizes for _ in range(samples)), reverse=True)
    return BYTES_PER_PIXEL * sum(pixels[: ceil(len(pixels) / world)])


def allocate_arena(split: Split, device: torch.device, world: int = 1) -> torch.Tensor:
    """Allocate :func:`cache_bytes` in one piece, before any frame is decoded: uint8 on ``device``.

    Raises :class:`torch.OutOfMemoryError` if a GPU does not have that much in one piece.
    """
    return torch.empty(cache_bytes(split, world), dtype=torch.uint8, device=device)


def cached_crop_batches(
    cache: "FrameCache", augment: AugmentConfig, samples: Iterator[tuple[int, int]], *, batch: int, seed: int
) -> Callable[[], Crops]:
    """Do as :func:`fastseg.data.sampler.crop_batches` with decoded frames; ``samples``: endless (epoch, index)."""

    def crop(epoch: int, index: int) -> Crop:
        image, mask = cache.frame(index)
        window, parameters = sample_augmentations(seed, epoch, index, (image.shape[0], image.shape[1]), augment)
        return Crop(image, (0, 0), mask, window, parameters, index)

    return lambda: collate([crop(*sample) for sample in islice(samples, batch)])


class FrameCache:
    """Decode each frame of a split shortly before its first use, and keep it."""

    def __init__(
        self, reader: Reader, indexes: Iterable[int], number: int, arena: torch.Tensor, **options: Any
    ) -> None:
        """Take ``indexes``, the endless order in which ``number`` frames will be requested; ``arena``: memory for them
        all, see :func:`allocate_arena`; ``options`` of the decoding pipeline."""
        self._kept: dict[int, Frame] = {}
        self._number, self._arena, self._used = number, arena, 0
        self._arriving = decoded_frames(reader, first_times(indexes, number), **options)

    @property
    def full(self) -> bool:
        """Return whether all frames have been decoded."""
        return len(self._kept) == self._number

    def frame(self, index: int) -> Frame:
        """Return the frame at ``index``; wait for its decoder on first use."""
        if index not in self._kept:
            self._kept[index] = Frame(*map(self._keep, next(self._arriving)))
            if self.full:
                self._arriving.close()  # frees its pipeline and its threads
        return self._kept[index]

    def _keep(self, part: Any) -> Array:
        """Append a part of a frame to the arena, in the order of torch's current stream.

        DALI copies it into batches in the same order, so it is never read too early and nothing has to wait.
        """
        begin, self._used = self._used, self._used + prod(part.shape())
        kept = to_torch(part, self._arena.device, self._arena[begin : self._used].view(part.shape()))
        return kept if kept.is_cuda else kept.numpy()


def first_times(indexes: Iterable[int], number: int) -> Iterator[int]:
    """Yield the ``number`` different indexes of an endless sequence by first occurrence, then repeat the last."""
    seen: set[int] = set()
    for index in indexes:
        if index not in seen:
            seen.add(index)
            yield index
        if len(seen) == number:
            # Frames decoded ahead have to fill a batch.
            yield from repeat(index)


def decoded_frames(reader: Reader, indexes: Iterable[int], **options: Any) -> Generator[tuple[Any, Any], None, None]:
    """Yield image and mask at endless ``indexes``, in DALI's memory until the next frame is requested."""
    batches = frame_batches(reader, indexes, batch=options["batch_size"], ahead=options["prefetch_queue_depth"])
    device = "cpu" if options["device_id"] is None else "gpu"
    decoder = Decoder(reader, batches, eval_graph, device=device, codec=reader.files.image_codec, **options)
    while True:
        _, outputs = decoder.next()
        yield from zip(*outputs, strict=True)
