"""The notebook project's loader: PNG by Pillow, Albumentations, torch's DataLoader; float32 images and int64 labels.

Its geometry is Albumentations at its cheapest: the functions behind Crop, Resize, HorizontalFlip and PadIfNeeded, in
this order, without the checks of a Compose. Their resize is OpenCV's, which does not antialias. Colors change by one
matrix, as the other peers' do, in place of ColorJitter's four passes.
"""

import io
from collections.abc import Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.peers import by_workers, nothing
from bench.peers._colors import after, before, color
from bench.stages.frames import Draw, Frames, Work
from fastseg.data.augment import Window
from fastseg.labels import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

NAME = "notebook"
REQUIRES = ("albumentations", "opencv-python-headless", "Pillow", "torch")
candidates = by_workers
prepare = nothing


def batches(frames: Frames, work: Work, workers: int) -> Iterator[tuple["Tensor", "Tensor"]]:
    """Yield endless normalized float32 N×3×H×W images and int64 N×H×W labels."""
    from bench.peers._samples import Files, from_files, hand_over

    dataset = Files(frames, work, partial(sample, work=work), image="png")
    return hand_over(from_files(dataset, work, workers), work)


def sample(image: bytes, mask: bytes, draw: Draw, work: Work) -> tuple["Tensor", "Tensor"]:
    """Decode, augment and normalize one sample: float32 3×h×w and int64 h×w."""
    import torch
    from PIL import Image

    tools = _tools()
    frame = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    labels = np.asarray(Image.open(io.BytesIO(mask)))
    drawn = draw((frame.shape[0], frame.shape[1]))
    window = drawn.window
    shown = color(_resize(color(_cut(frame, window), before(drawn)), window, tools.cv2.INTER_LINEAR), after(drawn))
    shown = _flip_pad(shown, window, work, work.fill)
    crop = _resize(_cut(labels, window), window, tools.cv2.INTER_NEAREST_EXACT)
    crop = _flip_pad(crop, window, work, IGNORE)
    # As ToTensorV2 does: a view, which becomes contiguous when the batch is collated.
    return torch.from_numpy(tools.normalize(shown)).permute(2, 0, 1), torch.from_numpy(crop).long()


def _cut(array: np.ndarray, window: Window) -> Any:
    return _tools().crop(array, window.left, window.top, window.right, window.bottom)


def _resize(array: np.ndarray, window: Window, interpolation: int) -> Any:
    return _tools().resize(array, (window.height, window.width), interpolation)


def _flip_pad(array: np.ndarray, window: Window, work: Work, fill: Any) -> Any:
    tools = _tools()
    array = tools.flip(array) if window.flip else array
    below, after = work.crop[0] - window.pad_top - window.height, work.crop[1] - window.pad_left - window.width
    if not (window.pad_top or window.pad_left or below or after):
        return array
    return tools.pad(array, window.pad_top, below, window.pad_left, after, tools.cv2.BORDER_CONSTANT, fill)


class _Tools:
    """The functions used of Albumentations, imported with the first sample."""

    def __init__(self) -> None:
        import cv2
        from albucore import hflip
        from albumentations import Normalize
        from albumentations.augmentations.crops.functional import crop
        from albumentations.augmentations.geometric.functional import pad_with_params, resize

        cv2.setNumThreads(0)  # The loader has its workers.
        self.cv2, self.crop, self.resize, self.flip, self.pad = cv2, crop, resize, hflip, pad_with_params
        self.normalize = Normalize().apply


_tools = cache(_Tools)
