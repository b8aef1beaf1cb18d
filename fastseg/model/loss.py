"""Cross-entropy as a sum and a count, so that several ranks weigh every pixel alike."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.labels import IGNORE
from fastseg.model.deeplab import Logits, upsample


def segmentation_loss(logits: Logits, label: Tensor, ohem: float | None = None) -> Tensor:
    """Cross-entropy of the upsampled logits over pixels that are not ignored.

    ``label``: uint8 N×H×W. ``ohem``: see :class:`fastseg.config.OptimConfig`; applies to the main head. Returns
    four float32 numbers: the main head's sum and count of pixels, the auxiliary head's (0, 0 without one). An
    all-void batch gives sums and counts of 0.
    """
    target = label.long()
    labelled = target != IGNORE
    pixels = _pixel_losses(logits.out, target)
    counted = labelled if ohem is None else labelled & _hard(pixels.detach(), ohem)
    numbers = [(pixels * counted).sum(), counted.sum()]
    if logits.aux is not None:
        numbers += [_pixel_losses(logits.aux, target).sum(), labelled.sum()]
    else:
        numbers += [torch.zeros_like(numbers[0])] * 2
    return torch.stack([number.float() for number in numbers])


def _pixel_losses(logits: Tensor, target: Tensor) -> Tensor:
    """Float32 N×H×W, 0 where the target is ignored."""
    size = (target.shape[-2], target.shape[-1])
    return F.cross_entropy(upsample(logits, size), target, ignore_index=IGNORE, reduction="none")


def _hard(losses: Tensor, threshold: float) -> Tensor:
    """Pixels whose true class gets less than ``threshold``, or the hardest sixteenth if they are fewer."""
    least = max(losses.numel() // 16, 1)
    sixteenth = losses.flatten().topk(least).values[-1]
    return losses >= sixteenth.clamp(max=-math.log(threshold))
