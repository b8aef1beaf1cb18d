"""Cross-entropy as a sum and a count, so that several ranks weigh every pixel alike."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.labels import IGNORE
from fastseg.model.deeplab import Logits, upsample


def segmentation_loss(
    logits: Logits,
    label: Tensor,
    ohem: float | None = None,
    dice: float = 0.0,
    void: bool = False,
    lovasz: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the upsampled logits over pixels that are not ignored.

    ``label``: uint8 N×H×W. ``ohem``, ``dice``: see :class:`fastseg.config.OptimConfig`; both apply to the main head
    alone. ``void``: the last class is for pixels that would be ignored, and none is. ``weights``: of each class's
    pixels, C; None: 1. Returns four float32 numbers: the main head's sum and count of pixels, each times its weight,
    the auxiliary head's (0, 0 without one). Where all are ignored, sums and counts are 0.
    """
    target = label.long()
    if void:
        target = target.where(target != IGNORE, logits.out.shape[1] - 1)
    labelled = target != IGNORE
    scores = _upsampled(logits.out, target)
    pixels = _pixel_losses(scores, target)
    weight = labelled.float() if weights is None else labelled * weights[target.clamp(max=len(weights) - 1)]
    counted = weight if ohem is None else weight * _hard(pixels.detach(), ohem)
    numbers = [(pixels * counted).sum(), counted.sum()]
    if dice:
        # Times the pixels by whose number the sum is divided: over ranks, a mean weighted by their pixels.
        numbers[0] = numbers[0] + dice * dice_loss(scores, target) * numbers[1]
    if lovasz:
        numbers[0] = numbers[0] + lovasz * lovasz_loss(scores, target) * numbers[1]
    if logits.aux is not None:
        numbers += [(_pixel_losses(_upsampled(logits.aux, target), target) * weight).sum(), weight.sum()]
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


def lovasz_loss(scores: Tensor, target: Tensor) -> Tensor:
    """The Lovász extension of 1 - IoU, the mean over the batch's classes (Berman et al. 2018, arXiv 1705.08790).

    Shapes as for :func:`dice_loss`. Of every class the errors |T - P| are sorted, and each weighs what its pixel adds
    to 1 - IoU when it is the next one to be wrong.
    """
    labelled = (target != IGNORE).flatten()
    classes = scores.shape[1]
    found = scores.softmax(1).transpose(0, 1).flatten(1)[:, labelled]
    true = target.flatten()[labelled] == torch.arange(classes, device=scores.device).view(-1, 1)
    errors, order = (true.float() - found).abs().sort(1, descending=True)
    wrong = true.gather(1, order).float()
    pixels = wrong.sum(1, keepdim=True)
    lost = 1 - (pixels - wrong.cumsum(1)) / (pixels + (1 - wrong).cumsum(1))
    weight = lost.diff(dim=1, prepend=lost.new_zeros(classes, 1))
    present = pixels.squeeze(1) > 0
    return ((errors * weight).sum(1) * present).sum() / present.sum().clamp(min=1)


def _upsampled(logits: Tensor, target: Tensor) -> Tensor:
    return upsample(logits, (target.shape[-2], target.shape[-1]))


def _pixel_losses(scores: Tensor, target: Tensor) -> Tensor:
    """Float32 N×H×W, 0 where the target is ignored."""
    return F.cross_entropy(scores, target, ignore_index=IGNORE, reduction="none")


def _hard(losses: Tensor, threshold: float) -> Tensor:
    """Pixels whose true class gets less than ``threshold``, or the hardest sixteenth if they are fewer."""
    least = max(losses.numel() // 16, 1)
    sixteenth = losses.flatten().topk(least).values[-1]
    return losses >= sixteenth.clamp(max=-math.log(threshold))
