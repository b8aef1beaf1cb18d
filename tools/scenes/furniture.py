"""Objects beside a procedural street: lamps, traffic lights, signs, bins, rails; and the ground itself."""

import numpy as np

from tools.scenes.geometry import Color, Face, Points, Thing, disc, flat, ground, limb, panel, quad, upright

STEEL: tuple[Color, ...] = ((104, 108, 108), (70, 76, 74), (130, 130, 126), (60, 62, 64), (84, 96, 88))


def _steel(rng: np.random.Generator) -> Color:
    red, green, blue = np.array(STEEL[rng.integers(len(STEEL))]) * rng.uniform(0.8, 1.15)
    return float(red), float(green), float(blue)


def _post(x: float, z: float, thick: float, low: float, high: float, color: Color) -> list[Face]:
    """Return a round post: lit on one side, dark on the other."""
    shaft = upright(x, 0, z, limb((0, low), (0, high), thick, 0.75 * thick))
    return [Face(shaft, color, "metal"), Face(panel(shaft[[0, 3, 2, 1]], 0.6, 1, 0, 1), (0, 0, 0), alpha=0.35)]


def lamp(rng: np.random.Generator, x: float, z: float) -> Thing:
    """Return a street lamp with its arm over the road."""
    height, thick, color = rng.uniform(6, 9), rng.uniform(0.12, 0.18), _steel(rng)
    faces = _post(x, z, thick, 0, height, color)
    toward = -np.sign(x) * rng.uniform(1.0, 2.2)
    arm = Face(upright(x, 0, z, limb((0, height - 0.1), (toward, height + 0.3), 0.09, 0.07)), color, "metal")
    head = Face(
        upright(x, 0, z, limb((toward, height + 0.3), (toward * 1.4, height + 0.34), 0.16, 0.12)),
        (176, 178, 172),
        "metal",
    )
    outlines = [faces[0].points, arm.points, head.points]
    return Thing("pole", outlines, [*faces, arm, head], depth=z, shadow=0.4)


def pole(rng: np.random.Generator, x: float, z: float) -> Thing:
    """Return a plain pole or a bollard."""
    tall = rng.random() < 0.5
    faces = _post(x, z, 0.13 if tall else 0.16, 0, rng.uniform(3.5, 7) if tall else 1.0, _steel(rng))
    return Thing("pole", [faces[0].points], faces, depth=z, shadow=0.4)


def traffic_light(rng: np.random.Generator, x: float, z: float) -> Thing:
    """Return a traffic light; now and then a second one hangs over the road from a mast arm."""
    color, height = _steel(rng), rng.uniform(3.0, 3.5)
    lit = int(rng.integers(3))
    faces = _post(x, z, 0.17, 0, height, color)
    thing = Thing("pole", [faces[0].points], faces, depth=z, shadow=0.4)
    thing.extra.append(_signal(x, height - 0.5, z - 0.1, lit))
    if rng.random() < 0.4:
        faces += _post(x, z, 0.2, 0, 5.6, color)[:1]
        reach = -np.sign(x) * min(abs(x) - 0.3, 3.5)
        arm = Face(upright(x, 0, z, limb((0, 5.5), (reach, 5.6), 0.16, 0.1)), color, "metal")
        faces.append(arm)
        thing.outlines += [faces[-2].points, arm.points]
        thing.extra.append(_signal(x + 0.9 * reach, 5.3, z - 0.1, lit))
    return thing


def _signal(x: float, y: float, z: float, lit: int) -> Thing:
    bright: tuple[Color, ...] = ((70, 240, 160), (250, 190, 60), (250, 60, 44))
    dim: tuple[Color, ...] = ((24, 48, 40), (56, 46, 24), (56, 24, 22))
    housing = upright(x, y, z, [(-0.19, -0.5), (0.19, -0.5), (0.19, 0.5), (-0.19, 0.5)])
    faces = [Face(housing, (28, 30, 30), "metal")]
    for k in range(3):
        lens = upright(x, y + 0.31 * (k - 1), z - 0.01, disc(0.12, 10))
        faces.append(Face(lens, bright[k] if k == lit else dim[k]))
    return Thing("traffic light", [housing], faces, depth=z)


def traffic_sign(rng: np.random.Generator, x: float, z: float) -> Thing:
    """Return a traffic sign on its pole: prohibition, warning, priority, parking, blue disc or a direction board."""
    faces = _post(x, z, 0.1, 0, rng.uniform(2.5, 3.1), _steel(rng))
    top = float(faces[0].points[:, 1].max())
    thing = Thing("pole", [faces[0].points], faces, depth=z, shadow=0.3)
    for k in range(1 + int(rng.random() < 0.35)):
        thing.extra.append(_board(rng, x, top - 0.35 - 0.75 * k, z - 0.08))
    return thing


def _board(rng: np.random.Generator, x: float, y: float, z: float) -> Thing:
    size = rng.uniform(0.34, 0.42)
    triangle = np.array([(-1.0, -0.7), (1.0, -0.7), (0.0, 1.0)]) * size
    square = np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]) * size
    white, red, blue, yellow, black = (226, 226, 222), (186, 36, 36), (40, 82, 160), (222, 176, 44), (24, 24, 24)
    bar = np.array([(-0.6, -0.16), (0.6, -0.16), (0.6, 0.16), (-0.6, 0.16)]) * size
    circle = disc(size, 14)
    designs: list[list[tuple[Points, Color]]] = [
        [(circle, red), (circle * 0.72, white), (bar * 0.7, black)],
        [(circle, red), (bar * 1.1, white)],
        [(triangle, red), (triangle * 0.66, white), (bar[:, ::-1] * 0.6, black)],
        [(square @ np.array([[0.7, 0.7], [-0.7, 0.7]]), white), (square @ np.array([[0.5, 0.5], [-0.5, 0.5]]), yellow)],
        [(square, blue), (square * 0.86, (52, 96, 176)), (bar[:, ::-1] * 1.1, white)],
        [(circle, blue), (bar[:, ::-1], white)],
        [(square * (2.2, 0.8), yellow), (bar * (2.2, 0.6), black)],
    ]  # fmt: skip
    parts = designs[rng.integers(len(designs))]
    faces = [Face(upright(x, y, z - 0.005 * k, points), color, "metal") for k, (points, color) in enumerate(parts)]
    return Thing("traffic sign", [faces[0].points], faces, depth=z)


def bin_or_box(rng: np.random.Generator, x: float, z: float) -> Thing:
    """Return a litter bin, a letter box, a switch cabinet or an advertising column (static, void)."""
    width, height = [(0.5, 1.0), (0.4, 1.2), (1.1, 1.3), (1.2, 2.9)][rng.integers(4)]
    color = [(70, 74, 70), (190, 160, 50), (120, 124, 118), (100, 60, 50)][rng.integers(4)]
    front = upright(x, 0, z, np.array([(-0.5, 0), (0.5, 0), (0.5, 1), (-0.5, 1)]) * (width, height))
    faces = [Face(front, color, "metal"), Face(panel(front, 0.15, 0.85, 0.4, 0.85), _steel(rng), "metal", 0.7)]
    faces.append(Face(panel(front, 0.7, 1, 0, 1), (0, 0, 0), alpha=0.25))
    return Thing("static", [front], faces, depth=z, shadow=0.6)


def pushchair(rng: np.random.Generator, x: float, z: float) -> Thing:
    """Return a pushchair or a suitcase left standing (dynamic, void)."""
    body = upright(x, 0, z, np.array([(-0.3, 0.05), (0.3, 0.05), (0.35, 0.6), (0.1, 1.0), (-0.3, 0.75)]))
    color: Color = (float(rng.uniform(20, 120)), float(rng.uniform(20, 90)), float(rng.uniform(20, 110)))
    faces = [
        Face(body, color, "cloth"),
        Face(upright(x, 0.1, z - 0.01, disc(0.1, 8, at=(0.15, 0))), (24, 24, 24), "metal"),
    ]
    return Thing("dynamic", [body], faces, depth=z, shadow=0.6)


def guard_rail(x: float, z0: float, z1: float) -> Thing:
    """Return a crash barrier along the road (void)."""
    beam = quad((x, 0.4, z0), (x, 0.4, z1), (x, 0.75, z1), (x, 0.75, z0))
    faces = [Face(beam, (150, 152, 150), "metal"), Face(panel(beam, 0, 1, 0.4, 0.6), (60, 60, 60), alpha=0.5)]
    posts = [
        Face(quad((x, 0, z), (x, 0, z + 0.15), (x, 0.6, z + 0.15), (x, 0.6, z)), (100, 100, 98), "metal")
        for z in np.arange(z0, z1, 4.0)
    ]
    return Thing("guard rail", [beam], [*posts, *faces], layer=2, depth=z0)


def ground_strip(
    label: str, x0: float, x1: float, color: Color, texture: str, z0: float = 2.0, z1: float = 300.0
) -> Thing:
    """Return a level strip along the street."""
    return flat(label, [Face(ground(x0, x1, z0, z1), color, texture)], layer=0)


def markings(
    rng: np.random.Generator, lines: list[float], edges: tuple[float, float], crossing: float | None
) -> list[Face]:
    """Return road markings: dashed lines between lanes, lines along the edges, a zebra crossing at ``crossing`` (m)."""
    white: Color = (206, 206, 200)
    start, wear = rng.uniform(0, 9), rng.uniform(0.5, 0.85)
    faces = [
        Face(ground(x - 0.07, x + 0.07, max(z, 2.0), z + 3.5), white, "asphalt", wear)
        for x in lines
        for z in np.arange(start - 9, 130, 9.0)
        if z + 3.5 > 2.1
    ]
    if crossing is not None:
        stripes = np.arange(edges[0] + 0.3, edges[1] - 0.5, 1.0)
        faces += [Face(ground(x, x + 0.5, crossing, crossing + 3.2), white, "asphalt", wear) for x in stripes]
        faces.append(Face(ground(-1.6, edges[1], crossing - 1.6, crossing - 1.2), white, "asphalt", wear))
    return faces


def wear(rng: np.random.Generator, x0: float, x1: float, lanes: list[float]) -> list[Face]:
    """Return wheel tracks, repaired patches, cracks and manhole covers on the road."""
    faces = [
        Face(ground(x + side - 0.35, x + side + 0.35, 2.0, 200), (18, 18, 18), alpha=0.08)
        for x in lanes
        for side in (-0.8, 0.8)
    ]
    for _ in range(rng.integers(3, 8)):
        x, z = rng.uniform(x0, x1 - 1), rng.uniform(4, 50)
        patch = ground(x, min(x + rng.uniform(0.6, 2.5), x1), z, z + rng.uniform(1, 10))
        faces.append(
            Face(patch, (10, 10, 10) if rng.random() < 0.7 else (160, 160, 156), alpha=rng.uniform(0.08, 0.22))
        )
    for _ in range(rng.integers(2, 5)):
        x, z = rng.uniform(x0 + 0.5, x1 - 0.5), rng.uniform(5, 40)
        cover = disc(0.33, at=(x, z))
        faces.append(Face(np.insert(cover, 1, 0, axis=1), (36, 36, 36), alpha=0.6))
    for _ in range(rng.integers(2, 6)):
        ahead = np.cumsum(rng.uniform(0.4, 1.6, 9)) + rng.uniform(3, 30)
        winding = rng.uniform(x0 + 0.4, x1 - 0.4) + np.cumsum(rng.normal(0, 0.12, 9))
        crack = np.column_stack([np.clip(winding, x0, x1 - 0.05), np.zeros(9), ahead])
        faces.append(Face(np.concatenate([crack, crack[::-1] + np.array([0.03, 0, 0])]), (24, 24, 24), alpha=0.55))
    return faces
