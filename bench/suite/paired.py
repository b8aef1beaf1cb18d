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
    from scipy.stats import t  # takes more than a second to import

    half = float(t.ppf((1 + LEVEL) / 2, found.n - 1)) * found.std / math.sqrt(found.n)
    return Difference(found.mean, found.mean - half, found.mean + half, found.n)
