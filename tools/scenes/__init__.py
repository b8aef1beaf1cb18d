"""Procedural street scenes in the layout of Cityscapes: for tests, for benchmarks, and for users without an account.

A scene is a pure function of (seed, split, index, size): the street is drawn in metres, seen by a camera, and the
picture and the annotation come from the same polygons. See layout.py for the street's plan and paint.py for the
drawing.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from numpy.typing import NDArray
from PIL import Image

from fastseg.files import write_atomic
from fastseg.packing.sources.cityscapes import NAME_FILE
from tools.scenes.layout import lay_out
from tools.scenes.paint import paint
from tools.scenes.plan import HIGHLIGHTS
from tools.scenes.view import Light, View

CITIES: dict[str, tuple[str, ...]] = {
    "train": ("aldenau", "birkstadt", "claraburg", "dornfeld", "eschwald", "falkenhorst", "grauheim", "hagenried"),
    "val": ("lindholm", "marbrunn", "nordhagen"),
    "test": ("ostermoor", "quellbach", "rautenberg"),
}
"""Invented, so that no scene is mistaken for a real one; a city has 100 scenes."""
SCENES_PER_CITY = 100
SET_NAME = "procedural streets"
"""Name of the packed set, also given as a network's training data."""


@dataclass(frozen=True)
class Scene:
    """A picture and its annotation."""

    key: str
    """CITY_SSSSSS_FFFFFF, as in the names of the official files."""
    image: NDArray[np.uint8]
    """RGB, (H, W, 3)."""
    polygons: dict[str, Any]
    """The official JSON document: imgHeight, imgWidth, objects of a label and a polygon, in drawing order."""


def scene_key(split: str, index: int) -> str:
    """Return the key of a scene; different for every (split, index)."""
    city = CITIES[split][index // SCENES_PER_CITY % len(CITIES[split])]
    return f"{city}_{index:06d}_000019"


def scene(seed: int, split: str, index: int, size: tuple[int, int]) -> Scene:
    """Draw scene ``index`` ≥ 0 of a split (train, val, test) at ``size`` (width, height) in pixels."""
    stream = [seed, list(CITIES).index(split), index]
    plan, weather, surface = (np.random.default_rng([*stream, part]) for part in range(3))
    turn = int(np.random.default_rng([seed, stream[1]]).integers(len(HIGHLIGHTS)))
    camera, things = lay_out(plan, HIGHLIGHTS[(index + turn) % len(HIGHLIGHTS)])
    image, polygons = paint(View(camera, size), _weather(weather), things, surface)
    width, height = size
    objects = [{"label": label, "polygon": [list(corner) for corner in corners]} for label, corners in polygons]
    return Scene(scene_key(split, index), image, {"imgHeight": height, "imgWidth": width, "objects": objects})


def write_name(folder: Path) -> None:
    """Write the name :data:`SET_NAME` below ``folder``, since the layout is Cityscapes'."""
    write_atomic(folder / NAME_FILE, f"{SET_NAME}\n")


def write_scene(folder: Path, seed: int, split: str, index: int, size: tuple[int, int]) -> None:
    """Write one scene below ``folder`` as Cityscapes lays it out; the test split gets its picture only.

    labelIds, instanceIds and color are rendered from the polygons by cityscapesscripts. Every file is written
    whole or not at all.
    """
    made = scene(seed, split, index, size)
    city = made.key.partition("_")[0]
    write_atomic(
        folder / "leftImg8bit" / split / city / f"{made.key}_leftImg8bit.png", _png(Image.fromarray(made.image))
    )
    if split == "test":
        return
    text = json.dumps(made.polygons)
    annotation = Annotation()
    annotation.fromJsonText(text)
    truth = folder / "gtFine" / split / city
    write_atomic(truth / f"{made.key}_gtFine_polygons.json", text)
    write_atomic(truth / f"{made.key}_gtFine_labelIds.png", _png(createLabelImage(annotation, "ids")))
    write_atomic(
        truth / f"{made.key}_gtFine_instanceIds.png", _png(createInstanceImage(annotation, "ids").convert("I;16"))
    )
    write_atomic(truth / f"{made.key}_gtFine_color.png", _png(createLabelImage(annotation, "color")))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _weather(rng: np.random.Generator) -> Light:
    """Draw the weather: overcast more often than not, as in the real recordings."""
    strength = float(rng.uniform(0.5, 1.0) if rng.random() < 0.4 else rng.uniform(0.0, 0.25))
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(28, 60))
    sun = np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)
    exposure, warmth = rng.uniform(0.82, 1.05), rng.normal(0, 0.02)
    blue = strength * rng.uniform(0.5, 1.0)
    zenith = np.array((214, 218, 222)) * (1 - blue) + np.array((126, 164, 206)) * blue
    horizon = np.array((232, 234, 234)) * (1 - blue) + np.array((206, 220, 230)) * blue
    return Light(
        sun=(float(sun[0]), float(sun[1]), float(sun[2])),
        strength=strength,
        # Cityscapes' images are a little green.
        tint=(exposure * (0.97 + warmth), exposure * 1.02, exposure * (0.96 - warmth)),
        haze=float(rng.uniform(0.05, 0.3)),
        sky=((zenith[0], zenith[1], zenith[2]), (horizon[0], horizon[1], horizon[2])),
        clouds=float(rng.uniform(0.2, 1.0)),
    )
