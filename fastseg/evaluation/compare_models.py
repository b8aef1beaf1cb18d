"""One or two models on the same frames in one pass, scored on the classes that they share."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastseg.data.loader import EvalLoader
from fastseg.evaluation.baseline import Baseline
from fastseg.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    SEED,
    Comparison,
    Counts,
    Difference,
    class_iou,
    compare,
    mean,
)
from fastseg.evaluation.evaluator import EvaluatedModel, EvaluationStats, Infer, evaluate
from fastseg.evaluation.metrics import FrameCounts
from fastseg.evaluation.scores import percent, plain
from fastseg.labels import SegmentationClass
from fastseg.model.inference import TtaViews
from fastseg.model.trained import TrainedNetwork

COLORS = {"B better": "green", "A better": "red"}
CAVEAT = (
    "One class in twenty is called better by chance alone. The intervals take the images as independent: where they "
    "are neighboring frames of one video, they are too narrow. And the same recipe trained again scores otherwise, "
    "which no interval over images knows."
)


def comparison_table(result: Comparison, classes: Sequence[SegmentationClass]) -> Table:
    """Lay out the IoU of A and B in per cent, class by class, with the difference's interval and verdict."""
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
    """Lay out the IoU of one model in per cent, class by class."""
    table = Table("", "class", title="IoU over all pixels, in %")
    table.add_column("IoU", justify="right")
    for c, value in zip(classes, scores, strict=True):
        table.add_row(_swatch(c), Text(c.name), percent(value))
    table.add_section()
    table.add_row("", "mean of classes", percent(float(mean(scores))), style="bold")
    return table


def summary(gain: Difference, images: int, score: str = "mIoU") -> str:
    """Summarize the comparison in a sentence or two; ``score`` names the score that was compared."""
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
    """Describe what the baseline is scored on: ``known``: VOC's names → the set's; ``others``: how many more it has."""
    names = [ours if voc == ours else f"{ours} (its {voc})" for voc, ours in known.items()]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    use = "A checkpoint beside it, fastseg-eval CKPT --baseline coco, shows" if alone else "B − A shows"
    return (
        f"Of the set's classes the baseline knows {listed}, and not the other {others}. What it takes for anything "
        f"else counts as no class: a miss for the truth, a false alarm for nobody. {use} what training buys on these."
    )


def points(value: float) -> str:
    """Format as ``+0.31`` for 0.0031: percentage points with their sign, a real minus; an en dash for NaN."""
    if math.isnan(value):
        return "–"
    text = f"{100 * value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def _cells(row: Difference) -> list[Text]:
    interval = "–" if math.isnan(row.difference) else f"{points(row.low)} … {points(row.high)}"
    scores = (percent(row.a), percent(row.b), points(row.difference), interval)
    return [*map(Text, scores), Text(row.verdict, style=COLORS.get(row.verdict, ""))]


def _swatch(c: SegmentationClass) -> Text:
    return Text("██", style="rgb({},{},{})".format(*c.color))


@dataclass(frozen=True)
class NamedModel:
    """A model under its name in the output."""

    name: str
    infer: Infer
    """Returns train ids, and C for none of the set's classes."""


@dataclass(frozen=True)
class Counted:
    """Several models' counts of the same frames, over all ranks, in the split's order."""

    models: list[Counts]
    evaluation: EvaluationStats


def load_models(
    networks: Sequence[TrainedNetwork], baseline: Baseline | None, views: TtaViews, device: torch.device
) -> list[NamedModel]:
    """Load the baseline, then trained networks, so that B's gain is what training brought."""
    models = [NamedModel(baseline.name, partial(baseline.to(device).predict, views=views))] if baseline else []
    return models + [NamedModel(str(network), network.open(device, views)) for network in networks]


def count_frames(
    models: Sequence[NamedModel], loader: EvalLoader, classes: int, progress: Callable[[int, int], None] | None = None
) -> Counted | None:
    """Run all ``models`` over this rank's batches; the result is the first rank's, None elsewhere.

    ``progress`` is called with this rank's (done, total) images.
    """
    counts = [FrameCounts(classes) for _ in models]
    evaluated = [EvaluatedModel(model.infer, [count]) for model, count in zip(models, counts, strict=True)]
    evaluation = evaluate(evaluated, loader, classes + 1, progress=progress)
    computed = [count.compute() for count in counts]
    found = [count for count in computed if count is not None]
    return Counted(found, evaluation) if evaluation and found else None


def show_comparison(
    console: Console,
    models: Sequence[NamedModel],
    counted: Counted,
    classes: Sequence[SegmentationClass],
    baseline: Baseline | None = None,
) -> dict[str, Any]:
    """Print one model's scores or the comparison of two; return the same as plain values for JSON.

    With a ``baseline`` only those of the set's ``classes`` count that it knows.
    """
    score, document = "mIoU", {}
    if baseline:
        known = sorted(match.train_id for match in baseline.matches)
        names = {baseline.voc[match.voc]: classes[match.train_id].name for match in baseline.matches}
        score, document = "mean over these classes", {"baseline": baseline.name, "baseline_classes": names}
        note = baseline_note(names, len(classes) - len(known), alone=len(models) == 1)
        counted, classes = choose_classes(counted, known), [classes[i] for i in known]
        console.print(note, highlight=False)
    if len(models) == 1:
        scores = class_iou(counted.models[0])
        console.print(single_table(scores, classes))
        each = {c.name: plain(float(value)) for c, value in zip(classes, scores, strict=True)}
        return {**document, "miou": plain(float(mean(scores))), "classes": each}
    return {**document, **_show_two(console, models, counted, classes, score)}


def _show_two(
    console: Console,
    models: Sequence[NamedModel],
    counted: Counted,
    classes: Sequence[SegmentationClass],
    score: str,
) -> dict[str, Any]:
    result = compare(counted.models[0], counted.models[1])
    console.print(comparison_table(result, classes))
    for letter, model in zip("AB", models, strict=True):
        console.print(f"{letter}: {model.name}", highlight=False, soft_wrap=True)
    console.print(summary(result.mean, counted.evaluation.images, score), highlight=False, style="bold")
    if result.mean.frames:
        console.print(CAVEAT, highlight=False)
    return {
        "a": models[0].name,
        "b": models[1].name,
        "bootstrap": {"resamples": RESAMPLES, "level": LEVEL, "seed": SEED},
        "miou": result.mean.to_json(),
        "classes": {c.name: row.to_json() for c, row in zip(classes, result.classes, strict=True)},
    }


def choose_classes(counted: Counted, indexes: Sequence[int]) -> Counted:
    """Return the counts of some classes only."""
    models = [Counts(*(part[:, list(indexes)] for part in counts)) for counts in counted.models]
    return replace(counted, models=models)
