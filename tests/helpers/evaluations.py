"""An evaluation in the course of a run, as the trainer hands it to callbacks."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastseg.evaluation.evaluator import EvaluationStats
from fastseg.evaluation.scores import Score
from fastseg.labels import SegmentationClass
from fastseg.training.callbacks import StepEvaluation


def evaluation(step: int, ious: Mapping[str, float | None], epoch: float = 1.0, **changes: Any) -> StepEvaluation:
    """These IoUs after a step; None for a class without one."""
    known = {name: math.nan if iou is None else iou for name, iou in ious.items()}
    values: dict[str, Any] = {
        "step": step,
        "epoch": epoch,
        "images_seen": 4 * step,
        "split": "val",
        "weights": "ema",
        "result": EvaluationStats(5, 0, 2.0),
        "matrix": np.eye(len(known), dtype=np.int64),
        "scores": Score(known, {}, known, 0.5),
        "best": True,
        "since_best": 0,
        "frames": (),
        "keys": (),
        "joules": math.nan,
        "classes": tuple(SegmentationClass(name, (i, i, i)) for i, name in enumerate(known)),
    }
    return StepEvaluation(**values | changes)
