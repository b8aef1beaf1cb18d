"""People and two-wheelers of a procedural street, built around the origin, in metres."""

import numpy as np

from tools.scenes.geometry import (
    Color,
    Face,
    Points,
    Thing,
    disc,
    extrude,
    limb,
    mirrored,
    sides,
    solid,
    upright,
)

SKINS: tuple[Color, ...] = ((206, 166, 142), (186, 142, 116), (150, 106, 80), (96, 68, 52))
HAIRS: tuple[Color, ...] = ((36, 28, 24), (70, 50, 36), (120, 96, 66), (134, 130, 126))
CLOTHES: tuple[Color, ...] = (
    (28, 28, 32), (44, 50, 66), (70, 72, 76), (112, 108, 102), (168, 162, 152), (206, 204, 198),
    (122, 38, 40), (52, 78, 116), (62, 82, 58), (150, 112, 70), (188, 150, 60), (120, 70, 100),
)  # fmt: skip
TROUSERS: tuple[Color, ...] = ((34, 36, 42), (48, 58, 82), (60, 66, 90), (84, 78, 70), (26, 26, 28), (120, 112, 98))
DARK: Color = (24, 24, 26)


def _pick(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    red, green, blue = np.clip(np.array(colors[rng.integers(len(colors))]) + rng.normal(0, 7, 3), 8, 240)
    return float(red), float(green), float(blue)


def _shade(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor


def _figure(label: str, parts: list[tuple[Points, Color]], scale: float, z: float = 0.0, lift: float = 0.0) -> Thing:
    """Return a figure of flat convex parts, the first behind."""
    faces = []
    for k, (outline, color) in enumerate(parts):
        # A few millimetres between the parts keep their depths apart.
        faces.append(Face(upright(0.0, lift, z - 0.004 * k, outline * scale), color, "cloth"))
    return solid(label, faces, [face.points for face in faces], parts[0][1], shadow=0.5)


def _head(rng: np.random.Generator, x: float, y: float, facing: float) -> list[tuple[Points, Color]]:
    """Return neck, hair and face; ``facing`` -1 … 1 turns the face to the side, 0 shows the back of the head."""
    skin, hair = _pick(rng, SKINS), _pick(rng, HAIRS)
    parts = [(limb((x, y - 0.22), (x, y), 0.11, 0.11), skin), (disc(0.105, 12, 1.25, (x, y + 0.015)), hair)]
    if facing:
        parts.append((disc(0.085, 10, 1.3, (x + 0.025 * facing, y - 0.02)), skin))
    if rng.random() < 0.2:
        parts.append((disc(0.112, 10, 0.6, (x, y + 0.08)), _pick(rng, CLOTHES)))
    return parts


def person(rng: np.random.Generator, label: str = "person", child: bool = False) -> Thing:
    """Return a pedestrian, standing or walking, along the street or across it."""
    across = rng.random() < 0.35
    stride = rng.uniform(0.15, 0.36) if across else rng.uniform(0.0, 0.1)
    side = float(rng.choice([-1.0, 1.0]))
    shirt, trousers, skin = _pick(rng, CLOTHES), _pick(rng, TROUSERS), _pick(rng, SKINS)
    hip = 0.05 if across else 0.09
    wide = 0.15 if across else 0.225
    parts: list[tuple[Points, Color]] = []
    for sign, tone in ((-1.0, 0.8), (1.0, 1.0)):
        knee = (sign * (hip + 0.45 * stride) + 0.04 * across * side, 0.48 + 0.04 * stride)
        foot = (sign * (hip + stride), 0.06 + (0.1 * stride if sign == side else 0))
        parts.append((limb((sign * hip, 0.9), knee, 0.19, 0.14), _shade(trousers, tone)))
        parts.append((limb(knee, foot, 0.14, 0.1), _shade(trousers, tone)))
        toe = 0.16 * side if across else 0.04 * sign
        parts.append((limb((foot[0] - 0.05, foot[1] - 0.01), (foot[0] + toe, foot[1] - 0.03), 0.09, 0.06), DARK))
    swing = 0.6 * stride
    arms = [
        (limb((s * wide * 0.95, 1.4), (s * (wide + 0.05) + swing, 1.1), 0.12, 0.1), _shade(shirt, tone))
        for s, tone in ((-1.0, 0.75), (1.0, 0.85))
    ]
    hands = [
        (limb((s * (wide + 0.05) + swing, 1.12), (s * (wide + 0.02) + 1.7 * swing, 0.82), 0.1, 0.07), color)
        for s, color in ((-1.0, shirt), (1.0, skin if rng.random() < 0.3 else shirt))
    ]
    hem = float(rng.choice([0.82, 0.7, 0.5], p=[0.6, 0.25, 0.15]))
    torso = mirrored([(hip + 0.09, hem), (wide * 0.85, 1.15), (wide, 1.42), (0.08, 1.5)])
    parts += [arms[0], hands[0], (torso, shirt), arms[1], hands[1]]
    parts.append(
        (
            np.array([(-wide * 0.9, 1.2), (-wide * 0.2, 1.2), (-wide * 0.3, 1.46), (-wide * 0.9, 1.42)]),
            _shade(shirt, 1.12),
        )
    )
    if rng.random() < 0.3:
        parts.append((disc(0.15, 8, 1.4, (side * 0.12 * across, 1.2)), _pick(rng, CLOTHES)))
    parts += _head(rng, 0.02 * side * across, 1.64, side if across else float(rng.choice([0.0, 0.01])))
    return _figure(label, parts, rng.uniform(0.93, 1.08) * (0.68 if child else 1.0))


def _rider(rng: np.random.Generator, seat: float, sideways: bool, reach: float) -> Thing:
    """Return a person sitting at height ``seat``; from the side leaning towards +x, else from behind or in front."""
    shirt, trousers = _pick(rng, CLOTHES), _pick(rng, TROUSERS)
    parts: list[tuple[Points, Color]] = []
    if sideways:
        hip, shoulder = (-0.18, seat + 0.08), (0.12, seat + 0.58)
        for tone, knee, foot in (
            (0.75, (0.2, seat - 0.2), (0.0, seat - 0.62)),
            (1.0, (0.22, seat - 0.02), (0.12, seat - 0.42)),
        ):
            parts += [
                (limb(hip, knee, 0.19, 0.14), _shade(trousers, tone)),
                (limb(knee, foot, 0.13, 0.09), _shade(trousers, tone)),
            ]
            parts.append((limb((foot[0] - 0.05, foot[1] - 0.02), (foot[0] + 0.16, foot[1] - 0.02), 0.08, 0.06), DARK))
        parts.append((limb((hip[0] - 0.02, hip[1] - 0.08), shoulder, 0.26, 0.3), shirt))
        parts.append((limb((shoulder[0], shoulder[1] - 0.05), (reach, seat + 0.14), 0.12, 0.08), _shade(shirt, 0.82)))
        head = shoulder[0] + 0.1, shoulder[1] + 0.24
    else:
        for sign, drop in ((-1.0, 0.62), (1.0, 0.45)):
            parts.append((limb((sign * 0.1, seat + 0.05), (sign * 0.17, seat - 0.22), 0.18, 0.14), trousers))
            parts.append(
                (limb((sign * 0.17, seat - 0.2), (sign * 0.12, seat - drop), 0.13, 0.09), _shade(trousers, 0.85))
            )
            parts.append((limb((sign * 0.12, seat - drop), (sign * 0.13, seat - drop - 0.07), 0.1, 0.1), DARK))
            parts.append((limb((sign * 0.2, seat + 0.5), (sign * 0.3, seat + 0.18), 0.12, 0.09), _shade(shirt, 0.82)))
        back = mirrored([(0.17, seat - 0.02), (0.23, seat + 0.5), (0.09, seat + 0.6)])
        parts.append((back, shirt))
        head = 0.0, seat + 0.76
    parts += _head(rng, *head, float(sideways))
    if rng.random() < 0.5:
        parts.append((disc(0.125, 10, 0.8, (head[0], head[1] + 0.07)), _pick(rng, CLOTHES)))
    return _figure("rider", parts, 1.0, z=-0.05)


def _tube(a: tuple[float, float], b: tuple[float, float], thick: float, half: float, color: Color) -> list[Face]:
    return extrude(limb(a, b, thick, thick)[::-1], half, color, "metal")


def _two_wheeler(label: str, bones: list[list[Face]], wheels: list[tuple[float, float, float]], tone: Color) -> Thing:
    """Return wheels (z, radius, half thickness) and tubes; ``tone`` fills the holes that the annotation fills too."""
    parts: list[list[Face]] = []
    spokes: list[Face] = []
    for z, radius, half in wheels:
        tyre = extrude(disc(radius, 14, at=(z, radius))[::-1], half, (26, 26, 27), "metal")
        for side in tyre[-2:]:
            hub = side.points.mean(axis=0)
            spokes.append(Face(hub + (side.points - hub) * 0.84, tone, "metal", one_sided=True))
            spokes.append(Face(hub + (side.points - hub) * 0.12, (60, 60, 62), "metal", one_sided=True))
        parts.append(tyre)
    faces = [*[face for part in parts for face in part], *spokes, *[face for bone in bones for face in bone]]
    pieces = [sides(part) for part in (*parts, *bones)]
    return solid(label, faces, pieces, tone, shadow=0.4)


def bicycle(rng: np.random.Generator) -> Thing:
    """Return a bicycle looking along z."""
    color, tone = _pick(rng, CLOTHES), _shade((98, 98, 96), rng.uniform(0.6, 1.2))
    rear, front, crank, seat, head = (-0.52, 0.34), (0.54, 0.34), (-0.06, 0.3), (-0.22, 0.88), (0.36, 0.88)
    bones = [
        _tube(a, b, 0.05, 0.02, color)
        for a, b in ((crank, seat), (crank, head), (seat, head), (rear, crank), (rear, seat), (front, head))
    ]
    bones.append(_tube((-0.34, 0.95), (-0.1, 0.95), 0.07, 0.07, DARK))
    bones.append(_tube((0.34, 1.02), (0.42, 1.04), 0.05, 0.28, DARK))
    bones.append(_tube((-0.06, 0.2), (-0.06, 0.4), 0.06, 0.1, DARK))
    if rng.random() < 0.4:
        bones.append(_tube((-0.75, 0.76), (-0.4, 0.76), 0.14, 0.14, _pick(rng, CLOTHES)))
    return _two_wheeler("bicycle", bones, [(-0.52, 0.34, 0.025), (0.54, 0.34, 0.025)], tone)


def motorcycle(rng: np.random.Generator) -> Thing:
    """Return a motorcycle or a scooter looking along z."""
    color = _pick(rng, CLOTHES)
    bones = [
        _tube((-0.7, 0.68), (0.12, 0.72), 0.22, 0.15, color),
        _tube((-0.35, 0.42), (0.3, 0.42), 0.34, 0.14, (58, 58, 62)),
        _tube((-0.7, 0.84), (0.0, 0.82), 0.1, 0.13, DARK),
        _tube((0.1, 0.88), (0.48, 0.86), 0.26, 0.15, color),
        _tube((0.42, 1.08), (0.72, 0.34), 0.09, 0.09, (120, 122, 126)),
        _tube((0.34, 1.08), (0.44, 1.12), 0.06, 0.36, DARK),
        _tube((0.5, 0.78), (0.56, 1.02), 0.14, 0.11, (200, 200, 196)),
        _tube((-0.82, 0.62), (-0.76, 0.72), 0.1, 0.1, (150, 24, 22)),
        _tube((-0.7, 0.34), (0.0, 0.3), 0.09, 0.18, (140, 142, 146)),
    ]
    return _two_wheeler("motorcycle", bones, [(-0.68, 0.31, 0.07), (0.72, 0.31, 0.06)], (40, 40, 42))


def rider_on(machine: Thing, rng: np.random.Generator, sideways: bool) -> Thing:
    """Return the rider of a two-wheeler that stands at the origin; a thing of its own, to be placed like the machine.

    ``sideways``: the machine will cross the view, so the rider is seen from the side.
    """
    seat = 0.95 if machine.label == "bicycle" else 0.86
    thing = _rider(rng, seat, sideways, 0.38)
    if sideways:  # in the machine's plane: x of the figure lies along z of the machine
        swap = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=np.float64)
        thing.outlines = [points @ swap for points in thing.outlines]
        for face in thing.faces:
            face.points = face.points @ swap
    return thing
