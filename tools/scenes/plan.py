"""The plan of a procedural street: its widths, and where things may stand."""

from dataclasses import dataclass

import numpy as np

from tools.scenes.geometry import Camera, Color

HIGHLIGHTS = ("train", "bus", "truck", "motorcycle", "wall", "rider", "fence", "terrain")
"""Rare classes that take turns: each scene shows one of them for sure, eight scenes in a row all of them."""

LANE = 3.4


@dataclass(frozen=True)
class Plan:
    """The cross section of the street: x of the kerbs, widths of the strips up to the building lines."""

    left: float
    right: float
    lanes: tuple[float, ...]
    """x of the lane centers; the camera drives at 0."""
    parking: tuple[bool, bool]
    """Whether cars park along the left and the right kerb."""
    sidewalks: tuple[float, float]
    """Widths of the left and the right sidewalk."""
    verges: tuple[float, float]
    """Widths of the strips of grass behind the sidewalks, 0 for none."""
    rails: bool
    end: float
    """Metres to the end of the street."""
    highlight: str

    def kerb(self, side: int) -> float:
        """Return x of the kerb on the left (-1) or right (1)."""
        return self.left if side < 0 else self.right

    def sidewalk(self, side: int) -> float:
        """Return the width of the sidewalk."""
        return self.sidewalks[(side + 1) // 2]

    def verge(self, side: int) -> float:
        """Return the width of the strip of grass."""
        return self.verges[(side + 1) // 2]

    def line(self, side: int) -> float:
        """Return x of the building line."""
        return self.kerb(side) + side * (self.sidewalk(side) + self.verge(side))


def draw_plan(rng: np.random.Generator, highlight: str) -> Plan:
    """Draw a street's plan that suits the rare class ``highlight``."""
    rails = highlight == "train"
    oncoming, more = 1 + int(rails or rng.random() < 0.3), int(rng.random() < 0.3)
    parking = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    verges = [rng.uniform(1.5, 5) if rng.random() < 0.35 else 0.0 for _ in range(2)]
    if highlight == "terrain":
        verges[int(rng.integers(2))] = rng.uniform(5, 10)
    return Plan(
        left=-LANE * (oncoming + 0.5) - 2.2 * parking[0],
        right=LANE * (more + 0.5) + 2.2 * parking[1],
        lanes=tuple(LANE * k for k in range(-oncoming, more + 1)),
        parking=parking,
        sidewalks=(rng.uniform(2.2, 5.0), rng.uniform(2.2, 5.0)),
        verges=(verges[0], verges[1]),
        rails=rails,
        end=rng.uniform(90, 170),
        highlight=highlight,
    )


def draw_camera(rng: np.random.Generator) -> Camera:
    """Draw a camera's height and vanishing point."""
    return Camera(
        height=rng.uniform(1.2, 1.4),
        center=0.5 + rng.normal(0, 0.035),
        horizon=float(np.clip(rng.normal(0.42, 0.012), 0.39, 0.45)),
    )


def gray(rng: np.random.Generator, low: float, high: float, spread: float = 1.5) -> Color:
    """Draw a gray between ``low`` and ``high``, each channel off by ``spread``."""
    red, green, blue = rng.uniform(low, high) + rng.normal(0, spread, 3)
    return float(red), float(green), float(blue)


def span(ends: tuple[float, float]) -> tuple[float, float]:
    """Return the two ends from left to right."""
    return min(ends), max(ends)
