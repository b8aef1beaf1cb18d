"""Buildings, walls and fences along a procedural street."""

import numpy as np

from tools.scenes.geometry import Color, Face, Points, Thing, flat, panel, panels, quad

PLASTERS: tuple[Color, ...] = (
    (196, 184, 160), (206, 200, 188), (178, 164, 138), (190, 160, 120), (168, 170, 168), (210, 190, 150),
    (150, 140, 128), (186, 150, 136), (160, 172, 168), (222, 218, 208),
)  # fmt: skip
BRICKS: tuple[Color, ...] = ((134, 82, 64), (120, 74, 60), (150, 104, 80), (112, 84, 74))
ROOFS: tuple[Color, ...] = ((110, 66, 52), (82, 74, 72), (68, 70, 76), (128, 80, 60))
GLASS: Color = (58, 66, 74)


def _pick(rng: np.random.Generator, colors: tuple[Color, ...], spread: float = 8) -> Color:
    red, green, blue = np.clip(np.array(colors[rng.integers(len(colors))]) + rng.normal(0, spread, 3), 10, 240)
    return float(red), float(green), float(blue)


def _tone(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor


def building(rng: np.random.Generator, x: float, z0: float, z1: float, height: float) -> Thing:
    """Return a house whose front lies at ``x`` (its sign tells the side) between ``z0`` and ``z1``."""
    side = np.sign(x)
    texture = "brick" if rng.random() < 0.28 else "plaster"
    color = _pick(rng, BRICKS if texture == "brick" else PLASTERS)
    back = x + side * 12
    front = quad((x, 0, z0), (x, 0, z1), (x, height, z1), (x, height, z0))
    end = quad((x, 0, z0), (back, 0, z0), (back, height, z0), (x, height, z0))
    walls = [Face(end, _tone(color, 0.92), texture), Face(front, color, texture)]
    faces = list(walls)
    if rng.random() < 0.6:
        roof = _roof(rng, x, z0, z1, height, side)
        walls += roof
        faces += roof
    else:
        faces.append(Face(panel(front, 0, 1, 1 - 0.5 / height, 1), _tone(color, 1.12), "plaster"))
    faces += _facade(rng, front, z1 - z0, height, color)
    faces += _windows(rng, panel(end, 0.08, 0.92, 0.15, 0.95), 9.0, height * 0.8, _tone(color, 1.1), 0.6)
    faces.append(Face(panel(front, 0, 1, 0, 0.6 / height), (20, 20, 20), alpha=0.3))
    return Thing("building", [face.points for face in walls], faces, layer=1, depth=z0)


def _roof(rng: np.random.Generator, x: float, z0: float, z1: float, height: float, side: float) -> list[Face]:
    color, rise = _pick(rng, ROOFS), rng.uniform(1.8, 3.5)
    eaves, ridge = x - side * 0.3, x + side * 5
    slope = quad((eaves, height, z0), (eaves, height, z1), (ridge, height + rise, z1), (ridge, height + rise, z0))
    gable = quad((eaves, height, z0), (x + side * 10.3, height, z0), (ridge, height + rise, z0))
    return [Face(gable, _tone(color, 1.1), "plaster"), Face(slope, color, "roof")]


def _facade(rng: np.random.Generator, front: Points, length: float, height: float, color: Color) -> list[Face]:
    """Return ground floor, windows by storey, cornices, perhaps balconies and dirt under the eaves."""
    ground_floor = rng.uniform(3.2, 4.2)
    share = ground_floor / height
    trim = _tone(color, float(rng.choice([0.8, 1.15])))
    faces = []
    if rng.random() < 0.55:
        faces += _shops(rng, panel(front, 0, 1, 0, share), length)
    else:
        faces.append(Face(panel(front, 0, 1, 0, share), _tone(color, rng.uniform(0.75, 0.95)), "plaster"))
        faces += _windows(rng, panel(front, 0.02, 0.98, 0.2 * share, share), length, ground_floor * 0.8, trim, 1.0)
        door = rng.uniform(0.2, 0.7)
        faces.append(Face(panel(front, door, door + 1.3 / length, 0, 2.4 / height), (64, 46, 36), "wood"))
    faces.append(Face(panel(front, 0, 1, share - 0.25 / height, share), trim, "plaster"))
    faces += _windows(
        rng, panel(front, 0.02, 0.98, share, 0.97), length, height - ground_floor, trim, rng.uniform(0.8, 1.2)
    )
    faces.append(Face(panel(front, 0, 1, 1 - 0.3 / height, 1), _tone(trim, 0.9), "plaster"))
    faces.append(Face(panel(front, 0, 1, 1 - 0.9 / height, 1 - 0.3 / height), (0, 0, 0), alpha=0.25))
    faces.append(Face(panel(front, 0.0, 0.12 / length, 0, 1), (70, 72, 72), "metal", 0.8))
    return faces


def _windows(
    rng: np.random.Generator, wall: Points, length: float, height: float, frame: Color, wide: float
) -> list[Face]:
    """Return a grid of windows: frame, pane, cross bar, reflected sky, sill; some with the blinds down."""
    rows, columns = max(1, round(height / 3.1)), max(1, round(length / 2.7))
    row, column = (a.ravel() for a in np.mgrid[0:rows, 0:columns])
    half_s, half_t = 0.24 * wide, rng.uniform(0.26, 0.34)
    s, t = column + 0.5, row + rng.uniform(0.48, 0.56)
    scale_s, scale_t = 1 / columns, 1 / rows

    def cut(s0: float, s1: float, t0: float, t1: float) -> Points:
        return panels(wall, np.column_stack([s + s0, s + s1]) * scale_s, np.column_stack([t + t0, t + t1]) * scale_t)

    border, line = 0.05, 0.015
    surround = cut(-half_s - border, half_s + border, -half_t - border, half_t + border)
    pane = cut(-half_s, half_s, -half_t, half_t)
    gloss = cut(-half_s, half_s, 0.1, half_t)
    bars = cut(-line, line, -half_t, half_t), cut(-half_s, half_s, 0.08, 0.08 + 2 * line)
    blind = cut(-half_s, half_s, rng.uniform(-0.2, 0.2), half_t)
    sill = cut(-half_s - 0.08, half_s + 0.08, -half_t - border - 0.04, -half_t - border + 0.02)
    shade = rng.uniform(0.6, 1.5, len(s))
    down = rng.random(len(s)) < 0.2
    white: Color = (214, 212, 204) if rng.random() < 0.7 else (70, 58, 48)
    faces = []
    for k in range(len(s)):
        faces.append(Face(surround[k], frame, "plaster"))
        faces.append(Face(pane[k], _tone(GLASS, shade[k]), "glass"))
        faces.append(Face(gloss[k], (186, 198, 206), "glass", 0.12 + 0.2 * (shade[k] - 0.6)))
        if down[k]:
            faces.append(Face(blind[k], (196, 192, 180), "plaster"))
        faces += [Face(bar[k], white, "plaster") for bar in bars]
        faces.append(Face(sill[k], _tone(frame, 0.75), "plaster"))
    return faces


def _shops(rng: np.random.Generator, floor: Points, length: float) -> list[Face]:
    faces = []
    count = max(1, round(length / 6))
    for k in range(count):
        bay = panel(floor, (k + 0.06) / count, (k + 0.94) / count, 0, 1)
        awning = _pick(rng, ((130, 40, 36), (40, 70, 110), (50, 90, 60), (200, 190, 160), (60, 60, 64), (180, 140, 50)))
        split = rng.uniform(0.5, 0.8)
        faces.append(Face(panel(bay, 0, 1, 0, 0.78), (60, 56, 52), "plaster"))
        faces.append(Face(panel(bay, 0.04, split, 0.12, 0.74), _tone(GLASS, rng.uniform(0.6, 1.6)), "glass"))
        faces.append(Face(panel(bay, split + 0.04, 0.96, 0.02, 0.72), _tone(GLASS, rng.uniform(0.5, 1.2)), "glass"))
        for _ in range(4):
            at = rng.uniform(0.06, split - 0.1)
            goods = panel(bay, at, at + rng.uniform(0.03, 0.08), 0.14, rng.uniform(0.25, 0.5))
            faces.append(
                Face(
                    goods,
                    _pick(rng, ((190, 170, 120), (150, 60, 50), (70, 100, 140), (210, 206, 196)), 25),
                    "cloth",
                    0.8,
                )
            )
        faces.append(Face(panel(bay, 0.04, split, 0.45, 0.74), (190, 200, 206), "glass", 0.2))
        faces.append(Face(panel(bay, 0, 1, 0.78, 0.97), awning, "cloth"))
        faces.append(Face(panel(bay, 0.2, 0.8, 0.83, 0.92), (224, 218, 200), "cloth", 0.7))
    return faces


def block(rng: np.random.Generator, z: float, x0: float, x1: float, height: float) -> Thing:
    """Return a house across the end of the street."""
    color = _pick(rng, PLASTERS + BRICKS)
    wall = quad((x0, 0, z), (x1, 0, z), (x1, height, z), (x0, height, z))
    faces = [
        Face(wall, color, "plaster"),
        *_windows(rng, panel(wall, 0.03, 0.97, 0.1, 0.97), x1 - x0, height, _tone(color, 1.1), 1.0),
    ]
    return Thing("building", [wall], faces, layer=1, depth=z)


def wall(rng: np.random.Generator, x: float, z0: float, z1: float, height: float) -> Thing:
    """Return a free-standing wall along the street."""
    texture, colors = ("brick", BRICKS) if rng.random() < 0.4 else ("concrete", PLASTERS)
    color = _tone(_pick(rng, colors), 0.85)
    body = quad((x, 0, z0), (x, 0, z1), (x, height, z1), (x, height, z0))
    end = quad((x, 0, z0), (x + np.sign(x) * 0.3, 0, z0), (x + np.sign(x) * 0.3, height, z0), (x, height, z0))
    faces = [Face(body, color, texture), Face(end, _tone(color, 0.9), texture)]
    cap = Face(panel(body, 0, 1, 1 - 0.12 / height, 1), _tone(color, 1.15), "concrete")
    seams = [
        Face(panel(body, at, at + 0.05 / (z1 - z0), 0, 1), (30, 30, 30), "concrete", 0.5)
        for at in np.arange(2.5, z1 - z0, 2.5) / (z1 - z0)
    ]
    dirt = Face(panel(body, 0, 1, 0, 0.25), (20, 20, 16), alpha=0.3)
    return Thing("wall", [face.points for face in faces], [*faces, cap, *seams, dirt], layer=2, depth=z0)


def fence(rng: np.random.Generator, x: float, z0: float, z1: float, height: float) -> Thing:
    """Return a fence along the street: what is behind shows between its bars, as it does under real annotations."""
    body = quad((x, 0, z0), (x, 0, z1), (x, height, z1), (x, height, z0))
    wood = rng.random() < 0.35
    color: Color = (116, 92, 66) if wood else _pick(rng, ((44, 48, 46), (70, 84, 74), (120, 124, 124)))
    pitch, share, length = (0.18, 0.72, z1 - z0) if wood else (0.16, 0.24, z1 - z0)
    at = np.arange(0, length - pitch, pitch) / length
    bars = panels(body, np.column_stack([at, at + share * pitch / length]), np.tile([[0.03, 1.0]], (len(at), 1)))
    rails = [panel(body, 0, 1, t, t + 0.05) for t in (0.12, 0.85)]
    posts = [panel(body, s, s + 0.1 / length, 0, 1) for s in np.arange(0, length - 0.1, 2.4) / length]
    texture = "wood" if wood else "metal"
    faces = [Face(body, color, alpha=0.3)]
    faces += [Face(points, color, texture) for points in (*bars, *rails, *posts)]
    return Thing("fence", [body], faces, layer=2, depth=z0)


def bridge(rng: np.random.Generator, z: float, half: float) -> Thing:
    """Return a bridge across the street on two piers (void)."""
    low, high = rng.uniform(4.8, 5.6), rng.uniform(6.6, 7.6)
    color = _pick(rng, PLASTERS, 4)
    deck = quad((-60, low, z), (60, low, z), (60, high, z), (-60, high, z))
    under = quad((-60, low, z), (60, low, z), (60, low, z + 9), (-60, low, z + 9))
    piers = [quad((x, 0, z), (x + 1.2, 0, z), (x + 1.2, low, z), (x, low, z)) for x in (-half - 1.4, half + 0.2)]
    faces = [Face(under, (50, 50, 50), "concrete"), Face(deck, _tone(color, 0.8), "concrete")]
    faces += [Face(pier, _tone(color, 0.75), "concrete") for pier in piers]
    rail = Face(panel(deck, 0, 1, 0.8, 1), (96, 104, 104), "metal")
    return Thing("bridge", [face.points for face in faces], [*faces, rail], depth=z)


def tunnel(rng: np.random.Generator, z: float, half: float) -> Thing:
    """Return the portal of a tunnel that the street runs into (void)."""
    portal = quad((-half - 1, 0, z), (half + 1, 0, z), (half + 1, 5.0, z), (-half - 1, 5.0, z))
    lining = quad((-half - 2, 0, z), (half + 2, 0, z), (half + 2, 6.2, z), (-half - 2, 6.2, z))
    faces = [Face(lining, _pick(rng, PLASTERS, 4), "concrete"), Face(portal, (20, 20, 20), "concrete")]
    return flat("tunnel", faces, layer=1, depth=z)
