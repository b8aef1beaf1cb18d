"""Take images as they come, files, PIL images, arrays and tensors, as bytes N×H×W×3 in RGB order."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastseg.deploy.predict_io import read_image
from fastseg.errors import UserError, shown
from fastseg.shards.images import set_upright

ImageLike = str | Path | Image.Image | NDArray[Any] | Tensor
"""A file, a PIL image, or an array or a tensor of three or four dimensions (:func:`read_frames`)."""


class Frames(NamedTuple):
    """One image or a batch."""

    frames: Tensor
    """uint8 N×H×W×3, RGB; on the device of a tensor that was given, else on the CPU."""
    single: bool
    """Whether it was one image, not a batch."""
    path: Path | None = None
    """Its file."""


def read_frames(image: ImageLike, bgr: bool = False, trained_white: int | None = None) -> Frames:
    """Read an image, or a batch of one size.

    Files and PIL images: of any mode with 8 bits, or a file with 16; turned upright by EXIF. Arrays and tensors:
    H×W×3 or 3×H×W, or N of them; uint8, or floating-point numbers from 0 to 1; RGB, or with ``bgr`` OpenCV's order.
    ``trained_white`` is that of 16-bit images in training. Raises :class:`UserError` for anything else, and for a shape
    that can be read in both ways.
    """
    if isinstance(image, (str, Path, Image.Image)):
        if bgr:
            raise UserError("bgr is True, but only arrays and tensors can be in OpenCV's order; leave it out")
        path = Path(image) if isinstance(image, (str, Path)) else None
        picture = _upright(image) if isinstance(image, Image.Image) else read_image(Path(image), None, trained_white)
        return Frames(torch.from_numpy(np.array(picture))[None], True, path)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise UserError(f"the image is {shown(image)}; it must be a path, a PIL image, an array or a tensor")
    try:
        # Copied, because a result keeps its image, and OpenCV's cameras fill the same array again.
        tensor = image.detach().clone() if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    except TypeError:  # a type that torch does not have
        raise UserError(f"the image is an array of {image.dtype}; {_WANTED}") from None
    frames = _to_bytes(_channels_last(tensor))
    frames = frames.flip(-1) if bgr else frames
    return Frames(frames if frames.ndim == 4 else frames[None], frames.ndim == 3)


_WANTED = "it must be uint8, or floating-point from 0 to 1, of the shape H×W×3 or 3×H×W, or N of them"


def _upright(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;") or image.mode in ("I", "F"):
        raise UserError(f"the image has pixels of mode {image.mode}; give its file, or 8 bits")
    return set_upright(image).convert("RGB")


def _channels_last(image: Tensor) -> Tensor:
    """Return H×W×3 or N×H×W×3; raise :class:`UserError` if no dimension, or more than one, can be the channels'."""
    shape = tuple(image.shape)
    last, first = (len(shape) in (3, 4) and shape[axis] == 3 for axis in (-1, -3))
    if not (last or first) or 0 in shape:
        raise UserError(f"the image is {_kind(image)} of the shape {shape}; {_WANTED}")
    if last and first:
        raise UserError(
            f"the image has the shape {shape}, which can be read as H×W×3 and as 3×H×W; pad or cut the side of 3 pixels"
        )
    return image if last else image.movedim(-3, -1)


def _to_bytes(image: Tensor) -> Tensor:
    """Return bytes for bytes, and for floating-point numbers from 0 to 1."""
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise UserError(f"the image is {_kind(image)}; {_WANTED}")
    low, high = (float(value) for value in image.aminmax())
    if not 0 <= low <= high <= 1:  # NaN is refused, too
        scaled = low >= 0 and high <= 255
        cure = "divide it by 255" if scaled else "undo its normalization, which the network does itself"
        raise UserError(f"the image is {_kind(image)} from {low:g} to {high:g}, and must be from 0 to 1; {cure}")
    return (image * 255).round().to(torch.uint8)


def _kind(image: Tensor) -> str:
    return str(image.dtype).removeprefix("torch.")
