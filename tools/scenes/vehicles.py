"""Vehicles of a procedural street, built around the origin and looking ahead (+z): cars, vans, trucks, buses, trams."""

import numpy as np

from tools.scenes.geometry import Color, Face, Points, Thing, beside, disc, extrude, panel, sides, solid

GLASS: Color = (44, 52, 58)
RUBBER: Color = (26, 26, 27)
PAINTS: tuple[Color, ...] = (
    (30, 31, 34), (52, 55, 60), (96, 99, 103), (150, 153, 156), (196, 198, 200), (224, 224, 220),
    (28, 40, 72), (44, 70, 112), (118, 24, 26), (150, 40, 34), (70, 84, 66), (122, 108, 88), (196, 160, 60),
)  # fmt: skip
PAINT_SHARES = np.array([18, 14, 12, 14, 10, 13, 6, 4, 4, 2, 1, 2, 1]) / 101

# Side views in metres (z, y): the body, then the cabin upon it; both end at ±half the length.
BODY = np.array([(-0.47, 0.24), (-0.5, 0.5), (-0.48, 0.92), (0.24, 0.97), (0.47, 0.76), (0.5, 0.5), (0.48, 0.24)])
CABINS = {
    "hatch": np.array([(-0.47, 0.91), (-0.38, 1.36), (-0.3, 1.44), (-0.03, 1.47), (0.06, 1.43), (0.27, 0.95)]),
    "sedan": np.array([(-0.38, 0.91), (-0.24, 1.32), (-0.15, 1.40), (0.0, 1.42), (0.07, 1.38), (0.27, 0.95)]),
    "estate": np.array([(-0.48, 0.91), (-0.44, 1.40), (-0.36, 1.48), (0.0, 1.50), (0.08, 1.44), (0.27, 0.95)]),
    "suv": np.array([(-0.48, 0.91), (-0.43, 1.56), (-0.36, 1.66), (0.0, 1.69), (0.1, 1.62), (0.27, 0.95)]),
    "van": np.array([(-0.49, 0.91), (-0.47, 1.88), (-0.42, 1.97), (0.14, 1.97), (0.2, 1.9), (0.36, 0.9)]),
}
LENGTHS = {"hatch": 4.0, "sedan": 4.6, "estate": 4.6, "suv": 4.6, "van": 5.0}
BODY_KINDS = tuple(CABINS)
KIND_SHARES = np.array([34, 20, 22, 14, 10]) / 100


def paint_color(rng: np.random.Generator) -> Color:
    """Draw the color of a car's paint."""
    red, green, blue = np.clip(np.array(PAINTS[rng.choice(len(PAINTS), p=PAINT_SHARES)]) + rng.normal(0, 6, 3), 12, 240)
    return float(red), float(green), float(blue)


def car(rng: np.random.Generator, label: str = "car") -> Thing:
    """Return a car of a random make."""
    kind = str(rng.choice(BODY_KINDS, p=KIND_SHARES))
    length = LENGTHS[kind] * rng.uniform(0.93, 1.06)
    half = rng.uniform(0.84, 0.93) + (0.06 if kind in ("van", "suv") else 0)
    color = paint_color(rng)
    body = extrude(BODY * (length, 1), half * np.array([0.92, 1, 0.99, 0.97, 0.93, 0.96, 0.9]), color, "metal")
    taper = half * (np.array([0.93, 0.86, 0.8, 0.8, 0.84, 0.93]) if kind != "van" else np.full(6, 0.94))
    cabin = extrude(CABINS[kind] * (length, 1), taper, color, "metal")
    rear_lamp = bool(rng.random() < 0.3)
    details = [
        *_sills(body),
        *_rear(body[1].points, body[0].points, rear_lamp),
        *_front(_turned(body[4]), _turned(body[5])),
        *_cabin_glass(cabin, kind, color),
    ]
    axles = (-0.29 * length, 0.31 * length)
    wheels = [wheel(x, z, 0.32) for z in axles for x in (-half + 0.1, half - 0.1)]
    return _vehicle(label, [body, cabin], wheels, details)


def _sills(body: list[Face]) -> list[Face]:
    """Return a dark sill and the door seams on both sides."""
    faces = []
    for side in body[-2:]:
        (_, low, start), (_, high, end) = side.points.min(axis=0), side.points.max(axis=0)
        length = end - start
        x = 0.94 * np.sign(side.points[0, 0]) * np.abs(side.points[:, 0]).max()
        for z in (start + fraction * length for fraction in (0.33, 0.52, 0.7)):
            faces.append(Face(beside(x, z, z + 0.02, low + 0.1, high - 0.1), (10, 10, 10), "metal", 0.5, True))
        sill = beside(x, start + 0.06 * length, end - 0.06 * length, low, low + 0.1)
        faces.append(Face(sill, (20, 20, 22), "metal", 0.8, True))
    return faces


def _rear(tail: Points, bumper: Points, braking: bool) -> list[Face]:
    red: Color = (225, 40, 30) if braking else (128, 18, 20)
    parts: list[tuple[Points, Color]] = [
        (panel(bumper, 0, 1, 0.0, 0.55), (28, 28, 30)),
        (panel(tail, 0.36, 0.64, 0.28, 0.52), (212, 212, 205)),
        (panel(tail, 0.01, 0.16, 0.5, 0.95), red),
        (panel(tail, 0.84, 0.99, 0.5, 0.95), red),
        (panel(tail, 0.03, 0.12, 0.55, 0.7), (210, 150, 120)),
        (panel(tail, 0.88, 0.97, 0.55, 0.7), (210, 150, 120)),
    ]
    return [Face(points, color, "metal", one_sided=True) for points, color in parts]


def _front(nose: Points, bumper: Points) -> list[Face]:
    parts: list[tuple[Points, Color]] = [
        (panel(nose, 0.24, 0.76, 0.3, 0.85), (22, 22, 24)),
        (panel(nose, 0.02, 0.2, 0.35, 0.95), (222, 226, 230)),
        (panel(nose, 0.8, 0.98, 0.35, 0.95), (222, 226, 230)),
        (panel(bumper, 0.36, 0.64, 0.55, 0.95), (212, 212, 205)),
        (panel(bumper, 0.1, 0.9, 0.05, 0.4), (26, 26, 28)),
    ]
    return [Face(points, color, "metal", one_sided=True) for points, color in parts]


def _cabin_glass(cabin: list[Face], kind: str, color: Color) -> list[Face]:
    """Return windscreen, rear window and side windows with their pillars, each with the sky's reflection."""
    screens = [panel(cabin[0].points, 0.08, 0.92, 0.15, 0.95), panel(_turned(cabin[4]), 0.06, 0.94, 0.06, 0.95)]
    for side in cabin[-2:]:
        middle = side.points.mean(axis=0)
        screens.append(middle + (side.points - middle) * (1, 0.72, 0.86))
    faces = []
    for screen in screens:
        faces.append(Face(screen, GLASS, "glass", one_sided=True))
        top = screen[:, 1].max()
        upper = screen.copy()
        upper[:, 1] = np.maximum(upper[:, 1], top - 0.45 * np.ptp(screen[:, 1]))
        faces.append(Face(upper, (176, 190, 200), "glass", 0.28, True))
    for side in cabin[-2:]:
        low, high, ends = side.points[:, 1].min(), side.points[:, 1].max(), side.points[:, 2]
        x = np.abs(side.points[:, 0])
        sign = np.sign(side.points[0, 0])
        for fraction in (0.45,) if kind == "van" else (0.3, 0.55):
            z = ends.min() + fraction * np.ptp(ends)
            pillar = beside(sign * x.max(), z, z + 0.09, low, high, sign * x.min())
            faces.append(Face(pillar, color, "metal", one_sided=True))
    return faces


def wheel(x: float, z: float, radius: float, half: float = 0.1) -> tuple[list[Face], list[Face]]:
    """Return a wheel whose axle lies across at height ``radius``: the tyre, and the rim on its outer side."""
    tyre = extrude(disc(radius, 10)[::-1], half, RUBBER, "metal")
    outer = tyre[-2 if x > 0 else -1]
    hub = outer.points.mean(axis=0)
    rim = [Face(outer.points, RUBBER, "metal", one_sided=True)]
    rim.append(Face(hub + (outer.points - hub) * 0.62, (112, 114, 118), "metal", one_sided=True))
    rim.append(Face(hub + (outer.points - hub) * 0.2, (50, 50, 52), "metal", one_sided=True))
    offset = np.array([x, radius, z])
    for face in (*tyre, *rim):
        face.points = face.points + offset
    return tyre, rim


def _turned(band: Face) -> Points:
    """Return a band at the front, its corners ordered as seen from the front."""
    return band.points[[2, 3, 0, 1]]


def _vehicle(
    label: str, bodies: list[list[Face]], wheels: list[tuple[list[Face], list[Face]]], details: list[Face]
) -> Thing:
    """Return bodies and wheels under one outline; the first body and the wheels lie behind the other bodies."""
    tyres = [face for tyre, _ in wheels for face in tyre[:-2]]
    rims = [face for _, rim in wheels for face in rim]
    faces = [*tyres, *bodies[0], *rims, *[face for body in bodies[1:] for face in body], *details]
    pieces = [sides(part) for part in (*bodies, *[tyre for tyre, _ in wheels])]
    return solid(label, faces, pieces, (18, 18, 19), shadow=0.85)


def _box(z0: float, z1: float, y0: float, y1: float, half: float, color: Color, bevel: float = 0.1) -> list[Face]:
    profile = [(z0, y0), (z0, y1 - bevel), (z0 + bevel, y1), (z1 - bevel, y1), (z1, y1 - bevel), (z1, y0)]
    return extrude(profile, half, color, "metal")


def truck(rng: np.random.Generator, oncoming: bool = False) -> Thing:
    """Return a lorry: cab, chassis and a closed or a canvas body; seen from the front if ``oncoming``."""
    length, half, height = rng.uniform(6.5, 9.5), 1.22, rng.uniform(3.1, 3.7)
    cargo_color: Color = [(206, 206, 202), (60, 84, 120), (150, 60, 44), (88, 112, 84), (190, 170, 120)][
        rng.integers(5)
    ]
    back, front = -length / 2, length / 2
    cargo = _box(back, front - 2.0, 1.0, height, half, cargo_color, 0.05)
    cab = extrude(
        [(front - 1.9, 0.5), (front - 1.9, 2.6), (front - 0.4, 2.7), (front - 0.1, 1.5), (front, 1.2), (front, 0.5)],
        half * 0.96, paint_color(rng), "metal",
    )  # fmt: skip
    chassis = _box(back + 0.2, front - 1.5, 0.55, 1.0, half * 0.8, (30, 30, 32), 0.02)
    wheels = [wheel(x, z, 0.48, 0.16) for z in (back + 1.3, front - 1.2) for x in (-half + 0.2, half - 0.2)]
    rear = cargo[0].points
    details = [
        Face(panel(rear, s, s + 0.012, 0.02, 0.98), (40, 40, 42), "metal", 0.7, True) for s in (0.02, 0.49, 0.97)
    ]
    details += [Face(panel(rear, s, s + 0.1, 0.0, 0.04), (140, 20, 20), "metal", one_sided=True) for s in (0.03, 0.87)]
    details += [Face(panel(rear, 0.25, 0.75, 0.45, 0.7), paint_color(rng), "metal", 0.8, True)]
    for side in cargo[-2:]:
        details.append(
            Face(
                _band(side, 1.0 + 0.45 * (height - 1), 1.0 + 0.72 * (height - 1), 0.12),
                paint_color(rng),
                "metal",
                0.8,
                True,
            )
        )
    details += [Face(panel(_turned(cab[3]), 0.06, 0.94, 0.05, 0.95), GLASS, "glass", one_sided=True)]
    details += [Face(panel(_turned(cab[2]), 0.06, 0.94, 0.05, 0.95), GLASS, "glass", one_sided=True)]
    details += [Face(_band(side, 1.6, 2.4, 0.2), GLASS, "glass", one_sided=True) for side in cab[-2:]]
    return _vehicle("truck", [chassis, cargo, cab] if oncoming else [chassis, cab, cargo], wheels, details)


def bus(rng: np.random.Generator) -> Thing:
    """Return a city bus."""
    colors: list[Color] = [(196, 160, 40), (170, 36, 34), (40, 92, 130), (190, 192, 192), (60, 120, 80)]
    color = colors[rng.integers(len(colors))]
    length = rng.uniform(10.5, 12.5)
    return _coach("bus", length, 3.0, color, rng)


def tram(rng: np.random.Generator) -> Thing:
    """Return a tram of several modules (class train)."""
    colors: list[Color] = [(200, 168, 44), (176, 40, 36), (206, 206, 200), (70, 110, 80), (60, 80, 130)]
    return _coach("train", rng.uniform(22, 30), 3.4, colors[rng.integers(len(colors))], rng, modules=4)


def trailer(rng: np.random.Generator) -> Thing:
    """Return a caravan, or a covered trailer (both void)."""
    label, height, color = ("caravan", 2.5, (214, 212, 204)) if rng.random() < 0.5 else ("trailer", 1.9, (90, 96, 104))
    body = _box(-2.2, 2.2, 0.5, height, 1.05, color, 0.2)
    wheels = [wheel(x, 0.0, 0.3) for x in (-0.95, 0.95)]
    details = [Face(panel(body[0].points, 0.2, 0.8, 0.5, 0.85), GLASS, "glass", one_sided=True)]
    details += [
        Face(panel(body[0].points, s, s + 0.1, 0.05, 0.15), (140, 20, 20), "metal", one_sided=True)
        for s in (0.04, 0.86)
    ]
    details += [
        Face(_band(side, 0.5 + 0.5 * (height - 0.5), height - 0.3, 0.25), GLASS, "glass", one_sided=True)
        for side in body[-2:]
    ]
    return _vehicle(label, [body], wheels, details)


def _coach(label: str, length: float, height: float, color: Color, rng: np.random.Generator, modules: int = 1) -> Thing:
    half, bevel, back, front = 1.22, 0.25, -length / 2, length / 2
    profile = [(back, 0.35), (back, height - bevel), (back + bevel, height)]
    profile += [(-z, y) for z, y in reversed(profile)]
    body = extrude(profile, half * np.array([1, 1, 0.9, 0.9, 1, 1]), color, "metal")
    stripe: Color = (226, 224, 216) if rng.random() < 0.5 else (40, 44, 50)
    details = []
    for end, lamp in ((body[0].points, (150, 22, 22)), (_turned(body[4]), (230, 230, 224))):
        details.append(Face(panel(end, 0.05, 0.95, 0.38, 0.82), GLASS, "glass", one_sided=True))
        details.append(Face(panel(end, 0.05, 0.95, 0.62, 0.82), (170, 184, 194), "glass", 0.25, True))
        details.append(Face(panel(end, 0.2, 0.8, 0.86, 0.97), (24, 24, 22), "metal", one_sided=True))
        details.append(Face(panel(end, 0.38, 0.66, 0.885, 0.945), (226, 150, 40), "metal", one_sided=True))
        details += [Face(panel(end, s, s + 0.12, 0.1, 0.2), lamp, "metal", one_sided=True) for s in (0.05, 0.83)]
        details.append(Face(panel(end, 0, 1, 0.0, 0.07), (30, 30, 32), "metal", one_sided=True))
    for side in body[-2:]:
        details.append(Face(_band(side, 0.35, 0.62, 0.0), (40, 40, 42), "metal", one_sided=True))
        details.append(Face(_band(side, 1.0, 1.16, 0.0), stripe, "metal", one_sided=True))
        details += _side_windows(side, length, height, modules)
    wheels = (
        []
        if label == "train"
        else [wheel(x, z, 0.48, 0.14) for z in (back + 2.6, front - 2.4) for x in (-half + 0.1, half - 0.1)]
    )
    skirt = extrude(
        [(back + 0.5, 0.0), (back + 0.5, 0.5), (front - 0.5, 0.5), (front - 0.5, 0.0)],
        half - 0.1,
        (24, 24, 25),
        "metal",
    )
    return _vehicle(label, [skirt, body], wheels, details)


def _side_windows(side: Face, length: float, height: float, modules: int) -> list[Face]:
    faces, count = [], max(4, round(length / 1.5))
    for k in range(count):
        margin = 0.04 / count + k / count, (k + 0.93) / count
        door = k % 4 == 1
        low = 0.6 if door else 1.35
        faces.append(Face(_band(side, low, height - 0.5, 0, margin), GLASS, "glass", one_sided=True))
        faces.append(Face(_band(side, height - 1.0, height - 0.5, 0, margin), (170, 184, 194), "glass", 0.22, True))
    for k in range(1, modules):
        at = k / modules - 0.01, k / modules + 0.01
        faces.append(Face(_band(side, 0.4, height - 0.1, 0, at), (34, 34, 36), "cloth", one_sided=True))
    return faces


def _band(side: Face, low: float, high: float, inset: float, along: tuple[float, float] = (0.0, 1.0)) -> Points:
    """Return a level band on the side of a body between two heights, ``along`` in fractions from rear to front."""
    x = side.points[:, 0].mean()
    z0, z1 = side.points[:, 2].min() + inset, side.points[:, 2].max() - inset
    return beside(x, z0 + along[0] * (z1 - z0), z0 + along[1] * (z1 - z0), low, high)
