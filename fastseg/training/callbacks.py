"""Follow a training and end it early: the protocol of callbacks, several as one, and those of our own."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.evaluation.evaluator import EvaluationStats
from fastseg.evaluation.metrics import Sample
from fastseg.evaluation.scores import Score
from fastseg.labels import SegmentationClass


class Step(NamedTuple):
    """A step that is done and its numbers, over all ranks."""

    step: int
    """Number of the step, from 1."""
    epoch: float
    """Epochs done."""
    loss: float
    """Training loss of both heads."""
    main_loss: float
    aux_loss: float
    """0 without an auxiliary head."""
    gradient_norm: float
    """Before clipping; infinite in a step that fp16's loss scaler skips."""
    lr: float
    """Learning rate of the step."""


@dataclass(frozen=True)
class StepEvaluation:
    """An evaluation in the course of a run."""

    step: int
    epoch: float
    images_seen: int
    """Training images that all ranks have seen."""
    split: str
    weights: str
    """``ema`` or ``model``, whichever were evaluated."""
    result: EvaluationStats
    matrix: NDArray[np.int64]
    """C×C pixels, rows the truth."""
    scores: Score
    best: bool
    """Whether all earlier scores of the run are lower."""
    since_best: int
    """Evaluations since the best one; 0 if this is it."""
    frames: Sequence[Sample]
    """Those that the report shows."""
    keys: Sequence[str]
    """Of the split's frames, by their index."""
    joules: float
    """Energy of all ranks' GPUs since the evaluation before, or since the start; NaN if unknown."""
    classes: Sequence[SegmentationClass]

    def record(self) -> dict[str, Any]:
        """Return the numbers as a line of metrics.jsonl holds them, but for the step."""
        return {
            **self.scores.to_json(),
            "epoch": self.epoch,
            "images_seen": self.images_seen,
            "split": self.split,
            "images": self.result.images,
            "corrupt_samples": self.result.corrupt_samples,
            "images_per_second": self.result.images_per_second,
            "weights": self.weights,
            **({"joules": self.joules} if math.isfinite(self.joules) else {}),
        }


class Callback:
    """Follow a training: derive a class and write the methods that you need; the others do nothing.

    Methods are called on the first rank alone, between two steps; what they raise ends the training. A text that one of
    them returns is a wish to stop: it is said, and all ranks save and end the run in order after their current step.
    """

    def on_step(self, step: Step) -> str | None:
        """Take a step's numbers, on a GPU while the next step runs already."""

    def on_log(self, record: Mapping[str, float]) -> str | None:
        """Take a line of metrics.jsonl: ``step``, ``epoch``, means since the last line, images per second."""

    def on_evaluation(self, evaluation: StepEvaluation) -> str | None:
        """Take an evaluation: ``scores``, ``matrix``, and whether it is the ``best`` so far."""

    def on_checkpoint(self, path: Path) -> str | None:
        """Take the path of a checkpoint once it is on the disk: ``last.pt`` or ``best.pt``; steps go on meanwhile."""

    def on_end(self, finished: bool) -> None:
        """Take the end of the run; ``finished`` is False after a signal and an error."""


class Callbacks(Callback):
    """Call several in order; of their wishes to stop the first counts."""

    def __init__(self, members: Sequence[Callback] = ()) -> None:
        self.members = list(members)

    def on_step(self, step: Step) -> str | None:
        """Call all."""
        return self._first("on_step", step)

    def on_log(self, record: Mapping[str, float]) -> str | None:
        """Call all."""
        return self._first("on_log", record)

    def on_evaluation(self, evaluation: StepEvaluation) -> str | None:
        """Call all."""
        return self._first("on_evaluation", evaluation)

    def on_checkpoint(self, path: Path) -> str | None:
        """Call all."""
        return self._first("on_checkpoint", path)

    def on_end(self, finished: bool) -> None:
        """Call all."""
        self._first("on_end", finished)

    @contextmanager
    def ending(self) -> Iterator["Callbacks"]:
        """Yield this object, and call :meth:`on_end` at the end of the block, also after an error."""
        finished = False
        try:
            yield self
            finished = True
        finally:
            self.on_end(finished)

    def _first(self, method: str, *arguments: Any) -> str | None:
        # All of them before the first wish counts.
        wishes = [getattr(member, method)(*arguments) for member in self.members]
        return next((str(wish) for wish in wishes if wish), None)


class EarlyStopping(Callback):
    """Stop when the mIoU has not improved in ``patience`` evaluations in a row, also over resumed runs."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluation(self, evaluation: StepEvaluation) -> str | None:
        """Ask to stop if the best evaluation is ``patience`` evaluations ago."""
        if evaluation.since_best < self.patience:
            return None
        return f"no better mIoU in {self.patience} evaluation{'s' if self.patience > 1 else ''}"


class TimeLimit(Callback):
    """Stop after ``hours``, counted from the making of this object: a resumed run has as many again."""

    def __init__(self, hours: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.hours, self._clock, self._end = hours, clock, clock() + 3600 * hours

    def on_step(self, step: Step) -> str | None:
        """Ask to stop if the time is over."""
        del step
        return None if self._clock() < self._end else f"{self.hours:g} hours are over; run it again to resume"
