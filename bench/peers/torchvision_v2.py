"""torchvision.io decodes JPEG and PNG, transforms.v2 augments uint8 tensors, torch's DataLoader loads.

torchvision 0.29 points to torchcodec for decoding, which is a peer of its own.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.peers import by_workers, nothing
from bench.stages.frames import Draw, Frames, Work
from fastseg.data.augment import Window
from fastseg.labels import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

NAME = "torchvision v2 + torchvision.io"
REQUIRES = ("torchvision",)
candidates = by_workers
prepare = nothing


def batches(frames: Frames, work: Work, workers: int) -> Iterator[tuple["Tensor", "Tensor"]]:
    """Yield endless uint8 N×H×W×3 images and N×H×W labels."""
    from bench.peers._samples import Files, from_files, hand_over

    return hand_over(from_files(Files(frames, work, partial(sample, work=work)), work, workers), work)


def sample(image: bytes, mask: bytes, draw: Draw, work: Work) -> tuple["Tensor", "Tensor"]:
    """Decode and augment one sample: uint8 h×w×3 and h×w."""
    import torch
    from torchvision.io import ImageReadMode, decode_image

    frame = decode_image(torch.frombuffer(bytearray(image), dtype=torch.uint8), ImageReadMode.RGB)
    labels = decode_image(torch.frombuffer(bytearray(mask), dtype=torch.uint8), ImageReadMode.GRAY)
    window = draw((frame.shape[1], frame.shape[2]))
    return show_image(frame, window, work), show_labels(labels, window, work)


def show_image(frame: "Tensor", window: Window, work: Work) -> "Tensor":
    """Augment the window of a frame 3×H×W (bilinear, antialiased): h×w×3.

    The decoders return channels-last memory, and resizing keeps it, so the permutation is no copy.
    """
    from torchvision.transforms.v2 import InterpolationMode

    return _show(frame, window, work, InterpolationMode.BILINEAR, list(work.fill)).permute(1, 2, 0).contiguous()


def show_labels(labels: "Tensor", window: Window, work: Work) -> "Tensor":
    """Augment the window of labels 1×H×W (nearest): h×w."""
    from torchvision.transforms.v2 import InterpolationMode

    return _show(labels, window, work, InterpolationMode.NEAREST_EXACT, [IGNORE])[0].contiguous()


def _show(frame: "Tensor", window: Window, work: Work, interpolation: Any, fill: list[int]) -> "Tensor":
    from torchvision.transforms.v2 import functional

    box = (window.top, window.left, window.bottom - window.top, window.right - window.left)
    shown = functional.resized_crop(frame, *box, [window.height, window.width], interpolation, antialias=True)
    if window.flip:
        shown = functional.horizontal_flip(shown)
    below, after = work.crop[0] - window.pad_top - window.height, work.crop[1] - window.pad_left - window.width
    if not (window.pad_top or window.pad_left or below or after):
        return shown
    return functional.pad(shown, [window.pad_left, window.pad_top, after, below], fill=fill)
