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
from fastseg.errors import disk_full
from fastseg.evaluation.scores import percent
from fastseg.evaluation.summary import class_table, findings
from fastseg.files import naming, write_atomic
from fastseg.labels import SegmentationClass
from fastseg.report.gallery import FOLDER, Frame, write_gallery
from fastseg.report.pictures import matrix_picture, panel
from fastseg.report.run_folder import scalar_name
from fastseg.training.callbacks import Callback, Step, StepEvaluation
from fastseg.training.display import Display, plain_table
from fastseg.training.profiler import Table

METRICS = "metrics.jsonl"
BOARD = "tensorboard"
SAME_EPOCH = 1e-6
"""Largest difference of two epochs that are the same but for rounding."""


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
    ) -> None:
        """Write each of ``documents`` to ``folder/NAME.json`` and continue after step ``step`` of ``total``.

        ``epoch``: up to which metrics.jsonl is kept, the checkpoint's. Steps are counted anew with another batch or
        number of ranks; epochs are not.

        ``each``: unit of the images per second, such as `` per GPU`` if there may be several.
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

    def say(self, sentence: str) -> None:
        """Print one line for the user."""
        self.display.say(sentence)

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
        line = {"event": event, "step": step, "seconds": round(time.time() - self._start, 3), **values}
        with naming(self._folder / METRICS):
            self._file.write(json.dumps(_finite(line)) + "\n")
            self._file.flush()
        floats = {k: v for k, v in line.items() if isinstance(v, float) and k not in ("seconds", "epoch")}
        scalars = {scalar_name(event, k): v for k, v in floats.items()}
        ious = {f"iou/{name}": math.nan if v is None else v for name, v in (values.get("classes") or {}).items()}
        with naming(self._folder / BOARD):
            for name, value in (scalars | ious).items():
                self._board.add_scalar(name, value, step)


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
