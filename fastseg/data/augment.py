"""Augmentations, one after the other: how each is drawn, its DALI operator, and its CPU operator.

Crop, scale and flip decide which part of the frame a crop shows. A ratio r resizes the frame, and a crop of h×w is cut
from the result. Both at once: the crop shows a window of h/r rows and w/r columns of the frame, resized to h×w. The
window has whole pixels, so that only they need decoding, image and mask see exactly the same, and any library's "crop,
then resize" does the same work; for that the ratio is off by up to half a pixel of the window, a part in 768 for a crop
of 768² at ratio 2. Where the resized frame is smaller than the crop, it is shown whole and padded.

:data:`AUGMENTATIONS` change what is shown. :mod:`fastseg.data.dali_graph` composes them all.

Every number is a pure function of (seed, epoch, index): the same on any number of ranks, threads and devices. DALI and
torch are imported where they are used, since drawing needs neither.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fastseg.config import AugmentConfig
from fastseg.errors import UserError
from fastseg.labels import IGNORE

Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]
"""R, G, B, 0–255."""
FILL: Color = (124, 116, 104)
"""ImageNet's mean, which normalization turns into zero."""


def fill_color(mean: tuple[float, float, float]) -> Color:
    """Return the color of the padding: the ``mean`` (R, G, B, 0–255) that the network subtracts, in whole numbers."""
    return round(mean[0]), round(mean[1]), round(mean[2])


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator from which the sample at ``index`` of the split is drawn in one epoch."""
    return np.random.default_rng((seed, epoch, index))


# Crop, scale and flip


class Window(NamedTuple):
    """The part of a frame that a crop shows, in pixels, and its position in the crop."""

    top: int
    bottom: int
    """One past the last row of the frame that is shown."""
    left: int
    right: int
    height: int
    """Rows that the window is resized to; fewer than the crop's if it has to be padded."""
    width: int
    pad_top: int
    """Rows of padding above, in the crop."""
    pad_left: int
    """Columns of padding on the left, in the crop."""
    flip: bool
    """Whether to mirror the window left-right."""


def sample_crop(rng: np.random.Generator, frame: tuple[int, int], config: AugmentConfig) -> Window:
    """Draw ratio, position and flip for a frame of (height, width) pixels."""
    if config.resize == "stretch":
        (bottom, right), (height, width) = frame, config.crop
        return Window(0, bottom, 0, right, height, width, 0, 0, bool(rng.random() < config.flip))
    low, high = config.scale
    ratio = low + (high - low) * rng.random()
    (top, bottom, height, pad_top), (left, right, width, pad_left) = (
        _sample_axis(rng, length, crop, ratio) for length, crop in zip(frame, config.crop, strict=True)
    )
    return Window(top, bottom, left, right, height, width, pad_top, pad_left, bool(rng.random() < config.flip))


def _sample_axis(rng: np.random.Generator, length: int, crop: int, ratio: float) -> tuple[int, int, int, int]:
    """Draw start and stop in the frame, pixels in the crop and padding before them, of one dimension."""
    window = max(round(crop / ratio), 1)
    if window <= length:
        start = int(rng.integers(length - window + 1))
        return start, start + window, crop, 0
    resized = min(max(round(length * ratio), 1), crop)
    return 0, length, resized, int(rng.integers(crop - resized + 1))


def dali_crop(image: Any, mask: Any, crops: Any, crop: tuple[int, int], fill: Color) -> tuple[Any, Any]:
    """Resize, flip and pad windows in a DALI graph: they become uint8 h×w×3 and h×w×1.

    ``crops``: the graph's nodes of the fields of :class:`fastseg.data.dali_graph.Crops`.
    """
    from nvidia.dali import fn, types

    def transform(window: Any, interpolation: Any, color: tuple[int, ...]) -> Any:
        region = {"roi_start": crops.region_start, "roi_end": crops.region_end}
        resized = fn.resize(window, **region, size=crops.size, interp_type=interpolation, antialias=True)
        padding: Any = {"out_of_bounds_policy": "pad", "fill_values": list(color)}
        return fn.slice(resized, start=crops.pad_start, shape=list(crop), axes=[0, 1], **padding)

    return transform(image, types.INTERP_LINEAR, fill), transform(mask, types.INTERP_NN, (IGNORE,))


def cpu_crop(
    image: Pixels,
    mask: Pixels,
    size: tuple[int, int],
    pad: tuple[int, int],
    flip: bool,
    fill: Pixels,
    change: Callable[[Pixels, Pixels], None],
    out: tuple[Pixels, Pixels],
) -> None:
    """Resize, change, flip and pad one window on the CPU, into ``out``: uint8 h×w×3 and h×w.

    ``image`` and ``mask``: uint8 H×W×3 and H×W, which are overwritten; ``size``: rows and columns that they are resized
    to; ``pad``: rows of padding above and columns on the left; ``fill``: uint8 w×3, a row of padding; ``change``:
    changes pixels one by one in place, and is called where there are fewer of them, before or after resizing.
    """
    region = slice(pad[0], pad[0] + size[0]), slice(pad[1], pad[1] + size[1])
    pixels, labels = out[0][region], out[1][region]
    if labels.shape != out[1].shape:
        out[0][:], out[1][:] = fill, IGNORE
    if size[0] >= mask.shape[0] and size[1] >= mask.shape[1]:  # there is nothing to antialias
        change(image, mask)
        if flip:
            cv2.flip(image, 1, dst=image)
            cv2.flip(mask, 1, dst=mask)
        cv2.resize(image, size[::-1], dst=pixels, interpolation=cv2.INTER_LINEAR)
        cv2.resize(mask, size[::-1], dst=labels, interpolation=cv2.INTER_NEAREST_EXACT)
        return
    _shrink(image, pixels)
    cv2.resize(mask, size[::-1], dst=labels, interpolation=cv2.INTER_NEAREST_EXACT)
    change(pixels, labels)
    if flip:
        cv2.flip(pixels, 1, dst=pixels)
        cv2.flip(labels, 1, dst=labels)


def _shrink(image: Pixels, out: Pixels) -> None:
    """Resize bilinearly, antialiased, into ``out``: as torch's ``interpolate``, which allocates its result."""
    import torch

    target = out if out.flags.c_contiguous else np.empty_like(out, order="C")
    # Channels-last with their batch dimension of one, which the fast kernel insists on.
    frame, result = (torch.from_numpy(pixels)[None].permute(0, 3, 1, 2) for pixels in (image, target))
    torch.ops.aten._upsample_bilinear2d_aa.out(frame, out.shape[:2], False, None, None, out=result)
    if target is not out:
        out[:] = target


# Brightness, contrast, saturation and hue


def sample_color(rng: np.random.Generator, config: AugmentConfig) -> tuple[float, ...]:
    """Draw three factors, then degrees of hue; each changes half of the samples."""

    def change(amount: float) -> float:
        return float(rng.uniform(-amount, amount)) * (rng.random() < 0.5)

    factors = (1 + change(amount) for amount in (config.brightness, config.contrast, config.saturation))
    return *factors, change(config.hue)


def dali_color(image: Any, mask: Any, fill: Color, **parameters: Any) -> tuple[Any, Any]:
    """Color windows in a DALI graph."""
    from nvidia.dali import fn

    del fill  # there is no padding yet
    return fn.color_twist(image, **parameters), mask


RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""Brightness and two axes of color (https://en.wikipedia.org/wiki/YIQ), as DALI has them."""
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)


def color_matrix(brightness: float, contrast: float, saturation: float, hue: float) -> NDArray[np.float64]:
    """Return the 3×4 matrix by which DALI's ``color_twist`` changes (R, G, B, 1), 0–255.

    Hue turns the plane of color, saturation stretches it; contrast is about 128; brightness is a factor.
    """
    sine, cosine = np.sin(np.deg2rad(hue)), np.cos(np.deg2rad(hue))
    change = np.array(
        [[1, 0, 0], [0, saturation * cosine, saturation * sine], [0, -saturation * sine, saturation * cosine]]
    )
    colors = brightness * contrast * YIQ_TO_RGB @ change @ RGB_TO_YIQ
    return np.column_stack([colors, np.full(3, brightness * 128 * (1 - contrast))])


def cpu_color(image: Pixels, mask: Pixels, fill: Color, **parameters: float) -> None:
    """Color pixels on the CPU, much faster than DALI's operator does there."""
    del mask, fill
    cv2.transform(image, color_matrix(**parameters), dst=image)


# The table


class Augmentation(NamedTuple):
    """A random change of pixels. Its settings are fields of :class:`fastseg.config.AugmentConfig`."""

    is_on: Callable[[AugmentConfig], bool]
    """Tells whether these settings change anything; if not, neither operator runs."""
    parameters: tuple[str, ...]
    """Names of what is drawn for a sample, keywords of both operators."""
    sample: Callable[[np.random.Generator, AugmentConfig], tuple[float, ...]]
    """Draws those parameters for one sample, also where ``is_on`` is False."""
    dali: Callable[..., tuple[Any, Any]] | None
    """Changes image and mask in a DALI graph: ``dali(image, mask, fill, **parameters)``, all of them nodes. None: it
    works only where the CPU decodes."""
    cpu: Callable[..., None]
    """Does the same to arrays, in place: ``cpu(image, mask, fill, **parameters)`` with uint8 H×W×3 and H×W, floats."""
    moves_pixels: bool
    """Whether it moves pixels, as a rotation does: then it changes finished crops, with their padding. What changes
    each pixel by itself is done to the window, before padding."""


AUGMENTATIONS: dict[str, Augmentation] = {
    "color": Augmentation(
        is_on=lambda config: any((config.brightness, config.contrast, config.saturation, config.hue)),
        parameters=("brightness", "contrast", "saturation", "hue"),
        sample=sample_color,
        dali=dali_color,
        cpu=cpu_color,
        moves_pixels=False,
    ),
}
"""Augmentations in the order of drawing and application. Add new ones at the end: the others' draws then stay. None
moves pixels so far."""

ChangeArrays = Callable[[Pixels, Pixels, np.random.Generator], None]
"""An augmentation of one's own: changes a finished crop in place, image uint8 H×W×3 and mask uint8 H×W."""


def own_augmentation(name: str, change: ChangeArrays) -> Augmentation:
    """Return an entry for a function; its generator is drawn for each sample, so that a run can be repeated."""

    # Named functions, which reach other processes, as lambdas do not.
    return Augmentation(_always, (f"{name}_seed",), _sample_seed, None, partial(_change_own, change), moves_pixels=True)


def _always(_: AugmentConfig) -> bool:
    return True


def _sample_seed(rng: np.random.Generator, _: AugmentConfig) -> tuple[float, ...]:
    return (float(rng.integers(1 << 24)),)  # a whole number that float32 holds


def _change_own(change: ChangeArrays, image: Pixels, mask: Pixels, fill: Color, **seed: float) -> None:
    del fill
    change(image, mask, np.random.default_rng(int(*seed.values())))


@contextmanager
def added_augmentations(entries: Mapping[str, Augmentation]) -> Iterator[None]:
    """Add ``entries`` to :data:`AUGMENTATIONS` while the block runs. Raises :class:`UserError` for a name in use."""
    for name, entry in entries.items():
        drawn = {name} | set(entry.parameters)
        if taken := drawn & {*AUGMENTATIONS, *parameter_names()}:
            raise UserError(
                f"the augmentation {name!r} uses the name {min(taken)!r} of another; give it one of its own"
            )
    AUGMENTATIONS.update(entries)
    try:
        yield
    finally:
        for name in entries:
            del AUGMENTATIONS[name]


def parameter_names() -> tuple[str, ...]:
    """Return the names of all that is drawn for a sample beside its window."""
    return tuple(name for augmentation in AUGMENTATIONS.values() for name in augmentation.parameters)


def sample_augmentations(
    seed: int, epoch: int, index: int, frame: tuple[int, int], config: AugmentConfig
) -> tuple[Window, tuple[float, ...]]:
    """Draw the window and the parameters of the sample at ``index``, whose frame has (height, width) pixels."""
    rng = sample_rng(seed, epoch, index)
    window = sample_crop(rng, frame, config)
    return window, tuple(
        number for augmentation in AUGMENTATIONS.values() for number in augmentation.sample(rng, config)
    )


def switched_on(config: AugmentConfig, moves_pixels: bool) -> list[Augmentation]:
    """Return those of the :data:`AUGMENTATIONS` that these settings ask for, and that move pixels or do not."""
    return [a for a in AUGMENTATIONS.values() if a.is_on(config) and a.moves_pixels == moves_pixels]
