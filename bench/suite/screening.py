"""Many changes judged by few runs: in each run half of the changes are made, in such a way that they can be told apart.

Tried one at a time, each of twelve changes would take runs of its own; here every run says something of all twelve. The
design is that of Plackett and Burman (Biometrika 33, 1946) for eleven two-level factors in twelve runs, followed by its
mirror image, in which every change that was made is not, and the other way round; the half itself serves the twelfth.
So each change is made in 12 of 24 runs, any two of them together in 6, and that two of them work otherwise together
than alone shifts no estimate (resolution IV: Box and Hunter, Technometrics 3, 1961), but counts as noise. Of a design
cut short none of that holds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.suite.paired import LEVEL, Difference, t_quantile

FIRST_ROW = (1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0)
"""Of the design; the next ten are this one turned, the twelfth has zeros only."""
MOST = len(FIRST_ROW) + 1
"""Factors that there is room for."""


def design(factors: Sequence[str]) -> list[tuple[str, ...]]:
    """The factors that are on in each of 24 runs, each run followed by its mirror image; the first has none."""
    if not 1 <= len(factors) <= MOST:
        raise ValueError(f"{len(factors)} factors; there is room for 1 to {MOST}")
    rows = [(0,) * len(FIRST_ROW), *(FIRST_ROW[-i:] + FIRST_ROW[:-i] for i in range(len(FIRST_ROW)))]
    both = [half for row in rows for half in ((*row, 0), (*(1 - level for level in row), 1))]
    return [tuple(name for name, level in zip(factors, row, strict=False) if level) for row in both]


@dataclass(frozen=True)
class Run:
    """What was on, and what came of it."""

    on: tuple[str, ...]
    value: float


def effects(factors: Sequence[str], runs: Sequence[Run]) -> dict[str, Difference] | None:
    """Factor → mean value with it minus the mean without, all others being equally often on in both, and its interval.

    Least squares of the value on the factors, the noise estimated by what they leave over; None while the runs that
    there are cannot tell the factors apart, or leave nothing over.
    """
    x = _levels(factors, runs)
    freedom = len(runs) - len(factors) - 1
    if freedom < 1 or np.linalg.matrix_rank(x) <= len(factors):
        return None
    found = _fit(x, runs)[1:]
    error = noise(factors, runs) * np.sqrt(np.linalg.inv(x.T @ x).diagonal()[1:])
    half = t_quantile((1 + LEVEL) / 2, freedom) * error
    return {
        name: Difference(float(effect), float(effect - width), float(effect + width), len(runs))
        for name, effect, width in zip(factors, found, half, strict=True)
    }


def noise(factors: Sequence[str], runs: Sequence[Run]) -> float:
    """Standard deviation of what the factors do not explain; only where there are :func:`effects`."""
    x = _levels(factors, runs)
    left = np.array([run.value for run in runs]) - x @ _fit(x, runs)
    return math.sqrt(float((left**2).sum()) / (len(runs) - len(factors) - 1))


def _levels(factors: Sequence[str], runs: Sequence[Run]) -> NDArray[np.float64]:
    """A row for each run: 1 for the mean, then ±½ for each factor."""
    return np.array([[1.0, *((name in run.on) - 0.5 for name in factors)] for run in runs])


def _fit(x: NDArray[np.float64], runs: Sequence[Run]) -> NDArray[np.float64]:
    """Least squares of the runs' values: their mean, then the factors' effects."""
    return np.linalg.lstsq(x, np.array([run.value for run in runs]), rcond=None)[0]
