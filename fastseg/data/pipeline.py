"""The DALI graphs: encoded images and masks in, uint8 batches out. Nothing else lives here.

The training graph is a list of steps: decode what the crop needs → colour → resize → pad. What a crop needs has been
drawn before (:mod:`fastseg.data.draws`), once for image and mask: drawing twice with one seed has drifted apart for
others (https://github.com/NVIDIA/DALI/issues/2546).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from numpy.typing import NDArray
from nvidia.dali import pipeline_def

from fastseg.data.draws import Augmentation
from fastseg.labels import IGNORE

Arrays = list[NDArray[Any]]
"""One array per sample."""


class Crops(NamedTuple):
    """A batch for the training graph; each a list or an array of N."""

    image: Arrays
    """Encoded, or cut to the tiles that are needed (uint8, one dimension)."""
    mask: Arrays
    """Encoded (uint8, one dimension)."""
    image_start: NDArray[np.int32]
    """First row and column of the window in ``image``, N×2."""
    mask_start: NDArray[np.int32]
    """The same in ``mask``."""
    shape: NDArray[np.int32]
    """Rows and columns of the window, N×2."""
    size: NDArray[np.int32]
    """What they are resized to, N×2."""
    before: NDArray[np.int32]
    """Rows above and columns left of that in the finished crop, N×2."""
    flip: NDArray[np.int32]
    """1 to mirror left-right, 0 not to: N."""
    colour: NDArray[np.float32] | None = None
    """Factors of brightness, contrast, saturation, and degrees of hue, N×4."""


class Frames(NamedTuple):
    """A batch for the evaluation graph."""

    image: Arrays
    mask: Arrays


@pipeline_def
def train_graph(source: Callable[[], Crops], augmentation: Augmentation, device: str, codec: str) -> Any:
    """Crops as ``source`` says: image uint8 h×w×3 and mask uint8 h×w×1 on ``device``."""
    crops = take(source, augmentation)
    image, mask = decode_image(crops, device, codec), decode_mask(crops)
    mask = mask.gpu() if device == "gpu" else mask
    image = pad(resize(image, crops, types.INTERP_LINEAR), crops, augmentation.crop, augmentation.fill)
    mask = pad(resize(mask, crops, types.INTERP_NN), crops, augmentation.crop, (IGNORE,))
    return image, mask


@pipeline_def
def windows_graph(source: Callable[[], Crops], augmentation: Augmentation, codec: str) -> Any:
    """The same on the CPU as far as decoding; :class:`fastseg.data.finish.Finisher` does the rest.

    Returns windows of images and masks (uint8, of various sizes), and ``size``, ``before`` and ``flip`` of
    :class:`Crops`.
    """
    crops = take(source, augmentation)
    return decode_image(crops, "cpu", codec), decode_mask(crops), crops.size, crops.before, crops.flip


@pipeline_def
def eval_graph(source: Callable[[], Frames], device: str, codec: str) -> Any:
    """Whole frames: image uint8 H×W×3 and mask uint8 H×W×1 on ``device``."""
    frames = Frames(*fn.external_source(source, num_outputs=len(Frames._fields)))
    image = fn.decoders.image(frames.image, output_type=types.RGB, **_decoder(device, codec))
    mask = fn.decoders.image(frames.mask, output_type=types.GRAY)
    return (image.gpu(), mask.gpu()) if device == "gpu" else (image, mask)


def take(source: Callable[[], Crops], augmentation: Augmentation) -> Crops:
    """The batch that ``source`` returns, as the nodes of a graph; colours only where there are any."""
    needed = len(Crops._fields) if augmentation.coloured else Crops._fields.index("colour")
    return Crops(*fn.external_source(lambda: source()[:needed], num_outputs=needed))


def decode_image(crops: Crops, device: str, codec: str) -> Any:
    """The windows of the images, coloured: uint8 of ``shape``."""
    image = _decode(crops.image, crops.image_start, crops.shape, types.RGB, **_decoder(device, codec))
    image = image.gpu() if device == "gpu" else image
    if crops.colour is None:
        return image
    brightness, contrast, saturation, hue = (crops.colour[i] for i in range(4))
    return fn.color_twist(image, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)


def decode_mask(crops: Crops) -> Any:
    """The windows of the masks: uint8, on the CPU."""
    return _decode(crops.mask, crops.mask_start, crops.shape, types.GRAY)


def resize(window: Any, crops: Crops, interpolation: Any) -> Any:
    """Resize (bilinear: antialiased) and flip windows."""
    shape, size = (fn.cast(numbers, dtype=types.FLOAT) for numbers in (crops.shape, crops.size))
    # A region that ends before it starts is resized mirrored.
    mirrored = types.Constant([0.0, 1.0], dtype=types.FLOAT) * fn.cast(crops.flip, dtype=types.FLOAT) * shape
    return fn.resize(
        window, roi_start=mirrored, roi_end=shape - mirrored, size=size, interp_type=interpolation, antialias=True
    )


def pad(window: Any, crops: Crops, crop: tuple[int, int], fill: tuple[int, ...]) -> Any:
    """Put resized windows at their place in the crop, on ``fill``."""
    return fn.slice(
        window,
        start=-crops.before,
        shape=list(crop),
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=list(fill),
    )


def _decoder(device: str, codec: str) -> dict[str, Any]:
    """Where an image is decoded. Only JPEG by the GPU: a PNG under "mixed" falls back to the CPU without a word."""
    if device == "cpu" or codec != "jpg":
        return {"device": "cpu"}
    # Halved chroma is interpolated as the CPU's decoder does it, so that both see the same pixels.
    return {"device": "mixed", "jpeg_fancy_upsampling": True}


def _decode(encoded: Any, start: Any, shape: Any, output_type: Any, **decoder: Any) -> Any:
    return fn.decoders.image_slice(encoded, start=start, shape=shape, axes=[0, 1], output_type=output_type, **decoder)
