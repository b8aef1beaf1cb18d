"""The DALI graphs: encoded images and masks in, uint8 batches out; and how one is run.

The training graph is a list of steps: decode what the crop needs → colour → resize → pad. What a crop needs has been
drawn before (:mod:`fastseg.data.draws`), once for image and mask: drawing twice with one seed has drifted apart for
others (https://github.com/NVIDIA/DALI/issues/2546).
"""

from collections.abc import Callable, Sequence
from itertools import tee
from typing import Any, NamedTuple

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import torch
from numpy.typing import NDArray
from nvidia.dali import pipeline_def

from fastseg.data.draws import Augmentation
from fastseg.labels import IGNORE

Array = NDArray[Any] | torch.Tensor
"""On a CPU, or on a GPU."""
Arrays = Sequence[Array]
"""One array per sample."""
DECODED = "decoded"
"""In place of a codec: images and masks are frames in memory, not files."""


class Crops(NamedTuple):
    """A batch for the training graph; each a list or an array of N."""

    image: Arrays
    """Encoded, or cut to the tiles that are needed (uint8, one dimension); or decoded: uint8 H×W×3 on the device."""
    mask: Arrays
    """Encoded (uint8, one dimension); or decoded: uint8 H×W×1 on the device."""
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
    """A batch for the evaluation graph, encoded."""

    image: Arrays
    mask: Arrays
    """Empty arrays in a split without masks."""


@pipeline_def
def train_graph(source: Callable[[], Crops], augmentation: Augmentation, device: str, codec: str) -> Any:
    """Crops as ``source`` says: image uint8 h×w×3 and mask uint8 h×w×1 on ``device``."""
    crops = take(source, augmentation, device, codec)
    image, mask = decode_image(crops, device, codec), decode_mask(crops, codec)
    if device == "gpu":  # where masks and PNGs are not decoded
        image, mask = image.gpu(), mask.gpu()
    image = pad(resize(image, crops, types.INTERP_LINEAR), crops, augmentation.crop, augmentation.fill)
    mask = pad(resize(mask, crops, types.INTERP_NN), crops, augmentation.crop, (IGNORE,))
    return image, mask


@pipeline_def
def windows_graph(source: Callable[[], Crops], augmentation: Augmentation, codec: str) -> Any:
    """The same on the CPU as far as decoding; :class:`fastseg.data.finish.Finisher` does the rest.

    Returns windows of images and masks (uint8, of various sizes), and ``size``, ``before`` and ``flip`` of
    :class:`Crops`.
    """
    crops = take(source, augmentation, "cpu", codec)
    return decode_image(crops, "cpu", codec), decode_mask(crops, codec), crops.size, crops.before, crops.flip


@pipeline_def
def eval_graph(source: Callable[[], Frames], device: str, codec: str, labelled: bool = True) -> Any:
    """Whole frames on ``device``: image uint8 H×W×3 and, of a ``labelled`` split, mask uint8 H×W×1."""
    needed = 2 if labelled else 1
    image, *masks = fn.external_source(lambda: source()[:needed], num_outputs=needed)
    image = fn.decoders.image(image, output_type=types.RGB, **_decoder(device, codec))
    outputs = (image, *(fn.decoders.image(mask, output_type=types.GRAY) for mask in masks))
    return tuple(output.gpu() for output in outputs) if device == "gpu" else outputs


def take(source: Callable[[], Crops], augmentation: Augmentation, device: str, codec: str) -> Crops:
    """The batch that ``source`` returns, as the nodes of a graph; colours only where there are any."""
    needed = len(Crops._fields) if augmentation.coloured else Crops._fields.index("colour")
    if codec != DECODED:
        return Crops(*fn.external_source(lambda: source()[:needed], num_outputs=needed))
    # One batch for two nodes, which may ask in any order: frames lie on the device, numbers on the CPU. On a GPU DALI
    # gathers separate frames in one buffer all the same: 67 MB for 8 of 2048×1024, 0.04 ms at 3.35 TB/s.
    frames, numbers = tee(iter(source, None))
    files = fn.external_source((crops[:2] for crops in frames), 2, device=device, layout="HWC", no_copy=True)
    return Crops(*files, *fn.external_source((crops[2:needed] for crops in numbers), needed - 2))


def decode_image(crops: Crops, device: str, codec: str) -> Any:
    """The windows of the images, coloured: uint8 of ``shape``."""
    image = _window(crops.image, crops.image_start, crops.shape, codec, types.RGB, **_decoder(device, codec))
    if crops.colour is None:
        return image
    brightness, contrast, saturation, hue = (crops.colour[i] for i in range(4))
    return fn.color_twist(image, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)


def decode_mask(crops: Crops, codec: str) -> Any:
    """The windows of the masks: uint8; files are decoded on the CPU."""
    return _window(crops.mask, crops.mask_start, crops.shape, codec, types.GRAY)


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


def _window(source: Any, start: Any, shape: Any, codec: str, output_type: Any, /, **decoder: Any) -> Any:
    if codec == DECODED:
        return fn.slice(source, start=start, shape=shape, axes=[0, 1])
    return fn.decoders.image_slice(source, start=start, shape=shape, axes=[0, 1], output_type=output_type, **decoder)


def run(pipeline: Any) -> Any:
    """One batch of each output, on a GPU in the order of torch's current stream."""
    return pipeline.run(torch.cuda.current_stream(pipeline.device_id) if pipeline.device_id is not None else None)
