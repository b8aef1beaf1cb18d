"""Record a run in metrics.jsonl and TensorBoard, and show it."""

import json
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from fastseg.config import OptimConfig
from fastseg.errors import disk_full, one_line
from fastseg.evaluation.scores import percent
from fastseg.evaluation.summary import class_table, findings
from fastseg.files import naming, write_atomic
from fastseg.labels import SegmentationClass
from fastseg.report.gallery import FOLDER, Frame, remove_gallery, write_gallery
from fastseg.report.pictures import matrix_picture, panel
from fastseg.report.run_folder import Line, scalar_name
from fastseg.training.callbacks import Callback, Step, StepEvaluation
from fastseg.training.display import Display, plain_table
from fastseg.training.profiler import Table

METRICS = "metrics.jsonl"
BOARD = "tensorboard"


class RunLog(Callback):
    """The first rank's record of a run; the other ranks have none. Close it, or use it in ``with``."""

    def __init__(
        self,
        folder: Path,
        documents: dict[str, Any],
        step: int,
        total: int,
        each: str = "",
        epoch: float = 0.0,
        repeats_eval: bool = False,
    ) -> None:
        """Write each of ``documents`` to ``folder/NAME.json`` and continue after step ``step`` of ``total``.

        Records of later steps are dropped, in ``metrics.jsonl`` and TensorBoard alike: no weights are left of them.

        ``each``: unit of the images per second, such as `` per GPU`` if there may be several. ``epoch``: of ``step``,
        as the present batches count it. ``repeats_eval``: the evaluation of ``step`` is done again.
        """
        for name, document in documents.items():
            write_atomic(folder / f"{name}.json", json.dumps(document, indent=1) + "\n")
        self._folder = folder
        path = folder / METRICS
        before, dropped = _records(path, step, repeats_eval)
        if any(record["event"] == "eval" for record in dropped):
            self._remove_pictures()
        self.dropped_later = any(record["step"] > step for record in dropped)
        """Whether there were records of later steps, from which this run has turned away."""
        write_atomic(path, "".join(json.dumps(record) + "\n" for record in before))
        self._start = time.monotonic() - (before[-1]["seconds"] if before else 0.0)
        self._file = path.open("a", encoding="utf-8")
        threading.excepthook = _quiet_when_full
        with naming(folder / BOARD):
            purged = step + (not repeats_eval)
            self._board = SummaryWriter(str(folder / BOARD), purge_step=purged)
            for record in before:
                if record["step"] >= purged:  # TensorBoard drops whole steps, training losses too
                    self._add_scalars(record)
        self.last_evaluation: StepEvaluation | None = None
        """The latest of this process."""
        self.display = Display(step, total, each, _last_miou(before), epoch)

    def say(self, sentence: str) -> None:
        """Print one line for the user."""
        self.display.say(one_line(sentence))

    def show(self, table: Table) -> None:
        """Print a table for the user."""
        self.say(table.title)
        self.display.show(plain_table(table))

    def on_step(self, step: Step) -> None:
        """Show that a step is done."""
        self.display.advance(step.step)

    def on_log(self, record: Mapping[str, float]) -> None:
        """Record the numbers of a window of steps that ended with the step ``record["step"]``."""
        values = dict(record)
        step = int(values.pop("step"))
        self._record("train", step, values)
        self.display.train(step, values)

    def on_evaluation(self, evaluation: StepEvaluation) -> None:
        """Record an evaluation in the run's folder, and say its score."""
        self.last_evaluation = evaluation
        step, classes, result = evaluation.step, evaluation.classes, evaluation.result
        self.display.evaluated(evaluation.scores.miou)
        self._remove_pictures()  # or a run killed in between would show the last one's beside these scores
        self._record("eval", step, evaluation.record())
        self.confusion(evaluation.matrix, classes, step)
        keys = [evaluation.keys[sample.index] for sample in evaluation.frames]
        self.frames(evaluation.frames, keys, classes, step)
        left_out = f", {result.corrupt_samples} damaged ones left out" if result.corrupt_samples else ""
        self.say(
            f"epoch {evaluation.epoch:.1f}: mIoU {percent(evaluation.scores.miou)} % on {result.images} images"
            f"{left_out}{', the best so far' if evaluation.best else ''} ({result.images_per_second:.1f} images/s)"
        )

    def frames(
        self, frames: Sequence[Frame], keys: Sequence[str], classes: Sequence[SegmentationClass], step: int
    ) -> None:
        """Write these frames to ``overlays/`` in place of earlier ones, and to TensorBoard as panels.

        There a random frame has its key as name, since it is the same after every evaluation.
        """
        with naming(self._folder / FOLDER):
            write_gallery(self._folder / FOLDER, frames, keys, classes)
        numbers: Counter[str] = Counter()
        for frame, key in zip(frames, keys, strict=True):
            numbers[frame.kind] += 1
            name = key if frame.kind == "random" else numbers[frame.kind]
            picture = panel(frame.image, frame.label, frame.prediction, classes)
            with naming(self._folder / BOARD):
                self._board.add_image(f"{frame.kind} frames/{name}", picture, step, dataformats="HWC")

    def write(self, name: str, document: Any) -> None:
        """Write ``folder/NAME.json``."""
        write_atomic(self._folder / f"{name}.json", json.dumps(document) + "\n")

    def confusion(self, matrix: NDArray[np.int64], classes: Sequence[SegmentationClass], step: int) -> None:
        """Write confusion.json (C×C pixels, rows the truth), and a picture of it to TensorBoard."""
        self.write("confusion", {"matrix": matrix.tolist()})
        with naming(self._folder / BOARD):
            self._board.add_image("confusion/matrix", matrix_picture(matrix, classes), step, dataformats="HWC")

    def summarize(self, optim: OptimConfig) -> None:
        """Show the classes of the last evaluation, and say what stands out."""
        if found := self.last_evaluation:
            self.display.show(class_table(found.scores, found.classes))
            for sentence in findings(found.matrix, [c.name for c in found.classes], asdict(optim)):
                self.display.remark(sentence)

    def close(self) -> None:
        """Flush everything and restore the terminal."""
        self.display.close()
        with naming(self._folder / BOARD):
            self._board.close()
        with naming(self._folder / METRICS):
            self._file.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, event: str, step: int, values: dict[str, Any]) -> None:
        line = {"event": event, "step": step, "seconds": round(time.monotonic() - self._start, 3), **values}
        with naming(self._folder / METRICS):
            self._file.write(json.dumps(_finite(line)) + "\n")
            self._file.flush()
        with naming(self._folder / BOARD):
            self._add_scalars(line)

    def _add_scalars(self, record: dict[str, Any]) -> None:
        """Send the numbers of a record of metrics.jsonl to TensorBoard."""
        event = record["event"]
        floats = {k: v for k, v in record.items() if isinstance(v, float) and k not in ("seconds", "epoch")}
        scalars = {scalar_name(event, k): v for k, v in floats.items()}
        ious = {f"iou/{name}": math.nan if v is None else v for name, v in (record.get("classes") or {}).items()}
        for name, value in (scalars | ious).items():
            self._board.add_scalar(name, value, record["step"])

    def _remove_pictures(self) -> None:
        """Remove the confusion matrix and the frames of an earlier evaluation."""
        (self._folder / "confusion.json").unlink(missing_ok=True)
        remove_gallery(self._folder / FOLDER)


def drop_records(folder: Path) -> None:
    """Remove the records of a run of which no checkpoint is left."""
    for name in (METRICS, "confusion.json"):
        (folder / name).unlink(missing_ok=True)
    remove_gallery(folder / FOLDER)
    for events in (folder / BOARD).glob("events.out.tfevents.*"):
        events.unlink()


def _records(path: Path, step: int, repeats_eval: bool) -> tuple[list[Line], list[Line]]:
    """Return the complete records of metrics.jsonl to keep and those to drop; a cut-off line is left out."""
    kept: list[Line] = []
    dropped: list[Line] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
            done, event = record["step"], record["event"]
            repeated = repeats_eval and event == "eval" and done == step
            (dropped if repeated or done > step else kept).append(record)
        except (ValueError, KeyError, TypeError):
            print(f"{path}: a damaged line was left out", file=sys.stderr)
    return kept, dropped


def _last_miou(records: Sequence[Line]) -> float:
    """Return the score of the last evaluation among records; NaN without one."""
    scores = [record["miou"] for record in records if record["event"] == "eval"]
    return scores[-1] if scores and scores[-1] is not None else math.nan


def _quiet_when_full(arguments: threading.ExceptHookArgs) -> None:
    """Ignore a full disk in TensorBoard's thread: the next write to it raises the error again."""
    if not disk_full(arguments.exc_value):
        threading.__excepthook__(arguments)


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    """Replace numbers that are not finite by None, because JSON has no NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
