"""Upsampling and cross-entropy over a few rows at a time, with the gradient computed on the way.

Bilinear upsampling is linear along each axis: Wy · logits · Wxᵀ. Columns are upsampled first, which is small, then a
chunk of rows; its softmax gives both the loss and the gradient, which goes back through the same two matrices at once.
So full-size float logits never exist, neither forward nor for the backward pass, which only scales what is ready.

Prediction: the plain loss moves about five full-size float tensors a head (upsampled logits written and read twice,
their gradient written and read): 5 × 358 MB × 2 heads / 3.35 TB/s = 1.1 ms of 38 ms. In chunks of 16 MB, which the
50 MB of L2 hold, those bytes stay on the chip, but 23 chunks × 2 heads × ~7 kernels × ~4 us = 1.3 ms: no faster, and
0.7 to 1.4 GB less memory. On a CPU the chunks stay in its cache too, and there are no launches to pay for.

Source: Liger Kernel's fused linear cross-entropy (Hsu et al. 2024, arXiv 2410.10989) for the gradient in the forward
pass; upsampling as products is the separability of bilinear interpolation.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.stages import Request
from bench.stages.compute import Ours
from bench.variants.candidates._wrapping import use_loss
from fastseg.labels import IGNORE
from fastseg.model.network import Logits

STAGE = "compute"
ELEMENTS = {"cpu": 2**18, "cuda": 2**22}
"""Elements of a chunk of upsampled logits: 1 MB in float32, which fits a core's cache (measured; 2**22 is half as fast
there); 16 MB on a GPU, a third of an H100's second-level cache, since every chunk costs launches (predicted)."""


def fits(_request: Request) -> bool:
    """Return true: on every device, for every network."""
    return True


def apply(ours: Ours) -> None:
    """Change the loss before the first step, which compiles what it finds."""
    use_loss(ours, segmentation_loss)


VARIANTS = {"loss in chunks": apply}


def segmentation_loss(logits: Logits, label: Tensor) -> Tensor:
    """Do as :func:`fastseg.model.loss.segmentation_loss`: float32 sum and count of the main and the auxiliary head."""
    labeled = (label != IGNORE).sum()
    numbers = [summed_loss(logits.out, label), labeled]
    if logits.aux is not None:
        numbers += [summed_loss(logits.aux, label), labeled]
    else:
        numbers += [torch.zeros_like(numbers[0])] * 2
    return torch.stack([number.float() for number in numbers])


def summed_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return cross-entropy of N×C×h×w logits, upsampled, summed over the pixels of uint8 N×H×W labels not ignored."""
    result: Tensor = _SummedLoss.apply(logits, label)
    return result


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, logits: Tensor, label: Tensor) -> Tensor:
        with _without_autocast(logits.device):
            loss, gradient = sum_and_gradient(logits if logits.dtype == torch.float64 else logits.float(), label)
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype  # type: ignore[attr-defined]
        return loss

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, scale: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return (gradient * scale).to(ctx.dtype), None  # type: ignore[attr-defined]


def sum_and_gradient(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss and its gradient with respect to the small logits, in their type."""
    across = upsampling(logits.shape[3], label.shape[2], logits)
    wide = logits @ across.T
    gradient, total = torch.zeros_like(wide), logits.new_zeros(())
    for rows, band, down in _chunks(wide, label.shape[1]):
        target = label[:, rows].long()
        likelihood = (down @ wide[:, :, band]).log_softmax(1)
        total = total + F.nll_loss(likelihood, target, ignore_index=IGNORE, reduction="sum")
        labeled = (target != IGNORE).unsqueeze(1)
        slope = likelihood.exp().scatter_add(1, target.unsqueeze(1) * labeled, -torch.ones_like(likelihood[:, :1]))
        gradient[:, :, band] += down.T @ (slope * labeled)
    return total, gradient @ across


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context that multiplies in the inputs' dtype; meta tensors support no other."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def upsampling(small: int, large: int, like: Tensor) -> Tensor:
    """Return large×small weights: torch's result for every unit vector, so that they are bit-equal to its own."""
    unit = torch.eye(small, dtype=like.dtype, device=like.device)
    return F.interpolate(unit.unsqueeze(0), size=large, mode="linear", align_corners=False)[0].T


def _chunks(wide: Tensor, height: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield rows of the label, the rows of ``wide`` (N×C×h×W) that they lie between, and the weights of those."""
    small, down = wide.shape[2], upsampling(wide.shape[2], height, wide)
    count = max(ELEMENTS.get(wide.device.type, 2**22) * small // wide.numel(), 1)
    for begin in range(0, height, count):
        end = min(begin + count, height)
        # One row more than needed on each side: rounding cannot leave a weight out.
        band = slice(max(begin * small // height - 2, 0), min(end * small // height + 3, small))
        yield slice(begin, end), band, down[begin:end, band]
