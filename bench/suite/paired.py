"""Few numbers, and what may be said of them: mean, deviation, and the interval of a difference paired by seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
ENOUGH = 3
"""Pairs for an interval: of two it is so wide (12.7 standard errors) that nothing would ever be found."""


@dataclass(frozen=True)
class Mean:
    """Of some numbers."""

    mean: float
    std: float | None
    """The sample's, with n - 1 below; None for one number."""
    n: int


def mean_of(numbers: Sequence[float]) -> Mean:
    """Of at least one number."""
    return Mean(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None, len(numbers))


@dataclass(frozen=True)
class Difference:
    """Of a variant to the base: the mean over seeds that both have, and its interval of :data:`LEVEL`."""

    mean: float
    low: float | None
    """None with fewer than :data:`ENOUGH` pairs."""
    high: float | None
    n: int

    @property
    def verdict(self) -> str:
        """better or worse, where the interval leaves out 0; else noise; or that there are too few seeds."""
        if self.low is None or self.high is None:
            return f"{self.n} seed{'s' * (self.n != 1)}, too few to say"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "noise"


def difference(theirs: Mapping[int, float], base: Mapping[int, float]) -> Difference | None:
    """Theirs minus the base's, seed by seed (seed → value); None without a seed that both have.

    Student's interval for the mean of pairs: a seed decides the first weights and the order of the data of both, so
    what is easy about it is easy for both and cancels.
    """
    pairs = [value - base[seed] for seed, value in theirs.items() if seed in base]
    if not pairs:
        return None
    found = mean_of(pairs)
    if found.std is None or found.n < ENOUGH:
        return Difference(found.mean, None, None, found.n)
    half = t_quantile((1 + LEVEL) / 2, found.n - 1) * found.std / math.sqrt(found.n)
    return Difference(found.mean, found.mean - half, found.mean + half, found.n)


def t_quantile(p: float, freedom: int) -> float:
    """Student's t that is exceeded with probability ``1 - p``, for ``p`` from 0.5 to below 1 and whole ``freedom``.

    By bisection of :func:`_within` over the angle, in which it rises steadily: exact to the last digits of a float.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 2 * p - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """P(-x ≤ t ≤ x) for x = √freedom · tan(angle): Abramowitz & Stegun, Handbook, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2 == 1
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 if odd else 1, freedom - 2, 2):
        term *= k / (k + 1) * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
