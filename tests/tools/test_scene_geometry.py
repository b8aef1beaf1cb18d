"""Shapes of procedural streets against slower, independent ways to the same answer."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tools.scenes.geometry import (
    Camera,
    Face,
    clip,
    convex_hull,
    disc,
    envelope,
    extrude,
    ground,
    panel,
    place,
    quad,
    upright,
)
from tools.scenes.vehicles import car
from tools.scenes.view import Light, View, look, whole_pixels

LIGHT = Light((0.0, 1.0, 0.0), 0.0, (1.0, 1.0, 1.0), 0.0, ((0, 0, 0), (0, 0, 0)), 0.0)


def filled(polygon: np.ndarray, size: int = 200) -> np.ndarray:
    image = Image.new("1", (size, size))
    ImageDraw.Draw(image).polygon([tuple(map(float, p)) for p in polygon], fill=1)
    return np.asarray(image)


def normal(face: np.ndarray) -> np.ndarray:
    """Newell's normal of a polygon."""
    return np.cross(face, np.roll(face, -1, axis=0)).sum(axis=0)


def test_the_hull_holds_every_point_and_only_points_of_it() -> None:
    points = np.random.default_rng(0).normal(size=(60, 2))
    lower, upper = convex_hull(points)
    for x, y in points:
        assert np.interp(x, *lower.T) - 1e-9 <= y <= np.interp(x, *upper.T) + 1e-9
    assert {tuple(p) for p in (*lower, *upper)} <= {tuple(p) for p in points}
    assert (np.diff(np.diff(lower[:, 1]) / np.diff(lower[:, 0])) > 0).all()


def test_the_envelope_fills_columns_between_its_pieces() -> None:
    rng = np.random.default_rng(1)
    pieces = [disc(rng.uniform(15, 40), 9) + rng.uniform(60, 140, 2) for _ in range(5)]
    union = np.any([filled(piece) for piece in pieces], axis=0)
    rows = np.arange(200)[:, None]
    top = np.where(union.any(axis=0), union.argmax(axis=0), 999)
    bottom = np.where(union.any(axis=0), 199 - union[::-1].argmax(axis=0), -1)
    expected = (rows >= top) & (rows <= bottom)
    # Within a pixel along the rim of some 600.
    assert (filled(envelope(pieces)) != expected).sum() < 400
    assert expected.sum() > 5000


def test_clipping_keeps_the_area_on_one_side() -> None:
    square = np.array([(0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0)])
    kept = clip(square, 0, 1.0, True)
    assert kept[:, 0].min() == 1
    x, y = kept.T
    assert abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2) == pytest.approx(12)
    assert clip(square, 1, -1.0, True) is square
    assert len(clip(square, 1, 9.0, True)) == 0


def test_extruded_faces_look_outward() -> None:
    profile = [(-2, 0), (-2, 1.2), (1, 1.5), (2, 1.0), (2, 0)]
    faces = extrude(profile, 0.8, (0, 0, 0), "metal")
    assert len(faces) == 7
    center = np.concatenate([face.points for face in faces]).mean(axis=0)
    for face in faces:
        # The normal points away from the viewer a face is turned to, so inwards.
        assert normal(face.points) @ (face.points.mean(axis=0) - center) < 0
    with pytest.raises(ValueError, match="rear over the top"):
        extrude(profile[::-1], 0.8, (0, 0, 0), "metal")


def test_panels_and_places() -> None:
    face = quad((0, 0, 5), (4, 0, 5), (4, 2, 5), (0, 2, 5))
    assert np.allclose(panel(face, 0.25, 0.5, 0, 1)[:, 0], [1, 2, 2, 1])
    turned = place(car(np.random.default_rng(0)), 3.0, 20.0, np.pi / 2)
    points = np.concatenate(turned.outlines)
    assert np.ptp(points[:, 0]) > 3.5  # a car's length lies across the street now
    assert 1.5 < np.ptp(points[:, 2]) < 2.2
    assert turned.depth == pytest.approx(points[:, 2].min())
    assert points[:, 1].min() > -0.01


def test_planes_give_the_depth_of_every_pixel() -> None:
    camera = Camera()
    view = View(camera, (400, 200))
    faces = [Face(ground(-3, 3, 4, 40), (0, 0, 0)), Face(quad((5, 0, 8), (5, 0, 30), (5, 6, 30), (5, 6, 8)), (0, 0, 0))]
    faces.append(Face(upright(1, 0, 12, disc(1)), (0, 0, 0)))
    seen = look(view, LIGHT, faces)
    for face, (a, b, c) in zip(faces, seen.planes, strict=True):
        inside = face.points[:3].mean(axis=0)
        u, v = camera.project(inside[None], view.size)[0]
        assert 1 / (a * u + b * v + c) == pytest.approx(inside[2])


def test_a_face_seen_from_behind_is_left_out() -> None:
    view = View(Camera(), (400, 200))
    wall = quad((-1, 0, 10), (1, 0, 10), (1, 2, 10), (-1, 2, 10))
    front, back = Face(wall, (0, 0, 0), one_sided=True), Face(wall[::-1], (0, 0, 0), one_sided=True)
    assert [bool(corners) for corners in look(view, LIGHT, [front, back]).corners] == [True, False]


def test_whole_pixels_drop_what_adds_nothing() -> None:
    straight = np.array([(0.1, 0.2), (4.9, 0.0), (10.2, 0.1), (10.0, 9.8), (0.0, 10.1), (0.2, 10.3), (0.1, 0.3)])
    assert whole_pixels(straight) == [(0, 0), (10, 0), (10, 10), (0, 10), (0, 0)]
    assert len(whole_pixels(np.array([(3.0, 3.0), (5.0, 3.2), (5.1, 3.0)]))) == 3
