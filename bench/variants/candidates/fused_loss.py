"""Upsampling, cross-entropy and their gradient in one Triton kernel, by cells between four neighboring logits.

With an integer stride s and half-pixel centers every cell holds s×s pixels that depend on the same 4×C numbers. One
program loads them, makes the s×s×C values in registers, and writes the cell's summed loss and the gradient of its four
corners; a second small step adds the four shifted planes. No atomics, so the result is the same every time.

Prediction: the plain loss moves five full-size float tensors a head (upsampled logits written and read twice, their
gradient written and read): 5 × 358 MB × 2 heads / 3.35 TB/s = 1.1 ms of 38 ms, and its
upsampling's backward pass adds with atomics, at perhaps a third of the memory's speed: 1.5 to 2.5 ms in all. Here a
head reads 3 MB of logits and 5 MB of labels, writes and reads 23 MB of corners, 0.02 ms, and computes 4.7 M pixels ×
32 lanes × ~30 operations, 5 GFLOP, and 150 M exponentials at 3.6 T/s: 0.1 to 0.2 ms. So 1 to 2 ms less, 3 to 5 %, and
0.7 to 1.4 GB less memory.

Source: the gradient in the forward pass as in Liger Kernel (Hsu et al. 2024, arXiv 2410.10989); the cells are fastseg's
own.
"""

from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from bench.stages import Request
from bench.stages.compute import Ours
from fastseg.labels import IGNORE
from fastseg.model.architectures import ARCHITECTURES
from fastseg.model.network import Logits
from fastseg.training.step import LossNetwork

STAGE = "compute"


def fits(request: Request) -> bool:
    """Return whether there is a GPU (elsewhere Triton only interprets), and crops are whole multiples of the stride."""
    return request.device == "cuda" and not any(side % ARCHITECTURES[request.arch].stride for side in request.crop)


def apply(ours: Ours) -> None:
    """Change the loss of this network alone, so that a step's operations are still counted with the plain one."""
    cast(LossNetwork, ours.state.train_step.network.uncompiled).loss = segmentation_loss


VARIANTS = {"loss in one kernel": apply}


def segmentation_loss(logits: Logits, label: Tensor) -> Tensor:
    """Do as :func:`fastseg.model.loss.segmentation_loss` without settings: sum and count of the two heads.

    The stride from logit to logit has to be a whole number of pixels, the same along both axes.
    """
    labeled = (label != IGNORE).sum().float()
    numbers = [upsampled_cross_entropy(logits.out, label)[0], labeled]
    if logits.aux is not None:
        numbers += [upsampled_cross_entropy(logits.aux, label)[0], labeled]
    else:
        numbers += [torch.zeros_like(labeled)] * 2
    return torch.stack(numbers)


@triton.jit
def cross_entropy_cell(  # type: ignore[no-untyped-def]
    logits, label, losses, corners, h, w, by_image, by_class, by_row, by_column,
    classes: tl.constexpr, stride: tl.constexpr, ignore: tl.constexpr,
    pixels: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    """Run program (column, row, image) of (w + 1) × (h + 1) × N. ``pixels``, ``lanes``: stride² and classes, padded.

    Cell (i, j) has logits i - 1 and i above and below, j - 1 and j left and right. Beyond the border there are none:
    there the pixels use only the side that exists, as clamped coordinates do.
    """
    j, i, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    pixel, lane = tl.arange(0, pixels), tl.arange(0, lanes)
    half = (stride + 1) // 2
    down, right = pixel // stride - half, pixel % stride - half
    y, x = i * stride + down, j * stride + right
    # Half-pixel centers: (y + 0.5) / stride - 0.5, less the row above.
    below, beside = (down + 0.5) / stride + 0.5, (right + 0.5) / stride + 0.5
    below = tl.where(i == 0, 1.0, tl.where(i == h, 0.0, below))[:, None]
    beside = tl.where(j == 0, 1.0, tl.where(j == w, 0.0, beside))[:, None]

    known = lane < classes
    source = logits + image * by_image + lane * by_class
    above_row, below_row = tl.maximum(i - 1, 0) * by_row, tl.minimum(i, h - 1) * by_row
    left_column, right_column = tl.maximum(j - 1, 0) * by_column, tl.minimum(j, w - 1) * by_column
    a = tl.load(source + above_row + left_column, known, 0.0).to(tl.float32)[None, :]
    b = tl.load(source + above_row + right_column, known, 0.0).to(tl.float32)[None, :]
    c = tl.load(source + below_row + left_column, known, 0.0).to(tl.float32)[None, :]
    d = tl.load(source + below_row + right_column, known, 0.0).to(tl.float32)[None, :]
    upper = a * (1 - beside) + b * beside
    lower = c * (1 - beside) + d * beside
    value = tl.where(known[None, :], upper * (1 - below) + lower * below, float("-inf"))

    inside = (pixel < stride * stride) & (y >= 0) & (y < h * stride) & (x >= 0) & (x < w * stride)
    offset = (image.to(tl.int64) * h * stride + y) * w * stride + x
    target = tl.load(label + offset, inside, ignore).to(tl.int32)
    counts = (target != ignore)[:, None]
    hit = lane[None, :] == target[:, None]
    value -= tl.max(value, 1)[:, None]
    power = tl.exp(value)
    total = tl.sum(power, 1)[:, None]
    loss = tl.log(total) - tl.sum(tl.where(hit, value, 0.0), 1)[:, None]
    slope = tl.where(counts, power / total - tl.where(hit, 1.0, 0.0), 0.0)

    rows, columns = h + 1, w + 1
    cell = (image.to(tl.int64) * rows + i) * columns + j
    tl.store(losses + cell, tl.sum(tl.where(counts, loss, 0.0)))
    # Four planes of N×(h + 1)×(w + 1)×C; no other program writes there, so nothing has to be atomic.
    plane = tl.num_programs(2).to(tl.int64) * rows * columns * classes
    out = corners + cell * classes + lane
    tl.store(out, tl.sum(slope * (1 - below) * (1 - beside), 0), known)
    tl.store(out + plane, tl.sum(slope * (1 - below) * beside, 0), known)
    tl.store(out + 2 * plane, tl.sum(slope * below * (1 - beside), 0), known)
    tl.store(out + 3 * plane, tl.sum(slope * below * beside, 0), known)


# Opaque to the compiler, which could fuse nothing with it; the interpreter could not check a triton_op.
@torch.library.custom_op("fastseg_bench::upsampled_cross_entropy", mutates_args=())
def upsampled_cross_entropy(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Map float N×C×h×w and uint8 N×s·h×s·w to float32 sum of the losses, and its gradient, float32 N×C×h×w.

    Pixels that are :data:`fastseg.labels.IGNORE` do not count.
    """
    n, classes, h, w = logits.shape
    stride = label.shape[1] // h
    losses = torch.empty(n, h + 1, w + 1, dtype=torch.float32, device=logits.device)
    corners = torch.empty(4, n, h + 1, w + 1, classes, dtype=torch.float32, device=logits.device)
    pixels, lanes = triton.next_power_of_2(stride * stride), triton.next_power_of_2(classes)
    cross_entropy_cell[(w + 1, h + 1, n)](
        logits, label.contiguous(), losses, corners, h, w, *logits.stride(),
        classes=classes, stride=stride, ignore=IGNORE, pixels=pixels, lanes=lanes,
        # About 16 registers per thread for each of the few live tiles.
        num_warps=min(max(pixels * lanes // 512, 1), 8),
    )  # fmt: skip
    # A logit is the lower right corner of one cell, the lower left of the next, and so on.
    a, b, c, d = corners
    gradient = a[:, 1:, 1:] + b[:, 1:, :-1] + c[:, :-1, 1:] + d[:, :-1, :-1]
    return losses.sum(), gradient.permute(0, 3, 1, 2)


@upsampled_cross_entropy.register_fake
def _(logits: Tensor, _label: Tensor) -> tuple[Tensor, Tensor]:
    n, classes, h, w = logits.shape
    gradient = logits.new_empty(n, h, w, classes, dtype=torch.float32)
    return logits.new_empty((), dtype=torch.float32), gradient.permute(0, 3, 1, 2)


def _keep(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]
) -> None:
    ctx.save_for_backward(output[1])
    ctx.dtype = inputs[0].dtype  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, scale: Tensor, _of_the_gradient: Tensor) -> tuple[Tensor, None]:
    (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return (gradient * scale).to(ctx.dtype), None  # type: ignore[attr-defined]


upsampled_cross_entropy.register_autograd(_backward, setup_context=_keep)
