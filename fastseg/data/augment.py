"""What is drawn at random for a training sample: where to look in the frame, and how to color it.

A ratio r resizes the frame, a crop of h×w is cut from the result. Both at once: the crop shows a window of h/r rows
and w/r columns of the frame, resized to h×w. The window has whole pixels, so that only they need decoding, image and
mask see exactly the same, and any library's "crop, then resize" does the same work; for that the ratio is off by up to
half a pixel of the window, a part in 768 for a crop of 768² at ratio 2. Where the resized frame is smaller than the
crop, it is shown whole and padded.

Every number is a pure function of (seed, epoch, sample): the same on any number of ranks, threads and devices.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastseg.config import DataConfig


@dataclass(frozen=True)
class Augmentation:
    """What is drawn at random for every sample."""

    crop: tuple[int, int]
    """Height and width of the output, pixels."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the ratio by which frames are resized before the crop."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    brightness: float = 0.0
    """Brightness is multiplied by 1 ± this, in half of the samples; contrast and saturation alike."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Hue is turned by ± this many degrees, in half of the samples."""
    fill: tuple[int, int, int] = (124, 116, 104)
    """RGB of the padding: the data's mean, which normalization turns into zero."""
    squeeze: bool = False
    """The crop shows the whole frame, whatever that does to its proportions; ``scale`` does not apply."""

    @property
    def colored(self) -> bool:
        """Whether colors change at all."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))


class Window(NamedTuple):
    """The part of a frame that a crop shows, in pixels, and where."""

    top: int
    bottom: int
    """One past the last row of the frame that is shown."""
    left: int
    right: int
    height: int
    """Rows that the window is resized to; fewer than the crop's where it has to be padded."""
    width: int
    above: int
    """Rows of padding above, in the finished crop."""
    before: int
    """Columns of padding on the left, in the finished crop."""
    flip: bool
    """Whether the window is mirrored left-right."""


class ColorChange(NamedTuple):
    """Factors of brightness, contrast and saturation, and degrees of hue."""

    brightness: float
    contrast: float
    saturation: float
    hue: float


def augmentation_of(data: DataConfig, mean: tuple[float, float, float]) -> Augmentation:
    """What a run draws; padding has the color ``mean`` (R, G, B, 0–255), which normalizing turns into zero."""
    return Augmentation(
        crop=data.crop,
        scale=data.scale,
        squeeze=data.squeeze,
        flip=data.flip,
        brightness=data.brightness,
        contrast=data.contrast,
        saturation=data.saturation,
        hue=data.hue,
        fill=(round(mean[0]), round(mean[1]), round(mean[2])),
    )


def random_numbers(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The generator from which one sample of one epoch is drawn."""
    return np.random.default_rng((seed, epoch, sample))


def draw(seed: int, epoch: int, sample: int, frame: tuple[int, int], a: Augmentation) -> tuple[Window, ColorChange]:
    """All that is drawn for a sample whose frame has (height, width) pixels."""
    rng = random_numbers(seed, epoch, sample)
    return draw_window(rng, frame, a), draw_color(rng, a)


def draw_window(rng: np.random.Generator, frame: tuple[int, int], augmentation: Augmentation) -> Window:
    """Draw ratio, position and flip for a frame of (height, width) pixels."""
    if augmentation.squeeze:
        (bottom, right), (height, width) = frame, augmentation.crop
        return Window(0, bottom, 0, right, height, width, 0, 0, bool(rng.random() < augmentation.flip))
    low, high = augmentation.scale
    ratio = low + (high - low) * rng.random()
    (top, bottom, height, above), (left, right, width, before) = (
        _draw_line(rng, length, crop, ratio) for length, crop in zip(frame, augmentation.crop, strict=True)
    )
    return Window(top, bottom, left, right, height, width, above, before, bool(rng.random() < augmentation.flip))


def _draw_line(rng: np.random.Generator, length: int, crop: int, ratio: float) -> tuple[int, int, int, int]:
    """Start and stop in the frame, pixels in the crop, padding before; of one dimension."""
    seen = max(round(crop / ratio), 1)
    if seen <= length:
        start = int(rng.integers(length - seen + 1))
        return start, start + seen, crop, 0
    shown = min(max(round(length * ratio), 1), crop)
    return 0, length, shown, int(rng.integers(crop - shown + 1))


def draw_color(rng: np.random.Generator, augmentation: Augmentation) -> ColorChange:
    """Draw the changes of color; each happens to half of the samples."""

    def change(amount: float) -> float:
        return float(rng.uniform(-amount, amount)) * (rng.random() < 0.5)

    a = augmentation
    return ColorChange(1 + change(a.brightness), 1 + change(a.contrast), 1 + change(a.saturation), change(a.hue))
