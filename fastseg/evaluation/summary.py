"""Say at the end what an evaluation found: the table of classes, and in words what stands out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from fastseg.evaluation.scores import Score, largest_confusions, percent
from fastseg.labels import SegmentationClass

MANY = 30
"""Number of classes above which only the best and the worst are listed."""
LISTED = 10
"""Number of the best, and of the worst, that are then."""
BAR = 20
"""Columns of a bar of 100 %."""
NAMED = CONFUSIONS = 3
"""Number of classes that a sentence in the terminal names, and of confusions."""
MOSTLY = 0.5
"""Share of a class's pixels taken for another one that is worth a sentence."""


def class_table(scores: Score, classes: Sequence[SegmentationClass]) -> Table:
    """Lay out every class's IoU and accuracy in per cent, the best first; of many classes the best and the worst."""
    ious = scores.class_iou
    order = sorted(classes, key=lambda c: -math.inf if math.isnan(ious[c.name]) else ious[c.name], reverse=True)
    skipped = len(order) - 2 * LISTED if len(order) > MANY else 0
    known = [c.name for c in order if not math.isnan(ious[c.name])]
    table = Table("", "class", title="classes by IoU, in %", title_justify="left")
    for column in ("IoU", "accuracy"):
        table.add_column(column, justify="right")
    table.add_column("")
    for rank, c in enumerate(order):
        if skipped and rank == LISTED:
            table.add_row("", f"… {skipped} more", "", "", "")
        if skipped and LISTED <= rank < len(order) - LISTED:
            continue
        value = ious[c.name]
        style = "green" if c.name == known[0] else "red" if c.name == known[-1] else ""
        bar = "" if math.isnan(value) else "━" * round(BAR * value)
        numbers = (percent(value), percent(scores.class_accuracy[c.name]))
        swatch = Text("██", style="rgb({},{},{})".format(*c.color))
        table.add_row(swatch, Text(c.name), *numbers, bar, style=style)
    table.add_section()
    table.add_row("", "mean", percent(scores.miou), percent(scores.mean_accuracy), "", style="bold")
    return table


def findings(
    matrix: NDArray[np.int64], names: Sequence[str], optim: Mapping[str, Any], named: int = NAMED
) -> list[str]:
    """Return sentences about what stands out in a confusion matrix (C×C pixels, rows the truth), and what to try.

    ``optim``: the run's ``optim`` settings, as config.json has them. ``named``: number of classes that a
    sentence names.
    """
    truth, predicted = matrix.sum(1), matrix.sum(0)
    absent = [name for name, pixels in zip(names, truth, strict=True) if not pixels]
    never = [name for name, t, p in zip(names, truth, predicted, strict=True) if t and not p]
    sentences = []
    if never and np.count_nonzero(predicted) == 1:
        only = names[int(predicted.argmax())]
        sentences.append(
            f"everything is predicted as {only}: look at the masks with fastseg-inspect, and at --optim.lr and "
            "--optim.epochs"
        )
    elif never:
        sentences.append(f"{_count(never, names)} never predicted ({_listed(never, named)}): {_cure(optim)}")
    if absent:
        sentences.append(
            f"{_count(absent, names)} not in the split ({_listed(absent, named)}), and not counted unless predicted"
        )
    mistakes = [m for m in largest_confusions(matrix, names, len(names)) if m.share >= MOSTLY and m.truth not in never]
    if mistakes:
        sentences.append(f"mostly mistaken: {', '.join(map(str, mistakes[:CONFUSIONS]))}")
    return sentences


def _cure(optim: Mapping[str, Any]) -> str:
    if not optim.get("class_weights"):
        return "try --optim.class-weights 0.5"
    return "train for longer, --optim.epochs" if optim.get("dice") else "train for longer, or try --optim.dice 0.5"


def _count(some: Sequence[str], names: Sequence[str]) -> str:
    return f"{len(some)} of {len(names)} classes {'is' if len(some) == 1 else 'are'}"


def _listed(names: Sequence[str], named: int) -> str:
    more = f" and {len(names) - named} more" if len(names) > named else ""
    return ", ".join(names[:named]) + more
