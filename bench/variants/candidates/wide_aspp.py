"""ASPP's convolutions as one matrix product: all taps of all rates at every pixel, added where they belong.

A convolution is a sum of shifted 1×1 convolutions, so the 1×1 and the three dilated 3×3 branches are one product of
2048 → 28·256 columns (MobileNetV3: 960) and 27 shifted additions, which a compiler fuses into one pass a branch. Taps
that would read nothing but padding are left out of the product.

Prediction: 2.16 TFLOP forward, 6.5 of the step's 18.7 with gradients, at the 650 TFLOP/s of a plain product 10 ms. The
product is 73.7 k pixels × 7168 columns × 2 bytes = 1.06 GB, written and read forward, written once and read twice
backward: 5.3 GB, 1.6 ms. 11.6 ms against cuDNN's 13 to 18 with dilation at 350 to 500 TFLOP/s: 4 to 17 % of the step;
1 ms slower if cuDNN reaches 650, and 1 GB more memory. Partial sums are rounded to bf16 before they are added in
float32: 9 roundings of terms a third as large, about as much as the one of the result.

Skipping taps pixel by pixel instead was dropped: at rates 12, 24, 36 on 96×96, 16, 31 and 44 % of the taps read
padding, 29 % of ASPP in all, but products of useful rectangles are too narrow, and bands of rows save 1.6 ms for
1.9 ms of added input gradients (see the package's docstring). It wants a convolution kernel with a test per tile.

Source: convolution by shifted products (Vasudevan et al. 2017, "kn2row", arXiv 1704.04428).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from bench.stages.compute import Ours


def apply(ours: Ours) -> None:
    """Replace the forward pass; modules and parameters stay the same."""
    widen(ours.state.model.net)


def widen(net: nn.Module) -> None:
    """Replace the forward pass of every ASPP of the network."""
    for module in net.modules():
        if type(module) is ASPP:
            module.__class__ = WideASPP


class WideASPP(ASPP):
    """torchvision's ASPP with all products in one."""

    def forward(self, x: Tensor) -> Tensor:
        """Map N×C×H×W to N×256×H×W."""
        *branches, pooling = self.convs
        shifts = [_live_taps(branch[0], x.shape[2], x.shape[3]) for branch in branches]
        taps = iter(_products(x, [branch[0] for branch in branches], shifts))
        found = []
        for branch, live in zip(branches, shifts, strict=True):
            _, norm, activation = branch
            total = sum(_shifted(next(taps), dy, dx) for _, _, dy, dx in live)
            assert isinstance(total, Tensor)
            found.append(activation(norm(total.to(_type_of(x)).permute(0, 3, 1, 2))))
        joined: Tensor = self.project(torch.cat([*found, pooling(x)], 1))
        return joined


Tap = tuple[int, int, int, int]
"""Row and column in the kernel, and the offset down and right of the pixel that it reads."""


def _live_taps(conv: nn.Conv2d, height: int, width: int) -> list[Tap]:
    (rows, columns), (down, right) = conv.kernel_size, conv.dilation
    every = [
        (i, j, (i - rows // 2) * down, (j - columns // 2) * int(right)) for i in range(rows) for j in range(columns)
    ]
    return [tap for tap in every if abs(tap[2]) < height and abs(tap[3]) < width]


def _products(x: Tensor, convs: list[nn.Conv2d], shifts: list[list[Tap]]) -> tuple[Tensor, ...]:
    """Return N×H×W×256 for every live tap."""
    columns = [conv.weight[:, :, i, j] for conv, live in zip(convs, shifts, strict=True) for i, j, _, _ in live]
    return F.linear(x.permute(0, 2, 3, 1), torch.cat(columns)).split([len(column) for column in columns], -1)


def _shifted(tap: Tensor, dy: int, dx: int) -> Tensor:
    """Return the values ``dy`` rows below and ``dx`` columns to the right, zero beyond the border; at least float32."""
    return F.pad(tap, (0, 0, -dx, dx, -dy, dy)).to(torch.promote_types(tap.dtype, torch.float32))


def _type_of(x: Tensor) -> torch.dtype:
    """Return the dtype of a convolution's result."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
