"""mosaicml-streaming: the JPEGs and masks in its MDS shards; OpenCV decodes and augments in torch's DataLoader.

It needs an older numpy than DALI: install it with opencv-python-headless, cityscapesScripts and kornia-rs in another
environment, and name that environment's Python in FASTSEG_BENCH_STREAMING_PYTHON. See _opencv.py: its images are not
antialiased.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.peers import by_workers_and_masks
from bench.stages.frames import Draw, Frames, Work, once

if TYPE_CHECKING:
    from torch import Tensor

NAME = "mosaicml-streaming + OpenCV"
REQUIRES = ("mosaicml-streaming", "opencv-python-headless", "cityscapesScripts")
candidates = by_workers_and_masks
ENVIRONMENT = "FASTSEG_BENCH_STREAMING_PYTHON"
WRITER = "mosaicml-streaming's writer"
EPOCH = 1 << 16
"""Samples of an epoch: the frames many times over, so that no epoch ends within a measurement."""


def prepare(frames: Frames) -> None:
    """Write the encoded frames into its shards, once."""
    for masks in ("tif", "png"):
        once(frames.root / f"mds-{masks}", partial(_write, frames, masks))


def batches(frames: Frames, work: Work, workers: int, masks: str = "png") -> Iterator[tuple["Tensor", "Tensor"]]:
    """Yield endless uint8 N×H×W×3 images and N×H×W labels."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    from bench.peers._samples import hand_over

    prepare(frames)
    clean_stale_shared_memory()  # Shared memory of a process that was killed would keep a new one from starting.
    folder = str(frames.root / f"mds-{masks}")
    dataset = StreamingDataset(
        local=folder, shuffle=True, shuffle_seed=work.seed, batch_size=work.batch, epoch_size=EPOCH
    )
    loader = DataLoader(
        dataset,
        work.batch,
        num_workers=workers,
        drop_last=True,
        pin_memory=work.device == "cuda",
        collate_fn=partial(_augment, work=work),
    )
    while True:
        yield from hand_over(loader, work)


def sample(image: bytes, mask: bytes, draw: Draw, work: Work, **_settings: Any) -> tuple["Tensor", "Tensor"]:
    """Decode and augment one sample: uint8 h×w×3 and h×w."""
    from bench.peers import _opencv

    return _opencv.sample(image, mask, draw, work)


def _augment(encoded: list[dict[str, bytes]], work: Work) -> tuple["Tensor", "Tensor"]:
    """Augment a batch, in the worker that read it."""
    from bench.peers._samples import own_numbers, stacked

    draw = work.draw(own_numbers(work.seed))
    return stacked([sample(entry["image"], entry["mask"], draw, work) for entry in encoded])


def write(encode: Callable[[Any], Any], pairs: Sequence[Any], folder: Path, workers: int) -> None:
    """Write what ``encode`` makes of the pairs; each process has a writer of its own, as the documentation has it."""
    from streaming.base.util import merge_index

    parts = [(encode, pairs[number::workers], folder / str(number)) for number in range(workers)]
    with Pool(workers) as pool:
        pool.starmap(_write_part, parts)
    merge_index(str(folder), keep_local=True)


def _write_part(encode: Callable[[Any], Any], pairs: Sequence[Any], folder: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"image": "bytes", "mask": "bytes"}) as writer:
        for pair in pairs:
            writer.write(encode(pair))


def _write(frames: Frames, masks: str, folder: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"image": "bytes", "mask": "bytes"}) as writer:
        for key in frames.keys:
            writer.write({"image": frames.image(key).read_bytes(), "mask": frames.mask(key, masks).read_bytes()})
