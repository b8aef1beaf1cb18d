"""Outline the classes of a mask as polygons along the edges of pixels."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.int64]
"""Corners of a closed line, V×2 (x, y), the first not repeated at the end."""


class Outline(NamedTuple):
    """A connected area."""

    rings: list[Ring]
    """The outer one, then its holes'."""
    pixels: int


def trace(inside: NDArray[np.bool_], tolerance: float = 0.0) -> Iterator[Outline]:
    """Yield each connected area of a mask (H×W).

    Rings follow the edges of pixels: the pixel in column 4 reaches from x = 4 to x = 5. Pixels that touch at a corner
    are connected. ``tolerance``: pixels by which a ring may leave the edges, to have fewer corners.
    """
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    if not len(rows):
        return
    top, left = int(rows[0]), int(columns[0])
    part = inside[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    # Of four pixels for each one, the outermost tell on which side of it the edge is.
    double = part.repeat(2, 0).repeat(2, 1)
    contours, tree = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    origin = np.array([left, top])
    for i, (_, _, child, parent) in enumerate(tree[0]):
        if parent >= 0:
            continue
        members = [contours[i]]
        while child >= 0:
            members.append(contours[child])
            child = tree[0][child][0]
        rings = [_corners((ring[:, 0].astype(np.int64) + 1) // 2) for ring in members]
        outer, *holes = map(_area, rings)
        yield Outline([_simplify(ring, tolerance) + origin for ring in rings], round(outer - sum(holes)))


def _corners(points: Ring) -> Ring:
    """Return a ring's points without repeated ones and those on a straight line."""
    points = points[(points != np.roll(points, 1, 0)).any(1)]
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _area(ring: Ring) -> float:
    """Return the area inside a ring, in pixels (the shoelace formula)."""
    x, y = ring[:, 0], ring[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _simplify(ring: Ring, tolerance: float) -> Ring:
    """Return fewer corners, at most ``tolerance`` pixels off; at least three."""
    if tolerance <= 0:
        return ring
    simpler: Any = cv2.approxPolyDP(ring[:, None].astype(np.int32), tolerance, True)[:, 0]
    return simpler.astype(np.int64) if len(simpler) >= 3 else ring
