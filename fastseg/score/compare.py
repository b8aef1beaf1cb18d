"""A comparison of two models in a table and in words: which differences are real, and which are noise."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from fastseg.labels import SegmentationClass
from fastseg.score.bootstrap import Comparison, Difference, mean
from fastseg.score.metrics import percent

COLOURS = {"B better": "green", "A better": "red"}
CAVEAT = (
    "One class in twenty is called better by chance alone. The intervals take the images as independent: where they "
    "are neighbouring frames of one video, they are too narrow. And the same recipe trained again scores otherwise, "
    "which no interval over images knows."
)


def comparison_table(result: Comparison, classes: Sequence[SegmentationClass]) -> Table:
    """IoU of A and B in per cent, class by class, with the difference's interval and what to make of it."""
    table = Table("", "class", title="IoU over all pixels, in %")
    for column in ("A", "B", "B − A", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    for c, row in zip(classes, result.classes, strict=True):
        table.add_row(_swatch(c), Text(c.name), *_cells(row))
    table.add_section()
    table.add_row("", "mean of classes", *_cells(result.mean), style="bold")
    return table


def single_table(scores: NDArray[np.float64], classes: Sequence[SegmentationClass]) -> Table:
    """IoU of one model in per cent, class by class."""
    table = Table("", "class", title="IoU over all pixels, in %")
    table.add_column("IoU", justify="right")
    for c, value in zip(classes, scores, strict=True):
        table.add_row(_swatch(c), Text(c.name), percent(value))
    table.add_section()
    table.add_row("", "mean of classes", percent(float(mean(scores))), style="bold")
    return table


def summary(gain: Difference, images: int, score: str = "mIoU") -> str:
    """The comparison in a sentence or two; ``score`` is the name of what was compared."""
    return f"{score}: {_in_words(gain, images)}"


def _in_words(gain: Difference, images: int) -> str:
    low, high, more = points(gain.low), points(gain.high), points(gain.difference)
    match gain.verdict:
        case "–":
            return "no class has a score in both, so there is nothing to compare."
        case "no difference":
            return f"no difference; A and B score the same on each of the {images} images."
        case "noise":
            return (
                f"B − A is {more}, which is noise: other images like these might as well give {low} or {high}. "
                f"These {images} cannot tell A and B apart."
            )
        case "too few images":
            return f"B − A is {more}, but only {gain.frames} images differ: too few to say."
    better, worse = ("B", "A") if gain.difference > 0 else ("A", "B")
    return (
        f"{better} is better than {worse} by {100 * abs(gain.difference):.2f} points, which is more than noise: "
        f"with 95 % confidence B − A lies between {low} and {high} on images like these."
    )


def baseline_note(known: Mapping[str, str], others: int, alone: bool) -> str:
    """What the baseline is scored on: ``known`` are VOC's names and the set's, ``others`` is how many more it has."""
    names = [ours if voc == ours else f"{ours} (its {voc})" for voc, ours in known.items()]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    use = "A checkpoint beside it, fastseg-eval CKPT --baseline coco, shows" if alone else "B − A shows"
    return (
        f"Of the set's classes the baseline knows {listed}, and not the other {others}. What it takes for anything "
        f"else counts as no class: a miss for the truth, a false alarm for nobody. {use} what training buys on these."
    )


def points(value: float) -> str:
    """``+0.31`` for 0.0031: percentage points with their sign, a real minus; an en dash for NaN."""
    if math.isnan(value):
        return "–"
    text = f"{100 * value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def _cells(row: Difference) -> list[Text]:
    interval = "–" if math.isnan(row.difference) else f"{points(row.low)} … {points(row.high)}"
    scores = (percent(row.a), percent(row.b), points(row.difference), interval)
    return [*map(Text, scores), Text(row.verdict, style=COLOURS.get(row.verdict, ""))]


def _swatch(c: SegmentationClass) -> Text:
    return Text("██", style="rgb({},{},{})".format(*c.color))
