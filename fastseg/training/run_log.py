"""Record a run in metrics.jsonl and TensorBoard, and show it."""

import json
import math
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from fastseg.config import OptimConfig
from fastseg.errors import disk_full
from fastseg.evaluation.evaluator import EvaluationStats
from fastseg.evaluation.metrics import Sample
from fastseg.evaluation.scores import Score, percent
from fastseg.evaluation.summary import class_table, findings
from fastseg.files import naming, write_atomic
from fastseg.labels import SegmentationClass
from fastseg.report.gallery import FOLDER, Frame, write_gallery
from fastseg.report.pictures import matrix_picture, panel
from fastseg.training.display import Display, plain_table
from fastseg.training.profiler import Table
from fastseg.training.trackers import open_tracking

METRICS = "metrics.jsonl"
BOARD = "tensorboard"
SAME_EPOCH = 1e-6
"""Largest difference of two epochs that are the same but for rounding."""


class RunLog:
    """The first rank's record of a run; the other ranks have none. Close it, or use it in ``with``."""

    def __init__(
        self,
        folder: Path,
        documents: dict[str, Any],
        step: int,
        total: int,
        tracker: str = "none",
        each: str = "",
        epoch: float = 0.0,
    ) -> None:
        """Write each of ``documents`` to ``folder/NAME.json`` and continue after step ``step`` of ``total``.

        ``epoch``: up to which metrics.jsonl is kept, the checkpoint's. Steps are counted anew with another batch or
        number of ranks; epochs are not.

        ``tracker`` is one of :data:`fastseg.training.trackers.KINDS`, or none. ``each``: unit of the images per second,
        such as `` per GPU`` if there may be several.
        """
        for name, document in documents.items():
            write_atomic(folder / f"{name}.json", json.dumps(document, indent=1) + "\n")
        self._folder = folder
        path = folder / METRICS
        before = _lines_until(path, epoch)
        write_atomic(path, "".join(line + "\n" for line in before))
        self._start = time.time() - (json.loads(before[-1])["seconds"] if before else 0.0)
        self._file = path.open("a", encoding="utf-8")
        threading.excepthook = _quiet_when_full
        with naming(folder / BOARD):
            # Steps that are counted anew say nothing about which of the earlier ones are repeated.
            renumbered = any(json.loads(line)["step"] > step for line in before)
            self._board = SummaryWriter(str(folder / BOARD), purge_step=None if renumbered else step + 1)
        self.last_evaluation: StepEvaluation | None = None
        """The latest of this process."""
        self.display = Display(step, total, each, _last_miou(before))
        self._tracking = open_tracking(tracker, folder, documents.get("config", {}), step, self.say)

    def say(self, sentence: str) -> None:
        """Print one line for the user."""
        self.display.say(sentence)

    def show(self, table: Table) -> None:
        """Print a table for the user."""
        self.say(table.title)
        self.display.show(plain_table(table))

    def train(self, step: int, **values: float) -> None:
        """Record the numbers of a window of steps that ended with ``step``."""
        self._record("train", step, values)
        self.display.train(step, values)

    def evaluated(self, step: int, scores: dict[str, Any], **values: Any) -> None:
        """Record an evaluation after ``step``: the numbers of :meth:`fastseg.evaluation.scores.Score.to_json`."""
        self._record("eval", step, {**scores, **values})

    def worst(
        self, frames: Sequence[Frame], keys: Sequence[str], classes: Sequence[SegmentationClass], step: int
    ) -> None:
        """Write these frames to ``overlays/`` in place of earlier ones, and to TensorBoard as panels."""
        with naming(self._folder / FOLDER):
            write_gallery(self._folder / FOLDER, frames, keys, classes)
        for i, frame in enumerate(frames):
            picture = panel(frame.image, frame.label, frame.prediction, classes)
            with naming(self._folder / BOARD):
                self._board.add_image(f"worst/{i}", picture, step, dataformats="HWC")

    def write(self, name: str, document: Any) -> None:
        """Write ``folder/NAME.json``."""
        write_atomic(self._folder / f"{name}.json", json.dumps(document) + "\n")

    def confusion(self, matrix: NDArray[np.int64], classes: Sequence[SegmentationClass], step: int) -> None:
        """Write confusion.json (C×C pixels, rows the truth), and a picture of it to TensorBoard."""
        self.write("confusion", {"matrix": matrix.tolist()})
        with naming(self._folder / BOARD):
            self._board.add_image("confusion", matrix_picture(matrix, classes), step, dataformats="HWC")

    def summarize(self, optim: OptimConfig) -> None:
        """Show the classes of the last evaluation, and say what stands out."""
        if found := self.last_evaluation:
            self.display.show(class_table(found.scores, found.classes))
            for sentence in findings(found.matrix, [c.name for c in found.classes], asdict(optim)):
                self.display.remark(sentence)

    def close(self, finished: bool = True) -> None:
        """Flush everything and restore the terminal; ``finished`` says whether the training reached its end."""
        self.display.close()
        with naming(self._folder / BOARD):
            self._board.close()
        with naming(self._folder / METRICS):
            self._file.close()
        if self._tracking:
            self._tracking.close(finished)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(finished=kind is None)

    def _record(self, event: str, step: int, values: dict[str, Any]) -> None:
        line = {"event": event, "step": step, "seconds": round(time.time() - self._start, 3), **values}
        with naming(self._folder / METRICS):
            self._file.write(json.dumps(_finite(line)) + "\n")
            self._file.flush()
        scalars = {f"{event}/{k}": v for k, v in line.items() if isinstance(v, float) and k not in ("seconds", "epoch")}
        ious = {f"iou/{name}": math.nan if v is None else v for name, v in (values.get("classes") or {}).items()}
        with naming(self._folder / BOARD):
            for name, value in (scalars | ious).items():
                self._board.add_scalar(name, value, step)
        if self._tracking:
            numbers = {f"{event}/{k}": v for k, v in line.items() if isinstance(v, int | float) and k != "step"}
            self._tracking.log(step, numbers | ious)


def _lines_until(path: Path, epoch: float) -> list[str]:
    """Return the complete lines up to ``epoch``; what lies behind the checkpoint is repeated."""
    if epoch == 0 or not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["epoch"] <= epoch + SAME_EPOCH:
                lines.append(line)
        except (ValueError, KeyError, TypeError):
            print(f"{path}: a damaged line was left out", file=sys.stderr)
    return lines


def _last_miou(lines: Sequence[str]) -> float:
    """Return the score of the last evaluation among records; NaN without one."""
    scores = [record["miou"] for record in map(json.loads, lines) if record["event"] == "eval"]
    return scores[-1] if scores and scores[-1] is not None else math.nan


def _quiet_when_full(arguments: threading.ExceptHookArgs) -> None:
    """Ignore a full disk in TensorBoard's thread: the next write to it raises the error again."""
    if not disk_full(arguments.exc_value):
        threading.__excepthook__(arguments)


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    """Replace numbers that are not finite by None, because JSON has no NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}


@dataclass(frozen=True)
class StepEvaluation:
    """An evaluation in the course of a run."""

    step: int
    epoch: float
    weights: str
    """``ema`` or ``model``, whichever were evaluated."""
    result: EvaluationStats
    matrix: NDArray[np.int64]
    """C×C pixels, rows the truth."""
    scores: Score
    best: bool
    """Whether all earlier scores of the run are lower."""
    worst: Sequence[Sample]
    keys: Sequence[str]
    """Of the split's frames, by their index."""
    classes: Sequence[SegmentationClass]


def record_evaluation(log: RunLog, found: StepEvaluation) -> None:
    """Write an evaluation to the run's folder, and say its score."""
    log.last_evaluation = found
    step, result, classes = found.step, found.result, found.classes
    log.evaluated(
        step,
        found.scores.to_json(),
        epoch=found.epoch,
        images=result.images,
        corrupt_samples=result.corrupt_samples,
        images_per_second=result.images_per_second,
        weights=found.weights,
    )
    log.display.evaluated(found.scores.miou)
    log.confusion(found.matrix, classes, step)
    log.worst(found.worst, [found.keys[sample.index] for sample in found.worst], classes, step)
    left_out = f", {result.corrupt_samples} damaged ones left out" if result.corrupt_samples else ""
    log.say(
        f"epoch {found.epoch:.1f}: mIoU {percent(found.scores.miou)} % on {result.images} images{left_out}"
        f"{', the best so far' if found.best else ''} ({result.images_per_second:.1f} images/s)"
    )
