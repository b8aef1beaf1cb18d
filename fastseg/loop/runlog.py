"""What a run leaves in its folder and shows while it goes: metrics.jsonl, TensorBoard, a display or plain lines."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from fastseg.files import write_atomic


class RunLog:
    """The first rank's record of a run; the other ranks have none. Close it, or use it in ``with``."""

    def __init__(self, folder: Path, documents: dict[str, Any], step: int, total: int) -> None:
        """Write each of ``documents`` to ``folder/NAME.json`` and go on after step ``step`` of ``total``."""
        for name, document in documents.items():
            write_atomic(folder / f"{name}.json", json.dumps(document, indent=1) + "\n")
        self._folder = folder
        path = folder / "metrics.jsonl"
        before = _lines_until(path, step)
        write_atomic(path, "".join(line + "\n" for line in before))
        self._start = time.time() - (json.loads(before[-1])["seconds"] if before else 0.0)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[facts]}"),
            console=self._console,
        )
        self._task = self._progress.add_task("train", total=total, completed=step, facts="")
        # A log file is no place for a moving bar: lines go there instead.
        self._interactive = self._console.is_terminal
        if self._interactive:
            self._progress.start()

    def say(self, sentence: str) -> None:
        """One line for the person who watches."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def train(self, step: int, **values: float) -> None:
        """Record the numbers of a window of steps that ended with ``step``."""
        self._record("train", step, values)
        facts = (
            f"loss {values['loss']:.3f} · lr {values['lr']:.2g} · {values['images_per_second']:.1f} img/s per GPU · "
            f"waiting {100 * values['waiting']:.0f} % · {values['memory'] / 2**30:.1f} GiB"
        )
        self._progress.update(self._task, completed=step, facts=facts)
        if not self._interactive:
            left = self._progress.tasks[0].time_remaining
            eta = "" if left is None else f" · {left / 60:.0f} min left"
            self.say(f"step {step}/{self._progress.tasks[0].total:.0f} · epoch {values['epoch']:.1f} · {facts}{eta}")

    def evaluated(self, step: int, scores: dict[str, Any], **values: Any) -> None:
        """Record an evaluation after ``step``: the numbers of :meth:`fastseg.score.metrics.Score.to_json`."""
        self._record("eval", step, {**scores, **values})

    def replace_overlays(self, pictures: dict[str, NDArray[np.uint8]], step: int) -> None:
        """Make ``overlays/`` hold exactly these pictures, STEM → uint8 H×W×3; TensorBoard gets them too."""
        folder = self._folder / "overlays"
        folder.mkdir(exist_ok=True)
        for path in folder.glob("*.jpg"):
            path.unlink()
        for i, (stem, picture) in enumerate(pictures.items()):
            Image.fromarray(picture).save(folder / f"{stem}.jpg", quality=90)
            self._board.add_image(f"worst/{i}", picture, step, dataformats="HWC")

    def write(self, name: str, document: Any) -> None:
        """Write ``folder/NAME.json``."""
        write_atomic(self._folder / f"{name}.json", json.dumps(document) + "\n")

    def close(self) -> None:
        """Flush everything and give the terminal back."""
        if self._interactive:
            self._progress.stop()
        self._board.close()
        self._file.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, event: str, step: int, values: dict[str, Any]) -> None:
        line = {"event": event, "step": step, "seconds": round(time.time() - self._start, 3), **values}
        self._file.write(json.dumps(_finite(line)) + "\n")
        self._file.flush()
        for name, value in line.items():
            if isinstance(value, float) and name not in ("seconds", "epoch"):
                self._board.add_scalar(f"{event}/{name}", value, step)
        for name, value in (values.get("classes") or {}).items():
            self._board.add_scalar(f"iou/{name}", math.nan if value is None else value, step)


def _lines_until(path: Path, step: int) -> list[str]:
    """The whole lines about steps up to ``step``: what came after the checkpoint is done again."""
    if step == 0 or not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                lines.append(line)
        except (ValueError, KeyError, TypeError):
            print(f"{path}: a damaged line was left out", file=sys.stderr)
    return lines


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
