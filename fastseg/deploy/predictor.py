"""A trained network for pictures of any size, for the Python interface and ``fastseg-predict``."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from math import ceil, isqrt
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastseg.deploy.predict_io import overlay, read_image
from fastseg.device import autocast, device_of, precision_of
from fastseg.errors import UserError, shown
from fastseg.labels import SegmentationClass, parse_class
from fastseg.model import checkpoint
from fastseg.model.inference import MULTI_SCALE, ONCE, TtaViews, predict, probabilities
from fastseg.model.network import SegmentationNetwork, restore_model
from fastseg.shards.images import set_upright

ImageLike = str | Path | Image.Image | NDArray[np.uint8] | Tensor
"""A file, a PIL image, or uint8 H×W×3 (or N×H×W×3), RGB."""
MEMORY = 6 << 30
"""Maximum bytes of a forward pass: enough for a whole 4K frame with 19 classes."""
OVERLAP = 256
"""Pixels that neighboring blocks of a larger picture share; each keeps its half."""


class Predictor:
    """A network, its classes and its device; made by :func:`load`.

    >>> import fastseg
    >>> model = fastseg.load("ckpt.pt", device="cpu")
    >>> [c.name for c in model.classes][:3]
    ['road', 'sidewalk', 'building']
    """

    def __init__(
        self,
        model: SegmentationNetwork,
        classes: Sequence[SegmentationClass],
        device: torch.device,
        precision: str = "auto",
        views: TtaViews = ONCE,
        arch: str = "",
    ) -> None:
        self.classes = tuple(classes)
        """Names and colors; a mask holds indexes into this tuple."""
        self.device = device
        self.precision = precision_of(precision, device)
        self.views = views
        self.arch = arch
        """torchvision's name of the network, if known."""
        self.model = model.to(device).eval()

    def __repr__(self) -> str:
        return f"<Predictor: {self.arch or 'a network'}, {len(self.classes)} classes, on {self.device}>"

    def predict(self, image: ImageLike) -> NDArray[np.uint8]:
        """Return the class of every pixel: uint8 H×W of the image's own size; N×H×W for a batch.

        >>> import fastseg
        >>> mask = fastseg.load("ckpt.pt", device="cpu").predict("street.jpg")
        >>> mask.dtype, mask.shape
        (dtype('uint8'), (64, 96))
        """
        frames, single = _frames(image)
        masks, _ = self.answer(frames)
        return masks[0] if single else masks

    def probabilities(self, image: ImageLike) -> NDArray[np.float32]:
        """Return the probability of every class at every pixel: float32 C×H×W; N×C×H×W for a batch.

        >>> import fastseg
        >>> fastseg.load("ckpt.pt", device="cpu").probabilities("street.jpg").shape
        (19, 64, 96)
        """
        frames, single = _frames(image)
        _, result = self.answer(frames, np.float32)
        return result[0] if single else result

    def overlay(self, image: ImageLike, alpha: float = 0.6) -> NDArray[np.uint8]:
        """Return the image under its classes' colors, ``alpha`` (0…1) of the color: uint8 H×W×3; N×H×W×3 for a batch.

        >>> import fastseg
        >>> from PIL import Image
        >>> picture = fastseg.load("ckpt.pt", device="cpu").overlay("street.jpg")
        >>> Image.fromarray(picture).save("overlay.png")
        """
        if not isinstance(alpha, Real) or not 0 <= alpha <= 1:
            raise UserError(f"alpha is {shown(alpha)}; it must be from 0 (the image alone) to 1 (the colors alone)")
        frames, single = _frames(image)
        masks, _ = self.answer(frames)
        pictures = np.stack([overlay(*pair, self.classes, alpha) for pair in zip(frames, masks, strict=True)])
        return pictures[0] if single else pictures

    @torch.inference_mode()
    def answer(self, frames: NDArray[np.uint8], of: Any = None) -> tuple[NDArray[np.uint8], Any]:
        """Predict frames uint8 N×H×W×3: classes, uint8 N×H×W, and if ``of`` is a dtype, probabilities in it, N×C×H×W.

        Takes about :data:`MEMORY` bytes beside the result, whatever the number and size of the frames: fewer at a time,
        or each in overlapping blocks.
        """
        n, height, width = frames.shape[:3]
        masks = np.empty((n, height, width), np.uint8)
        result = np.empty((n, len(self.classes), height, width), of) if of else None
        pixels = pixels_at_once(len(self.classes), max(self.views.scales))
        together = max(pixels // (height * width), 1)
        if self.model.stretch_to:  # takes only whole pictures, of any size
            pixels = max(pixels, height * width)
        for start, (rows, columns) in product(range(0, n, together), list(blocks(height, width, pixels))):
            images = slice(start, start + together)
            seen = frames[images, rows.seen, columns.seen]
            classes, probability = self._infer(seen, result is not None)
            masks[images, rows.kept, columns.kept] = classes[:, rows.inner, columns.inner].cpu().numpy()
            if result is not None and probability is not None:
                part = probability[:, :, rows.inner, columns.inner].cpu().numpy()
                result[images, :, rows.kept, columns.kept] = part
        return masks, result

    def _infer(self, frames: NDArray[np.uint8], probably: bool) -> tuple[Tensor, Tensor | None]:
        image = torch.from_numpy(np.require(frames, requirements=["C", "W"])).to(self.device)
        with autocast(self.precision, self.device):
            if not probably:
                return predict(self.model, image, self.views), None
            shares = probabilities(self.model, image, self.views)
            return shares.argmax(1).to(torch.uint8), shares


def load(
    path: str | Path,
    device: str | torch.device = "auto",
    precision: str = "auto",
    *,
    tta: bool = False,
    window: tuple[int, int] | None = None,
) -> Predictor:
    """Load a checkpoint's network, with averaged weights if there are any.

    ``device``: auto (a GPU if there is one), cuda, cuda:1, cpu. ``precision``: auto, bf16, fp16, fp32. ``tta``: average
    over six scales, each also mirrored. ``window``: predict by sliding windows of this height and width. Raises
    :class:`fastseg.UserError` if the file or the device cannot be used.

    >>> import fastseg
    >>> model = fastseg.load("ckpt.pt", device="cpu")
    >>> mask = model.predict("street.jpg")
    >>> model.classes[mask[0, 0]].name in {c.name for c in model.classes}
    True
    """
    path = Path(path)
    saved = checkpoint.load(path)
    classes = [parse_class(entry, f"{path}, class {i}") for i, entry in enumerate(saved["classes"])]
    views = TtaViews(MULTI_SCALE.scales, MULTI_SCALE.flip, window) if tta else TtaViews(window=window)
    views.check(saved["stretch_to"])
    return Predictor(restore_model(saved), classes, device_of(device), precision, views, saved["arch"])


def pixels_at_once(classes: int, scale: float) -> int:
    """Return the pixels of a frame for which :data:`MEMORY` is enough, if the network sees it ``scale`` times as large.

    Measured, a ResNet-50 takes about 400 bytes a pixel in float32, and a pixel's scores lie in memory three times.
    """
    return int(MEMORY / (512 * max(scale, 1.0) ** 2 + 12 * classes))


class Span:
    """A block's extent along one side of a picture."""

    def __init__(self, start: int, end: int, first: int, last: int) -> None:
        """Let the network see ``start`` to ``end``, of which ``first`` to ``last`` are kept."""
        self.seen, self.kept, self.inner = slice(start, end), slice(first, last), slice(first - start, last - start)


def blocks(height: int, width: int, pixels: int) -> Iterator[tuple[Span, Span]]:
    """Yield rows and columns of blocks of at most ``pixels`` that cover a picture; one if it is small enough."""
    if height * width <= pixels:
        yield Span(0, height, 0, height), Span(0, width, 0, width)
        return
    short = min(height, width, max(isqrt(pixels), 2 * OVERLAP))
    long = max(pixels // short, 2 * OVERLAP)
    tall, wide = (short, long) if height <= width else (long, short)
    yield from product(_spans(height, tall), _spans(width, wide))


def _spans(length: int, size: int) -> list[Span]:
    """Return evenly spread blocks of ``size`` along a side, with borders in the middle of their overlaps."""
    if length <= size:
        return [Span(0, length, 0, length)]
    count = ceil((length - OVERLAP) / (size - OVERLAP))
    starts = [(length - size) * i // (count - 1) for i in range(count)]
    borders = [0, *((a + size + b) // 2 for a, b in pairwise(starts)), length]
    return [Span(a, a + size, borders[i], borders[i + 1]) for i, a in enumerate(starts)]


def _frames(image: ImageLike) -> tuple[NDArray[np.uint8], bool]:
    """Return pictures as uint8 N×H×W×3, and whether it was a single one."""
    if isinstance(image, (str, Path)):
        image = read_image(Path(image))
    elif isinstance(image, Image.Image):
        if image.mode.startswith("I;") or image.mode in ("I", "F"):
            raise UserError(f"the image has pixels of mode {image.mode}; give its file, or 8 bits")
        image = set_upright(image).convert("RGB")
    try:
        array = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    except ValueError:  # several of different sizes
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise UserError(f"the image is {shown(image)}; give one path, picture or array at a time")
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise UserError(
            f"the image is {array.dtype} of the shape {array.shape}; it must be uint8 of the shape (height, width, 3) "
            "or (images, height, width, 3), RGB"
        )
    return (array[None], True) if array.ndim == 3 else (array, False)
