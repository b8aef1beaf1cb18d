"""kornia-rs decodes JPEG by libjpeg-turbo and PNG by Rust's decoder, OpenCV augments, torch's DataLoader loads.

kornia-rs could resize, too, also without antialiasing, but takes several times as long as OpenCV. See _opencv.py.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from bench.peers import by_workers, nothing
from bench.stages.frames import Draw, Frames, Work

if TYPE_CHECKING:
    from torch import Tensor

NAME = "kornia-rs + OpenCV"
REQUIRES = ("kornia_rs", "opencv-python-headless")
candidates = by_workers
prepare = nothing


def batches(frames: Frames, work: Work, workers: int) -> Iterator[tuple["Tensor", "Tensor"]]:
    """Yield endless uint8 N×H×W×3 images and N×H×W labels."""
    from bench.peers._samples import Files, from_files, hand_over

    return hand_over(from_files(Files(frames, work, partial(sample, work=work)), work, workers), work)


def sample(image: bytes, mask: bytes, draw: Draw, work: Work) -> tuple["Tensor", "Tensor"]:
    """Decode and augment one sample: uint8 h×w×3 and h×w."""
    from kornia_rs import io

    from bench.peers import _opencv

    frame = io.decode_image_jpegturbo(image, "rgb")
    # The decoder asks for the size, which a PNG has in its first chunk.
    width, height = (int.from_bytes(mask[at : at + 4], "big") for at in (16, 20))
    labels = io.decode_image_png_u8(mask, (height, width), "mono")[..., 0]
    drawn = draw((height, width))
    return _opencv.finish(_opencv.cut(frame, drawn.window), _opencv.cut(labels, drawn.window), drawn, work)
