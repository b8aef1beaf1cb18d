"""From predictions to numbers: the confusion matrix of a data set, and the official Cityscapes scores from it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text
from torchmetrics.functional.classification import multiclass_confusion_matrix

from fastseg.labels import IGNORE, SegmentationClass


def count_pixels(prediction: torch.Tensor, label: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Count the pixels of one frame on its device, without waiting for a GPU.

    ``prediction`` (any integer type, H×W, 0…C-1) against ``label`` (uint8, H×W, 0…C-1 or 255 = ignored). Returns the
    confusion matrix (int64, C×C, rows the truth, columns the prediction), and how many pixels have a class outside
    0…C-1 (int64, a scalar), which stand nowhere in the matrix: :func:`check_classes` wants to know. Add up the matrices
    of all frames and ranks *before* scoring: the benchmark scores one matrix over all pixels of the data set.
    """
    strange = _outside(prediction, num_classes) | (_outside(label, num_classes) & (label != IGNORE))
    truth = torch.where(strange, IGNORE, label)
    if not prediction.is_cuda:
        counted = multiclass_confusion_matrix(prediction, truth, num_classes, ignore_index=IGNORE, validate_args=False)
        return counted, strange.sum()
    # torchmetrics waits for a GPU where it leaves out ignored pixels, and torch's bincount where it looks for the
    # greatest number: here ignored pixels have a cell of their own, and histc is told the range.
    cells = num_classes**2
    cell = torch.where(truth == IGNORE, cells, truth.to(torch.int64) * num_classes + prediction)
    counted = torch.histc(cell, cells + 1, 0, cells + 1)[:cells].view(num_classes, num_classes)
    return counted, strange.sum()


def _outside(ids: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Where there is no class 0…C-1."""
    if num_classes > torch.iinfo(ids.dtype).max:  # which torch would compare as another number
        return ids < 0
    return (ids < 0) | (ids >= num_classes)


def count_classes(prediction: torch.Tensor, label: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the confusion matrix of one frame, and the few numbers of it that the host asks for, without waiting.

    These are int64, 3·C + 1: hits, pixels in the truth and pixels predicted of each class, then the pixels of a class
    outside 0…C-1; :func:`read_counts` takes them.
    """
    matrix, strange = count_pixels(prediction, label, num_classes)
    return matrix, torch.cat([matrix.diagonal(), matrix.sum(1), matrix.sum(0), strange[None]])


def read_counts(numbers: Sequence[int], num_classes: int) -> NDArray[np.int64]:
    """Return hits, truth and predicted pixels of each class (3×C) of what :func:`count_classes` counted.

    Raises :class:`ValueError` for pixels of a class outside 0…C-1.
    """
    *counts, strange = numbers
    check_classes(strange, num_classes)
    return np.array(counts, np.int64).reshape(3, num_classes)


def check_classes(strange: int, num_classes: int) -> None:
    """Raise :class:`ValueError` if :func:`count_pixels` met pixels of a class outside 0…C-1."""
    if strange:
        raise ValueError(
            f"{strange} pixels are predicted or labeled as none of the {num_classes} classes; "
            f"{IGNORE} as a label marks ignored ones"
        )


@dataclass(frozen=True)
class Score:
    """Scores of one evaluation as fractions 0…1; NaN where nothing can be said."""

    classes: dict[str, float]
    """IoU of each class in order. 0 if predicted but absent from the truth, NaN if absent from both."""
    categories: dict[str, float]
    """IoU of each category (vehicle, …): confusions within a category are no errors."""
    class_accuracy: dict[str, float]
    """Share of each class's pixels that were found (recall); NaN if the truth has none."""
    accuracy: float
    """Share of all scored pixels that are right."""

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that are not NaN: the benchmark's number."""
        return mean(self.classes.values())

    @property
    def category_miou(self) -> float:
        """Mean IoU over the categories that are not NaN."""
        return mean(self.categories.values())

    @property
    def mean_accuracy(self) -> float:
        """Mean of the class accuracies that are not NaN."""
        return mean(self.class_accuracy.values())

    def to_json(self) -> dict[str, Any]:
        """A document of plain numbers for ``json.dumps``; None in place of NaN, which JSON cannot write."""
        return {
            "miou": plain(self.miou),
            "category_miou": plain(self.category_miou),
            "accuracy": plain(self.accuracy),
            "mean_accuracy": plain(self.mean_accuracy),
            "classes": {name: plain(value) for name, value in self.classes.items()},
            "categories": {name: plain(value) for name, value in self.categories.items()},
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
        classes={c.name: _iou(matrix, [i]) for i, c in enumerate(classes)},
        categories={name: _iou(matrix, indexes) for name, indexes in members.items()},
        class_accuracy={c.name: _ratio(diagonal[i], truth[i]) for i, c in enumerate(classes)},
        accuracy=_ratio(diagonal.sum(), truth.sum()),
    )


def score_table(result: Score, classes: Sequence[SegmentationClass], boundary: Sequence[float] | None = None) -> Table:
    """The scores in per cent, class by class with each class's color, then the categories and the means.

    ``boundary``: the Boundary IoU of every class, for a column of its own.
    """
    kinds = bool(result.categories)
    table = Table("", "class", *(["category"] if kinds else []), title="Scores over all pixels, in %")
    for column in ("IoU", "accuracy", *(["boundary IoU"] if boundary else [])):
        table.add_column(column, justify="right")

    def row(swatch: Text, name: str, category: str, values: Sequence[float], style: str = "") -> None:
        table.add_row(swatch, Text(name), *([Text(category)] if kinds else []), *map(percent, values), style=style)

    for i, c in enumerate(classes):
        values = (result.classes[c.name], result.class_accuracy[c.name], *(boundary[i : i + 1] if boundary else ()))
        row(Text("██", style="rgb({},{},{})".format(*c.color)), c.name, c.category, values)
    table.add_section()
    for name, iou in result.categories.items():
        row(Text(), "", name, [iou])
    if kinds:
        table.add_section()
        row(Text(), "", "mean of categories", [result.category_miou])
    means = (result.miou, result.mean_accuracy, *([mean(boundary)] if boundary else []))
    row(Text(), "mean of classes", "", means, style="bold")
    row(Text(), "all pixels", "", [math.nan, result.accuracy])
    return table


def percent(value: float) -> str:
    """``79.90`` for 0.799, an en dash for NaN."""
    return "–" if math.isnan(value) else f"{100 * value:.2f}"


def _iou(matrix: NDArray[np.int64], group: list[int]) -> float:
    """IoU of the union of some classes: TP / (truth ∪ prediction)."""
    rows, columns = matrix[group].sum(), matrix[:, group].sum()
    hits = matrix[np.ix_(group, group)].sum()
    return _ratio(hits, rows + columns - hits)


def _ratio(part: np.int64, whole: np.int64) -> float:
    return int(part) / int(whole) if whole else math.nan


def mean(values: Iterable[float]) -> float:
    """Of those that are not NaN; NaN where there are no others."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def plain(value: float) -> float | None:
    """None in place of NaN, which JSON cannot write."""
    return None if math.isnan(value) else value


MIN_SHARE = 0.005
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
    return [Mistake(names[i], names[j], float(shares[i, j])) for i, j in pairs if shares[i, j] >= MIN_SHARE]
