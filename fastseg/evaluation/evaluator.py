"""Whole-frame inference over a split: one confusion matrix over all pixels, and the worst images."""

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastseg.data.loader import Batch, EvalLoader
from fastseg.device import AsyncMetrics
from fastseg.distributed.ranks import (
    barrier_no_timeout,
    count_corrupt,
    gather_on_first,
    gather_states,
    heartbeat,
    sum_over_ranks,
)
from fastseg.evaluation.metrics import count_classes, read_counts


class Sample(NamedTuple):
    """One evaluated frame."""

    iou: float
    """Mean IoU over the classes that its truth or its prediction holds; 1 where nothing is labeled."""
    place: int
    """Counting through the split's shards in order."""
    image: NDArray[np.uint8]
    """H×W×3."""
    label: NDArray[np.uint8]
    """H×W train ids, 255 = ignored."""
    prediction: NDArray[np.uint8]
    """H×W train ids."""


@dataclass(frozen=True)
class Evaluation:
    """The result over all ranks."""

    matrix: NDArray[np.int64]
    """C×C pixels, rows the truth."""
    images: int
    """Frames that count."""
    corrupt_samples: int
    """Damaged frames, which do not count."""
    images_per_second: float
    """Over all ranks, from the first frame asked for to the last one counted."""
    worst: list[Sample]
    """The frames with the least IoU, worst first; on the first rank only."""


def evaluate(
    infer: Callable[[torch.Tensor], torch.Tensor],
    loader: EvalLoader,
    classes: int,
    *,
    keep_worst: int = 0,
    metrics: Sequence[Callable[[int, torch.Tensor, torch.Tensor], None]] = (),
    progress: Callable[[int, int], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Run ``infer`` (images → train ids, as :func:`fastseg.model.inference.predict` does) over this
    rank's batches and add up all ranks.

    Each of ``metrics`` is given every frame that counts: its place in the split, its label and its prediction (uint8
    H×W, on the device). ``progress`` is told how many images this rank has done, of how many. ``interrupted`` is asked
    before every batch whether to give up; where one rank did, all get None.
    """
    start = time.perf_counter()
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=loader.device)
    done, images, worst = 0, 0, WorstFrames(keep_worst)
    async_metrics = AsyncMetrics[_Frames](loader.device)
    for batch in loader:
        if interrupted():
            break
        prediction = infer(batch.image)
        chosen = [i for i, valid in enumerate(batch.valid.tolist()) if valid]
        frames = _Frames(loader.first + done, chosen, batch if keep_worst else None, prediction)
        for i in chosen:
            for watch in metrics:
                watch(frames.first + i, batch.label[i], prediction[i])
        if chosen:
            # On a GPU the host looks at a batch when the next one is queued, so that it always has work to do.
            _look(async_metrics.exchange(frames, _count(prediction, batch.label, chosen, matrix)), classes, worst)
        images += len(chosen)
        done = min(done + len(batch.valid), loader.count)
        heartbeat()
        if progress:
            progress(done, loader.count)
    _look(async_metrics.collect(), classes, worst)
    barrier_no_timeout()
    left_out, images = sum_over_ranks(torch.tensor([loader.count - done, images])).tolist()
    bad = count_corrupt(loader.corrupt_samples(), loader.max_corrupt)
    total = sum_over_ranks(matrix).cpu().numpy()
    seconds = time.perf_counter() - start
    samples = _gather_worst(worst.samples(), keep_worst)
    return None if left_out else Evaluation(total, images, bad, images / seconds, samples)


def _gather_worst(mine: list[Sample], most: int) -> list[Sample]:
    """The worst of all ranks' samples on the first rank; only those travel, since frames are large."""
    ranked = [(sample.iou, sample.place) for sample in mine]
    chosen = sorted(pair for state in gather_states({"ranked": ranked}) for pair in state["ranked"])[:most]
    sent = gather_on_first([sample for sample in mine if (sample.iou, sample.place) in chosen])
    return sorted((sample for samples in sent for sample in samples), key=lambda sample: (sample.iou, sample.place))


class _Frames(NamedTuple):
    """The frames of a batch whose numbers are on their way to the host."""

    first: int
    """Place in the split of the batch's first frame."""
    chosen: list[int]
    """Which frames of the batch count."""
    batch: Batch | None
    """On the device; None where no frame is kept."""
    prediction: torch.Tensor
    """uint8 N×H×W, on the device."""


def _count(prediction: torch.Tensor, label: torch.Tensor, chosen: Sequence[int], matrix: torch.Tensor) -> torch.Tensor:
    """Add the ``chosen`` frames of a batch to ``matrix`` (C×C); their numbers, N×(3·C + 1), on the device."""
    rows = []
    for i in chosen:
        counted, numbers = count_classes(prediction[i], label[i], len(matrix))
        matrix += counted
        rows.append(numbers)
    return torch.stack(rows)


def _look(arrived: tuple[_Frames, list[list[int]]] | None, classes: int, worst: "WorstFrames") -> None:
    """Check the numbers of a batch that have arrived, and keep its frames that are bad enough."""
    if arrived is None:
        return
    frames, rows = arrived
    for i, numbers in zip(frames.chosen, rows, strict=True):
        counts = read_counts(numbers, classes)
        if frames.batch:
            worst.offer(_iou(torch.from_numpy(counts)), frames.first + i, frames.batch, frames.prediction, i)


class WorstFrames:
    """The ``most`` frames with the least IoU among those offered."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, Sample]] = []  # its first is the best of them

    def offer(self, iou: float, place: int, batch: Batch, prediction: torch.Tensor, i: int) -> None:
        """Keep the ``i``-th frame of ``batch``, copied to the host, if it is bad enough."""
        if not self._most or (len(self._heap) == self._most and -iou <= self._heap[0][0]):
            return
        arrays = (tensor[i].cpu().numpy().copy() for tensor in (batch.image, batch.label, prediction))
        heapq.heappush(self._heap, (-iou, -place, Sample(iou, place, *arrays)))
        if len(self._heap) > self._most:
            heapq.heappop(self._heap)

    def samples(self) -> list[Sample]:
        """What was kept, in no order."""
        return [sample for _, _, sample in self._heap]


def _iou(counts: torch.Tensor) -> float:
    """Mean IoU over the classes that occur, of their hits, truth and predictions (3×C); 1 where there are none."""
    hits, truth, predicted = counts
    union = truth + predicted - hits
    return float((hits / union)[union > 0].mean()) if bool(union.any()) else 1.0
