"""Read a run folder: settings, records and pictures."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path
from typing import Any

from fastseg.errors import UserError
from fastseg.labels import SegmentationClass, parse_class
from fastseg.report.gallery import FOLDER, INDEX, LAYERS
from fastseg.storage import read_bytes

MAX_JSON = 1 << 28
"""Maximum bytes of a document: the confusion matrix of 255 classes has less than 1 MB."""
Line = dict[str, Any]
"""One record of metrics.jsonl."""
SPEED = ("images_per_second_per_gpu", "images_per_second", "tflops", "mfu", "waiting", "saving", "memory", "joules")
"""Numbers of metrics.jsonl that are of machines rather than of learning."""


@dataclass(frozen=True)
class Shown:
    """One frame of the gallery."""

    key: str
    kind: str
    """Why it is shown: worst, random or best."""
    iou: float
    """Mean IoU over the classes in the frame, 0…1; NaN if unknown."""
    size: tuple[int, int]
    """Width and height of the pictures, pixels."""
    worst_classes: list[tuple[str, float]]
    """Name and IoU of the classes with the most wrong pixels."""
    layers: dict[str, Path]
    """Existing pictures by the names of :data:`fastseg.report.gallery.LAYERS`."""


@dataclass(frozen=True)
class Run:
    """The contents of a run folder; missing parts are empty."""

    name: str
    config: dict[str, Any]
    environment: dict[str, str]
    train: list[Line]
    """Lines of metrics.jsonl with the event ``train``, by epoch."""
    evaluations: list[Line]
    """Lines with the event ``eval``, by epoch."""
    classes: list[SegmentationClass]
    matrix: list[list[int]]
    """Confusion matrix, rows the truth."""
    gallery: list[Shown]
    """Frames of the last evaluation: the worst, worst first, then random ones, then the best."""

    @property
    def best(self) -> Line:
        """Return the evaluation with the highest mIoU, on the split of the last ones; empty without one."""
        split = self.last.get("split")
        same = list(takewhile(lambda line: line.get("split") == split, reversed(self.evaluations)))
        return max(reversed(same), key=lambda line: number(line, "miou", -1.0), default={})

    @property
    def last(self) -> Line:
        """Return the evaluation at the highest epoch; empty without one."""
        return max(self.evaluations, key=position, default={})


def read_run(folder: Path) -> Run:
    """Read a run folder: config.json, environment.json, metrics.jsonl, classes.json, confusion.json, overlays/."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no run folder; a finished or running training leaves one under runs/")
    lines = _read_lines(folder / "metrics.jsonl")
    return Run(
        name=folder.resolve().name,
        config=_read_json(folder / "config.json", {}),
        environment=_read_json(folder / "environment.json", {}),
        train=_last_of_each_epoch([line for line in lines if line.get("event") == "train"]),
        evaluations=_last_of_each_epoch([line for line in lines if line.get("event") == "eval"]),
        classes=_read_classes(folder / "classes.json"),
        matrix=_read_matrix(folder / "confusion.json"),
        gallery=_read_gallery(folder / FOLDER),
    )


def started(folder: Path, resumed: bool) -> str:
    """Return when a run began, as in ``2026-11-30 16:10 UTC``: now, unless it is resumed and its folder knows."""
    now = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    return str(_read_json(folder / "environment.json", {}).get("started", now)) if resumed else now


def _read_json(path: Path, empty: Any) -> Any:
    """Read the document in ``path``, which must have the type of ``empty``; return ``empty`` without a file."""
    if not path.exists():
        return empty
    try:
        document = json.loads(read_bytes(path, MAX_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and write the report again") from None
    if not isinstance(document, type(empty)):
        raise UserError(f"{path} holds {type(document).__name__}, not {type(empty).__name__}; remove it")
    return document


def _read_lines(path: Path) -> list[Line]:
    """Read the records of metrics.jsonl that have a position; skip lines cut off by a crash."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and math.isfinite(position(line)):
            lines.append(line)
    return lines


def _last_of_each_epoch(lines: Sequence[Line]) -> list[Line]:
    """Sort by epoch; if a resumed run repeated some, keep what it wrote last.

    Lines of one epoch with different ``weights`` are all kept.
    """
    kept: dict[tuple[float, str], Line] = {}
    horizon = math.inf
    for line in reversed(lines):
        key = (position(line), str(line.get("weights")))
        if position(line) <= horizon and key not in kept:
            kept[key] = line
            horizon = position(line)
    return list(kept.values())[::-1]


def _read_classes(path: Path) -> list[SegmentationClass]:
    return [parse_class(entry, f"{path}, class {i}") for i, entry in enumerate(_read_json(path, []))]


def _read_matrix(path: Path) -> list[list[int]]:
    matrix = _read_json(path, {}).get("matrix", [])
    try:
        counts = [[int(count) for count in row] for row in matrix]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and write the report again") from None
    if any(len(row) != len(counts) for row in counts):
        raise UserError(f"{path} holds a matrix that is not square; remove it and write the report again")
    return counts


def _read_gallery(folder: Path) -> list[Shown]:
    path = folder / INDEX
    frames = []
    for entry in _read_json(path, []):
        try:
            key, kind, stem = str(entry["key"]), str(entry["kind"]), Path(entry["stem"]).name
            width, height = (int(pixels) for pixels in entry["size"])
            worst = [(str(c["class"]), number(c, "iou")) for c in entry["worst_classes"]]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error!r}); remove it and write the report again") from None
        layers = {name: folder / f"{stem}.{ending}" for name, ending in LAYERS.items()}
        there = {name: file for name, file in layers.items() if file.is_file()}
        frames.append(Shown(key, kind, number(entry, "iou"), (width, height), worst, there))
    return frames


def scalar_name(event: str, key: str) -> str:
    """Return the name of a record's number at TensorBoard and trackers: train/loss, speed/tflops, val/miou."""
    return f"{'speed' if key in SPEED else 'val' if event == 'eval' else event}/{key}"


def position(line: Line) -> float:
    """Return the epoch of a record, or its step if it has none, as those of fastseg-eval; NaN without either."""
    return number(line, "epoch", number(line, "step"))


def number(line: Line, key: str, missing: float = math.nan) -> float:
    """Return a finite number of a record, ``missing`` for anything else."""
    value = line.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else missing
