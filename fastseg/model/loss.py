"""Cross-entropy as a sum and a count, so that several ranks weigh every pixel alike."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.labels import IGNORE
from fastseg.model.deeplab import Logits, upsample


def segmentation_loss(
    logits: Logits, label: Tensor, dice: float = 0.0, void: bool = False, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of the upsampled logits over pixels that are not ignored.

    ``label``: uint8 N×H×W. ``dice``: see :class:`fastseg.config.OptimConfig`; it applies to the main head alone.
    ``void``: the last class is for pixels that would be ignored, and none is. ``weights``: of a pixel of each class,
    float32 C; None: 1. Returns four float32 numbers: the main head's sum over pixels and the pixels' number, both
    weighted, then the auxiliary head's (0, 0 without one). Where all pixels are ignored, all are 0.
    """
    target = label.long()
    if void:
        target = target.where(target != IGNORE, logits.out.shape[1] - 1)
    labelled = target != IGNORE
    weight = labelled.float() if weights is None else labelled * weights[target.clamp(max=len(weights) - 1)]
    scores = _upsampled(logits.out, target)
    numbers = [(_pixel_losses(scores, target) * weight).sum(), weight.sum()]
    if dice:
        # Times the pixels by whose number the sum is divided: over ranks, a mean weighted by their pixels.
        numbers[0] = numbers[0] + dice * dice_loss(scores, target) * numbers[1]
    if logits.aux is not None:
        numbers += [(_pixel_losses(_upsampled(logits.aux, target), target) * weight).sum(), numbers[1]]
    else:
        numbers += [torch.zeros_like(numbers[0])] * 2
    return torch.stack([number.float() for number in numbers])


def class_weights(pixels: Sequence[int], power: float) -> Tensor:
    """(median / pixels) ** power of each class, float32 C; of a class without pixels 1."""
    found = torch.tensor(pixels, dtype=torch.float64)
    present = found > 0
    return torch.where(present, (found[present].median() / found.clamp(min=1)) ** power, 1.0).float()


def dice_loss(scores: Tensor, target: Tensor) -> Tensor:
    """1 - 2 |P ∩ T| / (|P| + |T|), the mean over the batch's classes (Milletari et al. 2016, arXiv 1606.04797).

    ``scores``: float32 N×C×H×W, of which softmax makes the probabilities P. ``target``: int64 N×H×W. Ignored pixels are
    in neither; 0 where all are.
    """
    true = target.unsqueeze(1) == torch.arange(scores.shape[1], device=scores.device).view(1, -1, 1, 1)
    found = scores.softmax(1) * (target != IGNORE).unsqueeze(1)
    pixels = true.sum((0, 2, 3))
    overlap = 2 * (found * true).sum((0, 2, 3)) / (found.sum((0, 2, 3)) + pixels).clamp(min=1)
    present = pixels > 0
    return ((1 - overlap) * present).sum() / present.sum().clamp(min=1)


def _upsampled(logits: Tensor, target: Tensor) -> Tensor:
    return upsample(logits, (target.shape[-2], target.shape[-1]))


def _pixel_losses(scores: Tensor, target: Tensor) -> Tensor:
    """Float32 N×H×W, 0 where the target is ignored."""
    return F.cross_entropy(scores, target, ignore_index=IGNORE, reduction="none")
