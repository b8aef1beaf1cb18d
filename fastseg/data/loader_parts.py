"""The loader stopped after one of its parts: what reading, decoding images and decoding masks take, each alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from nvidia.dali import pipeline_def

from fastseg.config import AugmentConfig
from fastseg.data.dali_graph import Crops, decode_image, decode_mask, feed, run
from fastseg.data.reader import Files, Reader
from fastseg.data.sampler import crop_batches

READ, IMAGE, MASK = "read", "image", "mask"
"""Reading and cutting alone; that and decoding images; that and decoding masks."""


def loader_part(
    part: str,
    files: Files,
    augment: AugmentConfig,
    *,
    batch: int,
    device: torch.device,
    threads: int,
    prefetch: int = 2,
    seed: int = 0,
) -> Callable[[], object]:
    """Return a function that makes the next training batch up to ``part`` and drops it.

    ``device``: that of the decoder. A whole batch takes no longer than its parts together: those of a CPU share its
    cores, a GPU works beside them.
    """
    source = crop_batches(Reader(files), augment, batch=batch, seed=seed, start=(0, 0), ahead=prefetch)
    if part == READ:
        return source
    where, waiting = device.type.replace("cuda", "gpu"), _Kept(source)
    options = {"batch_size": batch, "num_threads": threads, "prefetch_queue_depth": prefetch}
    pipeline = _graph(waiting, part, where, files.image_codec, files.mask_codec, **options, device_id=device.index)
    return partial(run, pipeline)


class _Kept:
    """Keep the batches that DALI may still read in place."""

    def __init__(self, source: Callable[[], Crops]) -> None:
        self._source, self._last = source, list[Crops]()

    def __call__(self) -> Crops:
        self._last = [*self._last[-8:], self._source()]
        return self._last[-1]


@pipeline_def
def _graph(source: Callable[[], Crops], part: str, device: str, image_codec: str, mask_codec: str) -> Any:
    crops = feed(source, (part, f"{part}_start", "shape"), device, image_codec)
    return decode_image(crops, device, image_codec) if part == IMAGE else decode_mask(crops, mask_codec)
