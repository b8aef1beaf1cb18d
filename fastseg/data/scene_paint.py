"""Painting a procedural street: outlines and faces to pixels, then light, textures, haze and the lens.

Everything is drawn once, in flat colours, into two canvases: what colour, and which face. From the face's plane
follows the depth of every pixel and so its place in the world, in which the textures live (deferred shading,
Saito and Takahashi, SIGGRAPH 1990).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from fastseg.data.scene_geometry import NEAR, Camera, Color, Face, Points, Thing, clip, convex_hull, envelope
from fastseg.data.scene_texture import TEXTURES, Surface, texture

FAR = 400.0
"""Metres; the depth of the sky."""
DARK: Color = (8, 9, 14)
SENSOR_NOISE = 0.5
"""Standard deviation in grey levels; with the textures it makes files cost what real ones do."""


@dataclass(frozen=True)
class Light:
    """Weather and time of day."""

    sun: tuple[float, float, float]
    """Direction to the sun, a unit vector in the world."""
    strength: float
    """0 (overcast) – 1 (sunny)."""
    tint: Color
    """Multiplies the picture, about 1 a channel."""
    haze: float
    """Share of the light lost on 100 m."""
    sky: tuple[Color, Color]
    """Colours at the zenith and at the horizon."""
    clouds: float
    """0–1."""


@dataclass
class View:
    """A camera and the size of its picture: turns world polygons into pixels."""

    camera: Camera
    size: tuple[int, int]
    """Width and height in pixels."""

    def polygon(self, points: Points) -> Points | None:
        """Pixels (m, 2) of what is in sight of a world polygon (n, 3); None if nothing is."""
        if points[:, 2].min() < NEAR:
            points = clip(points, 2, NEAR, True)
            if len(points) < 3:
                return None
        return self._inside(self.camera.project(points, self.size))

    def sees(self, thing: Thing) -> bool:
        """Whether a part of the thing may be in the picture."""
        if thing.layer != 3:
            return True
        points = np.concatenate([*thing.outlines, *[face.points for face in thing.faces]])
        u = self.camera.project(np.maximum(points, (-np.inf, -np.inf, NEAR)), self.size)[:, 0]
        return bool(u.max() >= 0 and u.min() < self.size[0])

    def outlines(self, thing: Thing) -> Iterator[list[tuple[int, int]]]:
        """The annotated polygons of a thing, in whole pixels."""
        if thing.merged:
            rims = [self._inside(envelope(self.camera.project(p, self.size) for p in thing.outlines))]
        else:
            rims = [self.polygon(points) for points in thing.outlines]
        for rim in rims:
            if rim is not None and (corners := whole_pixels(rim)):
                yield corners

    def _inside(self, polygon: Points) -> Points | None:
        right, bottom = self.size[0] - 1, self.size[1] - 1
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        if high[0] < 0 or high[1] < 0 or low[0] > right or low[1] > bottom:
            return None
        for axis, limit in ((0, right), (1, bottom)):
            if low[axis] < 0:
                polygon = clip(polygon, axis, 0.0, True)
            if high[axis] > limit:
                polygon = clip(polygon, axis, limit, False)
        return polygon if len(polygon) > 2 else None


def whole_pixels(polygon: Points) -> list[tuple[int, int]]:
    """Corners rounded to pixels, repeated ones and those on a straight line left out; at least three."""
    points: list[tuple[int, int]] = []
    for u, v in np.rint(polygon).astype(int).tolist():
        if points and points[-1] == (u, v):
            continue
        if len(points) > 1:
            (u0, v0), (u1, v1) = points[-2:]
            if (u1 - u0) * (v - v1) == (v1 - v0) * (u - u1):
                points.pop()
        points.append((u, v))
    return points + [points[-1]] * (3 - len(points))


def ordered(things: list[Thing]) -> list[Thing]:
    """The order of painting, the furthest first; the parts of a thing follow it."""
    flats = [thing for thing in things if thing.layer == 0]
    rest = sorted((thing for thing in things if thing.layer), key=lambda thing: (thing.layer, -thing.depth))
    return [part for thing in (*flats, *rest) for part in (thing, *thing.extra)]


class Canvas:
    """The two canvases, colour and face, and the table of the faces."""

    def __init__(self, view: View, light: Light, sky: Image.Image) -> None:
        self.view, self.light = view, light
        self.color = sky
        self.faces = Image.new("I", view.size, 0)
        self.planes: list[tuple[float, float, float]] = [(0.0, 0.0, 1 / FAR)]
        self.textures: list[int] = [TEXTURES["plain"]]
        self._paint = ImageDraw.Draw(self.color, "RGBA")
        self._mark = ImageDraw.Draw(self.faces)

    def outline(self, corners: list[tuple[int, int]], base: Face, depth: float) -> None:
        """Fill an annotated outline with the base colour of its thing."""
        color = tuple(round(c * t) for c, t in zip(base.color, self.light.tint, strict=True))
        self._fill([c for corner in corners for c in corner], base, color, (0.0, 0.0, 1 / max(depth, NEAR)))

    def draw(self, faces: list[Face], seen: "Seen") -> None:
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


@dataclass(frozen=True)
class Seen:
    """How faces look from the camera, one entry a face."""

    corners: list[list[int]]
    """u, v, u, v, … in whole pixels; empty for a face out of sight."""
    colors: list[list[int]]
    """In this light: R, G, B, 0–255."""
    planes: list[tuple[float, float, float]]
    """Coefficients of 1/z = a·u + b·v + c: a plane's inverse depth is affine in the image."""


def look(view: View, light: Light, faces: list[Face]) -> Seen:
    """Project and light many faces at once: one by one they would take most of a scene's time."""
    points = np.concatenate([face.points for face in faces])
    counts = np.array([len(face.points) for face in faces])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    following = np.arange(1, len(points) + 1)
    following[starts + counts - 1] = starts
    normals = np.add.reduceat(np.cross(points, points[following]), starts)
    eye = np.array([0, view.camera.height, 0])
    distance = ((points[starts] - eye) * normals).sum(axis=1)
    visible = (distance > 0) | ~np.array([face.one_sided for face in faces])
    pixels = view.camera.project(np.maximum(points, (-np.inf, -np.inf, NEAR)), view.size)
    low, high = np.minimum.reduceat(pixels, starts), np.maximum.reduceat(pixels, starts)
    depth = np.minimum.reduceat(points[:, 2], starts)
    visible &= (depth < NEAR) | ((high >= 0) & (low <= np.array(view.size) - 1)).all(axis=1)
    whole = (low >= 0).all(axis=1) & (high <= np.array(view.size) - 1).all(axis=1) & (depth >= NEAR)
    # Drawn, a face takes at least a pixel: much finer ones are left out, blended ones somewhat earlier.
    visible &= ~whole | ((high - low).min(axis=1) > np.where([face.alpha == 1 for face in faces], 0.3, 0.5))
    flat = np.rint(pixels).astype(int).ravel().tolist()
    corners: list[list[int]] = []
    for index, face in enumerate(faces):
        if not visible[index]:
            corners.append([])
        elif whole[index]:
            corners.append(flat[2 * starts[index] : 2 * (starts[index] + counts[index])])
        else:
            rim = view.polygon(face.points)
            corners.append([] if rim is None else np.rint(rim).astype(int).ravel().tolist())
    return Seen(corners, _lit(light, faces, normals, distance), _planes(view, normals, distance, points[starts, 2]))


def _lit(light: Light, faces: list[Face], normals: Points, distance: Points) -> list[list[int]]:
    """Colours in this light: brighter where turned to the sun (Lambert) or upwards; blended faces keep theirs."""
    outward = -normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)
    outward[distance < 0] *= -1
    sunlit = np.maximum(outward @ np.array(light.sun), 0)
    gain = 1 - 0.28 * light.strength + 0.5 * light.strength * sunlit + 0.08 * outward[:, 1]
    gain[np.array([face.alpha < 1 for face in faces])] = 1
    colors = np.array([face.color for face in faces]) * gain[:, None] * light.tint
    return np.clip(np.rint(colors), 0, 255).astype(int).tolist()


def _planes(view: View, normals: Points, distance: Points, depth: Points) -> list[tuple[float, float, float]]:
    camera, (width, height) = view.camera, view.size
    focal = camera.focal * width
    edge_on = np.abs(distance) < 1e-6 * np.linalg.norm(normals, axis=1) + 1e-12
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = normals[:, 0] / (focal * distance), -normals[:, 1] / (focal * distance)
        c = normals[:, 2] / distance - a * camera.center * width - b * camera.horizon * height
    table = np.where(edge_on[:, None], np.column_stack([0 * depth, 0 * depth, 1 / depth]), np.column_stack([a, b, c]))
    return [(float(x), float(y), float(w)) for x, y, w in table]


def paint(
    view: View, light: Light, things: list[Thing], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[tuple[str, list[tuple[int, int]]]]]:
    """The picture (H, W, 3) of the things and their annotated polygons, both in the order of painting."""
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
    """The sky behind everything: a gradient, and clouds from noise of five octaves."""
    width, height = 512, 256  # soft enough to be enlarged
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
    """What darkens the ground under a thing, and where it takes the sun away."""
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
    """The hull of points seen from above, on the ground."""
    lower, upper = convex_hull(points[:, [0, 2]])
    return np.insert(np.concatenate([lower, upper[::-1]]), 1, 0, axis=1)


def finish(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Texture and haze on the flat colours, then what a lens and a sensor do to them."""
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
    # One plane of noise serves the three channels, shifted: drawing it is what takes the time.
    noise = SENSOR_NOISE * rng.standard_normal((height, width + 128), dtype=np.float32)
    out = np.empty_like(image)
    for channel in range(3):
        noisy = blurred[:, :, channel] + noise[:, 64 * channel : 64 * channel + width]
        out[:, :, channel] = np.clip(noisy + 0.5, 0, 255)
    return out
