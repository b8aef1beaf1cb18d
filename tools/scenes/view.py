"""Project the things of a procedural street to the camera: their pixels, their colors in the light, their depth."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tools.scenes.geometry import NEAR, Camera, Color, Face, Points, Thing, clip, envelope


@dataclass(frozen=True)
class Light:
    """Weather and time of day."""

    sun: tuple[float, float, float]
    """Direction to the sun, a unit vector in the world."""
    strength: float
    """Strength of the sun, 0 (overcast) – 1 (sunny)."""
    tint: Color
    """Factor of each channel, about 1."""
    haze: float
    """Share of the light lost on 100 m."""
    sky: tuple[Color, Color]
    """Colors at the zenith and at the horizon."""
    clouds: float
    """Density of the clouds, 0–1."""


@dataclass
class View:
    """A camera and the size of its picture: turns world polygons into pixels."""

    camera: Camera
    size: tuple[int, int]
    """Width and height in pixels."""

    def polygon(self, points: Points) -> Points | None:
        """Return the pixels (m, 2) of the visible part of a world polygon (n, 3); None if none is."""
        if points[:, 2].min() < NEAR:
            points = clip(points, 2, NEAR, True)
            if len(points) < 3:
                return None
        return self._inside(self.camera.project(points, self.size))

    def sees(self, thing: Thing) -> bool:
        """Return whether a part of the thing may be in the picture."""
        if thing.layer != 3:
            return True
        points = np.concatenate([*thing.outlines, *[face.points for face in thing.faces]])
        u = self.camera.project(np.maximum(points, (-np.inf, -np.inf, NEAR)), self.size)[:, 0]
        return bool(u.max() >= 0 and u.min() < self.size[0])

    def outlines(self, thing: Thing) -> Iterator[list[tuple[int, int]]]:
        """Yield the annotated polygons of a thing, in whole pixels."""
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
    """Round corners to pixels, without repeated ones and those on a straight line; keep at least three."""
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


@dataclass(frozen=True)
class Seen:
    """Projected faces, one entry per face."""

    corners: list[list[int]]
    """u, v, u, v, … in whole pixels; empty for an invisible face."""
    colors: list[list[int]]
    """Lit colors: R, G, B, 0–255."""
    planes: list[tuple[float, float, float]]
    """Coefficients of 1/z = a·u + b·v + c: a plane's inverse depth is affine in the image."""


def look(view: View, light: Light, faces: list[Face]) -> Seen:
    """Project and light many faces at once; one by one they would take most of a scene's time."""
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
    # A drawn face takes at least a pixel: much finer ones are left out, blended ones somewhat earlier.
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
    """Return lit colors: brighter where turned to the sun (Lambert) or upwards; blended faces keep theirs."""
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
