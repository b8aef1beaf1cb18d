"""Find masks that are shifted against their images: outlines of labels are matched with the edges of the picture."""

from collections.abc import Iterable
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 256
"""Pixels of the square that frames are shrunk to: shifts are found to a 256th of the frame."""
MAX_SHIFT = 24
"""Largest shift looked for, pixels of that square; also the border that is left out."""
MIN_SHIFT = 3
"""Smallest shift that is reported, pixels of that square: outlines drawn by hand are off by less."""
MIN_GAIN = 1.25
"""How many times better the outlines must fit there than where they are."""
MIN_PEAK = 4.5
"""Standard deviations of all shifts' fits by which the best must stand out. Eight street scenes, drawn or photographed
(CamVid), have 5.5 to 7; masks of other images, and noise, 1.5 to 3.6."""

Floats = NDArray[np.float64]


def label_shift(frames: Iterable[tuple[Image.Image, Image.Image]]) -> tuple[float, float] | None:
    """Find how far the masks of (image, mask) pairs lie below and to the right of their images, as shares of the frame.

    None where they lie as they should, or where it cannot be told: no pair, flat masks, edges that fit nowhere. The
    fit of a shift is the mean strength of the picture's edges under the labels' outlines, less that of anywhere.
    """
    fits = [_fit(_edges(image), _outlines(mask)) for image, mask in frames]
    if not fits:
        return None
    fit = reduce(np.add, fits)
    y, x = (int(n) - MAX_SHIFT for n in np.unravel_index(fit.argmax(), fit.shape))
    here, best = fit[MAX_SHIFT, MAX_SHIFT], fit.max()
    stands_out = best - fit.mean() > MIN_PEAK * fit.std() and best > MIN_GAIN * max(here, 0)
    return (y / SIDE, x / SIDE) if stands_out and max(abs(y), abs(x)) >= MIN_SHIFT else None


def _fit(edges: Floats, outlines: Floats) -> Floats:
    """Correlate the two where the mask is moved back by -MAX_SHIFT … MAX_SHIFT rows and columns."""
    spectrum = np.fft.rfft2(outlines) * np.conj(np.fft.rfft2(edges - edges.mean()))
    around = np.roll(np.fft.irfft2(spectrum, edges.shape), (MAX_SHIFT, MAX_SHIFT), (0, 1))
    return around[: 2 * MAX_SHIFT + 1, : 2 * MAX_SHIFT + 1] / max(outlines.sum(), 1.0)


def _edges(image: Image.Image) -> Floats:
    gray = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), float)
    y, x = np.gradient(gray)
    # The root, so that a few glaring edges do not decide.
    strength = np.sqrt(np.hypot(y, x))
    return strength / max(float(strength.std()), 1e-9)


def _outlines(mask: Image.Image) -> Floats:
    """Return 1 where a label ends; 0 elsewhere and near the border, over which a shift would wrap around."""
    labels = np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    ends = np.zeros(labels.shape)
    ends[:, 1:] += labels[:, 1:] != labels[:, :-1]
    ends[1:] += labels[1:] != labels[:-1]
    inside = np.zeros(labels.shape)
    inside[MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT] = 1
    return (ends > 0) * inside
