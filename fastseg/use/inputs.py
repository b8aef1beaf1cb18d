"""What is to be predicted: images, folders of them, videos; found, named and read."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fastseg.data.images import read_rgb
from fastseg.errors import UserError
from fastseg.use.outputs import KINDS

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
LARGEST = 1 << 28
"""Pixels of an image, 16384². By measurement one takes 13 bytes a pixel from file to PNG, 3.3 GiB of these, and those
read ahead 3 bytes a pixel each; a header may claim 4 thousand million pixels."""


@dataclass(frozen=True)
class Input:
    """A file, and the name that its results get."""

    path: Path
    name: Path
    """Relative: the file's own name, below a given folder the path within it."""

    @property
    def is_video(self) -> bool:
        """By its name."""
        return self.path.suffix.lower() in VIDEOS


def find_inputs(paths: Sequence[Path], out: Path) -> list[Input]:
    """The files among ``paths`` and all images and videos in the folders among them, sorted; no results in ``out``.

    Raises :class:`UserError` for a path that is not there and a folder that holds none.
    """
    found: list[Input] = []
    without = {place.resolve() for place in (out, *(out / kind for kind in KINDS))}
    for path in paths:
        if path.is_dir():
            inside = [Input(file, file.relative_to(path)) for file in _files(path, without)]
            if not inside:
                raise UserError(f"{path} holds no images or videos ({' '.join(IMAGES + VIDEOS)})")
            found += inside
        elif path.is_file():
            found.append(Input(path, Path(path.name)))
        else:
            raise UserError(f"{path} does not exist; name images, videos, or folders of them")
    return found


def read_image(path: Path) -> Image.Image:
    """An image file as 8-bit RGB, upright. Raises :class:`UserError` for what is none or damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); check the file's permissions and the disk"
        ) from None
    return read_rgb(data, str(path), LARGEST)[0]


def _files(folder: Path, without: set[Path]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        kept = (name for name in folders if not name.startswith(".") and (Path(parent) / name).resolve() not in without)
        folders[:] = sorted(kept)
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGES + VIDEOS:
                yield Path(parent) / name
