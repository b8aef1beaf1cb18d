"""What an evaluation says and writes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich.console import Console

from fastseg.evaluation.boundary_iou import WIDTH
from fastseg.evaluation.evaluator import Evaluation
from fastseg.evaluation.metrics import Score, largest_confusions, mean, plain, score, score_table
from fastseg.model.inference import Views
from fastseg.shards.manifest import Manifest

CONFUSIONS = 5
"""Named in the terminal."""


@dataclass(frozen=True)
class Outcome:
    """The scores of one checkpoint on one split, and where they come from."""

    checkpoint: str
    step: int
    weights: str
    """``ema`` or ``model``, as in a run's metrics.jsonl."""
    shards: str
    split: str
    manifest: Manifest
    result: Evaluation
    boundary: list[float]
    """Boundary IoU of each class, 0…1 or NaN."""
    precision: str
    views: Views

    @cached_property
    def scores(self) -> Score:
        """From the confusion matrix."""
        return score(self.result.matrix, self.manifest.classes)

    @property
    def labeled(self) -> bool:
        """Whether there is anything to score."""
        return self.manifest.split(self.split).labeled

    def show(self, console: Console) -> None:
        """Print the table (of a split without masks: why there is none), and on what it was measured."""
        if self.labeled:
            console.print(score_table(self.scores, self.manifest.classes, self.boundary))
            for sentence in self._notes():
                console.print(sentence, highlight=False, soft_wrap=True)
        else:
            console.print(f"the split {self.split!r} has no masks: it was predicted, not scored", highlight=False)
        if self.result.corrupt_samples:
            console.print(f"{self.result.corrupt_samples} damaged frames were left out", highlight=False)
        console.print(
            f"{self.checkpoint}: {self.result.images} images of {self.shards} ({self.split}) "
            f"at {self.result.images_per_second:.2f} images/s, {', '.join([self.precision, *looks(self.views)])}",
            highlight=False,
            soft_wrap=True,
        )

    def _notes(self) -> Iterator[str]:
        """What belongs to the table."""
        band = f"of the band along outlines, {100 * WIDTH:g} % of the frame's diagonal wide (Cheng et al. 2021)"
        yield f"boundary IoU: {band}"
        names = [c.name for c in self.manifest.classes]
        if found := largest_confusions(self.result.matrix, names, CONFUSIONS):
            yield f"most frequent confusions, as shares of the true class: {'; '.join(map(str, found))}"

    def record(self) -> dict[str, Any]:
        """The line of metrics.jsonl."""
        return {
            "checkpoint": self.checkpoint,
            "split": self.split,
            "split_images": self.manifest.split(self.split).samples,
            "looks": looks(self.views),
            "step": self.step,
            "weights": self.weights,
            "images": self.result.images,
            "corrupt_samples": self.result.corrupt_samples,
            "images_per_second": self.result.images_per_second,
            **self.scores.to_json(),
            "boundary_miou": plain(mean(self.boundary)),
            "boundary_iou": {c.name: plain(v) for c, v in zip(self.manifest.classes, self.boundary, strict=True)},
        }

    def to_json(self) -> dict[str, Any]:
        """All of it for ``json.dumps``: fractions 0…1, None for NaN, the confusion matrix with rows of the truth."""
        return {
            "shards": self.shards,
            "dataset": self.manifest.digest(),
            "precision": self.precision,
            "scales": self.views.scales,
            "flip": self.views.flip,
            "window": self.views.window,
            **self.record(),
            "matrix": self.result.matrix.tolist(),
        }


def looks(views: Views) -> list[str]:
    """How frames were looked at, in words; nothing for one whole look."""
    words = []
    if views.scales != (1.0,):
        words.append(f"{len(views.scales)} scales from {min(views.scales):g} to {max(views.scales):g}")
    if views.flip:
        words.append("also mirrored")
    if views.window:
        words.append(f"windows of {views.window[0]}×{views.window[1]}")
    return words
