"""webdataset reads fastseg's tar shards, OpenCV decodes and augments, WebLoader loads.

See _opencv.py: its images are not antialiased.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.peers import by_workers_and_masks, nothing
from bench.stages.frames import Draw, Frames, Work

if TYPE_CHECKING:
    from torch import Tensor

NAME = "webdataset + OpenCV"
REQUIRES = ("webdataset", "opencv-python-headless")
candidates = by_workers_and_masks
prepare = nothing
SHUFFLE = 64
"""Size of each worker's shuffle buffer of encoded samples."""


def batches(frames: Frames, work: Work, workers: int, masks: str = "png") -> Iterator[tuple["Tensor", "Tensor"]]:
    """Yield endless uint8 N×H×W×3 images and N×H×W labels."""
    import webdataset

    from bench.peers._samples import hand_over, stacked
    from fastseg.shards.manifest import read_manifest

    shards = frames.shards(f"plain-{masks}")
    tars = [str(shards / shard.file) for shard in read_manifest(shards).split("train").shards]
    # Resampled: every worker endlessly draws its shards with replacement.
    dataset = (
        webdataset.WebDataset(tars, resampled=True, shardshuffle=False, seed=work.seed)
        .shuffle(SHUFFLE)
        .to_tuple("jpg", f"mask.{masks}")
        .compose(partial(_samples, work=work))
        .batched(work.batch, collation_fn=stacked, partial=False)
    )
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers, pin_memory=work.device == "cuda")
    return hand_over(loader, work)


def sample(image: bytes, mask: bytes, draw: Draw, work: Work, **_settings: Any) -> tuple["Tensor", "Tensor"]:
    """Decode and augment one sample: uint8 h×w×3 and h×w."""
    from bench.peers import _opencv

    return _opencv.sample(image, mask, draw, work)


def _samples(encoded: Iterable[tuple[bytes, bytes]], work: Work) -> Iterator[tuple["Tensor", "Tensor"]]:
    """Yield a worker's stream of samples."""
    from bench.peers._samples import own_numbers

    draw = work.draw(own_numbers(work.seed))
    for image, mask in encoded:
        yield sample(image, mask, draw, work)
