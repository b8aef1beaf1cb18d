"""Boundary IoU: how well the outlines of the classes are met, which the IoU of large areas hides."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.distributed.ranks import sum_over_ranks
from fastseg.labels import IGNORE

WIDTH = 0.02
"""Of the band along an outline, as a share of the frame's diagonal: 46 pixels at 2048×1024."""


class BoundaryCounts:
    """Counts over all frames of a split, then Boundary IoU = |Tb ∩ Pb| / |Tb ∪ Pb| per class.

    Tb are the pixels of a class in the truth that lie near another class or the frame's border, Pb the same in the
    prediction (Cheng et al., "Boundary IoU", CVPR 2021, arXiv 2103.16562; distances as in its boundary_iou_api).
    As with the IoU, pixels of all frames are counted before anything is divided, and ignored pixels belong to no class,
    neither in the truth nor in the prediction. No outline runs along them: it would be the same in both, and met for
    free. Where they part two classes, each class is near the other if the gap is narrower than the band.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self._counts = torch.zeros(3, classes, dtype=torch.int64, device=device)

    def __call__(self, _: int, label: Tensor, prediction: Tensor) -> None:
        """Count a frame, wherever it stands: train ids, uint8 H×W, 255 = ignored in ``label``."""
        distance = boundary_distance(*label.shape)
        truth = _band(label, distance)
        found = _band(torch.where(label == IGNORE, label, prediction), distance)
        both = torch.where(truth == found, truth, IGNORE)
        self._counts += torch.stack([self._count(ids) for ids in (both, truth, found)])

    def iou(self) -> list[float]:
        """Of each class over all ranks, each of which has to call; NaN for a class that is in neither."""
        both, truth, found = sum_over_ranks(self._counts.clone()).tolist()
        unions = [t + f - b for b, t, f in zip(both, truth, found, strict=True)]
        return [b / union if union else math.nan for b, union in zip(both, unions, strict=True)]

    def _count(self, ids: Tensor) -> Tensor:
        return torch.bincount(ids.flatten(), minlength=IGNORE + 1)[: self._counts.shape[1]]


def boundary_distance(height: int, width: int) -> int:
    """Pixels from an outline that count as near it, at least 1."""
    return max(round(WIDTH * math.hypot(height, width)), 1)


def _band(ids: Tensor, distance: int) -> Tensor:
    """``ids`` near outlines, :data:`IGNORE` elsewhere."""
    return torch.where(near_outline(ids, distance), ids, IGNORE)


def near_outline(ids: Tensor, distance: int) -> Tensor:
    """Where the square of 2 × ``distance`` + 1 pixels around a pixel holds another class or leaves the frame: H×W.

    Ignored pixels in the square are no other class; what is said of ignored pixels themselves means nothing. What is
    not near is just what eroding each class's mask, ignored pixels added, by that square leaves, for all classes at
    once.
    """
    # An ignored pixel is 0 in both, which is greater than nothing; what lies outside is IGNORE, greater than any class.
    both = torch.stack([torch.where(ids == IGNORE, 0, ids), IGNORE - ids])
    padded = F.pad(both, [distance] * 4, value=IGNORE)
    greatest, least = _greatest(_greatest(padded, 1, 2 * distance + 1), 2, 2 * distance + 1)
    return (greatest > ids) | (least > IGNORE - ids)


def _greatest(values: Tensor, dim: int, length: int) -> Tensor:
    """The greatest of the ``length`` values from a place on; ``length`` - 1 fewer along ``dim``."""
    reach = 1
    while reach < length:  # twice as far each time
        step = min(reach, length - reach)
        size = values.shape[dim] - step
        values = torch.maximum(values.narrow(dim, 0, size), values.narrow(dim, step, size))
        reach += step
    return values
