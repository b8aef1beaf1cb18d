"""A folder of images and masks as people have them, small."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_mydata(folder: Path, count: int = 12, size: tuple[int, int] = (96, 64)) -> Path:
    """Write images/*.jpg and masks/*.png: the class 1 in a bright box on the class 0, below it a row of 255."""
    width, height = size
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        top, left = int(rng.integers(height // 2)), int(rng.integers(width // 2))
        box = slice(top, top + height // 3), slice(left, left + width // 3)
        image[box] += 150
        mask[box] = 1
        mask[-2:] = 255
        Image.fromarray(image).save(folder / "images" / f"{i:03d}.jpg", quality=95)
        Image.fromarray(mask).save(folder / "masks" / f"{i:03d}.png")
    return folder
