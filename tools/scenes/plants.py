"""Trees, hedges and bushes of a procedural street."""

from functools import lru_cache

import numpy as np

from tools.scenes.geometry import Color, Face, Points, Thing, flat, limb, quad, upright

GREENS: tuple[Color, ...] = ((66, 84, 48), (76, 92, 50), (54, 74, 46), (92, 102, 56), (84, 92, 64), (104, 98, 52))
BARK: Color = (72, 62, 52)


def green(rng: np.random.Generator) -> Color:
    """Return a foliage color."""
    red, g, blue = np.clip(
        np.array(GREENS[rng.integers(len(GREENS))]) * rng.uniform(0.75, 1.2) + rng.normal(0, 4, 3), 8, 200
    )
    return float(red), float(g), float(blue)


def tone(color: Color, factor: float) -> Color:
    """Return a color, brighter or darker by ``factor``."""
    return color[0] * factor, color[1] * factor, color[2] * factor


def blob(
    rng: np.random.Generator,
    rx: float,
    ry: float,
    corners: int = 40,
    rough: float = 0.16,
    at: tuple[float, float] = (0, 0),
) -> Points:
    """Return a ragged closed outline (corners, 2) around ``at``: an ellipse whose rim is 1/f noise."""
    circle, waves, falloff = _circle(corners)
    strength = rng.normal(0, rough, (2, len(falloff))) * falloff
    rim = np.clip(1 + waves @ strength.ravel(), 0.5, 1.45)
    return circle * rim[:, None] * (rx, ry) + at


@lru_cache
def _circle(corners: int) -> tuple[Points, Points, Points]:
    """Return the unit circle (corners, 2), its cosine and sine waves (corners, 2n), and how strong each is (n,)."""
    angle = np.arange(corners) * (2 * np.pi / corners)
    number = np.arange(2, corners // 2)
    waves = np.concatenate([np.cos(angle[:, None] * number), np.sin(angle[:, None] * number)], axis=1)
    # Sine and cosine of independent strengths have √2 times the power of one wave.
    return np.column_stack([np.cos(angle), np.sin(angle)]), waves, number**-0.85 / np.sqrt(2)


def tree(rng: np.random.Generator, x: float, z: float, height: float) -> Thing:
    """Return a tree: trunk, branches and a crown of lit and shaded clumps."""
    leaf = green(rng)
    slim = rng.random() < 0.15
    ry = height * rng.uniform(0.33, 0.42)
    rx = ry * (rng.uniform(0.3, 0.45) if slim else rng.uniform(0.75, 1.15))
    middle = height - ry
    thick = 0.035 * height * rng.uniform(0.7, 1.2)
    lean = rng.normal(0, 0.15)
    trunk = Face(
        upright(x, 0, z, limb((0, 0), (lean, middle), thick, 0.6 * thick)), tone(BARK, rng.uniform(0.7, 1.3)), "bark"
    )
    branches = [
        Face(
            upright(
                x,
                0,
                z - 0.02,
                limb((lean * 0.8, middle * 0.8), (rng.uniform(-0.7, 0.7) * rx, middle + 0.2 * ry), 0.5 * thick, 0.03),
            ),
            BARK,
            "bark",
        )
        for _ in range(3)
    ]
    crown = Face(upright(x + lean, middle, z - 0.05, blob(rng, rx, ry, 140)), tone(leaf, 0.8), "foliage")
    return Thing(
        "vegetation",
        [trunk.points, crown.points],
        [trunk, *branches, crown, *_clumps(rng, leaf, (x + lean, middle, z), rx, ry)],
        depth=z,
        shadow=0.5,
    )


def _clumps(
    rng: np.random.Generator, leaf: Color, center: tuple[float, float, float], rx: float, ry: float
) -> list[Face]:
    """Return clumps inside a crown's outline, dark below and bright on top."""
    x, y, z = center
    faces = []
    for k in range(16 if z < 60 else 6):
        angle, radius = rng.uniform(0, 2 * np.pi), 0.55 * np.sqrt(rng.random())
        dx, dy = radius * np.cos(angle), radius * np.sin(angle)
        size = rng.uniform(0.14, 0.3)
        light = 0.86 + 0.5 * dy + rng.normal(0, 0.1)
        outline = blob(rng, rx * size, ry * size, 22, 0.3, (dx * rx, dy * ry))
        faces.append(Face(upright(x, y, z - 0.06 - 0.01 * k, outline), tone(leaf, light), "foliage"))
    return faces


def hedge(rng: np.random.Generator, x: float, z0: float, z1: float, height: float) -> Thing:
    """Return a hedge along the street: ragged on top, on the plane at ``x``."""
    leaf = green(rng)
    z = np.linspace(z1, z0, max(8, round((z1 - z0) * 3)))
    top = height * (1 + rng.normal(0, 0.05, len(z)) + 0.08 * np.sin(z + rng.uniform(0, 6)))
    rim = np.column_stack([np.full(len(z), x), top, z])
    face = np.concatenate([quad((x, 0, z0), (x, 0, z1)), rim])
    foot = quad((x, 0, z0), (x, 0, z1), (x, 0.25 * height, z1), (x, 0.25 * height, z0))
    shade = Face(foot, (10, 14, 8), alpha=0.35)
    return Thing("vegetation", [face], [Face(face, leaf, "foliage"), shade], layer=2, depth=z0)


def backdrop(rng: np.random.Generator, z: float, x0: float, x1: float, height: float) -> Thing:
    """Return a distant row of trees across the view."""
    x = np.linspace(x1, x0, max(12, round((x1 - x0) / 2.5)))
    top = height * (1 + 0.3 * np.sin(x / 7 + rng.uniform(0, 6)) * rng.uniform(0.3, 1) + rng.normal(0, 0.1, len(x)))
    rim = np.column_stack([x, np.maximum(top, 1.0), np.full(len(x), z)])
    face = Face(np.concatenate([quad((x0, 0, z), (x1, 0, z)), rim]), green(rng), "foliage")
    return flat("vegetation", [face], layer=1, depth=z)


def bush(rng: np.random.Generator, x: float, z: float, size: float) -> Thing:
    """Return a round bush."""
    leaf = green(rng)
    outline = blob(rng, size, size * 0.7, 36)
    outline[:, 1] = np.maximum(outline[:, 1], -0.5 * size)
    body = Face(upright(x, 0.5 * size, z, outline), tone(leaf, 0.85), "foliage")
    faces = [body, *_clumps(rng, leaf, (x, 0.5 * size, z), size * 0.8, size * 0.5)]
    return Thing("vegetation", [body.points], faces, depth=z, shadow=0.6)
