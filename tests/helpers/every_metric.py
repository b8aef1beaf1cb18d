"""Everything that is computed of predictions, for tests that hold all of it to the same."""

from collections.abc import Callable

import torch

from fastseg.evaluation.frames import ReportFrames, WorstFrames
from fastseg.evaluation.metrics import CLASS_METRICS, ConfusionMatrix, FrameCounts, Metric

EVERY_METRIC: dict[str, Callable[[int, torch.device], Metric]] = {
    **CLASS_METRICS,
    "confusion_matrix": ConfusionMatrix,
    "frame_counts": lambda classes, _: FrameCounts(classes),
    "report_frames": lambda *_: ReportFrames([f"key_{i}" for i in range(99)]),
    "worst_frames": lambda *_: WorstFrames(8),
}
"""By name: (number of classes, device) → the metric, nothing counted yet."""
