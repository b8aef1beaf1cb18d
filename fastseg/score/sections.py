"""Sections of the report, from what a run folder holds to what the page shows: scores, confusion, gallery."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastseg.score.confusions import Mistake, largest_confusions
from fastseg.score.gallery import LAYERS
from fastseg.score.runfolder import Line, Run, Shown, number

PICTURE_BYTES = 3_000_000
"""Pictures shown at most; as base64 they grow by a third, and the page stays under 5 MB."""
MATRIX_CLASSES = 40
"""Classes shown at most in the confusion matrix: those with the most pixels."""
CONFUSIONS = 8
"""Mistakes named under the matrix, the most frequent ones."""
COLUMNS = {"boundary": "Boundary IoU", "accuracy": "Accuracy", "pixels": "Pixels"}
"""Columns of the table of classes beside IoU, shown where a class has a value."""
GREY = (128, 128, 128)


@dataclass(frozen=True)
class ClassRow:
    """One class, or one category of classes, in a table of scores; numbers are shares 0…1, NaN where unknown."""

    name: str
    color: tuple[int, int, int]
    category: str
    iou: float
    boundary: float
    """Boundary IoU."""
    accuracy: float
    """Share of the class's pixels that were found."""
    pixels: float
    """Share of the labelled pixels that are of this class."""


def classes_of(run: Run) -> list[ClassRow]:
    """The classes in the best evaluation, in the data set's order."""
    best = run.best
    scores, boundary, accuracy = (best.get(key) or {} for key in ("classes", "boundary_iou", "class_accuracy"))
    known = {c.name: c for c in run.classes}
    pixels = dict(zip(known, _truth_shares(run.matrix), strict=False)) if len(known) == len(run.matrix) else {}
    return [
        ClassRow(
            name,
            (known[name].color if name in known else GREY),
            (known[name].category if name in known else ""),
            *(number(column, name) for column in (scores, boundary, accuracy, pixels)),
        )
        for name in scores
    ]


def present(rows: Sequence[ClassRow]) -> dict[str, bool]:
    """Which columns of the table have anything to show."""
    numbers = {name: any(math.isfinite(getattr(row, name)) for row in rows) for name in COLUMNS}
    return {"category": any(row.category for row in rows), **numbers}


def _truth_shares(matrix: list[list[int]]) -> list[float]:
    totals = [sum(row) for row in matrix]
    return [total / (sum(totals) or 1) for total in totals]


def means_of(best: Line) -> dict[str, float]:
    """The means that stand under the table's columns, by the column's name in :class:`ClassRow`."""
    return {
        "iou": number(best, "miou"),
        "boundary": number(best, "boundary_miou"),
        "accuracy": number(best, "mean_accuracy"),
        "category": number(best, "category_miou"),
    }


def categories_of(best: Line) -> list[tuple[str, float]]:
    """Name and IoU of each category."""
    categories = best.get("categories") or {}
    return [(name, number(categories, name)) for name in categories]


@dataclass(frozen=True)
class Confusion:
    """Rows of the confusion matrix as shares of the truth, and the worst mistakes in words."""

    names: list[str]
    shares: list[list[float]]
    """Row of the truth by column of the prediction, 0…1; NaN in the row of a class that does not occur."""
    left_out: int
    mistakes: list[Mistake]


def confusion_of(run: Run) -> Confusion | None:
    matrix = run.matrix
    if not matrix:
        return None
    named = len(run.classes) == len(matrix)
    names = [c.name for c in run.classes] if named else [f"class {i}" for i in range(len(matrix))]
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


@dataclass(frozen=True)
class Slide:
    """One frame of the gallery as it stands on the page."""

    key: str
    iou: str
    worst: str
    """The classes that most wrong pixels belong to, in words."""
    size: tuple[int, int]
    layers: dict[str, str]
    """Data address of each picture."""


@dataclass(frozen=True)
class Gallery:
    """The frames whose pictures fit on the page, and how many do not."""

    slides: list[Slide]
    left_out: int


def gallery_of(frames: Sequence[Shown]) -> Gallery:
    slides: list[Slide] = []
    room = PICTURE_BYTES
    for frame in frames:
        pictures = {name: path.read_bytes() for name, path in frame.layers.items()}
        room -= sum(map(len, pictures.values()))
        if room < 0:  # the frames after a large one may be less bad, but never come before it
            break
        worst = ", ".join(f"{name} {percent(iou)}" for name, iou in frame.worst_classes)
        layers = {name: _address(name, data) for name, data in pictures.items()}
        slides.append(Slide(frame.key, percent(frame.iou), worst, frame.size, layers))
    return Gallery(slides, len(frames) - len(slides))


def _address(layer: str, data: bytes) -> str:
    kind = "png" if LAYERS[layer].endswith("png") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def percent(share: float) -> str:
    """``79.90 %`` for 0.799, an en dash for NaN."""
    return f"{100 * share:.2f} %" if math.isfinite(share) else "–"
