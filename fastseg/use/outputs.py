"""Predictions as files: overlays, masks, probabilities, named after what they are of."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.files import atomic_path, write_atomic
from fastseg.labels import SegmentationClass
from fastseg.score.overlay import Mask, Picture, blend

KINDS = ("overlays", "masks", "probabilities")
"""What there is of each picture, and the folders it goes to."""
ROWS = 64
"""Blended at a time."""


@dataclass(frozen=True)
class Outputs:
    """Where results go: ``overlays/NAME``, ``masks/STEM.png`` and ``probabilities/STEM.npz`` below a folder."""

    folder: Path
    classes: tuple[SegmentationClass, ...]
    """Of the network; for places alone none are needed."""
    overlays: bool = True
    """JPEG for a JPEG, else PNG."""
    masks: bool = False
    """PNG of train ids in the classes' colours (a palette)."""
    probabilities: bool = False
    """Compressed NumPy archive: ``probabilities``, float16 C×H×W, and ``classes``, the names."""

    def overlay_path(self, name: Path, suffix: str | None = None) -> Path:
        """Of an image called ``name``; of a video with its own ``suffix``."""
        jpeg = name.suffix.lower() in (".jpg", ".jpeg")
        return self.folder / "overlays" / name.with_suffix(suffix or (name.suffix if jpeg else ".png"))

    def mask_path(self, name: Path) -> Path:
        return self.folder / "masks" / name.with_suffix(".png")

    def probabilities_path(self, name: Path) -> Path:
        return self.folder / "probabilities" / name.with_suffix(".npz")

    def image_paths(self, name: Path) -> Iterator[Path]:
        """All files that an image gets."""
        if self.overlays:
            yield self.overlay_path(name)
        yield from self._raw_paths(name)

    def _raw_paths(self, name: Path) -> Iterator[Path]:
        if self.masks:
            yield self.mask_path(name)
        if self.probabilities:
            yield self.probabilities_path(name)

    def video_paths(self, name: Path, suffix: str) -> Iterator[Path]:
        """The video of overlays, and the folders of frames."""
        if self.overlays:
            yield self.overlay_path(name, suffix)
        yield from (path.with_suffix("") for path in self._raw_paths(name))

    def frame_name(self, name: Path, number: int) -> Path:
        """Of a frame of the video called ``name``, counted from 0."""
        return name.with_suffix("") / f"{number:06d}.png"

    def drop_frames(self, name: Path, first: int) -> None:
        """Remove the files of a video's frames from number ``first`` on: what a longer one of this name left."""
        for number in count(first):
            there = [path for path in self._raw_paths(self.frame_name(name, number)) if path.exists()]
            if not there:
                return
            for path in there:
                path.unlink()

    def write_image(self, name: Path, image: Picture, mask: Mask, shares: NDArray[Any] | None) -> None:
        """All files of one image."""
        if self.overlays:
            path = self.overlay_path(name)
            picture = Image.fromarray(overlay(image, mask, self.classes))
            _save(picture, path, **({"quality": 92, "subsampling": 0} if path.suffix != ".png" else {}))
        self.write_raw(name, mask, shares)

    def write_raw(self, name: Path, mask: Mask, shares: NDArray[Any] | None) -> None:
        """The mask and the probabilities, where they are wanted."""
        if self.masks:
            _save(palette_image(mask, self.classes), self.mask_path(name))
        if self.probabilities and shares is not None:
            names = np.array([c.name for c in self.classes])
            with atomic_path(self.probabilities_path(name)) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, probabilities=shares, classes=names)


def overlay(image: Picture, mask: Mask, classes: Sequence[SegmentationClass], alpha: float = 0.6) -> NDArray[np.uint8]:
    """:func:`fastseg.score.overlay.blend`, a few rows at a time: it makes large float copies."""
    result = np.empty_like(image)
    for top in range(0, len(image), ROWS):
        rows = slice(top, top + ROWS)
        result[rows] = blend(image[rows], mask[rows], classes, alpha)
    return result


def palette_image(mask: Mask, classes: Sequence[SegmentationClass]) -> Image.Image:
    """Train ids that look like their classes: Pillow and NumPy read the ids, people see the colours."""
    image = Image.fromarray(mask)
    image.putpalette(bytes(channel for c in classes for channel in c.color))
    return image


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if path.suffix == ".png" else "JPEG", **options)
    write_atomic(path, buffer.getvalue())
