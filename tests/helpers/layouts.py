"""Tiny data sets in the layouts that are packed, for tests: noise images, masks of rectangles."""

import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from fastseg.data.augment import Window

CLASSES = {
    "name": "shapes",
    "classes": [
        {"value": 0, "name": "ground", "color": [90, 90, 90]},
        {"value": 1, "name": "box", "color": [200, 30, 30]},
        {"value": 4, "name": "dot", "color": [30, 30, 200]},
    ],
    "ignore": [9],
}
"""Train ids: value 0 → 0, 1 → 1, 4 → 2, 9 → ignored."""

CITYSCAPES_IDS = (0, 3, 7, 8, 11, 17, 21, 23, 24, 26, 33)
"""labelIds, ignored ones among them."""


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    """An RGB image of ``size`` (width, height) that compresses like a photograph: smooth, with some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.integers(-4, 5, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + grain, 0, 255).astype(np.uint8))


def labels(seed: int, size: tuple[int, int], values: tuple[int, ...]) -> Image.Image:
    """A mask of ``size`` (width, height): ``values`` in overlapping rectangles, each somewhere."""
    rng = np.random.default_rng(seed)
    width, height = size
    mask = np.full((height, width), values[0], np.uint8)
    for value in rng.permutation(values[1:]):
        y, x = rng.integers(0, height - height // 3), rng.integers(0, width - width // 4)
        mask[y : y + height // 3, x : x + width // 4] = value
    return Image.fromarray(mask)


def write_cityscapes(
    folder: Path, train: int = 4, val: int = 2, test: int = 0, size: tuple[int, int] = (64, 32)
) -> Path:
    """Write ``leftImg8bit/`` and ``gtFine/`` below ``folder``, in the official layout; ``size`` is width, height."""
    for split, city, count in (("train", "aachen", train), ("val", "lindau", val), ("test", "berlin", test)):
        for number in range(count):
            stem, seed = f"{city}_{number:06d}_000019", number + 1000 * len(split)
            image = folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
            mask = folder / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png"
            for path in (image, mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            noise(seed, size).save(image)
            labels(seed, size, CITYSCAPES_IDS).save(mask)
    return folder


def zip_cityscapes(folder: Path, target: Path) -> Path:
    """Put what :func:`write_cityscapes` wrote to ``folder`` into the two official zips in the folder ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    for package in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(target / f"{package}_trainvaltest.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("README", "not an image")
            for path in sorted((folder / package).rglob("*.png")):
                archive.write(path, path.relative_to(folder).as_posix())
    return target


def write_folder_dataset(folder: Path, train: int = 4, val: int = 2, size: tuple[int, int] = (64, 32)) -> Path:
    """Write ``classes.json`` and ``{train,val}/{images,masks}/STEM.png`` below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            write_pair(folder, split, f"{split}_{number:03d}", number + 1000 * len(split), size)
    return folder


def write_pair(folder: Path, split: str, stem: str, seed: int = 0, size: tuple[int, int] = (64, 32)) -> None:
    """Write one image and its mask to a data set of :func:`write_folder_dataset`."""
    for kind, picture in (("images", noise(seed, size)), ("masks", labels(seed, size, (0, 1, 4, 9)))):
        path = folder / split / kind / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


def reference_crop(frame: np.ndarray, window: Window, crop: tuple[int, int], fill: object) -> np.ndarray:
    """What a window of ``frame`` (an image, or a mask of two dimensions) becomes, by Pillow step by step."""
    part = Image.fromarray(np.ascontiguousarray(frame[window.top : window.bottom, window.left : window.right]))
    method = Image.Resampling.BILINEAR if frame.ndim == 3 else Image.Resampling.NEAREST
    shown = np.asarray(part.resize((window.width, window.height), method))
    out = np.empty((*crop, *frame.shape[2:]), np.uint8)
    out[:] = fill
    rows = slice(window.pad_top, window.pad_top + window.height)
    columns = slice(window.pad_left, window.pad_left + window.width)
    out[rows, columns] = shown[:, ::-1] if window.flip else shown
    return out
