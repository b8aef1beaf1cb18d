"""The shapes a procedural street is made of, and the camera that sees them.

World coordinates are metres: x to the right, y up from the road, z ahead. Image coordinates are pixels. The
points of a face run bottom left, bottom right, top right, top left as seen from outside.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
"""Vertices of a polygon: (n, 2) in a plane or (n, 3) in the world."""
Color = tuple[float, float, float]
"""R, G, B, 0–255."""

NEAR = 2.0
"""Smallest depth that is drawn, metres."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera looking along z; lengths are fractions of the image, so that the size is chosen later."""

    height: float = 1.25
    """Metres above the road."""
    focal: float = 1.1
    """Focal length in image widths: a field of view of 49°, as in Cityscapes."""
    center: float = 0.5
    """Column of the vanishing point, fraction of the width."""
    horizon: float = 0.42
    """Row of the vanishing point, fraction of the height of a 2:1 image."""

    def project(self, points: Points, size: tuple[int, int]) -> Points:
        """Project world points (n, 3) with z ≥ :data:`NEAR` to pixels (n, 2) of a (width, height) image."""
        width, height = size
        scale = self.focal * width / points[:, 2]
        u = self.center * width + scale * points[:, 0]
        v = self.horizon * height + scale * (self.height - points[:, 1])
        return np.stack([u, v], axis=1)

    def unproject(self, u: float, v: float, z: float) -> tuple[float, float, float]:
        """Return the world point at depth ``z`` seen at (``u``, ``v``), fractions of a 2:1 image."""
        scale = z / self.focal
        return (u - self.center) * scale, self.height - (v - self.horizon) * scale / 2, z


@dataclass
class Face:
    """One flat, evenly colored and textured polygon of the picture."""

    points: Points
    color: Color
    texture: str = "plain"
    alpha: float = 1.0
    """Opacity; below 1 it blends over the pixels and keeps their texture (shadows, reflections, dirt)."""
    one_sided: bool = False
    """Whether to leave it out when seen from behind."""


@dataclass
class Thing:
    """One labeled object: its annotated outlines, and the faces that paint it."""

    label: str
    outlines: list[Points]
    """Polygons (n, 3), each annotated on its own; if ``merged``, convex solids under one common outline."""
    faces: list[Face]
    merged: bool = False
    base: Face | None = None
    """Face that fills the whole outline first; its own points are not used."""
    layer: int = 3
    """Order of painting: 0 ground and sky, 1 buildings, 2 property line, 3 street, 4 the camera's own car."""
    depth: float = 0.0
    """Depth, metres; within a layer the farthest is painted first."""
    shadow: float = 0.0
    """Strength of its shadow on the ground, 0–1."""
    extra: list["Thing"] = field(default_factory=list)
    """Parts with labels of their own, painted right after (a sign on its pole, the rider on his bicycle)."""


def flat(label: str, faces: list[Face], **options: object) -> Thing:
    """Return a thing whose faces are its outlines."""
    return Thing(label, [face.points for face in faces], faces, **options)  # type: ignore[arg-type]


def solid(label: str, faces: list[Face], pieces: list[Points], color: Color, **options: object) -> Thing:
    """Return a thing of convex pieces under one outline; ``color`` fills the gaps between them."""
    depth = min(float(piece[:, 2].min()) for piece in pieces)
    base = Face(pieces[0], color, "metal")
    return Thing(label, pieces, faces, True, base, depth=depth, **options)  # type: ignore[arg-type]


def quad(*points: tuple[float, float, float]) -> Points:
    """Return world points as an array (n, 3)."""
    return np.array(points, dtype=np.float64)


def ground(x0: float, x1: float, z0: float, z1: float, y: float = 0.0) -> Points:
    """Return a level rectangle."""
    return quad((x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1))


def upright(x: float, y: float, z: float, outline: ArrayLike) -> Points:
    """Put the points (n, 2) of a figure at (x, y, z), facing the camera."""
    shape = np.asarray(outline, dtype=np.float64)
    return np.column_stack([x + shape[:, 0], y + shape[:, 1], np.full(len(shape), z)])


def panel(face: Points, s0: float, s1: float, t0: float, t1: float) -> Points:
    """Return the part of a quadrilateral between fractions ``s`` (left to right) and ``t`` (bottom to top)."""
    s = np.array([s0, s1, s1, s0])[:, None]
    t = np.array([t0, t0, t1, t1])[:, None]
    bottom_left, bottom_right, top_right, top_left = face
    return (1 - t) * ((1 - s) * bottom_left + s * bottom_right) + t * ((1 - s) * top_left + s * top_right)


def panels(face: Points, s: Points, t: Points) -> Points:
    """Do as :func:`panel` for many panels: ``s`` (k, 2), ``t`` (k, 2) → (k, 4, 3)."""
    s4, t4 = s[:, [0, 1, 1, 0], None], t[:, [0, 0, 1, 1], None]
    return (1 - t4) * ((1 - s4) * face[0] + s4 * face[1]) + t4 * ((1 - s4) * face[3] + s4 * face[2])


def disc(radius: float, corners: int = 12, aspect: float = 1.0, at: tuple[float, float] = (0.0, 0.0)) -> Points:
    """Return a regular polygon (corners, 2) around ``at``; ``aspect`` is its height over its width."""
    angle = np.arange(corners) * (2 * np.pi / corners) + np.pi / corners
    return np.column_stack([at[0] + radius * np.cos(angle), at[1] + radius * aspect * np.sin(angle)])


def mirrored(right: list[tuple[float, float]]) -> Points:
    """Return a figure alike on both sides, from the corners of its right half, bottom to top: (2n, 2)."""
    half = np.array(right)
    return np.concatenate([half, half[::-1] * (-1, 1)])


def limb(a: ArrayLike, b: ArrayLike, thick_a: float, thick_b: float) -> Points:
    """Return a straight limb from ``a`` to ``b`` (points in a plane) with the thicknesses at both ends: (4, 2)."""
    start, end = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    along = end - start
    across = np.array([-along[1], along[0]]) / (np.hypot(*along) + 1e-9) / 2
    return np.array(
        [start - across * thick_a, end - across * thick_b, end + across * thick_b, start + across * thick_a]
    )


def extrude(profile: ArrayLike, half: ArrayLike, color: Color, texture: str) -> list[Face]:
    """Pull a convex side view (n, 2), in (z, y), to both sides by ``half`` (n or one): n bands, then right, left.

    Band i lies between the corners i and i + 1 of the profile. Faces are one-sided, seen from outside; where the
    profile runs from the rear over the top to the front, a band's first corners are its rear or lower left ones.
    """
    side = np.asarray(profile, dtype=np.float64)
    z, y = side.T
    if (np.roll(z, -1) * y - z * np.roll(y, -1)).sum() < 0:
        raise ValueError("the profile must run from the rear over the top to the front")
    width = np.broadcast_to(np.asarray(half, dtype=np.float64), z.shape)
    right, left = np.column_stack([width, y, z]), np.column_stack([-width, y, z])
    ahead = [*range(1, len(side)), 0]
    bands = np.stack([left, right, right[ahead], left[ahead]], axis=1)
    return [Face(points, color, texture, one_sided=True) for points in (*bands, right[::-1], left)]


def sides(extruded: list[Face]) -> Points:
    """Return the corners of faces of :func:`extrude`, each once."""
    return np.concatenate([extruded[-2].points, extruded[-1].points])


def beside(x: float, z0: float, z1: float, low: float, high: float, x_high: float | None = None) -> Points:
    """Return an upright strip on the right (x > 0) or left side of a body, seen from outside; ``x_high`` at its top."""
    top = x if x_high is None else x_high
    near, far = (z0, z1) if x > 0 else (z1, z0)
    return quad((x, low, near), (x, low, far), (top, high, far), (top, high, near))


def place(thing: Thing, x: float, z: float, heading: float = 0.0, y: float = 0.0) -> Thing:
    """Turn a thing built around the origin by ``heading`` (radians, 0 looks ahead) and set it on the street."""
    c, s = np.cos(heading), np.sin(heading)
    turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    offset = np.array([x, y, z])
    thing.outlines = [points @ turn + offset for points in thing.outlines]
    for face in thing.faces:
        face.points = face.points @ turn + offset
    thing.depth = min(float(points[:, 2].min()) for points in thing.outlines)
    for part in thing.extra:
        place(part, x, z, heading, y)
    return thing


def convex_hull(points: Points) -> tuple[Points, Points]:
    """Return the lower and upper chain of the convex hull of (n, 2) points, each from left to right (Andrew, 1979)."""
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))].tolist()
    return np.array(_chain(ordered)), np.array(_chain(ordered[::-1])[::-1])


def _chain(points: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    chain: list[Sequence[float]] = []
    for p in points:
        while len(chain) > 1:
            (ax, ay), (bx, by) = chain[-2], chain[-1]
            if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                break
            chain.pop()
        chain.append(p)
    return chain


def envelope(pieces: Iterable[Points]) -> Points:
    """Return the outline (m, 2) around convex pieces, each the hull of its points (n, 2): every column filled from the
    lowest to the highest piece."""
    chains = [convex_hull(piece) for piece in pieces]
    corners = np.unique(np.concatenate([chain[:, 0] for pair in chains for chain in pair]))
    columns = np.unique(np.concatenate([corners - 1e-3, corners + 1e-3, np.linspace(corners[0], corners[-1], 16)]))
    low = [np.interp(columns, c[:, 0], c[:, 1], left=np.inf, right=np.inf) for c, _ in chains]
    high = [np.interp(columns, c[:, 0], c[:, 1], left=-np.inf, right=-np.inf) for _, c in chains]
    top, bottom = np.min(low, axis=0), np.max(high, axis=0)
    inside = np.isfinite(top)
    columns, top, bottom = columns[inside], top[inside], bottom[inside]
    return np.concatenate([np.column_stack([columns, top]), np.column_stack([columns, bottom])[::-1]])


def clip(polygon: Points, axis: int, limit: float, keep_above: bool) -> Points:
    """Clip a polygon (n, d) to one side of ``coordinate[axis] = limit`` (Sutherland and Hodgman, 1974)."""
    sign = 1 if keep_above else -1
    if (sign * (polygon[:, axis] - limit) >= 0).all():
        return polygon
    corners: list[list[float]] = polygon.tolist()  # lists, as a loop over an array's rows is slow
    kept: list[list[float]] = []
    before = corners[-1]
    for corner in corners:
        d0, d1 = sign * (before[axis] - limit), sign * (corner[axis] - limit)
        if (d0 >= 0) != (d1 >= 0):
            share = d0 / (d0 - d1)
            kept.append([p + (q - p) * share for p, q in zip(before, corner, strict=True)])
        if d1 >= 0:
            kept.append(corner)
        before = corner
    return np.array(kept).reshape(-1, polygon.shape[1])
