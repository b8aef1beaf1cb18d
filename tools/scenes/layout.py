"""Lay out a procedural street: all objects and their positions, in metres."""

import numpy as np

from tools.scenes import buildings as houses
from tools.scenes import furniture as street
from tools.scenes import plants as plants
from tools.scenes import traffic as moving
from tools.scenes.geometry import Camera, Color, Face, Thing, ground, quad
from tools.scenes.plan import LANE, Plan, draw_camera, draw_plan, gray, span


def lay_out(rng: np.random.Generator, highlight: str) -> tuple[Camera, list[Thing]]:
    """Return a camera and all things that it may see."""
    plan, camera = draw_plan(rng, highlight), draw_camera(rng)
    crossing = rng.uniform(12, 40) if rng.random() < 0.4 else None
    gap = rng.uniform(25, 60) if rng.random() < 0.4 else None
    things = [*_ground(rng, plan, crossing, gap), *_end(rng, plan)]
    for side in (-1, 1):
        things += _frontage(rng, plan, side, gap)
        things += _furniture(rng, plan, side, crossing)
        things += moving.parked(rng, plan, side, gap)
        things += moving.walkers(rng, plan, side)
    things += [*moving.traffic(rng, plan), *moving.two_wheelers(rng, plan, crossing), *_own_car(rng, camera)]
    return camera, things


def _ground(rng: np.random.Generator, plan: Plan, crossing: float | None, gap: float | None) -> list[Thing]:
    """Return sky and level surfaces, in the order of painting."""
    asphalt, paving = gray(rng, 92, 124), gray(rng, 128, 160)
    slabs = "slabs" if rng.random() < 0.75 else "cobbles"
    heaven = Thing("sky", [quad((-400, 0, 390), (400, 0, 390), (400, 300, 390), (-400, 300, 390))], [], layer=0)
    soil = street.ground_strip("terrain" if rng.random() < 0.5 else "ground", -300, 300, (104, 100, 76), "grass")
    things = [heaven, soil]
    for side in (-1, 1):
        kerb, line = plan.kerb(side), plan.line(side)
        inner = kerb + side * plan.sidewalk(side)
        if plan.verge(side):
            things.append(street.ground_strip("terrain", *span((inner, line + side * 2)), _grass(rng), "grass"))
        things.append(
            street.ground_strip("sidewalk", *span((kerb, inner + (0 if plan.verge(side) else side * 2))), paving, slabs)
        )
        edge = Face(ground(*span((kerb, kerb + side * 0.18)), 2, 200), (172, 170, 164), "slabs", 0.8)
        gutter = Face(ground(*span((kerb, kerb - side * 0.25)), 2, 200), (30, 30, 30), alpha=0.18)
        things[-1].faces += [edge]
        things.append(Thing("road", [], [gutter], layer=0))
    road = street.ground_strip("road", plan.left, plan.right, asphalt, "asphalt")
    things.insert(2, road)
    if gap is not None:
        things.append(street.ground_strip("road", -120, 120, asphalt, "asphalt", gap + 1, gap + 9))
    things += _parking_strips(rng, plan)
    lanes = [x + LANE / 2 for x in plan.lanes[:-1]]
    paint = [
        *street.wear(rng, plan.left, plan.right, list(plan.lanes)),
        *street.markings(rng, lanes, (plan.left, plan.right), crossing),
    ]
    things.append(Thing("road", [], paint, layer=0))
    if plan.rails:
        x = plan.lanes[0]
        bed = street.ground_strip("rail track", x - 1.3, x + 1.3, (118, 112, 106), "cobbles")
        bed.faces += [Face(ground(x + s - 0.05, x + s + 0.05, 2, 200), (56, 56, 58), "metal") for s in (-0.72, 0.72)]
        things.append(bed)
    return things


def _grass(rng: np.random.Generator) -> Color:
    red, green, blue = np.array((112, 124, 66)) * rng.uniform(0.8, 1.1) + rng.normal(0, 6, 3)
    return float(red), float(green), float(blue)


def _parking_strips(rng: np.random.Generator, plan: Plan) -> list[Thing]:
    things = []
    for side, used in zip((-1, 1), plan.parking, strict=True):
        if used and rng.random() < 0.25:
            kerb = plan.kerb(side)
            things.append(
                street.ground_strip("parking", *span((kerb - side * 2.1, kerb)), gray(rng, 92, 124), "cobbles")
            )
    return things


def _end(rng: np.random.Generator, plan: Plan) -> list[Thing]:
    """Return the things at the end of the street."""
    things = [plants.backdrop(rng, 260, -220, 220, rng.uniform(8, 16))]
    half = max(-plan.left, plan.right)
    draw = rng.random()
    if draw < 0.25:
        x = rng.uniform(-8, 8)
        things.append(houses.block(rng, plan.end + 20, x - 12, x + 12, rng.uniform(9, 16)))
    elif draw < 0.35:
        things.append(houses.tunnel(rng, plan.end, half))
    elif draw < 0.5:
        things.append(houses.bridge(rng, rng.uniform(55, 100), half + 3))
    else:
        things.append(plants.backdrop(rng, plan.end + 30, -30, 30, rng.uniform(6, 12)))
    return things


def _frontage(rng: np.random.Generator, plan: Plan, side: int, gap: float | None) -> list[Thing]:
    """Return the building line: houses, gaps with trees, gardens behind walls, fences and hedges."""
    things: list[Thing] = []
    z, x = rng.uniform(-4, 6), plan.line(side)
    open_share = 0.3 if plan.highlight in ("wall", "fence", "terrain") else 0.16
    sure = plan.highlight if plan.highlight in ("wall", "fence") and side == 1 else ""
    while z < plan.end:
        length = rng.uniform(9, 22)
        if gap is not None and z < gap + 9 and z + length > gap:
            if gap - z > 6:
                things.append(houses.building(rng, x + side * rng.uniform(0, 0.5), z, gap, rng.uniform(9, 20)))
            z = gap + 10
            continue
        if (sure and z > 10) or rng.random() < open_share:
            things += _garden(rng, x, side, z, z + length, sure)
            sure = ""
        else:
            setback = side * (rng.uniform(0, 0.5) if rng.random() < 0.8 else rng.uniform(2, 5))
            things.append(houses.building(rng, x + setback, z, z + length, rng.uniform(9, 24)))
            if abs(setback) > 2:
                things.append(_border(rng, x, z, z + length))
        z += length + (rng.uniform(2, 5) if rng.random() < 0.12 else 0)
    return things


def _garden(rng: np.random.Generator, x: float, side: int, z0: float, z1: float, border: str) -> list[Thing]:
    things: list[Thing] = [
        plants.tree(rng, x + side * rng.uniform(2.5, 8), z, rng.uniform(7, 13)) for z in rng.uniform(z0, z1 + 3, 3)
    ]
    for thing in things:
        thing.layer = 1
    things.append(_border(rng, x, max(z0, 2.5), z1, border))
    if rng.random() < 0.5:
        things.append(houses.building(rng, x + side * 10, z0, z1, rng.uniform(6, 11)))
    return things


def _border(rng: np.random.Generator, x: float, z0: float, z1: float, kind: str = "") -> Thing:
    z0 = max(z0, 2.5)
    kind = kind or str(rng.choice(["wall", "fence", "hedge"], p=[0.2, 0.5, 0.3]))
    if kind == "wall":
        return houses.wall(rng, x, z0, z1, rng.uniform(1.2, 2.8))
    if kind == "fence":
        return houses.fence(rng, x, z0, z1, rng.uniform(1.1, 2.0))
    return plants.hedge(rng, x, z0, z1, rng.uniform(0.9, 2.0))


def _furniture(rng: np.random.Generator, plan: Plan, side: int, crossing: float | None) -> list[Thing]:
    """Return lamps and trees in rows along the kerb, signs, lights, bins; in places a crash barrier."""
    things: list[Thing] = []
    kerb, wide = plan.kerb(side), plan.sidewalk(side)
    x = kerb + side * 0.6
    for z in np.arange(rng.uniform(9, 22), plan.end, rng.uniform(20, 32)):
        things.append(street.lamp(rng, x, z))
    if rng.random() < 0.6:
        height = rng.uniform(6, 12)
        inside = kerb + side * (wide + 0.5 * plan.verge(side)) if plan.verge(side) else x + side * 0.3
        for z in np.arange(rng.uniform(12, 30), plan.end, rng.uniform(8, 16)):
            if rng.random() < 0.8:
                things.append(
                    plants.tree(rng, inside + rng.normal(0, 0.15), z + rng.normal(0, 1), height * rng.uniform(0.8, 1.2))
                )
    for z in rng.uniform(14, 85, rng.integers(2, 6)):
        things.append(street.traffic_sign(rng, x + side * rng.uniform(-0.1, 0.4), z))
    for z in rng.uniform(9, 70, rng.integers(1, 5)):
        things.append(street.pole(rng, x + side * rng.uniform(-0.2, 0.3), z))
    for z in rng.uniform(9, 60, rng.integers(0, 3)):
        things.append(street.bin_or_box(rng, kerb + side * rng.uniform(0.6, wide), z))
    if crossing is not None or rng.random() < 0.35:
        z = (crossing or rng.uniform(20, 55)) - 0.6
        things.append(street.traffic_light(rng, kerb + side * 0.5, z))
        things.append(street.traffic_light(rng, kerb + side * 0.5, z + rng.uniform(10, 25)))
    if plan.verge(side) and rng.random() < 0.7:
        things += [
            plants.bush(rng, plan.line(side) - side * rng.uniform(0.4, 1), z, rng.uniform(0.5, 1.1))
            for z in rng.uniform(8, 50, 4)
        ]
    if rng.random() < 0.1:
        things.append(street.guard_rail(kerb + side * 0.3, rng.uniform(8, 20), rng.uniform(30, 60)))
    return things


def _own_car(rng: np.random.Generator, camera: Camera) -> list[Thing]:
    """Return the camera's own bonnet and the borders of the rectified picture (all void), close before the lens."""
    u = np.linspace(0, 1, 25)
    crest = 0.905 + rng.uniform(-0.02, 0.015) + 0.06 * (2 * u - 1) ** 4 + 0.012 * (2 * u - 1) ** 2
    bonnet = [camera.unproject(float(a), float(b), 2.4) for a, b in zip(u, crest, strict=True)]
    body = np.array([*bonnet, camera.unproject(1, 1.01, 2.4), camera.unproject(0, 1.01, 2.4)])
    color = gray(rng, 28, 52, 3)
    faces = [Face(body, color, "metal")]
    for depth in np.geomspace(0.004, 0.1, 14):
        lower = [camera.unproject(float(a), float(b + depth), 2.4) for a, b in zip(u, crest, strict=True)]
        faces.append(Face(np.array([*bonnet, *lower[::-1]]), (196, 202, 206), alpha=0.045))
    rim = 0.003
    border = [
        (0, 0),
        (1, 0),
        (1, 1),
        (0, 1),
        (0, 0),
        (rim, 2 * rim),
        (rim, 1 - 2 * rim),
        (1 - rim, 1 - 2 * rim),
        (1 - rim, 2 * rim),
        (rim, 2 * rim),
    ]
    frame = np.array([camera.unproject(a * 1.01 - 0.005 if a in (0, 1) else a, b, 2.2) for a, b in border])
    wedge = np.array([camera.unproject(a, b, 2.3) for a, b in ((-0.01, 1.01), (-0.01, 0.72), (0.012, 1.01))])
    other = np.array([camera.unproject(a, b, 2.3) for a, b in ((1.01, 1.01), (1.01, 0.75), (0.99, 1.01))])
    black = Face(wedge, (6, 6, 6)), Face(other, (6, 6, 6))
    return [
        Thing("ego vehicle", [body], faces, layer=4, depth=2.4),
        Thing("rectification border", [wedge, other], list(black), layer=4, depth=2.3),
        Thing("out of roi", [frame], [Face(frame, (10, 10, 10), alpha=0.6)], layer=4, depth=2.2),
    ]
