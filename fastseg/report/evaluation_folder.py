"""Write an evaluation as a folder like a run's, with its report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.device import environment
from fastseg.evaluation.metrics import Sample
from fastseg.files import write_atomic
from fastseg.labels import SegmentationClass
from fastseg.report.gallery import FOLDER, write_gallery
from fastseg.report.report import write_report
from fastseg.report.run_folder import started


def write_evaluation(
    folder: Path,
    matrix: NDArray[np.int64],
    frames: Sequence[Sample],
    keys: Sequence[str],
    classes: Sequence[SegmentationClass],
    line: Mapping[str, Any],
    config: Mapping[str, Any],
    dataset: str,
) -> Path:
    """Write ``folder/report.html`` and the files that it is made from; return its path.

    ``matrix``: C×C pixels, rows the truth. ``keys`` are those of the split's frames by index, ``line`` is the
    evaluation's record as in a run's metrics.jsonl, ``config`` the settings that the network was trained with,
    ``dataset`` the name of the set that it was scored on.
    """
    documents = {
        "classes": [{"name": c.name, "color": c.color, "category": c.category} for c in classes],
        "confusion": {"matrix": matrix.tolist()},
        "environment": environment() | {"dataset": dataset, "started": started(folder, resumed=False)},
        "config": config,
    }
    for name, document in documents.items():
        write_atomic(folder / f"{name}.json", json.dumps(document, indent=1) + "\n")
    write_gallery(folder / FOLDER, frames, [keys[sample.index] for sample in frames], classes)
    write_atomic(folder / "metrics.jsonl", json.dumps({"event": "eval", **line}) + "\n")
    return write_report(folder)
