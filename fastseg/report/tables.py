"""Tables of a report: classes, categories and confusions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastseg.evaluation.metrics import CLASS_METRICS
from fastseg.evaluation.scores import Mistake, largest_confusions
from fastseg.evaluation.summary import findings
from fastseg.report.pictures import MATRIX_CLASSES
from fastseg.report.run_folder import Line, Run, number

CONFUSIONS = 8
"""Mistakes named under the matrix, the most frequent ones."""
GREY = (128, 128, 128)


class Column(NamedTuple):
    """A column of the table of classes beside IoU, shown if a class has a value."""

    heading: str
    note: str
    mean: str = ""
    """Key of the mean over the classes in a line of metrics.jsonl; empty without one."""


COLUMNS = {
    **{name: Column(m.column[:1].upper() + m.column[1:], m.note, f"mean_{name}") for name, m in CLASS_METRICS.items()},
    "class_accuracy": Column("Accuracy", "the share of the class's pixels that were found", "mean_accuracy"),
    "pixels": Column("Pixels", "the class's share of all labeled pixels"),
}
"""By their keys in a line of metrics.jsonl; pixels are counted in the confusion matrix."""


@dataclass(frozen=True)
class ClassRow:
    """One class, or one category, of a table of scores; numbers are shares 0…1, NaN if unknown."""

    name: str
    color: tuple[int, int, int]
    category: str
    iou: float
    scores: dict[str, float]
    """By the keys of :data:`COLUMNS`."""


def classes_of(run: Run) -> list[ClassRow]:
    """Return the classes of the best evaluation, in the data set's order."""
    ious = run.best.get("classes") or {}
    known = {c.name: c for c in run.classes}
    pixels = dict(zip(known, _truth_shares(run.matrix), strict=False)) if len(known) == len(run.matrix) else {}
    columns = {"pixels": pixels} | {key: run.best.get(key) or {} for key in COLUMNS if key != "pixels"}
    return [
        ClassRow(
            name,
            (known[name].color if name in known else GREY),
            (known[name].category if name in known else ""),
            number(ious, name),
            {key: number(columns[key], name) for key in COLUMNS},
        )
        for name in ious
    ]


def present(rows: Sequence[ClassRow]) -> dict[str, Column]:
    """Return those of :data:`COLUMNS` in which any class has a value."""
    return {key: column for key, column in COLUMNS.items() if any(math.isfinite(row.scores[key]) for row in rows)}


def most_pixels(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """Return at most :data:`MATRIX_CLASSES` classes, those with the most pixels if these are known, in their order."""
    shares = [row.scores["pixels"] if math.isfinite(row.scores["pixels"]) else 0.0 for row in rows]
    largest = sorted(range(len(rows)), key=lambda i: -shares[i])[:MATRIX_CLASSES]
    return [rows[i] for i in sorted(largest)]


def findings_of(run: Run) -> list[str]:
    """Return sentences about what stands out in the last evaluation, with all classes that they concern."""
    if not run.matrix:
        return []
    optim = run.config.get("optim")
    known = optim if isinstance(optim, dict) else {}
    return findings(np.array(run.matrix), _names(run), known, named=len(run.matrix))


def _names(run: Run) -> list[str]:
    named = len(run.classes) == len(run.matrix)
    return [run.classes[i].name if named else f"class {i}" for i in range(len(run.matrix))]


def _truth_shares(matrix: list[list[int]]) -> list[float]:
    totals = [sum(row) for row in matrix]
    return [total / (sum(totals) or 1) for total in totals]


def means_of(best: Line) -> dict[str, float]:
    """Return the means below the table's columns, by the keys of :data:`COLUMNS`, of IoU and of the categories' IoU."""
    means = {key: number(best, column.mean) for key, column in COLUMNS.items() if column.mean}
    return {"iou": number(best, "miou"), "category": number(best, "category_miou"), **means}


def categories_of(best: Line) -> list[tuple[str, float]]:
    """Return name and IoU of each category."""
    categories = best.get("categories") or {}
    return [(name, number(categories, name)) for name in categories]


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix's rows as shares of the truth, and the most frequent mistakes."""

    names: list[str]
    shares: list[list[float]]
    """Row of the truth by column of the prediction, 0…1; NaN in the row of a class that does not occur."""
    left_out: int
    mistakes: list[Mistake]


def confusion_of(run: Run) -> Confusion | None:
    """Return the confusion matrix of a run as shares; None without one."""
    matrix, names = run.matrix, _names(run)
    if not matrix:
        return None
    totals = [sum(row) for row in matrix]
    shares = [[n / total if total else math.nan for n in row] for row, total in zip(matrix, totals, strict=True)]
    largest = sorted(range(len(matrix)), key=lambda i: -totals[i])[:MATRIX_CLASSES]
    shown = sorted(largest)
    return Confusion(
        names=[names[i] for i in shown],
        shares=[[shares[i][j] for j in shown] for i in shown],
        left_out=len(matrix) - len(shown),
        mistakes=largest_confusions(np.array(matrix, np.int64), names, CONFUSIONS),
    )
