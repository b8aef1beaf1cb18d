"""Count the pixels near outlines, and those that truth and prediction share, for Boundary IoU.

Boundary IoU = |Tb ∩ Pb| / |Tb ∪ Pb| per class: Tb are the pixels of a class in the truth that lie near another class or
the frame's border, Pb the same in the prediction (Cheng et al., "Boundary IoU", CVPR 2021, arXiv 2103.16562; distances
as in its boundary_iou_api). As with the IoU, pixels of all frames are counted before anything is divided, and ignored
pixels belong to no class, neither in the truth nor in the prediction. They create no outlines, which would be the same
in both and so always correct. Where they separate two classes, each class is near the other if the gap is narrower than
the band.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.labels import IGNORE

BAND = 0.02
"""Width of the band along an outline, as a share of the frame's diagonal: 46 pixels at 2048×1024."""


def boundary_counts(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """Count the pixels of each class in Tb ∩ Pb, Tb and Pb of a frame, int64 3×C, without waiting for a GPU.

    ``prediction`` and ``label``: train ids, uint8 H×W, 255 = ignored in ``label``.
    """
    distance = boundary_distance(*label.shape)
    truth = _band(label, distance)
    found = _band(torch.where(label == IGNORE, label, prediction), distance)
    both = torch.where(truth == found, truth, IGNORE)
    return torch.stack([_count(ids, classes) for ids in (both, truth, found)])


def _count(ids: Tensor, classes: int) -> Tensor:
    """Count the pixels of each class, int64 C."""
    if not ids.is_cuda:
        return torch.bincount(ids.flatten(), minlength=IGNORE + 1)[:classes]
    # bincount waits for a GPU to find the maximum; histc takes the range.
    return torch.histc(ids.to(torch.int64), IGNORE + 1, 0, IGNORE + 1)[:classes]


def boundary_distance(height: int, width: int) -> int:
    """Return the width of the band along outlines, pixels, at least 1."""
    return max(round(BAND * math.hypot(height, width)), 1)


def _band(ids: Tensor, distance: int) -> Tensor:
    """Return ``ids`` near outlines, :data:`IGNORE` elsewhere."""
    return torch.where(near_outline(ids, distance), ids, IGNORE)


def near_outline(ids: Tensor, distance: int) -> Tensor:
    """Mark pixels (H×W) around which a square of 2 × ``distance`` + 1 pixels holds another class or leaves the frame.

    Ignored pixels in the square are no other class; the marks of ignored pixels themselves mean nothing. The unmarked
    pixels are those that eroding each class's mask, joined with the ignored pixels, by that square would leave.
    """
    # An ignored pixel is 0 in both, below every class; pixels outside are IGNORE, above every class.
    both = torch.stack([torch.where(ids == IGNORE, 0, ids), IGNORE - ids])
    padded = F.pad(both, [distance] * 4, value=IGNORE)
    greatest, least = _greatest(_greatest(padded, 1, 2 * distance + 1), 2, 2 * distance + 1)
    return (greatest > ids) | (least > IGNORE - ids)


def _greatest(values: Tensor, dim: int, length: int) -> Tensor:
    """Return the greatest of the ``length`` values from each position on; ``length`` - 1 fewer along ``dim``."""
    reach = 1
    while reach < length:  # doubles its reach each time
        step = min(reach, length - reach)
        size = values.shape[dim] - step
        values = torch.maximum(values.narrow(dim, 0, size), values.narrow(dim, step, size))
        reach += step
    return values
