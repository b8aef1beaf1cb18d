"""Cross-entropy as a sum and a count, so that every pixel weighs alike over all ranks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.config import OptimConfig
from fastseg.labels import IGNORE
from fastseg.model.network import Logits, upsample

PLAIN = OptimConfig()
LossFunction = Callable[[Tensor, Tensor], Tensor]
"""A loss of one's own: (logits float32 N×C×H×W at the labels' size, labels int64 N×H×W with 255 for ignored pixels) →
their mean loss, a scalar. It must be finite where all pixels are ignored, and must not wait for the device."""


def segmentation_loss(
    logits: Logits, label: Tensor, config: OptimConfig = PLAIN, weights: Tensor | None = None
) -> Tensor:
    """Compute the cross-entropy of the upsampled logits over pixels that are not ignored.

    ``label``: uint8 N×H×W, each below the number of classes or 255. Any other value kills a process on a GPU. Checking
    here would wait for the device: packing refuses masks with other values, and a record's CRC-32 reveals later damage.
    ``config`` says which losses are added (``dice``, to the main head alone). ``weights``: of a pixel of each class,
    float32 C; None: 1. Returns four float32 numbers: the main head's sum over pixels and the pixels' number, both
    weighted, then the auxiliary head's (0, 0 without one). All are 0 if all pixels are ignored.
    """
    target = label.long()
    labeled = target != IGNORE
    weight = labeled.float() if weights is None else labeled * weights[target.clamp(max=len(weights) - 1)]
    scores = _upsampled(logits.out, target)
    numbers = [(_pixel_losses(scores, target) * weight).sum(), weight.sum()]
    if config.dice:
        # Times the number of pixels by which the sum is divided: over ranks, a mean weighted by their pixels.
        numbers[0] = numbers[0] + config.dice * dice_loss(scores, target) * numbers[1]
    if logits.aux is not None:
        numbers += [(_pixel_losses(_upsampled(logits.aux, target), target) * weight).sum(), numbers[1]]
    else:
        numbers += [torch.zeros_like(numbers[0])] * 2
    return torch.stack([number.float() for number in numbers])


def weighed_loss(logits: Logits, label: Tensor, loss: LossFunction) -> Tensor:
    """Compute ``loss`` of each head times the number of labeled pixels, and that number.

    ``label`` and the result are those of :func:`segmentation_loss`. Over ranks it is a mean weighted by their pixels.
    """
    target = label.long()
    pixels = (target != IGNORE).sum()
    heads = [logits.out, *([logits.aux] if logits.aux is not None else [])]
    numbers = [number for head in heads for number in (loss(_upsampled(head, target), target) * pixels, pixels)]
    numbers += [torch.zeros_like(numbers[0])] * (4 - len(numbers))
    return torch.stack([number.float() for number in numbers])


def class_weights(pixels: Sequence[int], power: float) -> Tensor:
    """Return (median / pixels) ** power for each class, float32 C; 1 for a class without pixels."""
    found = torch.tensor(pixels, dtype=torch.float64)
    present = found > 0
    return torch.where(present, (found[present].median() / found.clamp(min=1)) ** power, 1.0).float()


def dice_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Compute 1 - 2 |P ∩ T| / (|P| + |T|), the mean over the batch's classes (Milletari et al. 2016, arXiv 1606.04797).

    ``scores``: float32 N×C×H×W, whose softmax is P. ``target``: int64 N×H×W. Ignored pixels are in neither P nor T;
    returns 0 if all are ignored.
    """
    true = target.unsqueeze(1) == torch.arange(scores.shape[1], device=scores.device).view(1, -1, 1, 1)
    found = scores.softmax(1) * (target != IGNORE).unsqueeze(1)
    pixels = true.sum((0, 2, 3))
    overlap = 2 * (found * true).sum((0, 2, 3)) / (found.sum((0, 2, 3)) + pixels).clamp(min=1)
    present = pixels > 0
    return ((1 - overlap) * present).sum() / present.sum().clamp(min=1)


class UpsampleByProducts(torch.autograd.Function):
    """:func:`fastseg.model.network.upsample` by matrix products, for GPUs.

    Upsampling is linear along each axis. torch's backward pass adds every pixel's gradient to four of the logits' by
    atomic additions, 700 million in a step of the default recipe; the transpose is two products with constant matrices.
    In the forward pass the columns are a product too, and the rows a weighted mean of two neighbors, which the compiler
    computes where it is used: nothing of full size is written. Products may round to TF32, which is exact for 16-bit
    logits and for the weights at a stride of 8 or 16; gradients are rounded to 16 bits later anyway.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize floating-point N×C×h×w → N×C×H×W."""
        h, w = ctx.size = logits.shape[2:]
        with torch.autocast(logits.device.type, enabled=False):
            wide = logits @ _weights(w, size[1], logits).T
        centers = _centers(h, size[0], logits)
        above = centers.long()
        share = (centers - above).view(-1, 1)
        return wide[:, :, above] * (1 - share) + wide[:, :, (above + 1).clamp(max=h - 1)] * share

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Map the gradient N×C×H×W → N×C×h×w, in its own dtype whatever autocast says."""
        full = gradients[0]
        rows, columns = (_weights(small, full.shape[2 + i], full) for i, small in enumerate(ctx.size))
        with torch.autocast(full.device.type, enabled=False):
            return rows.T @ (full @ columns), None


def _centers(small: int, large: int, like: Tensor) -> Tensor:
    """Return the centers of ``large`` pixels among ``small`` values, in the dtype of ``like``; borders repeat."""
    pixels = torch.arange(large, dtype=like.dtype, device=like.device)
    return ((pixels + 0.5) * (small / large) - 0.5).clamp(0, small - 1)


def _weights(small: int, large: int, like: Tensor) -> Tensor:
    """Return the weights of ``small`` values in each of ``large`` pixels, large×small in the dtype of ``like``."""
    values = torch.arange(small, dtype=like.dtype, device=like.device)
    return (1 - (_centers(small, large, like).view(-1, 1) - values).abs()).clamp(min=0)


def _upsampled(logits: Tensor, target: Tensor) -> Tensor:
    size = (target.shape[-2], target.shape[-1])
    # On a CPU torch's own backward pass has no atomic additions and is faster.
    return UpsampleByProducts.apply(logits.float(), size) if logits.is_cuda else upsample(logits, size)


def _pixel_losses(scores: Tensor, target: Tensor) -> Tensor:
    """Return the loss of each pixel, float32 N×H×W, 0 for ignored pixels."""
    return F.cross_entropy(scores, target, ignore_index=IGNORE, reduction="none")
