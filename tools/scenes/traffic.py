"""Moving and parked traffic on a procedural street."""

import numpy as np

from tools.scenes import furniture as street
from tools.scenes import people as people
from tools.scenes import vehicles as vehicles
from tools.scenes.geometry import Thing, place
from tools.scenes.plan import Plan


def parked(rng: np.random.Generator, plan: Plan, side: int, gap: float | None) -> list[Thing]:
    """Return cars along the kerb, bumper to bumper with holes; far ones are annotated as groups."""
    if not plan.parking[(side + 1) // 2]:
        return []
    things: list[Thing] = []
    x, z = plan.kerb(side) - side * 1.05, rng.uniform(8, 14)
    while z < 95:
        if rng.random() < 0.72 and not (gap is not None and gap - 4 < z < gap + 13):
            label = "cargroup" if z > 70 else "car"
            thing = vehicles.trailer(rng) if rng.random() < 0.03 else vehicles.car(rng, label)
            heading = (0.0 if side > 0 or rng.random() < 0.2 else np.pi) + rng.normal(0, 0.02)
            things.append(place(thing, x + rng.normal(0, 0.08), z, heading))
        z += rng.uniform(5.4, 6.4)
    return things


def walkers(rng: np.random.Generator, plan: Plan, side: int) -> list[Thing]:
    """Return pedestrians on the sidewalk, alone and in pairs; parked bicycles and motorcycles; things left standing."""
    things: list[Thing] = []
    kerb, wide = plan.kerb(side), plan.sidewalk(side)

    def spot() -> float:
        return float(kerb + side * rng.uniform(0.7, wide - 0.2))

    for _ in range(rng.poisson(4.5)):
        x, z = spot(), float(9 + rng.gamma(2.0, 11))
        for k in range(1 + int(rng.random() < 0.4)):
            things.append(
                place(people.person(rng, child=bool(rng.random() < 0.1)), x + 0.6 * k, z + rng.normal(0, 0.2))
            )
    for _ in range(rng.poisson(0.9)):
        x, z, heading = kerb + side * rng.uniform(0.5, 1.0), rng.uniform(9, 40), rng.uniform(-1.6, 1.6)
        for k in range(rng.integers(1, 4)):
            things.append(place(people.bicycle(rng), x, z + 0.8 * k, heading + rng.normal(0, 0.1)))
    if rng.random() < 0.12 or plan.highlight == "motorcycle":
        things.append(place(people.motorcycle(rng), kerb + side * 0.7, rng.uniform(9, 22), rng.uniform(-1.2, 1.2)))
    if rng.random() < 0.15:
        things.append(street.pushchair(rng, spot(), rng.uniform(9, 30)))
    return things


def traffic(rng: np.random.Generator, plan: Plan) -> list[Thing]:
    """Return vehicles in the lanes: ours and those to its right drive away, the left ones come towards us."""
    things: list[Thing] = []
    for lane in plan.lanes:
        heading = np.pi if lane < -1 else 0.0
        on_rails = plan.rails and lane == plan.lanes[0]
        if on_rails:
            things.append(place(vehicles.tram(rng), lane, rng.uniform(28, 50), heading))
            continue
        z = rng.uniform(11, 30) if lane else rng.uniform(14, 34)
        while z < 130:
            if rng.random() < 0.55:
                things.append(
                    place(
                        _vehicle(rng, oncoming=lane < -1), lane + rng.normal(0, 0.15), z, heading + rng.normal(0, 0.02)
                    )
                )
            z += rng.uniform(9, 34)
    if plan.highlight in ("bus", "truck"):
        lane = float(rng.choice(plan.lanes))
        thing = vehicles.bus(rng) if plan.highlight == "bus" else vehicles.truck(rng, oncoming=lane < -1)
        z = rng.uniform(18, 38)
        things = [
            other
            for other in things
            if abs(other.depth + 2 - z) > 11 or abs(other.outlines[0][:, 0].mean() - lane) > 1.5
        ]
        things.append(place(thing, lane, z, np.pi if lane < -1 else 0.0))
    return things


def _vehicle(rng: np.random.Generator, oncoming: bool) -> Thing:
    draw = rng.random()
    return vehicles.car(rng) if draw < 0.95 else vehicles.truck(rng, oncoming) if draw < 0.98 else vehicles.bus(rng)


def two_wheelers(rng: np.random.Generator, plan: Plan, crossing: float | None) -> list[Thing]:
    """Return riders near the right or left kerb, or across the street; people on the zebra crossing."""
    things: list[Thing] = []
    count = rng.poisson(0.35) + (plan.highlight in ("rider", "motorcycle")) * rng.integers(1, 3)
    for k in range(count):
        motor = plan.highlight == "motorcycle" and k == 0
        machine = people.motorcycle(rng) if motor else people.bicycle(rng)
        sideways = bool(rng.random() < 0.3)
        heading = float(rng.choice([-1, 1]) * np.pi / 2 if sideways else rng.choice([0, np.pi])) + rng.normal(0, 0.15)
        side = 1 if rng.random() < 0.6 else -1
        inset = 2.9 if plan.parking[(side + 1) // 2] else 0.8
        x = rng.uniform(-3, 3) if sideways else plan.kerb(side) - side * inset
        z = rng.uniform(11, 32)
        rider = people.rider_on(machine, rng, sideways)
        machine.extra.append(rider)
        things.append(place(machine, x, z, heading))
    if crossing is not None:
        for x in rng.uniform(plan.left, plan.right, rng.poisson(1.5)):
            things.append(place(people.person(rng), float(x), crossing + rng.uniform(0.3, 2.8)))
    return things
