"""Write predictions as overlays, masks and probabilities named after their inputs, and find the inputs."""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.errors import UserError
from fastseg.files import atomic_path, describe_missing, write_atomic
from fastseg.labels import SegmentationClass
from fastseg.report.overlays import ALPHA, classes_by_size, draw_overlay
from fastseg.report.pictures import Mask, Picture
from fastseg.shards.images import as_rgb, load_image, read_deep
from fastseg.shards.tar import MAX_FILE
from fastseg.storage import read_bytes

KINDS = ("overlays", "masks", "probabilities")
"""Kinds of results, and their folders."""


@dataclass(frozen=True)
class Outputs:
    """Paths of results: ``overlays/NAME``, ``masks/STEM.png`` and ``probabilities/STEM.npz`` below a folder."""

    folder: Path
    classes: tuple[SegmentationClass, ...]
    """Classes of the network; not needed for paths alone."""
    overlays: bool = True
    """Whether to write overlays: JPEG for a JPEG, else PNG."""
    masks: bool = False
    """Whether to write PNGs of train ids with a palette of the classes' colors."""
    probabilities: bool = False
    """Whether to write compressed NumPy archives: ``probabilities``, float16 C×H×W, and ``classes``, the names."""
    alpha: float = ALPHA
    """Weight of the classes' colors in overlays, 0…1."""
    legend: bool = True
    """Whether overlays name the classes that occur."""
    contours: bool = False
    """Whether overlays outline the classes."""

    def overlay_path(self, name: Path, suffix: str | None = None) -> Path:
        """Return the path of the overlay of the image ``name``, or of a video with its ``suffix``."""
        jpeg = name.suffix.lower() in (".jpg", ".jpeg")
        return self.folder / "overlays" / name.with_suffix(suffix or (name.suffix if jpeg else ".png"))

    def mask_path(self, name: Path) -> Path:
        """Return the path of the mask of ``name``."""
        return self.folder / "masks" / name.with_suffix(".png")

    def probabilities_path(self, name: Path) -> Path:
        """Return the path of the probabilities of ``name``."""
        return self.folder / "probabilities" / name.with_suffix(".npz")

    def image_paths(self, name: Path) -> Iterator[Path]:
        """Yield the paths of all results of an image."""
        if self.overlays:
            yield self.overlay_path(name)
        yield from self._raw_paths(name)

    def _raw_paths(self, name: Path) -> Iterator[Path]:
        if self.masks:
            yield self.mask_path(name)
        if self.probabilities:
            yield self.probabilities_path(name)

    def video_paths(self, name: Path, suffix: str) -> Iterator[Path]:
        """Yield the paths of the video of overlays and of the folders of frames."""
        if self.overlays:
            yield self.overlay_path(name, suffix)
        yield from (path.with_suffix("") for path in self._raw_paths(name))

    def frame_name(self, name: Path, number: int) -> Path:
        """Return the name of a frame of the video called ``name``, counted from 0."""
        return name.with_suffix("") / f"{number:06d}.png"

    def drop_frames(self, name: Path, first: int) -> None:
        """Remove a video's frames from number ``first`` on, which an earlier, longer one of this name left."""
        for number in count(first):
            there = [path for path in self._raw_paths(self.frame_name(name, number)) if path.exists()]
            if not there:
                return
            for path in there:
                path.unlink()

    def write_image(self, name: Path, image: Picture, mask: Mask, shares: NDArray[Any] | None) -> None:
        """Write all results of one image."""
        if self.overlays:
            path = self.overlay_path(name)
            picture = Image.fromarray(self.overlay(image, mask, classes_by_size(mask, len(self.classes))))
            _save(picture, path, **({"quality": 92, "subsampling": 0} if path.suffix != ".png" else {}))
        self.write_raw(name, mask, shares)

    def overlay(self, image: Picture, mask: Mask, named: Sequence[int]) -> Picture:
        """Draw an overlay; ``named``: train ids for its legend."""
        named = named if self.legend else ()
        return draw_overlay(image, mask, self.classes, self.alpha, contours=self.contours, legend=named)

    def write_raw(self, name: Path, mask: Mask, shares: NDArray[Any] | None) -> None:
        """Write the mask and the probabilities, if wanted."""
        if self.masks:
            _save(palette_image(mask, self.classes), self.mask_path(name))
        if self.probabilities and shares is not None:
            names = np.array([c.name for c in self.classes])
            with atomic_path(self.probabilities_path(name)) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, probabilities=shares, classes=names)


def palette_image(mask: Mask, classes: Sequence[SegmentationClass]) -> Image.Image:
    """Return a palette image: Pillow and NumPy read train ids, viewers show the classes' colors."""
    image = Image.fromarray(mask)
    image.putpalette(bytes(channel for c in classes for channel in c.color))
    return image


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if path.suffix == ".png" else "JPEG", **options)
    write_atomic(path, buffer.getvalue())


IMAGES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
LARGEST = 1 << 28
"""Maximum pixels of an image, 16384². Measured, one takes 13 bytes a pixel from file to PNG, 3.3 GiB, and those read
ahead 3 bytes a pixel each; a header may claim 4 thousand million pixels."""


@dataclass(frozen=True)
class Input:
    """A file, and the name of its results."""

    path: Path
    name: Path
    """Relative path: the file's name, or its path within a given folder."""

    @property
    def is_video(self) -> bool:
        """Return whether its name is a video's."""
        return self.path.suffix.lower() in VIDEOS


def find_inputs(paths: Sequence[Path], out: Path, skip: Callable[[str], None]) -> list[Input]:
    """Return the files of ``paths`` and all images and videos in their folders, sorted; no results in ``out``.

    Links to folders are followed, into each real folder once. ``skip`` is told, in a sentence, of what is left out:
    folders that cannot be read, and files that are neither images nor videos, or pipes and devices. Raises
    :class:`UserError` for a path that is not there and a folder that holds none.
    """
    found: list[Input] = []
    without = {folder.resolve() for folder in (out, *(out / kind for kind in KINDS))}
    for path in paths:
        if path.is_dir():
            inside = [Input(file, file.relative_to(path)) for file in _files(path, without, skip)]
            if not inside:
                raise UserError(f"{path} holds no images or videos ({' '.join(IMAGES + VIDEOS)})")
            found += inside
        elif path.is_file():
            found.append(Input(path, Path(path.name)))
        elif path.exists():
            raise UserError(f"{path} is no plain file; name images, videos, or folders of them")
        else:
            raise UserError(describe_missing(path, "name images, videos, or folders of them"))
    return found


DARK = 1 << 14
"""Value that some sample of a 16-bit image reaches if 65535 is its white."""


BRIGHT = 4
"""Multiple of the white in training that no sample of a 16-bit image exceeds if it is that image's white, too."""


def read_image(path: Path, white: int | None = None, trained_white: int | None = None) -> Image.Image:
    """Read an image file as 8-bit RGB, upright.

    ``white`` is that of 16-bit images, by default ``trained_white``, that of the images that a network was trained on,
    else 65535. Raises :class:`UserError` for anything else, a damaged file, and 16 bits that would be black or white by
    these defaults.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name an image in it")
    try:
        data = read_bytes(path, MAX_FILE)
    except FileNotFoundError:
        raise UserError(describe_missing(path, "name an image")) from None
    except ValueError as error:  # a pipe has no beginning, a device no end
        raise UserError(f"{path} cannot be an image: {error}; name an image file") from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); check the file's permissions and the disk"
        ) from None
    try:
        image = load_image(data, str(path), limit=LARGEST)
        deep = read_deep(image, data, str(path)) if white is None else None
        if deep is not None:
            _check_range(path, int(deep.max()), trained_white)
        return as_rgb(image, data, str(path), white or trained_white)[0]
    except MemoryError:
        raise UserError(f"{path} is too large for the memory left; predict it alone, with --threads 1") from None


def _check_range(path: Path, largest: int, trained_white: int | None) -> None:
    """Refuse a 16-bit image whose largest sample shows that its white is another than the default."""
    if trained_white is None and largest < DARK:
        raise UserError(
            f"the image {path} has 16 bits, but no value above {largest:,}, and would be nearly black; name the white "
            "that packing told of, such as --white 4095, or save it with 8 bits"
        )
    if trained_white is not None and largest > BRIGHT * trained_white:
        raise UserError(
            f"the image {path} has 16 bits with values up to {largest:,}, but in training {trained_white:,} was white; "
            "name the image's own white, such as --white 65535, or save it with 8 bits"
        )


def _files(folder: Path, without: set[Path], skip: Callable[[str], None]) -> Iterator[Path]:
    others, seen = Counter[str](), set[str]()

    def unreadable(error: OSError) -> None:
        skip(f"the folder {error.filename} cannot be read ({error.strerror})")

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        kept = (name for name in folders if not name.startswith(".") and (Path(parent) / name).resolve() not in without)
        folders[:] = sorted(kept)
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(parent) / name
            if path.suffix.lower() not in IMAGES + VIDEOS:
                others[path.suffix.lower() or "without an ending"] += 1
            elif path.exists() and not path.is_file():  # a pipe has no beginning, a device no end
                skip(f"{path} is no plain file")
            else:
                yield path
    for suffix, files in others.most_common():
        skip(f"{folder} holds {files} file{'s' * (files > 1)} {suffix}, neither images nor videos")
