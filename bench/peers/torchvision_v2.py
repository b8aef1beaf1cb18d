"""torchvision.io decodes JPEG and PNG, transforms.v2 augments uint8 tensors, torch's DataLoader loads.

torchvision 0.29 points to torchcodec for decoding, which is a peer of its own.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.peers import by_workers, nothing
from bench.peers._colors import after, before, color_tensor
from bench.stages.frames import Draw, Drawn, Frames, Work
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
    drawn = draw((frame.shape[1], frame.shape[2]))
    return show_image(frame, drawn, work), show_labels(labels, drawn.window, work)


def show_image(frame: "Tensor", drawn: Drawn, work: Work) -> "Tensor":
    """Augment the window of a frame 3×H×W (bilinear, antialiased): h×w×3.

    The decoders return channels-last memory, and resizing keeps it, so the permutation is no copy.
    """
    from torchvision.transforms.v2 import InterpolationMode

    shown = color_tensor(_cut(frame, drawn.window), before(drawn))
    shown = color_tensor(_resize(shown, drawn.window, InterpolationMode.BILINEAR), after(drawn))
    return _flip_pad(shown, drawn.window, work, list(work.fill)).permute(1, 2, 0).contiguous()


def show_labels(labels: "Tensor", window: Window, work: Work) -> "Tensor":
    """Augment the window of labels 1×H×W (nearest): h×w."""
    from torchvision.transforms.v2 import InterpolationMode

    shown = _resize(_cut(labels, window), window, InterpolationMode.NEAREST_EXACT)
    return _flip_pad(shown, window, work, [IGNORE])[0].contiguous()


def _cut(frame: "Tensor", window: Window) -> "Tensor":
    """Return a view of the part of a frame that the window shows."""
    return frame[:, window.top : window.bottom, window.left : window.right]


def _resize(shown: "Tensor", window: Window, interpolation: Any) -> "Tensor":
    from torchvision.transforms.v2 import functional

    return functional.resize(shown, [window.height, window.width], interpolation, antialias=True)


def _flip_pad(shown: "Tensor", window: Window, work: Work, fill: list[int]) -> "Tensor":
    from torchvision.transforms.v2 import functional

    if window.flip:
        shown = functional.horizontal_flip(shown)
    below, after = work.crop[0] - window.pad_top - window.height, work.crop[1] - window.pad_left - window.width
    if not (window.pad_top or window.pad_left or below or after):
        return shown
    return functional.pad(shown, [window.pad_left, window.pad_top, after, below], fill=fill)
