"""The most frequent confusions of a matrix made by hand."""

import numpy as np

from fastseg.evaluation.scores import largest_confusions

NAMES = ("road", "car", "sky")


def test_the_largest_shares_come_first() -> None:
    matrix = np.array([[90, 8, 2], [30, 70, 0], [0, 0, 0]])
    found = largest_confusions(matrix, NAMES, most=2)
    assert found == [("car", "road", 0.3), ("road", "car", 0.08)]
    assert [str(mistake) for mistake in found] == ["car taken for road (30 %)", "road taken for car (8 %)"]


def test_what_is_right_or_rare_is_none() -> None:
    assert largest_confusions(np.array([[999, 1, 0], [0, 5, 0], [0, 0, 5]]), NAMES, most=9) == []
    assert largest_confusions(np.zeros((0, 0), np.int64), (), most=9) == []
