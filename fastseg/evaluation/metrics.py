"""Metrics of a model's predictions over a split: one table of them, and the counting of pixels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastseg.distributed.ranks import gather_on_first, sum_over_ranks
from fastseg.evaluation.bootstrap import Counts
from fastseg.evaluation.boundary_iou import BAND, boundary_counts
from fastseg.evaluation.scores import iou
from fastseg.labels import IGNORE


@dataclass(frozen=True)
class Frame:
    """A frame and a model's prediction, on the device."""

    index: int
    """Index of the frame in the split."""
    image: Tensor
    """uint8 H×W×3."""
    label: Tensor
    """uint8 H×W train ids, 255 = ignored."""
    prediction: Tensor
    """uint8 H×W train ids."""
    matrix: Tensor
    """int64 C×C confusion matrix of the frame, counted once for all metrics."""


class Metric(ABC):
    """A value computed over all frames and ranks; :func:`fastseg.evaluation.evaluator.evaluate` takes a list."""

    @abstractmethod
    def update(self, frame: Frame) -> None:
        """Add a frame, without waiting for a GPU: no ``.item()``, no ``.cpu()``, no indexing by a mask."""

    def on_counts(self, index: int, counts: NDArray[np.int64]) -> None:  # noqa: B027  few metrics need it
        """Take a frame's hits, truth and predicted pixels of every class (3×C), on the host.

        Called in the order of :meth:`update`, on a GPU when the next batch is queued, so that it always has work.
        """

    @abstractmethod
    def compute(self) -> Any:
        """Return the result over all ranks, each of which has to call."""


class ClassMetric(Metric):
    """A metric that scores every class: ``fastseg-eval`` shows it beside the IoU."""

    column: str
    """Heading of its column."""
    note: str
    """Explanation of that column for its readers."""

    @abstractmethod
    def __init__(self, classes: int, device: torch.device) -> None: ...

    @abstractmethod
    def compute(self) -> list[float]:
        """Return the score of each class over all ranks, 0…1 or NaN; every rank has to call."""


class ConfusionMatrix(Metric):
    """Pixels of all frames, C×C, rows the truth, for the official scores (:func:`.scores.score`)."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self._matrix = torch.zeros(classes, classes, dtype=torch.int64, device=device)

    def update(self, frame: Frame) -> None:
        """Add the frame's matrix."""
        self._matrix += frame.matrix

    def compute(self) -> NDArray[np.int64]:
        """Return the sum over all frames."""
        summed: NDArray[np.int64] = sum_over_ranks(self._matrix.clone()).cpu().numpy()
        return summed


class BoundaryIoU(ClassMetric):
    """IoU of the classes near their outlines, which the IoU of large areas hides: :mod:`.boundary_iou`."""

    column = "boundary IoU"
    note = f"of the band along outlines, {100 * BAND:g} % of the frame's diagonal wide (Cheng et al. 2021)"

    def __init__(self, classes: int, device: torch.device) -> None:
        self._counts = torch.zeros(3, classes, dtype=torch.int64, device=device)

    def update(self, frame: Frame) -> None:
        """Count the pixels near outlines."""
        self._counts += boundary_counts(frame.prediction, frame.label, self._counts.shape[1])

    def compute(self) -> list[float]:
        """Return the Boundary IoU of each class; NaN for a class in neither truth nor prediction."""
        scores: list[float] = iou(*sum_over_ranks(self._counts.clone()).cpu().numpy()).tolist()
        return scores


class FrameCounts(Metric):
    """Each frame's counts, which the bootstrap resamples: 24 bytes per class and frame, on the host."""

    def __init__(self, classes: int) -> None:
        """Keep the first ``classes`` classes; a comparison counts one more, for none of them."""
        self._classes = classes
        self._counts: dict[int, NDArray[np.int64]] = {}

    def update(self, frame: Frame) -> None:
        """Do nothing; the counts follow."""

    def on_counts(self, index: int, counts: NDArray[np.int64]) -> None:
        """Keep the counts."""
        self._counts[index] = counts[:, : self._classes]

    def compute(self) -> Counts | None:
        """Return the counts of all frames in the split's order, on the first rank; None elsewhere."""
        shares = gather_on_first(self._counts)
        if not shares:
            return None
        frames = {index: counts for share in shares for index, counts in share.items()}
        stacked = np.zeros((len(frames), 3, self._classes), np.int64)
        for row, index in enumerate(sorted(frames)):
            stacked[row] = frames[index]
        return Counts(*stacked.swapaxes(0, 1))


@dataclass(frozen=True)
class Sample:
    """A frame on the host."""

    iou: float
    """Mean IoU over the classes that its truth or its prediction holds; 1 where nothing is labeled."""
    index: int
    """Index of the frame in the split."""
    image: NDArray[np.uint8]
    """H×W×3."""
    label: NDArray[np.uint8]
    """H×W train ids, 255 = ignored."""
    prediction: NDArray[np.uint8]
    """H×W train ids."""
    kind: str = "worst"
    """Why it is shown: worst, random or best."""


CLASS_METRICS: dict[str, type[ClassMetric]] = {
    "boundary_iou": BoundaryIoU,
}
"""Metrics that score every class, by their keys in files; those of their means begin with ``mean_``."""


class ClassScores(NamedTuple):
    """Result of a metric of :func:`class_metrics`."""

    column: str
    note: str
    values: list[float]
    """Score of each class, 0…1 or NaN."""


def class_metrics(classes: int, device: torch.device) -> dict[str, ClassMetric]:
    """Return :data:`CLASS_METRICS`, nothing counted yet: what ``fastseg-eval`` shows and writes beside the IoU."""
    return {name: metric(classes, device) for name, metric in CLASS_METRICS.items()}


def class_scores(metrics: Mapping[str, ClassMetric]) -> dict[str, ClassScores]:
    """Compute metrics of :func:`class_metrics` over all ranks, each of which has to call."""
    return {name: ClassScores(metric.column, metric.note, metric.compute()) for name, metric in metrics.items()}


def count_pixels(prediction: torch.Tensor, label: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Count the pixels of one frame on its device, without waiting for a GPU.

    ``prediction`` (any integer type, H×W, 0…C-1) against ``label`` (uint8, H×W, 0…C-1 or 255 = ignored). Returns the
    confusion matrix (int64, C×C, rows the truth, columns the prediction), and how many pixels have a class outside
    0…C-1 (int64, a scalar), which are not in the matrix: :func:`check_classes` checks that. Add up the matrices of all
    frames and ranks *before* scoring: the benchmark scores one matrix over all pixels of the data set.
    """
    strange = _outside(prediction, num_classes) | (_outside(label, num_classes) & (label != IGNORE))
    truth = torch.where(strange, IGNORE, label)
    if not prediction.is_cuda:
        # Imported for the first frame: it takes as long as torch (SciPy, Matplotlib), and training starts without it.
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        counted = multiclass_confusion_matrix(prediction, truth, num_classes, ignore_index=IGNORE, validate_args=False)
        return counted, strange.sum()
    # torchmetrics waits for a GPU to leave out ignored pixels, and torch's bincount to find the maximum: here
    # ignored pixels have a cell of their own, and histc takes the range.
    cells = num_classes**2
    cell = torch.where(truth == IGNORE, cells, truth.to(torch.int64) * num_classes + prediction)
    counted = torch.histc(cell, cells + 1, 0, cells + 1)[:cells].view(num_classes, num_classes)
    return counted, strange.sum()


def _outside(ids: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Mark the pixels that have no class 0…C-1."""
    if num_classes > torch.iinfo(ids.dtype).max:  # torch would compare it as another number
        return ids < 0
    return (ids < 0) | (ids >= num_classes)


def count_classes(prediction: torch.Tensor, label: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the confusion matrix of one frame, and the few counts that the host needs, without waiting.

    These are int64, 3·C + 1: hits, pixels in the truth and pixels predicted of each class, then the pixels of a class
    outside 0…C-1; :func:`read_counts` takes them.
    """
    matrix, strange = count_pixels(prediction, label, num_classes)
    return matrix, torch.cat([matrix.diagonal(), matrix.sum(1), matrix.sum(0), strange[None]])


def read_counts(numbers: Sequence[int], num_classes: int) -> NDArray[np.int64]:
    """Return hits, truth and predicted pixels of each class (3×C) from the counts of :func:`count_classes`.

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
