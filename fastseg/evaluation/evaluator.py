"""Whole-frame inference over a split: one loop over the frames, any number of models, a list of metrics for each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg.data.loader import Batch, EvalLoader
from fastseg.device import AsyncMetrics
from fastseg.distributed.ranks import barrier_no_timeout, count_corrupt, heartbeat, sum_over_ranks
from fastseg.evaluation.metrics import Frame, Metric, count_classes, read_counts

Infer = Callable[[Tensor], Tensor]
"""uint8 N×H×W×3 → train ids N×H×W, as :func:`fastseg.model.inference.predict` does."""


class EvaluatedModel(NamedTuple):
    """A model, and the metrics of its predictions."""

    infer: Infer
    metrics: Sequence[Metric]


@dataclass(frozen=True)
class EvaluationStats:
    """A pass over a split, all ranks together."""

    images: int
    """Number of frames that count."""
    corrupt_samples: int
    """Number of damaged frames, which do not count."""
    images_per_second: float
    """Speed over all ranks, from the first frame requested to the last one counted."""


def evaluate(
    models: Sequence[EvaluatedModel],
    loader: EvalLoader,
    classes: int,
    *,
    progress: Callable[[int, int], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> EvaluationStats | None:
    """Run all ``models`` over this rank's batches, each decoded once, and show every frame to their metrics.

    Afterwards the metrics compute over all ranks. ``classes`` is the number C of classes a prediction may have.
    ``progress`` is called with this rank's (done, total) images, ``interrupted`` before every batch: if it returns True
    on one rank, all return None.

    Raises :class:`ValueError` for pixels that are predicted or labeled as none of the classes.
    """
    start = time.perf_counter()
    done, images = 0, 0
    async_metrics = AsyncMetrics[list[int]](loader.device)
    for batch in loader:
        if interrupted():
            break
        predictions = [model.infer(batch.image) for model in models]
        first, chosen = loader.first + done, [i for i, valid in enumerate(batch.valid.tolist()) if valid]
        if chosen:
            numbers = _update_metrics(models, predictions, batch, first, chosen, classes)
            # The host reads a batch's numbers when the next one is queued, so that a GPU always has work.
            _deliver_counts(models, async_metrics.exchange([first + i for i in chosen], numbers), classes)
        images += len(chosen)
        done = min(done + len(batch.valid), loader.count)
        heartbeat()
        if progress:
            progress(done, loader.count)
    _deliver_counts(models, async_metrics.collect(), classes)
    barrier_no_timeout()
    left_out, images = sum_over_ranks(torch.tensor([loader.count - done, images])).tolist()
    bad = count_corrupt(loader.corrupt_samples(), loader.max_corrupt)
    return None if left_out else EvaluationStats(images, bad, images / (time.perf_counter() - start))


def _update_metrics(
    models: Sequence[EvaluatedModel],
    predictions: Sequence[Tensor],
    batch: Batch,
    first: int,
    chosen: Sequence[int],
    classes: int,
) -> Tensor:
    """Show the ``chosen`` frames of a batch to all metrics; return their counts, N×models×(3·C + 1), on the device."""
    rows = []
    for i in chosen:
        for model, prediction in zip(models, predictions, strict=True):
            matrix, numbers = count_classes(prediction[i], batch.label[i], classes)
            frame = Frame(first + i, batch.image[i], batch.label[i], prediction[i], matrix)
            for metric in model.metrics:
                metric.update(frame)
            rows.append(numbers)
    return torch.stack(rows).view(len(chosen), len(models), -1)


def _deliver_counts(
    models: Sequence[EvaluatedModel], arrived: tuple[list[int], list[list[list[int]]]] | None, classes: int
) -> None:
    """Check a batch's counts, which have arrived, and pass them to the metrics."""
    indexes, rows = arrived or ([], [])
    for index, numbers in zip(indexes, rows, strict=True):
        for model, row in zip(models, numbers, strict=True):
            counts = read_counts(row, classes)
            for metric in model.metrics:
                metric.on_counts(index, counts)
