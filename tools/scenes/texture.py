"""Textures of a procedural street: noise and patterns attached to the world, not to the image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.floating[Any]]

# name: contrast of noise with wavelengths of 2.5 m, of 0.4 m and of about 5 pixels, of single pixels; warm/cold
# shift; pattern; whether the surface is level.
_KINDS: dict[str, tuple[float, float, float, float, float, str, bool]] = {
    "plain": (0.0, 0.0, 0.0, 0.0, 0.0, "", False),
    "asphalt": (0.04, 0.025, 0.035, 0.03, 0.015, "", True),
    "slabs": (0.05, 0.04, 0.04, 0.03, 0.01, "slabs", True),
    "cobbles": (0.06, 0.08, 0.08, 0.03, 0.015, "cobbles", True),
    "grass": (0.12, 0.14, 0.2, 0.08, 0.06, "", True),
    "foliage": (0.14, 0.24, 0.36, 0.12, 0.06, "", False),
    "bark": (0.1, 0.15, 0.14, 0.06, 0.03, "", False),
    "plaster": (0.035, 0.02, 0.02, 0.012, 0.01, "", False),
    "concrete": (0.06, 0.04, 0.04, 0.025, 0.01, "", False),
    "brick": (0.04, 0.05, 0.06, 0.03, 0.025, "brick", False),
    "roof": (0.06, 0.06, 0.06, 0.03, 0.02, "tiles", False),
    "wood": (0.05, 0.06, 0.1, 0.04, 0.04, "", False),
    "metal": (0.04, 0.025, 0.01, 0.005, 0.006, "", False),
    "glass": (0.12, 0.08, 0.03, 0.005, 0.03, "", False),
    "cloth": (0.0, 0.06, 0.07, 0.02, 0.01, "", False),
}
TEXTURES = {name: index for index, name in enumerate(_KINDS)}
PATTERNS: dict[str, tuple[float, float, float, float]] = {
    # along and up in metres, width of the joint in metres, its darkness
    "brick": (0.36, 0.16, 0.025, 0.28),
    "slabs": (0.6, 0.6, 0.03, 0.28),
    "cobbles": (0.22, 0.22, 0.04, 0.35),
    "tiles": (0.35, 0.4, 0.05, 0.3),
}
_TABLE = np.array([row[:5] for row in _KINDS.values()], np.float32)
_LEVEL = np.array([row[6] for row in _KINDS.values()], np.float32)
_PATTERN = np.array([([*PATTERNS, ""].index(row[5]) + 1) % (len(PATTERNS) + 1) for row in _KINDS.values()])

TILE = 512
WAVE = 8
"""Texels in a wavelength of the noise tile, and how often it is larger than that: 64 waves."""
BAND = 32
"""Rows shaded at a time: their values stay in the processor's cache."""


@dataclass(frozen=True)
class Surface:
    """The faces of the pixels: their planes and textures, and the camera in pixels."""

    focal: float
    center: tuple[float, float]
    height: float
    planes: Floats
    """(faces, 3): 1/z = a·u + b·v + c."""
    textures: NDArray[np.uint8]
    """(faces,): indexes of :data:`TEXTURES`."""


def noise_tile(rng: np.random.Generator) -> Floats:
    """Return smooth noise (TILE × TILE), periodic, mean 0, standard deviation 1."""
    grid = rng.standard_normal((TILE // WAVE, TILE // WAVE), dtype=np.float32)
    padded = np.pad(grid, 2, mode="wrap")
    size = TILE + 4 * WAVE
    smooth = np.asarray(Image.fromarray(padded).resize((size, size), Image.Resampling.BICUBIC))
    tile = smooth[2 * WAVE : -2 * WAVE, 2 * WAVE : -2 * WAVE]
    return (tile / tile.std()).astype(np.float32)


def texture(
    color: NDArray[np.uint8],
    faces: NDArray[np.int32],
    surface: Surface,
    haze: float,
    air: Floats,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Map flat colors (H, W, 3) and face numbers (H, W) to the picture with textures, and ``air`` over far pixels."""
    tile = noise_tile(rng).ravel()
    grain = rng.standard_normal((256, 256 + faces.shape[1]), dtype=np.float32)
    image = np.empty_like(color)
    for top in range(0, len(faces), BAND):
        rows = slice(top, min(top + BAND, len(faces)))
        start = (top * 97) % 223
        speckle = grain[start : start + rows.stop - top, (top * 61) % 256 :][:, : faces.shape[1]]
        image[rows] = _shade(color[rows], faces[rows], top, surface, tile, speckle, haze, air)
    return image


def _shade(
    color: NDArray[np.uint8],
    faces: NDArray[np.int32],
    top: int,
    surface: Surface,
    tile: Floats,
    speckle: Floats,
    haze: float,
    air: Floats,
) -> NDArray[np.uint8]:
    """Shade one band of rows."""
    u = np.arange(faces.shape[1], dtype=np.float32)
    v = np.arange(top, top + len(faces), dtype=np.float32)[:, None]
    a, b, c = (np.take(column, faces) for column in surface.planes.T.copy())
    z = 1 / np.clip(a * u + b * v + c, 1 / 400, 1 / 2)
    kind = np.take(surface.textures, faces)
    level = np.take(_LEVEL, kind)
    across = (u - surface.center[0]) * z / surface.focal
    up = surface.height - (v - surface.center[1]) * z / surface.focal
    # Along a wall x + z grows with the distance walked whichever way it runs; on the ground x and z do.
    p, q = across + (1 - level) * z + 1000, up + level * z + 1000
    coarse, middle, fine, pixel, warm = (np.take(column, kind) for column in _TABLE.T.copy())
    sharp = np.exp2(np.ceil(np.log2(z * (5 / surface.focal))))
    fade = np.clip(surface.focal * 0.4 / z / 3 - 0.5, 0, 1)
    cloudy = _noise(tile, p, q, 1 / 2.5)
    mottled = _noise(tile, p, q, 1 / 0.4) * fade
    gain = 1 + coarse * cloudy + middle * mottled + fine * _noise(tile, p, q, 1 / sharp) + pixel * speckle
    gain *= 1 - _joints(kind, p, q, z, surface.focal)
    shift = warm * (mottled + 0.7 * cloudy)
    image = color * gain[:, :, None]
    image[:, :, 0] *= 1 + shift
    image[:, :, 2] *= 1 - shift
    lost = (1 - np.exp(-z * haze / 100)) * (z < 399)
    image += (air - image) * lost[:, :, None]
    return np.clip(image, 0, 255).astype(np.uint8)


def _noise(tile: Floats, p: Floats, q: Floats, frequency: Floats | float) -> Floats:
    """Return the noise at world coordinates (m); ``frequency`` in waves a metre."""
    scale = np.float32(WAVE) * frequency
    row, column = (q * scale).astype(np.int32), (p * scale).astype(np.int32)
    return np.take(tile, (row & (TILE - 1)) * TILE + (column & (TILE - 1)))


def _joints(kind: NDArray[np.uint8], p: Floats, q: Floats, z: Floats, focal: float) -> Floats:
    """Return the darkness of each pixel by joints between bricks, slabs and tiles, 0–1; too fine ones fade."""
    dark = np.zeros_like(p)
    pattern = np.take(_PATTERN, kind)
    for index, (along, up, width, depth) in enumerate(PATTERNS.values(), start=1):
        where = np.nonzero(pattern == index)
        if not len(where[0]):
            continue
        near = z[where]
        course = np.floor(q[where] / up)
        in_joint = (q[where] / up - course < width / up) | ((p[where] / along + 0.5 * course) % 1 < width / along)
        footprint = near / focal * (np.maximum(near, 1) / 1.25 if index in (2, 3) else 1)
        dark[where] = depth * in_joint * np.clip(up / footprint / 3 - 0.5, 0, 1)
    return dark
