"""Everything that is computed of predictions, for tests that hold all of it to the same."""

from collections.abc import Callable

import torch

from fastseg.evaluation.metrics import CLASS_METRICS, ConfusionMatrix, FrameCounts, Metric, WorstFrames

EVERY_METRIC: dict[str, Callable[[int, torch.device], Metric]] = {
    **CLASS_METRICS,
    "confusion_matrix": ConfusionMatrix,
    "frame_counts": lambda classes, _: FrameCounts(classes),
    "worst_frames": lambda *_: WorstFrames(),
}
"""By name: (number of classes, device) → the metric, nothing counted yet."""
