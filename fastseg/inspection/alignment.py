"""Detection of masks that are shifted, turned or mirrored, by correlating label outlines with image edges."""

from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 256
"""Side in pixels of the square to which frames are resized; shifts are found to 1/256 of the frame."""
MAX_SHIFT = 24
"""Largest shift that is tested, in pixels of that square; also the width of the border that is left out."""
MIN_SHIFT = 3
"""Smallest shift that is reported, in pixels of that square; outlines drawn by hand are off by less."""
MIN_GAIN = 1.25
"""Smallest ratio of the fit at the best shift to the fit without a shift."""
MIN_TURN_GAIN = 2.0
"""Smallest ratio of the fit of the best turn to that of none: eight photographs of CamVid reach 3 to 4.3, scenes of
boxes 6 and more."""
MIN_PEAK = 4.5
"""Smallest height of the best fit above the mean, in standard deviations over all shifts. Eight street scenes, drawn or
photographed (CamVid), reach 5.5 to 7; masks of other images, and noise, 1.5 to 3.6."""

TURNS = {
    "mirrored left to right": Image.Transpose.FLIP_LEFT_RIGHT,
    "upside down, as in a mirror": Image.Transpose.FLIP_TOP_BOTTOM,
    "turned by 180°": Image.Transpose.ROTATE_180,
    "turned by 90° to the right": Image.Transpose.ROTATE_90,
    "turned by 90° to the left": Image.Transpose.ROTATE_270,
    "mirrored at the diagonal from the upper left": Image.Transpose.TRANSPOSE,
    "mirrored at the diagonal from the upper right": Image.Transpose.TRANSVERSE,
}
"""Possible orientations of masks, each with the transposition that corrects it."""
ANY_SHAPE = 3
"""Number of the first entries of :data:`TURNS` that are possible for frames that are not square."""

Floats = NDArray[np.float64]


def label_shift(frames: Iterable[tuple[Image.Image, Image.Image]]) -> tuple[float, float] | None:
    """Return the shift of the masks of (image, mask) pairs, down and to the right, as shares of height and width.

    None if they are aligned or if it cannot be determined: no pair, flat masks, or edges that match nowhere. The fit of
    a shift is the mean edge strength under the label outlines minus the mean over the whole image.
    """
    fits = [_fit(_edges(image), _outlines(mask)) for image, mask in frames]
    if not fits:
        return None
    fit = reduce(np.add, fits)
    y, x = (int(n) - MAX_SHIFT for n in np.unravel_index(fit.argmax(), fit.shape))
    here, best = fit[MAX_SHIFT, MAX_SHIFT], fit.max()
    stands_out = best - fit.mean() > MIN_PEAK * fit.std() and best > MIN_GAIN * max(here, 0)
    return (y / SIDE, x / SIDE) if stands_out and max(abs(y), abs(x)) >= MIN_SHIFT else None


def mask_turn(frames: Sequence[tuple[Image.Image, Image.Image]]) -> str | None:
    """Return the orientation of the masks of (image, mask) pairs, a key of :data:`TURNS`.

    None if they are aligned or if it cannot be determined, as in :func:`label_shift`.
    """
    square = all(image.width == image.height for image, _ in frames)
    turns = list(TURNS.items())[: None if square else ANY_SHAPE]
    _, here = _peak(frames, None)
    fits = {name: _peak(frames, turn) for name, turn in turns}
    name, (peak, height) = max(fits.items(), key=lambda item: item[1][1])
    return name if peak > MIN_PEAK and height > MIN_TURN_GAIN * max(here, 0) else None


def _peak(frames: Sequence[tuple[Image.Image, Image.Image]], turn: Image.Transpose | None) -> tuple[float, float]:
    """Return the best fit within the smallest reported shift: in standard deviations above the mean, and as it is."""
    if not frames:
        return 0.0, 0.0
    masks = [mask if turn is None else mask.transpose(turn) for _, mask in frames]
    fit = reduce(np.add, (_fit(_edges(image), _outlines(mask)) for (image, _), mask in zip(frames, masks, strict=True)))
    near = slice(MAX_SHIFT - MIN_SHIFT, MAX_SHIFT + MIN_SHIFT + 1)
    best = float(fit[near, near].max())
    return (best - float(fit.mean())) / max(float(fit.std()), 1e-9), best


def _fit(edges: Floats, outlines: Floats) -> Floats:
    """Correlate edges with outlines that are moved back by -MAX_SHIFT … MAX_SHIFT rows and columns."""
    spectrum = np.fft.rfft2(outlines) * np.conj(np.fft.rfft2(edges - edges.mean()))
    around = np.roll(np.fft.irfft2(spectrum, edges.shape), (MAX_SHIFT, MAX_SHIFT), (0, 1))
    return around[: 2 * MAX_SHIFT + 1, : 2 * MAX_SHIFT + 1] / max(outlines.sum(), 1.0)


def _edges(image: Image.Image) -> Floats:
    gray = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), float)
    y, x = np.gradient(gray)
    # The root keeps a few very strong edges from dominating.
    strength = np.sqrt(np.hypot(y, x))
    return strength / max(float(strength.std()), 1e-9)


def _outlines(mask: Image.Image) -> Floats:
    """Return 1 at label boundaries; 0 elsewhere and near the border, over which a shift would wrap around."""
    labels = np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    ends = np.zeros(labels.shape)
    ends[:, 1:] += labels[:, 1:] != labels[:, :-1]
    ends[1:] += labels[1:] != labels[:-1]
    inside = np.zeros(labels.shape)
    inside[MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT] = 1
    return (ends > 0) * inside
