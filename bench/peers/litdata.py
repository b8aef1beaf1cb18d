"""LitData: the JPEGs and masks optimized into its chunks, streamed; torchvision.io and transforms.v2 do the rest."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bench.peers import by_workers
from bench.peers.torchvision_v2 import sample
from bench.stages.frames import Frames, Work, once

if TYPE_CHECKING:
    from torch import Tensor

NAME = "LitData + torchvision v2"
REQUIRES = ("litdata", "torchvision")
candidates = by_workers
WRITER = "LitData's writer"
CHUNK = "8MB"
"""Size of a chunk; the default, 64 MB, would put all frames of a benchmark into one."""


def prepare(frames: Frames) -> None:
    """Write the encoded frames into chunks, once."""
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")  # It would ask the network for a newer version.
    once(frames.root / "litdata", partial(_optimize, frames))


def batches(frames: Frames, work: Work, workers: int) -> Iterator[tuple["Tensor", "Tensor"]]:
    """Yield endless uint8 N×H×W×3 images and N×H×W labels."""
    import litdata

    from bench.peers._samples import hand_over

    prepare(frames)
    stream = litdata.StreamingDataset(str(frames.root / "litdata"), shuffle=True, seed=work.seed)
    # The parallel dataset is LitData's way to cycle without the end of an epoch.
    endless = litdata.ParallelStreamingDataset(
        [stream], length=float("inf"), transform=partial(_augment, work=work), seed=work.seed
    )
    loader = litdata.StreamingDataLoader(
        endless, batch_size=work.batch, num_workers=workers, pin_memory=work.device == "cuda"
    )
    return hand_over(loader, work)


def _augment(samples: tuple[dict[str, bytes]], rngs: dict[str, Any], work: Work) -> tuple["Tensor", "Tensor"]:
    """Augment a sample by LitData's own random numbers."""
    return sample(samples[0]["image"], samples[0]["mask"], work.draw(rngs["numpy"]), work)


def write(encode: Callable[[Any], Any], pairs: Sequence[Any], folder: Path, workers: int) -> None:
    """Write what ``encode`` makes of the pairs into chunks of the default size, by ``workers`` processes."""
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
    # Its default, "spawn", takes five seconds to start, in which each process imports torch.
    _chunks(encode, pairs, folder, "64MB", workers, start_method="fork")


def _optimize(frames: Frames, folder: Path) -> None:
    inputs = [(str(frames.image(key)), str(frames.mask(key))) for key in frames.keys]
    _chunks(_encoded, inputs, folder, CHUNK, workers=1)


def _chunks(
    encode: Callable[[Any], Any], inputs: Sequence[Any], folder: Path, size: str, workers: int, **options: Any
) -> None:
    # By default LitData works in /tmp/chunks and /tmp/data, and empties them first, whosever they are.
    with TemporaryDirectory(dir=folder.parent) as temporary:
        os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = f"{temporary}/chunks"
        os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = f"{temporary}/data"
        import litdata

        litdata.optimize(encode, inputs, str(folder), chunk_bytes=size, num_workers=workers, verbose=False, **options)


def _encoded(paths: tuple[str, str]) -> dict[str, bytes]:
    image, mask = paths
    return {"image": Path(image).read_bytes(), "mask": Path(mask).read_bytes()}
