"""A trained network for pictures of any size, for the Python interface and ``fastseg-predict``."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, product
from math import ceil, isqrt
from pathlib import Path
from typing import Any, overload

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastseg.arguments import naming_arguments
from fastseg.deploy.image_input import ImageLike, read_frames
from fastseg.deploy.predict_io import Input, find_inputs
from fastseg.deploy.result import Result
from fastseg.deploy.video import probe, read_video
from fastseg.device import autocast, device_of, precision_of
from fastseg.errors import UserError, out_of_memory, shown
from fastseg.labels import SegmentationClass, parse_class
from fastseg.memory import abandon, blank, pixels_that_fit, too_little
from fastseg.model import checkpoint
from fastseg.model.checkpoint_file import resolve_checkpoint
from fastseg.model.inference import MULTI_SCALE, ONCE, TtaViews, predict, probabilities
from fastseg.model.network import SegmentationNetwork, restore_model

MEMORY = 6 << 30
"""Maximum bytes of a forward pass: enough for a whole 4K frame with 19 classes."""
OVERLAP = 256
"""Pixels that neighboring blocks of a larger picture share at least; each keeps its half."""
ALIGNMENT = 32
"""Blocks begin at multiples of this: the grid on which the network sees a block is the whole picture's then."""
SMALLEST = 4 * ALIGNMENT
"""Smallest tile, pixels."""


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
        tile: int | None = None,
        white: int | None = None,
    ) -> None:
        self.classes = tuple(classes)
        """Names and colors; a mask holds indexes into this tuple."""
        self.device = device
        """Device that computes."""
        self.precision = precision_of(precision, device)
        """bf16, fp16 or fp32."""
        self.views = views
        """Scales and flips that are averaged; one view by default."""
        self.arch = arch
        """torchvision's name of the network, if known."""
        self.tile = tile
        """Side of the largest block that the network sees at once, pixels; None: as large as :data:`MEMORY` takes."""
        self.white = white
        """Value of white in 16-bit images that the network was trained on; None if there were none."""
        self.model = model.to(device).eval()
        """The network, a torch module."""

    def __repr__(self) -> str:
        return f"<Predictor: {self.arch or 'a network'}, {len(self.classes)} classes, on {self.device}>"

    @overload
    def __call__(self, source: Image.Image, *, bgr: bool = ..., probabilities: bool = ...) -> Result: ...
    @overload
    def __call__(
        self, source: list[Any] | tuple[Any, ...], *, bgr: bool = ..., probabilities: bool = ...
    ) -> list[Result]: ...
    @overload
    def __call__(
        self, source: str | Path | NDArray[Any] | Tensor, *, bgr: bool = ..., probabilities: bool = ...
    ) -> Any: ...
    def __call__(self, source: Any, *, bgr: bool = False, probabilities: bool = False) -> Any:
        """Predict images: return a :class:`.Result` for one, a list of them for several, an iterator for a folder.

        ``source``: a file, a PIL image, an array or a tensor (H×W×3 or 3×H×W, uint8 or floating-point from 0 to 1,
        RGB, with ``bgr`` OpenCV's order); a batch N×H×W×3 or N×3×H×W, or a list or tuple of any of these; a folder,
        whose images are predicted as the iterator is read, or a video, frame by frame. ``probabilities``: also keep
        them, 4 bytes per class and pixel. Results of a tensor stay on its device. Raises :class:`fastseg.UserError` for
        anything else.

        >>> import fastseg
        >>> model = fastseg.load("ckpt.pt", device="cpu")
        >>> model("street.jpg", probabilities=True).probabilities.shape
        (19, 64, 96)
        >>> [result.mask.shape for result in model(["street.jpg", "street.jpg"])]
        [(64, 96), (64, 96)]
        """
        if isinstance(source, (list, tuple)):
            several: list[Result] = []
            for image in source:
                found = self(image, bgr=bgr, probabilities=probabilities)
                several += [found] if isinstance(found, Result) else found
            return _numbered(several)
        if isinstance(source, (str, Path)) and (Path(source).is_dir() or Input(Path(source), Path()).is_video):
            return self._walk(Path(source), bgr, probabilities)
        frames, single, path = read_frames(source, bgr, self.white)
        masks, shares = self.answer(frames, torch.float32 if probabilities else None)
        results = [
            Result(frame, mask, self.classes, None if shares is None else shares[i], path)
            for i, (frame, mask) in enumerate(zip(frames, masks, strict=True))
        ]
        return results[0] if single else _numbered(results)

    def _walk(self, path: Path, bgr: bool, probabilities: bool) -> Iterator[Result]:
        """Return an iterator over a video's frames, or a folder's images, which exist."""
        named: Iterable[tuple[ImageLike, Path]]
        if path.is_dir():
            files = find_inputs([path], path / "predictions", lambda sentence: warnings.warn(sentence, stacklevel=4))
            named = [(file.path, file.name) for file in files if not file.is_video]
        else:
            probe(path)
            named = ((frame, Path(path.stem) / f"{i:06d}.png") for i, frame in enumerate(read_video(path)))
        return (self(image, bgr=bgr, probabilities=probabilities).called(name) for image, name in named)

    @torch.no_grad()  # not inference_mode: the results are the caller's, to change in place
    def answer(self, frames: Tensor, kind: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
        """Predict frames uint8 N×H×W×3: classes, uint8 N×H×W, and if ``kind`` is given, probabilities in it, N×C×H×W.

        The results lie where the frames do. Takes about :data:`MEMORY` bytes beside them, or what :attr:`tile` takes,
        whatever the number and size of the frames: fewer at a time, or each in overlapping blocks. Raises
        :class:`UserError` if the device has too little.
        """
        n, height, width = frames.shape[:3]
        with self._explaining(n, height, width, kind is not None):
            return self._answer(frames, kind)

    def _answer(self, frames: Tensor, kind: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
        n, height, width = frames.shape[:3]
        masks = frames.new_empty((n, height, width))
        result = frames.new_empty((n, len(self.classes), height, width), dtype=kind) if kind else None
        pixels = self._pixels()
        together = max(pixels // (height * width), 1)
        if self.model.stretch_to:  # takes only whole pictures, of any size
            pixels = max(pixels, height * width)
        for start, (rows, columns) in product(range(0, n, together), list(blocks(height, width, pixels, self.tile))):
            images = slice(start, start + together)
            classes, probability = self._infer(frames[images, rows.seen, columns.seen], result is not None)
            masks[images, rows.kept, columns.kept] = classes[:, rows.inner, columns.inner].to(masks.device)
            if result is not None and probability is not None:
                part = probability[:, :, rows.inner, columns.inner]
                result[images, :, rows.kept, columns.kept] = part.to(result.device, result.dtype)
        return masks, result

    def _pixels(self) -> int:
        """Return the pixels that go through the network at a time."""
        return self.tile**2 if self.tile else pixels_at_once(len(self.classes), max(self.views.scales))

    @contextmanager
    def _explaining(self, n: int, height: int, width: int, probably: bool) -> Iterator[None]:
        """Turn an error about too little memory into a :class:`UserError` that says which tiles would fit."""
        try:
            yield
        except Exception as error:
            if not out_of_memory(error):
                raise
            abandon(error, self.device)
            work = f"predict {'a picture' if n == 1 else f'{n} pictures'} of {width}×{height} pixels"
            raise too_little(self.device, work, self._cure(n * height * width, probably)) from None

    def _cure(self, pixels: int, probably: bool) -> str:
        """Return what to do if ``pixels`` were too many, by the measured memory of a few."""
        smaller = f"make the pictures smaller{', or take --device cpu' * (self.device.type == 'cuda')}"
        if self.model.stretch_to:
            return f"lower --batch, or {smaller}"
        side = isqrt(pixels_that_fit(lambda side: self._infer(blank(side, self.device), probably), self.device))
        side = side // ALIGNMENT * ALIGNMENT
        if side < SMALLEST:
            return smaller
        if side**2 < min(pixels, self._pixels()):
            return f"--tile {side} fits"
        return f"{'leave out --probabilities, ' if probably else ''}lower --batch, or {smaller}"

    def _infer(self, frames: Tensor, probably: bool) -> tuple[Tensor, Tensor | None]:
        image = frames.contiguous().to(self.device)
        with autocast(self.precision, self.device):
            if not probably:
                return predict(self.model, image, self.views), None
            shares = probabilities(self.model, image, self.views)
            return shares.argmax(1).to(torch.uint8), shares


def _numbered(results: list[Result]) -> list[Result]:
    """Name the results of images without a file by their order."""
    return [result if result.path else result.called(f"{i:06d}.png") for i, result in enumerate(results)]


def load(
    source: str | os.PathLike[str],
    device: str | torch.device = "auto",
    precision: str = "auto",
    *,
    tta: bool = False,
    window: tuple[int, int] | None = None,
    tile: int | None = None,
) -> Predictor:
    """Load a trained network, with averaged weights if there are any.

    ``source``: a run's folder (its best checkpoint, else the last), a checkpoint, what ``fastseg-export --to
    safetensors`` wrote, or ``hf://USER/NAME[@REVISION]`` on the Hugging Face Hub. ``device``: auto (a GPU if there is
    one), cuda, cuda:1, cpu. ``precision``: auto, bf16, fp16, fp32. ``tta``: average over six scales, each also
    mirrored. ``window``: predict by sliding windows of this height and width. ``tile``: cut larger pictures into
    overlapping tiles of this height and width, for devices with little memory. Raises :class:`fastseg.UserError` if the
    source or the device cannot be used.

    >>> import fastseg
    >>> model = fastseg.load("ckpt.pt", device="cpu")
    >>> result = model("street.jpg")
    >>> model.classes[result.mask[0, 0]].name in {c.name for c in model.classes}
    True
    """
    with naming_arguments():
        path = resolve_checkpoint(source)
        saved = checkpoint.load(path)
        classes = [parse_class(entry, f"{path}, class {i}") for i, entry in enumerate(saved["classes"])]
        views = TtaViews(MULTI_SCALE.scales, MULTI_SCALE.flip, window) if tta else TtaViews(window=window)
        views.check(saved["stretch_to"])
        _check_tile(tile, saved["stretch_to"])
        more = (views, saved["arch"], tile, checkpoint.white_of(saved, path))
        return Predictor(restore_model(saved), classes, device_of(device), precision, *more)


def _check_tile(tile: object, stretch_to: object) -> None:
    if tile is None:
        return
    if not isinstance(tile, int) or tile < SMALLEST or tile % ALIGNMENT:
        raise UserError(f"--tile is {shown(tile)}; it must be a multiple of {ALIGNMENT} pixels, {SMALLEST} or more")
    if stretch_to:
        raise UserError(
            "the network was trained on stretched frames (--data.resize stretch) and sees only whole ones; leave out "
            "--tile"
        )


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


def blocks(height: int, width: int, pixels: int, tile: int | None = None) -> Iterator[tuple[Span, Span]]:
    """Yield rows and columns of blocks of at most ``pixels`` that cover a picture; one if it is small enough.

    ``tile``: the blocks' height and width.
    """
    if height * width <= pixels and not tile:
        yield Span(0, height, 0, height), Span(0, width, 0, width)
        return
    short = min(height, width, max(isqrt(pixels), 2 * OVERLAP))
    long = max(pixels // short, 2 * OVERLAP)
    tall, wide = (tile, tile) if tile else (short, long) if height <= width else (long, short)
    yield from product(_spans(height, tall), _spans(width, wide))


def _spans(length: int, size: int) -> list[Span]:
    """Return evenly spread blocks of at most ``size`` along a side, with borders in the middle of their overlaps."""
    if length <= size:
        return [Span(0, length, 0, length)]
    size -= size % ALIGNMENT
    overlap = min(OVERLAP, size // 2)
    count = 1 + ceil((length - size) / (size - overlap - ALIGNMENT + 1))  # all begin up to ALIGNMENT - 1 later
    starts = [ceil((length - size) * i / (count - 1) / ALIGNMENT) * ALIGNMENT for i in range(count)]
    borders = [0, *((a + size + b) // 2 for a, b in pairwise(starts)), length]
    return [Span(a, min(a + size, length), borders[i], borders[i + 1]) for i, a in enumerate(starts)]
