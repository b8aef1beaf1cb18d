"""Decode and augment a sample by OpenCV, for the peers that leave that to the user.

OpenCV's INTER_LINEAR does not antialias: to shrink a frame, it reads four pixels and does less work than the others.
INTER_NEAREST_EXACT picks the pixels that Pillow's and torch's nearest neighbor pick.
"""

import numpy as np
import torch
from torch import Tensor

from bench.peers._colors import after, before, color, opencv
from bench.stages.frames import Draw, Drawn, Work
from fastseg.data.augment import Window
from fastseg.labels import IGNORE


def sample(image: bytes, mask: bytes, draw: Draw, work: Work) -> tuple[Tensor, Tensor]:
    """Decode image and mask (JPEG, PNG or TIFF) and augment the drawn window: uint8 h×w×3 and h×w."""
    frame = decode(image, opencv().IMREAD_COLOR_RGB)
    labels = decode(mask, opencv().IMREAD_GRAYSCALE)
    drawn = draw(frame.shape[:2])
    return finish(cut(frame, drawn.window), cut(labels, drawn.window), drawn, work)


def decode(data: bytes, flags: int) -> np.ndarray:
    """Decode an image file."""
    return opencv().imdecode(np.frombuffer(data, np.uint8), flags)


def cut(array: np.ndarray, window: Window) -> np.ndarray:
    """Return a view of the part of a frame that the window shows."""
    return array[window.top : window.bottom, window.left : window.right]


def finish(image: np.ndarray, labels: np.ndarray, drawn: Drawn, work: Work) -> tuple[Tensor, Tensor]:
    """Resize, color, flip and pad a window."""
    cv2, window = opencv(), drawn.window
    shown = color(resize(color(image, before(drawn)), window, cv2.INTER_LINEAR), after(drawn))
    crop = resize(labels, window, cv2.INTER_NEAREST_EXACT)
    if window.flip:
        shown, crop = cv2.flip(shown, 1), cv2.flip(crop, 1)
    return pad(shown, window, work, work.fill), pad(crop, window, work, IGNORE)


def resize(array: np.ndarray, window: Window, interpolation: int) -> np.ndarray:
    """Resize a window to its rows and columns in the crop."""
    return opencv().resize(array, (window.width, window.height), interpolation=interpolation)


def pad(array: np.ndarray, window: Window, work: Work, value: int | tuple[int, int, int]) -> Tensor:
    """Return the finished crop."""
    below, after = work.crop[0] - window.pad_top - window.height, work.crop[1] - window.pad_left - window.width
    if window.pad_top or window.pad_left or below or after:
        edges = (window.pad_top, below, window.pad_left, after)
        array = opencv().copyMakeBorder(array, *edges, opencv().BORDER_CONSTANT, value=value)
    return torch.from_numpy(array)
