"""The result of an evaluation, printed and as JSON."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from fastseg.errors import one_line
from fastseg.evaluation.evaluator import EvaluationStats
from fastseg.evaluation.metrics import ClassScores
from fastseg.evaluation.scores import Score, largest_confusions, mean, plain, score, score_table
from fastseg.model.inference import TtaViews
from fastseg.shards.manifest import Manifest

CONFUSIONS = 5
"""Number of confusions printed in the terminal."""


@dataclass(frozen=True, repr=False)
class CheckpointResult:
    """The scores of one network on one split, and their provenance; printed as a table."""

    checkpoint: str
    step: int | None
    weights: str
    """``ema`` or ``model``, as in a run's metrics.jsonl."""
    shards: str
    split: str
    manifest: Manifest
    result: EvaluationStats
    matrix: NDArray[np.int64]
    """C×C pixels, rows the truth."""
    class_scores: Mapping[str, ClassScores]
    """Scores of the classes by the metrics' names."""
    precision: str
    views: TtaViews

    @cached_property
    def scores(self) -> Score:
        """Score the confusion matrix."""
        return score(self.matrix, self.manifest.classes)

    @property
    def miou(self) -> float:
        """Return the mean IoU over all classes that occur, 0…1: the benchmark's number."""
        return self.scores.miou

    @property
    def accuracy(self) -> float:
        """Return the share of all labeled pixels that are right, 0…1."""
        return self.scores.accuracy

    @property
    def classes(self) -> dict[str, float]:
        """Return the IoU of each class, 0…1; NaN for a class that is neither labeled nor predicted."""
        return self.scores.class_iou

    def __repr__(self) -> str:
        console = Console(markup=False, width=100, color_system=None, file=io.StringIO())
        with console.capture() as captured:
            self.show(console)
        return captured.get().rstrip()

    @property
    def labeled(self) -> bool:
        """Return whether there is anything to score."""
        return self.manifest.split(self.split).labeled

    def show(self, console: Console) -> None:
        """Print the table (without masks: why there is none), and what it was measured on."""
        if self.labeled:
            more = {scores.column: scores.values for scores in self.class_scores.values()}
            console.print(score_table(self.scores, self.manifest.classes, more))
            for sentence in self._notes():
                console.print(sentence, highlight=False, soft_wrap=True)
        else:
            console.print(f"the split {self.split!r} has no masks: it was predicted, not scored", highlight=False)
        if self.result.corrupt_samples:
            console.print(f"{self.result.corrupt_samples} damaged frames were left out", highlight=False)
        how = ", ".join([self.precision, *describe_views(self.views)])
        console.print(
            f"{self.checkpoint}: {self.result.images} images of {one_line(self.shards)} ({self.split}) "
            f"at {self.result.images_per_second:.2f} images/s, {how}",
            highlight=False,
            soft_wrap=True,
        )

    def _notes(self) -> Iterator[str]:
        """Yield the sentences that belong to the table."""
        for scores in self.class_scores.values():
            yield f"{scores.column}: {scores.note}"
        names = [c.name for c in self.manifest.classes]
        if found := largest_confusions(self.matrix, names, CONFUSIONS):
            yield f"most frequent confusions, as shares of the true class: {'; '.join(map(str, found))}"

    def record(self) -> dict[str, Any]:
        """Return the line of metrics.jsonl."""
        return {
            "checkpoint": self.checkpoint,
            "split": self.split,
            "split_images": self.manifest.split(self.split).samples,
            "views": describe_views(self.views),
            "step": self.step,
            "weights": self.weights,
            "images": self.result.images,
            "corrupt_samples": self.result.corrupt_samples,
            "images_per_second": self.result.images_per_second,
            **self.scores.to_json(),
            **{f"mean_{name}": plain(mean(scores.values)) for name, scores in self.class_scores.items()},
            **{name: self._by_class(scores.values) for name, scores in self.class_scores.items()},
        }

    def _by_class(self, values: Sequence[float]) -> dict[str, float | None]:
        return {c.name: plain(value) for c, value in zip(self.manifest.classes, values, strict=True)}

    def to_json(self) -> dict[str, Any]:
        """Return everything for ``json.dumps``: fractions 0…1, None for NaN, the confusion matrix, rows the truth."""
        return {
            "shards": self.shards,
            "dataset": self.manifest.digest(),
            "precision": self.precision,
            "scales": self.views.scales,
            "flip": self.views.flip,
            "window": self.views.window,
            **self.record(),
            "matrix": self.matrix.tolist(),
        }


def describe_views(views: TtaViews) -> list[str]:
    """Describe which views of a frame were averaged; empty for the whole frame alone."""
    words = []
    if views.scales != (1.0,):
        words.append(f"{len(views.scales)} scales from {min(views.scales):g} to {max(views.scales):g}")
    if views.flip:
        words.append("also mirrored")
    if views.window:
        words.append(f"windows of {views.window[0]}×{views.window[1]}")
    return words
