"""Paint a procedural street: outlines and faces to pixels, then light, textures, haze and the lens.

Everything is drawn once, in flat colors, into two canvases: the color and the face of each pixel. The face's plane
gives the depth of every pixel and so its position in the world, to which textures are attached (deferred shading, Saito
and Takahashi, SIGGRAPH 1990).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tools.scenes.geometry import NEAR, Color, Face, Points, Thing, convex_hull
from tools.scenes.texture import TEXTURES, Surface, texture
from tools.scenes.view import Light, Seen, View, look

FAR = 400.0
"""Depth of the sky, metres."""
DARK: Color = (8, 9, 14)
SENSOR_NOISE = 0.5
"""Standard deviation in gray levels; with the textures it gives files the size of real ones."""


def ordered(things: list[Thing]) -> list[Thing]:
    """Return things in the order of painting, the farthest first; the parts of a thing follow it."""
    flats = [thing for thing in things if thing.layer == 0]
    rest = sorted((thing for thing in things if thing.layer), key=lambda thing: (thing.layer, -thing.depth))
    return [part for thing in (*flats, *rest) for part in (thing, *thing.extra)]


class Canvas:
    """The two canvases, color and face, and the table of the faces."""

    def __init__(self, view: View, light: Light, sky: Image.Image) -> None:
        self.view, self.light = view, light
        self.color = sky
        self.faces = Image.new("I", view.size, 0)
        self.planes: list[tuple[float, float, float]] = [(0.0, 0.0, 1 / FAR)]
        self.textures: list[int] = [TEXTURES["plain"]]
        self._paint = ImageDraw.Draw(self.color, "RGBA")
        self._mark = ImageDraw.Draw(self.faces)

    def outline(self, corners: list[tuple[int, int]], base: Face, depth: float) -> None:
        """Fill an annotated outline with the base color of its thing."""
        color = tuple(round(c * t) for c, t in zip(base.color, self.light.tint, strict=True))
        self._fill([c for corner in corners for c in corner], base, color, (0.0, 0.0, 1 / max(depth, NEAR)))

    def draw(self, faces: list[Face], seen: Seen) -> None:
        """Draw faces in their order."""
        for index, face in enumerate(faces):
            if corners := seen.corners[index]:
                self._fill(corners, face, seen.colors[index], seen.planes[index])

    def _fill(self, corners: list[int], face: Face, color: Sequence[int], plane: tuple[float, float, float]) -> None:
        self._paint.polygon(corners, fill=(*color, round(255 * face.alpha)))
        if face.alpha == 1 or face.texture != "plain":
            self._mark.polygon(corners, fill=len(self.planes))
            self.planes.append(plane)
            self.textures.append(TEXTURES[face.texture])


def paint(
    view: View, light: Light, things: list[Thing], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[tuple[str, list[tuple[int, int]]]]]:
    """Return the picture (H, W, 3) of the things and their annotated polygons, both in the order of painting."""
    canvas = Canvas(view, light, sky(view, light, rng))
    polygons: list[tuple[str, list[tuple[int, int]]]] = []
    shade = Thing("", [], [face for thing in things for face in shadows(thing, light)], layer=0)
    queue = [thing for thing in ordered([*things, shade]) if view.sees(thing)]
    seen = look(view, light, [face for thing in queue for face in thing.faces])
    start = 0
    for thing in queue:
        for corners in view.outlines(thing):
            polygons.append((thing.label, corners))
            if thing.base:
                canvas.outline(corners, thing.base, thing.depth)
        stop = start + len(thing.faces)
        canvas.draw(thing.faces, Seen(seen.corners[start:stop], seen.colors[start:stop], seen.planes[start:stop]))
        start = stop
    return finish(canvas, rng), polygons


def sky(view: View, light: Light, rng: np.random.Generator) -> Image.Image:
    """Return the sky behind everything: a gradient, and clouds from noise of five octaves."""
    width, height = 512, 256  # smooth enough to be enlarged
    zenith, horizon = (np.array(color, np.float32) * light.tint for color in light.sky)
    down = np.clip(np.linspace(0, 1 / view.camera.horizon, height, dtype=np.float32), 0, 1)[:, None, None] ** 1.5
    cover = np.zeros((height, width), np.float32)
    for octave in range(5):
        grid = rng.random((3 * 2**octave, 4 * 2**octave), dtype=np.float32)
        cover += np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    cover = np.clip((cover - 1.1) * 2.5, 0, 1)[:, :, None] * light.clouds
    image = zenith + (horizon - zenith) * down
    image = image + (np.array([246, 247, 248], np.float32) * light.tint - image) * cover
    small = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return small.resize(view.size, Image.Resampling.BICUBIC)


def shadows(thing: Thing, light: Light) -> list[Face]:
    """Return the shadows of a thing: on the ground under it, and where it blocks the sun."""
    if not thing.shadow:
        return []
    points = np.concatenate(thing.outlines)
    foot = _around(points[points[:, 1] < points[:, 1].min() + 0.4])
    middle = foot.mean(axis=0)
    reach = np.where(foot > middle, 0.12, -0.12) * (1, 0, 1)
    faces = [
        Face((foot - middle) * grown + middle + reach, DARK, alpha=share * thing.shadow)
        for grown, share in ((1.25, 0.15), (1.12, 0.25), (1.0, 0.4))
    ]
    if light.strength > 0.3:
        for part in [points] if thing.merged else thing.outlines:
            cast = part - part[:, 1:2] / light.sun[1] * np.array(light.sun)
            faces.append(Face(_around(cast), DARK, alpha=0.5 * light.strength))
    return faces


def _around(points: Points) -> Points:
    """Return the hull of points seen from above, on the ground."""
    lower, upper = convex_hull(points[:, [0, 2]])
    return np.insert(np.concatenate([lower, upper[::-1]]), 1, 0, axis=1)


def finish(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add texture and haze to the flat colors, then the blur of a lens and the noise of a sensor."""
    width, height = canvas.view.size
    camera, light = canvas.view.camera, canvas.light
    surface = Surface(
        focal=camera.focal * width,
        center=(camera.center * width, camera.horizon * height),
        height=camera.height,
        planes=np.array(canvas.planes, np.float32),
        textures=np.array(canvas.textures, np.uint8),
    )
    haze = np.array(light.sky[1], np.float32) * light.tint
    image = texture(np.asarray(canvas.color), np.asarray(canvas.faces), surface, light.haze, haze, rng)
    return lens(image, rng)


def lens(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur with a standard deviation of 0.7 pixels at full size, less below, and the noise of a sensor."""
    height, width = image.shape[:2]
    side = min(1.0, 0.4 + 0.6 * width / 2048)
    taps = np.outer((side, 2, side), (side, 2, side))
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.Kernel((3, 3), taps.ravel().tolist(), taps.sum())))
    # One plane of noise serves the three channels, shifted: drawing it takes most of the time.
    noise = SENSOR_NOISE * rng.standard_normal((height, width + 128), dtype=np.float32)
    out = np.empty_like(image)
    for channel in range(3):
        noisy = blurred[:, :, channel] + noise[:, 64 * channel : 64 * channel + width]
        out[:, :, channel] = np.clip(noisy + 0.5, 0, 255)
    return out
