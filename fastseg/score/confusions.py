"""Which classes are taken for which others, the most frequent first."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST = 0.005
"""A smaller share of a class is not worth a word."""


class Mistake(NamedTuple):
    """One class taken for another."""

    truth: str
    prediction: str
    share: float
    """Of the true class's pixels, 0…1."""

    def __str__(self) -> str:
        return f"{self.truth} taken for {self.prediction} ({100 * self.share:.0f} %)"


def largest_confusions(matrix: NDArray[np.int64], names: Sequence[str], most: int) -> list[Mistake]:
    """At most ``most`` cells beside the diagonal of a confusion matrix (C×C pixels, rows the truth), by their share."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, shares.shape), strict=True)
    return [Mistake(names[i], names[j], float(shares[i, j])) for i, j in pairs if shares[i, j] >= LEAST]
