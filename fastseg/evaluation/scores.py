"""Scores from a confusion matrix: IoU, accuracy, the official Cityscapes scores."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from fastseg.labels import SegmentationClass


def iou(hits: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.float64]:
    """Return hits / (truth ∪ predicted) of pixel counts in arrays of one shape; NaN where the union is empty."""
    union = truth + predicted - hits
    return np.divide(hits, union, out=np.full(np.shape(union), np.nan), where=union > 0)


@dataclass(frozen=True)
class Score:
    """Scores of one evaluation as fractions 0…1; NaN if undefined."""

    class_iou: dict[str, float]
    """IoU of each class in order. 0 if predicted but absent from the truth, NaN if absent from both."""
    category_iou: dict[str, float]
    """IoU of each category (vehicle, …): confusions within a category are no errors."""
    class_accuracy: dict[str, float]
    """Share of each class's pixels that were found (recall); NaN if the truth has none."""
    accuracy: float
    """Share of all scored pixels that are right."""

    @property
    def miou(self) -> float:
        """Return the mean IoU over the classes that are not NaN: the benchmark's number."""
        return mean(self.class_iou.values())

    @property
    def category_miou(self) -> float:
        """Return the mean IoU over the categories that are not NaN."""
        return mean(self.category_iou.values())

    @property
    def mean_accuracy(self) -> float:
        """Return the mean of the class accuracies that are not NaN."""
        return mean(self.class_accuracy.values())

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain numbers for ``json.dumps``; None in place of NaN, which JSON cannot write."""
        return {
            "miou": plain(self.miou),
            "category_miou": plain(self.category_miou),
            "accuracy": plain(self.accuracy),
            "mean_accuracy": plain(self.mean_accuracy),
            "classes": {name: plain(value) for name, value in self.class_iou.items()},
            "categories": {name: plain(value) for name, value in self.category_iou.items()},
            "class_accuracy": {name: plain(value) for name, value in self.class_accuracy.items()},
        }


def score(matrix: NDArray[np.int64], classes: Sequence[SegmentationClass]) -> Score:
    """Score a confusion matrix (int64, C×C, rows the truth) as cityscapesscripts' evaluator does.

    Definitions: getIouScoreForLabel and getIouScoreForCategory in
    https://github.com/mcordts/cityscapesScripts/blob/master/cityscapesscripts/evaluation/evalPixelLevelSemanticLabeling.py.
    Ignored pixels are in no row, so they are neither misses nor false alarms. Classes without a category count
    in no category, yet take part as false alarms of the others.
    """
    if matrix.shape != (len(classes), len(classes)) or not np.issubdtype(matrix.dtype, np.integer):
        raise ValueError(f"a confusion matrix of {matrix.dtype} {matrix.shape} for {len(classes)} classes")
    members: dict[str, list[int]] = {}
    for i, c in enumerate(classes):
        if c.category:
            members.setdefault(c.category, []).append(i)
    diagonal, truth = np.diagonal(matrix), matrix.sum(1)
    return Score(
        class_iou={c.name: _iou(matrix, [i]) for i, c in enumerate(classes)},
        category_iou={name: _iou(matrix, indexes) for name, indexes in members.items()},
        class_accuracy={c.name: _ratio(diagonal[i], truth[i]) for i, c in enumerate(classes)},
        accuracy=_ratio(diagonal.sum(), truth.sum()),
    )


def score_table(
    result: Score, classes: Sequence[SegmentationClass], more: Mapping[str, Sequence[float]] | None = None
) -> Table:
    """Lay out the scores in per cent, class by class with each class's color, then the categories and the means.

    ``more``: further scores of every class, for columns of their own, by the columns' headings.
    """
    kinds, more = bool(result.category_iou), more or {}
    table = Table("", "class", *(["category"] if kinds else []), title="Scores over all pixels, in %")
    for column in ("IoU", "accuracy", *more):
        table.add_column(column, justify="right")

    def row(swatch: Text, name: str, category: str, values: Sequence[float], style: str = "") -> None:
        table.add_row(swatch, Text(name), *([Text(category)] if kinds else []), *map(percent, values), style=style)

    for i, c in enumerate(classes):
        values = (result.class_iou[c.name], result.class_accuracy[c.name], *(column[i] for column in more.values()))
        row(Text("██", style="rgb({},{},{})".format(*c.color)), c.name, c.category, values)
    table.add_section()
    for name, value in result.category_iou.items():
        row(Text(), "", name, [value])
    if kinds:
        table.add_section()
        row(Text(), "", "mean of categories", [result.category_miou])
    row(Text(), "mean of classes", "", (result.miou, result.mean_accuracy, *map(mean, more.values())), style="bold")
    row(Text(), "all pixels", "", [math.nan, result.accuracy])
    return table


def percent(value: float) -> str:
    """Format a share as per cent: ``79.90`` for 0.799, an en dash for NaN."""
    return "–" if math.isnan(value) else f"{100 * value:.2f}"


def _iou(matrix: NDArray[np.int64], group: list[int]) -> float:
    """Return the IoU of the union of some classes."""
    return float(iou(matrix[np.ix_(group, group)].sum(), matrix[group].sum(), matrix[:, group].sum()))


def _ratio(part: np.int64, whole: np.int64) -> float:
    return int(part) / int(whole) if whole else math.nan


def mean(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are no others."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def plain(value: float) -> float | None:
    """Return None in place of NaN, which JSON cannot write."""
    return None if math.isnan(value) else value


MIN_SHARE = 0.005
"""Smallest share of a class for a confusion to be named."""


class Mistake(NamedTuple):
    """One class taken for another."""

    truth: str
    prediction: str
    share: float
    """Share of the true class's pixels, 0…1."""

    def __str__(self) -> str:
        return f"{self.truth} taken for {self.prediction} ({100 * self.share:.0f} %)"


def largest_confusions(matrix: NDArray[np.int64], names: Sequence[str], most: int) -> list[Mistake]:
    """Return at most ``most`` cells off the diagonal of a matrix (C×C pixels, rows the truth), by their share."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, shares.shape), strict=True)
    return [Mistake(names[i], names[j], float(shares[i, j])) for i, j in pairs if shares[i, j] >= MIN_SHARE]
